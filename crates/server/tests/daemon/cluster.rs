//! Several daemons that know each other.

use std::{
    net::SocketAddr,
    ops::{Index, IndexMut},
    path::Path,
};

use futures_util::future::join_all;
use tokio::net::TcpSocket;

use crate::{
    client::{GROUP, get},
    gossip::{agree, config_of},
    process::Daemon,
    ways::Ways,
};

/// A port that nobody else is given as long as this lives, and that a daemon can listen on: the socket is bound but
/// does not listen.
pub(crate) struct Port(TcpSocket);

impl Port {
    pub(crate) fn take() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // As the daemon's own socket has it: then both may be bound.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }
}

/// How the daemons of a cluster talk to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// As they do unless told otherwise.
    Grpc,
    Http,
}

/// Makes two tests of each of these functions, which take the transport.
macro_rules! over_each_transport {
    (@ $module:ident $over:ident $($test:ident)+) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::cluster::Over::$over).await;
                }
            )+
        }
    };
    ($($test:ident),+ $(,)?) => {
        over_each_transport!(@ over_grpc Grpc $($test)+);
        over_each_transport!(@ over_http Http $($test)+);
    };
}
pub(crate) use over_each_transport;

/// Daemons named `a`, `b`, `c` and so on.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Daemon>,
    configs: Vec<String>,
    ports: Vec<Port>,
    /// The ways of their gossip, if they do.
    _ways: Option<Ways>,
}

impl Cluster {
    /// So many nodes, all with the same list of members and these groups.
    pub(crate) async fn start(over: Over, len: usize, groups: &str) -> Self {
        let list = &"abcdefgh"[..len];
        Self::with_lists(over, &vec![list; len], groups).await
    }

    /// So many nodes, each of which keeps what must survive in a folder of its own below `data`.
    pub(crate) async fn with_data(over: Over, len: usize, groups: &str, data: &Path) -> Self {
        Self::with_data_flagged(over, len, groups, data, &[]).await
    }

    /// The same, with these flags at the first start.
    pub(crate) async fn with_data_flagged(over: Over, len: usize, groups: &str, data: &Path, flags: &[&str]) -> Self {
        let list = &"abcdefgh"[..len];
        Self::made(over, &vec![list; len], groups, Some(data), flags).await
    }

    /// A node for each list, which names the members that it knows, in their order.
    pub(crate) async fn with_lists(over: Over, lists: &[&str], groups: &str) -> Self {
        Self::with_flags(over, lists, groups, &[]).await
    }

    /// The same, with these flags at the first start.
    pub(crate) async fn with_flags(over: Over, lists: &[&str], groups: &str, flags: &[&str]) -> Self {
        Self::made(over, lists, groups, None, flags).await
    }

    async fn made(over: Over, lists: &[&str], groups: &str, data: Option<&Path>, flags: &[&str]) -> Self {
        let ports: Vec<Port> = lists.iter().map(|_| Port::take()).collect();
        let config = |(index, list): (usize, &&str)| {
            let (name, address, members) = (name(index), ports[index].address(), members(&ports, list));
            let listeners = match over {
                Over::Grpc => format!("listen = \"127.0.0.1:0\"\npeer = \"{address}\""),
                Over::Http => format!("listen = \"{address}\"\npeer = \"127.0.0.1:0\"\ntransport = \"http\""),
            };
            let data = data.map(|data| format!("data_dir = {:?}\n", data.join(name.to_string()))).unwrap_or_default();
            format!(
                "[node]\nname = \"{name}\"\nadmin = \"127.0.0.1:0\"\n{data}{listeners}\n\
                 [cluster]\ndiscovery = \"static\"\n{members}\n{groups}"
            )
        };
        let configs: Vec<String> = lists.iter().enumerate().map(config).collect();
        let nodes = join_all(configs.iter().map(|config| Daemon::start_flagged(config, flags))).await;
        Self { nodes, configs, ports, _ways: None }
    }

    /// So many nodes that find each other by gossip, each with a folder of its own below `data`, once they agree. Each gossips at the same
    /// place in all its runs.
    pub(crate) async fn gossiping(len: usize, groups: &str, data: &Path) -> Self {
        let ways = Ways::between(u8::try_from(len).unwrap()).await;
        let seeds: Vec<SocketAddr> = (0..len).map(|place| ways.advertised(place)).collect();
        let config = |place| {
            let (name, host) = (name(place).to_string(), ways.advertised(place).ip());
            let listeners = format!("advertise = \"{host}\"\nlisten = \"{host}:0\"\npeer = \"{host}:0\"");
            let node = format!("{listeners}\ndata_dir = {:?}", data.join(&name));
            config_of(&name, &node, &ways.to(place).to_string(), &seeds, groups)
        };
        let configs: Vec<String> = (0..len).map(config).collect();
        let nodes = join_all(configs.iter().map(|config| Daemon::start(config))).await;
        let cluster = Self { nodes, configs, ports: Vec::new(), _ways: Some(ways) };
        cluster.agree(&(0..len).collect::<Vec<_>>()).await;
        cluster
    }

    /// Waits until each of these nodes sees just them.
    pub(crate) async fn agree(&self, places: &[usize]) {
        let mut places = places.to_vec();
        places.sort_unstable();
        let names: Vec<String> = places.iter().map(|place| name(*place).to_string()).collect();
        let nodes: Vec<&Daemon> = places.iter().map(|place| &self.nodes[*place]).collect();
        agree(&nodes, &names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// Starts a node again that was killed: the same name, the same place, and nothing in it.
    pub(crate) async fn restart(&mut self, index: usize) {
        self.nodes[index] = Daemon::start(&self.configs[index]).await;
    }

    /// The same, and doesn't wait until it is ready: others may have to be there for that.
    pub(crate) async fn restart_unready(&mut self, index: usize) {
        self.nodes[index] = Daemon::start_unready(&self.configs[index]).await;
    }

    /// Puts another list into a node's configuration, which it reads when it is told to.
    pub(crate) fn relist(&mut self, index: usize, list: &str) {
        let members = members(&self.ports, list);
        let lines = self.configs[index].lines().map(|line| if line.starts_with("members") { &*members } else { line });
        self.configs[index] = lines.collect::<Vec<_>>().join("\n");
        self.nodes[index].rewrite(&self.configs[index]);
    }

    /// Who owns a key, as the first node sees it.
    pub(crate) async fn owner(&self, key: &str) -> usize {
        self.owner_and_stand_in(key).await.0
    }

    /// The same, and who stands in for it: the owner itself where there is nobody else.
    pub(crate) async fn owner_and_stand_in(&self, key: &str) -> (usize, usize) {
        let answer = self.nodes[0].ask(get(&format!("/v1/cluster/owner/{GROUP}/{key}"))).await.json();
        let place = |part: &str| Some(usize::from(answer[part].as_str()?.as_bytes()[0] - b'a'));
        let owner = place("owner").unwrap();
        (owner, place("stand_in").unwrap_or(owner))
    }

    /// So many keys that begin with `prefix` and belong to a node.
    pub(crate) async fn keys_of(&self, owner: usize, prefix: &str, len: usize) -> Vec<String> {
        let mut keys = Vec::new();
        for number in 0.. {
            let key = format!("{prefix}{number}");
            if self.owner(&key).await == owner {
                keys.push(key);
            }
            if keys.len() == len {
                break;
            }
        }
        keys
    }

    /// A key that begins with `prefix` and belongs to a node.
    pub(crate) async fn key_of(&self, owner: usize, prefix: &str) -> String {
        self.keys_of(owner, prefix, 1).await.remove(0)
    }

    /// The sum of a metric over all nodes.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        join_all(self.nodes.iter().map(|node| node.metric(name))).await.into_iter().sum()
    }
}

impl Index<usize> for Cluster {
    type Output = Daemon;

    fn index(&self, index: usize) -> &Daemon {
        &self.nodes[index]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, index: usize) -> &mut Daemon {
        &mut self.nodes[index]
    }
}

/// The line of a configuration that lists these members.
fn members(ports: &[Port], list: &str) -> String {
    let members = list.bytes().map(|letter| {
        let address = ports[usize::from(letter - b'a')].address();
        format!("{}={address}", char::from(letter))
    });
    format!("members = {:?}", members.collect::<Vec<_>>())
}

fn name(index: usize) -> char {
    char::from(b"abcdefgh"[index])
}
