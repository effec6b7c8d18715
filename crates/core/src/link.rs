//! [`Peer`]: another member as this node reaches it: the transport's link, what is known of its health, and counters.
//!
//! A dead or silent member does not cost each caller a deadline: after a few failures, or one silence that the transport
//! tells of, it is left alone for a while ([`Health`]).

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::{
    Clock, Member, Moment, Version,
    claim::{Contact, SlotReply, SlotRequest},
    health::{Admission, Health, Permit},
    peer::{Asker, Leave, PeerAnswer, PeerClient, PeerError, PeerGet, PeerWrite, waiting},
    stats::{Histogram, RequestResult, Results, Sizes, SizesSnapshot},
};

/// For how long what a probe found out counts.
const PROBE_COUNTS_FOR: Duration = Duration::from_millis(500);

/// How long a probe may take. A member that is this slow to say anything is taken for dead.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What is counted of the requests to one member.
#[derive(Default, Debug)]
pub struct PeerStats {
    /// How they ended.
    pub results: Results,
    /// How long they took.
    pub duration: Histogram,
}

/// Another member, as this node reaches it.
pub struct Peer {
    member: Member,
    client: Arc<dyn PeerClient>,
    health: Health,
    last_probe: Mutex<Option<(Instant, bool)>>,
    clock: Arc<dyn Clock>,
    contact: Arc<Contact>,
    stats: PeerStats,
}

impl Peer {
    pub(crate) fn new(
        member: Member,
        client: Arc<dyn PeerClient>,
        clock: Arc<dyn Clock>,
        contact: Arc<Contact>,
        seed: u64,
    ) -> Self {
        let health = Health::new(seed);
        Self { member, client, health, last_probe: Mutex::new(None), clock, contact, stats: PeerStats::default() }
    }

    /// Who it is.
    #[must_use]
    pub fn member(&self) -> &Member {
        &self.member
    }

    /// What is counted of the requests to it.
    #[must_use]
    pub fn stats(&self) -> &PeerStats {
        &self.stats
    }

    /// How many requests were sent to it at a time. `None`: each by itself, as its transport has it.
    #[must_use]
    pub fn batch_sizes(&self) -> Option<SizesSnapshot> {
        self.client.batch_sizes().map(Sizes::snapshot)
    }

    /// Whether requests are made of it, or it is left alone for a while after failures.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        self.health.is_admitting(Instant::now())
    }

    pub(crate) fn is_at(&self, member: &Member) -> bool {
        self.member.name == member.name && self.member.address == member.address
    }

    /// Asks for a key.
    pub(crate) fn ask(self: &Arc<Self>, mut asker: impl Asker) {
        match self.admit() {
            Err(left_alone) => asker.answered(Err(left_alone)),
            Ok(under_way) => self.send(under_way, asker),
        }
    }

    fn send(&self, under_way: UnderWay, asker: impl Asker) {
        self.client.clone().ask(Box::new(Watched { under_way: Some(under_way), asker }));
    }

    /// Asks for a key, if the member gives a sign of life: for an asker that has waited for a silent member already.
    pub(crate) async fn get_if_alive(self: &Arc<Self>, question: PeerGet) -> Result<PeerAnswer, PeerError> {
        let under_way = self.admit()?;
        if !self.is_alive().await {
            let silent = PeerError::fell_silent(format!("node {:?} gives no sign of life", self.member.name));
            under_way.ended(Some(&silent));
            return Err(silent);
        }
        self.ask_admitted(under_way, question).await
    }

    async fn ask_admitted(&self, under_way: UnderWay, question: PeerGet) -> Result<PeerAnswer, PeerError> {
        let deadline = question.deadline;
        let (asker, answer) = waiting(question, move || Leave::Until(deadline));
        self.send(under_way, asker);
        answer.await
    }

    pub(crate) async fn write(self: &Arc<Self>, request: PeerWrite) -> Result<Option<Version>, PeerError> {
        let under_way = self.admit()?;
        let result = self.client.write(request).await;
        under_way.ended(result.as_ref().err());
        result
    }

    /// Asks for a key and waits for the answer.
    pub(crate) async fn get(self: &Arc<Self>, question: PeerGet) -> Result<PeerAnswer, PeerError> {
        let under_way = self.admit()?;
        self.ask_admitted(under_way, question).await
    }

    /// Whether it gives a sign of life by then.
    pub(crate) async fn is_there(&self, deadline: Instant) -> bool {
        self.client.probe(deadline).await.is_ok()
    }

    /// Says something about slots. That is not kept from a member that is left alone: who claims does so on its own account.
    pub(crate) async fn say(&self, request: SlotRequest, deadline: Instant) -> Result<SlotReply, PeerError> {
        self.client.slots(request, deadline).await
    }

    fn admit(self: &Arc<Self>) -> Result<UnderWay, PeerError> {
        match self.health.admit(Instant::now) {
            Admission::Go(permit) => Ok(UnderWay { peer: self.clone(), permit, start: self.clock.now() }),
            Admission::BackOff { .. } => {
                Err(PeerError::not_sent(format!("node {:?} is left alone after failures", self.member.name)))
            }
        }
    }

    /// Probes the member, unless that was just done; all who wait for it share one probe.
    async fn is_alive(&self) -> bool {
        let mut last = self.last_probe.lock().await;
        let now = Instant::now();
        match *last {
            Some((at, alive)) if now < at + PROBE_COUNTS_FOR => alive,
            _ => {
                let alive = self.client.probe(now + PROBE_TIMEOUT).await.is_ok();
                *last = Some((Instant::now(), alive));
                alive
            }
        }
    }
}

/// A request that was let go.
struct UnderWay {
    peer: Arc<Peer>,
    permit: Permit,
    start: Moment,
}

impl UnderWay {
    /// Counts the request, and learns from it how the member is.
    fn ended(self, error: Option<&PeerError>) {
        let Self { peer, permit, start } = self;
        peer.stats.duration.observe(peer.clock.now().since(start));
        let label = match error {
            None => RequestResult::Ok,
            Some(PeerError::TimedOut) => RequestResult::Timeout,
            Some(_) => RequestResult::Error,
        };
        peer.stats.results.of(label).add(1);
        match error {
            // A deadline that passes says something of the deadline, or of the origin; a silent member is told of.
            Some(PeerError::TimedOut) => drop(permit),
            Some(PeerError::Unreachable { message, silent, .. }) => {
                tracing::debug!(peer = %peer.member.name, %message, "peer request failed");
                if *silent {
                    peer.health.silent(Instant::now());
                } else {
                    permit.failed(Instant::now());
                }
            }
            None | Some(PeerError::Answered(_)) => {
                peer.contact.heard(start);
                permit.succeeded();
            }
        }
    }
}

/// An asker, and what is learned from its question.
struct Watched<A> {
    /// `None` once it has ended.
    under_way: Option<UnderWay>,
    asker: A,
}

impl<A: Asker> Asker for Watched<A> {
    fn question(&self) -> &PeerGet {
        self.asker.question()
    }

    fn leaves(&mut self) -> Leave {
        self.asker.leaves()
    }

    fn answered(&mut self, answer: Result<PeerAnswer, PeerError>) {
        if let Some(under_way) = self.under_way.take() {
            under_way.ended(answer.as_ref().err());
        }
        self.asker.answered(answer);
    }
}
