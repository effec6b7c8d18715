//! [`ByPeer`]: a node, asked over gRPC as other nodes ask it.
//!
//! Who asks keeps nothing and joins no gets: each is a question of its own on the link. As a node does, it asks the owner of
//! a key. It begins with one node, and learns who the others are when that one says of a key that it isn't its owner.

use std::{process, sync::Arc, time::Duration};

use bytes::Bytes;
use larder::{SystemClock, peer::grpc::GrpcTransport};
use larder_bench::Outcome;
use larder_core::{
    ErrorKind, Key, Member, Members, PeerClient, Standing, Transport,
    group::TIMEOUT_DEFAULT,
    peer::{AskedAs, Condition, PeerAnswer, PeerError, PeerGet, PeerWrite, WriteOp},
    placement::{Slot, SlotTable},
};
use parking_lot::RwLock;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use super::Target;
use crate::commands::{
    Exit, Failure,
    client::{CONNECT_TIMEOUT, NodeClient},
};

/// The longest values that are taken: longer ones no group keeps.
const VALUE_LEN_MAX: usize = 1 << 30;

/// How long a list of members is believed at least, so that nodes with lists that differ don't have it replaced with every
/// answer. By then they agree, or never do.
const LIST_AGE_MIN: Duration = Duration::from_secs(1);

/// How long something that does not speak the peer protocol may take to show that it speaks HTTP.
const HTTP_TIMEOUT: Duration = Duration::from_secs(2);

/// A group at the nodes of a cluster, of which the first is known.
pub(super) struct ByPeer {
    address: String,
    group: Arc<str>,
    transport: GrpcTransport,
    owners: RwLock<Arc<Owners>>,
}

/// Who owns which key, and the links to them.
struct Owners {
    members: Members,
    table: SlotTable,
    /// In the order in which the table knows them.
    links: Vec<Arc<dyn PeerClient>>,
    /// `None`: the only member is the node that was named, and whether there are others is not known.
    learnt: Option<Instant>,
}

impl Owners {
    /// # Errors
    ///
    /// If a member's address can't be one.
    fn new(members: Members, transport: &GrpcTransport, learnt: Option<Instant>) -> Result<Self, larder_core::Error> {
        let takers = || members.iter().filter(|member| member.takes_keys());
        let named: Vec<(&str, u32)> = takers().map(|member| (&*member.name, member.weight)).collect();
        let table = SlotTable::new(&named);
        let links = takers().map(|member| transport.link(member)).collect::<Result<_, _>>()?;
        Ok(Self { members, table, links, learnt })
    }

    fn link(&self, group: &str, key: &Key) -> Result<Arc<dyn PeerClient>, PeerError> {
        let owner = self.table.owner(Slot::of(group, key.as_bytes()));
        owner.map(|owner| self.links[owner].clone()).ok_or_else(|| PeerError::not_sent("no member takes keys"))
    }
}

impl ByPeer {
    /// # Errors
    ///
    /// If that is no address.
    pub(super) fn new(address: &str, group: &str) -> Result<Self, Failure> {
        let wrong = |error: larder_core::Error| Failure::usage(format!("--peer: {error}"));
        let transport = GrpcTransport::new();
        transport.introduce(Arc::new(Standing::new("larder bench", process::id(), Arc::new(SystemClock))));
        let members = Members::new([Member::new(address, address)]).map_err(wrong)?;
        let owners = Owners::new(members, &transport, None).map_err(wrong)?;
        Ok(Self { address: address.to_owned(), group: group.into(), transport, owners: RwLock::new(Arc::new(owners)) })
    }

    /// Asks the owner, as far as that is known; the one that the node names, if it is another. `Ok(None)`: they disagree.
    async fn ask(&self, key: &Key) -> Result<Option<Outcome>, PeerError> {
        let deadline = Instant::now() + TIMEOUT_DEFAULT;
        for _ in 0..2 {
            let owners = self.owners.read().clone();
            let question = PeerGet {
                group: self.group.clone(),
                key: key.clone(),
                asked_as: AskedAs::Owner,
                value_len_max: VALUE_LEN_MAX,
                deadline,
            };
            match owners.link(&self.group, key)?.get(question).await? {
                PeerAnswer::Found { value: Some(_), .. } => return Ok(Some(Outcome::Found)),
                PeerAnswer::Found { value: None, .. } => return Ok(Some(Outcome::NotFound)),
                PeerAnswer::NotOwner { members, .. } => {
                    if !self.learn(&owners, members) {
                        break;
                    }
                }
                // Nobody was asked for what it held before.
                PeerAnswer::NotHeld => break,
            }
        }
        Ok(None)
    }

    /// Goes by a list of members that an answer brought. Whether asking again makes sense.
    fn learn(&self, asked: &Arc<Owners>, members: Members) -> bool {
        let mut owners = self.owners.write();
        if !Arc::ptr_eq(&owners, asked) {
            return true;
        }
        let is_young = |learnt: Instant| learnt.elapsed() < LIST_AGE_MIN;
        if members == asked.members || asked.learnt.is_some_and(is_young) {
            return false;
        }
        match Owners::new(members, &self.transport, Some(Instant::now())) {
            Ok(new) => {
                *owners = Arc::new(new);
                true
            }
            Err(_) => false,
        }
    }

    fn unreachable(&self, reason: &str) -> Failure {
        let message = format!(
            "could not reach {}: {reason}; start a node with transport = \"grpc\" there or name another with --peer \
             (one with transport = \"http\" is measured with --node)",
            self.address
        );
        Failure::new(Exit::Unreachable, message)
    }

    /// Why something that takes connections does not answer as a node, for this reason.
    async fn misled(&self, reason: &PeerError) -> Failure {
        let address = &self.address;
        let Ok(url) = format!("http://{address}").parse() else { return self.unreachable(&reason.to_string()) };
        let client = NodeClient::new(url);
        let Ok(Ok(cluster)) = timeout(HTTP_TIMEOUT, client.ask_json("/v1/cluster")).await else {
            return Failure::failed(format!(
                "{address} does not speak the peer protocol ({reason}): name a node's node.peer with --peer"
            ));
        };
        let members = cluster["members"].as_array().into_iter().flatten();
        let me = members.into_iter().find(|member| member["name"] == cluster["self"]);
        match me.map(|me| (me["peer"].as_str(), me["http"].as_str())) {
            Some((Some(peer), Some(http))) if peer != http => Failure::failed(format!(
                "{address} is where a node serves clients, and {peer} is where it serves other nodes: measure it with \
                 --node http://{address} or --peer {peer}"
            )),
            _ => Failure::failed(format!(
                "the node at {address} runs with transport = \"http\", and --peer measures gRPC: measure it with --node \
                 http://{address}, or set node.transport = \"grpc\" there"
            )),
        }
    }
}

impl Target for ByPeer {
    fn name(&self) -> String {
        self.address.clone()
    }

    async fn check(&self, first: Key) -> Result<(), Failure> {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.address)).await {
            Ok(Ok(_reached)) => {}
            Ok(Err(error)) => return Err(self.unreachable(&error.to_string())),
            Err(_) => return Err(self.unreachable("it did not answer in time")),
        }
        match self.ask(&first).await {
            Err(PeerError::Answered(error)) if error.kind() == ErrorKind::UnknownGroup => {
                Err(Failure::usage(format!("{error}; name a group of the node at {} with --group", self.address)))
            }
            Err(reason @ PeerError::Unreachable { .. }) => Err(self.misled(&reason).await),
            _ => Ok(()),
        }
    }

    async fn get(&self, key: Key) -> Outcome {
        match self.ask(&key).await {
            Ok(outcome) => outcome.unwrap_or(Outcome::Failed("not-owner")),
            Err(PeerError::Unreachable { .. }) => Outcome::Failed("unreachable"),
            Err(PeerError::TimedOut) => Outcome::Failed("no-answer"),
            Err(PeerError::Answered(error)) => Outcome::Failed(error.kind().slug()),
        }
    }

    async fn put(&self, key: Key, value: Bytes) -> Result<(), Failure> {
        let write = || PeerWrite {
            group: self.group.clone(),
            key: key.clone(),
            op: WriteOp::Put { value: value.clone().into(), ttl: None },
            condition: Condition::Always,
            idempotency_key: None,
            deadline: Instant::now() + TIMEOUT_DEFAULT,
        };
        let put = async || {
            let link = self.owners.read().link(&self.group, &key)?;
            link.write(write()).await
        };
        let mut written = put().await;
        if matches!(&written, Err(PeerError::Answered(error)) if error.kind() == ErrorKind::OwnerUnreachable) {
            // A node that is not the owner refuses a write; who is, it tells who asks for the value.
            self.get(key.clone()).await;
            written = put().await;
        }
        written.map(drop).map_err(|error| match error {
            PeerError::Unreachable { message, .. } => self.unreachable(&message),
            error => Failure::failed(error.to_string()),
        })
    }
}
