use std::sync::OnceLock;

use larder_core::{
    registered_membership_contract,
    testing::{clock::TokioClock, membership::registered::Cluster},
};

use super::*;

/// Nodes on loopback that have the first one as their seed.
struct Nodes {
    clock: Arc<TokioClock>,
    seed: OnceLock<SocketAddr>,
}

impl Nodes {
    /// In a time that is only as long as what happens in it.
    fn new() -> Self {
        tokio::time::pause();
        Self { clock: Arc::new(TokioClock::new()), seed: OnceLock::new() }
    }

    async fn start(&self, me: Member) -> Result<Gossip, Error> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seeds = vec![self.seed.get_or_init(|| address).to_string()];
        let config = GossipConfig { seeds, key: Some([1; KEY_LEN]), ..GossipConfig::new(me, self.clock.clone()) };
        Gossip::start(config, socket).await
    }
}

impl Cluster for Nodes {
    async fn join(&self, me: Member) -> Result<Arc<dyn Membership>, Error> {
        Ok(Arc::new(self.start(me).await?))
    }

    fn crash_time_max(&self) -> Duration {
        Duration::from_secs(5)
    }
}

registered_membership_contract!(contract, Nodes::new());

/// Which datagrams get lost on a network, and what went over it.
#[derive(Clone, Default)]
struct Network(Arc<Mutex<NetworkState>>);

#[derive(Default)]
struct NetworkState {
    /// By whom they can't be reached, from where.
    cuts: Vec<(SocketAddr, SocketAddr)>,
    lost_percent: u8,
    chance: fastrand::Rng,
    recorded: Vec<Vec<u8>>,
}

/// How many datagrams a network records.
const RECORDED_LEN: usize = 200;

impl Network {
    fn filter(&self, from: SocketAddr) -> Filter {
        let network = self.clone();
        Arc::new(move |to, datagram| {
            let mut state = network.0.lock();
            if state.recorded.len() < RECORDED_LEN {
                state.recorded.push(datagram.to_vec());
            }
            let lost = state.chance.u8(..100) < state.lost_percent;
            !lost && !state.cuts.contains(&(from, to))
        })
    }

    /// Nothing gets from any of these to any of those, or back.
    fn cut(&self, these: &[&Gossip], those: &[&Gossip]) {
        let pairs = these.iter().flat_map(|this| those.iter().map(|that| (this.address(), that.address())));
        self.0.lock().cuts = pairs.flat_map(|(this, that)| [(this, that), (that, this)]).collect();
    }

    fn heal(&self) {
        self.0.lock().cuts.clear();
    }
}

impl Nodes {
    async fn serving(&self, network: &Network, name: &str) -> Gossip {
        let node = self.on(network, name, Some([1; KEY_LEN])).await;
        node.announce(MemberState::Serving).await.unwrap();
        node
    }

    async fn on(&self, network: &Network, name: &str, key: Option<[u8; KEY_LEN]>) -> Gossip {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let seeds = vec![self.seed.get_or_init(|| address).to_string()];
        let config = GossipConfig { seeds, key, ..GossipConfig::new(Member::new(name, name), self.clock.clone()) };
        Gossip::start_filtered(config, socket, Some(network.filter(address))).await.unwrap()
    }
}

fn names(node: &Gossip) -> String {
    node.members().borrow().iter().map(|member| &*member.name).collect::<Vec<_>>().join(" ")
}

/// Waits until each of these nodes has this list, and says how long that took.
async fn agree(nodes: &[&Gossip], expected: &str) -> Duration {
    let start = Instant::now();
    let agrees = async {
        while !nodes.iter().all(|node| names(node) == expected) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let lists = || nodes.iter().map(|node| names(node)).collect::<Vec<_>>();
    timeout(Duration::from_secs(60), agrees).await.unwrap_or_else(|_| panic!("{expected} awaited, but {:?}", lists()));
    start.elapsed()
}

/// Lets time pass in which nobody's list may change.
async fn stays(nodes: &[&Gossip], time: Duration) {
    let mut lists: Vec<_> = nodes.iter().map(|node| node.members()).collect();
    lists.iter_mut().for_each(watch::Receiver::mark_unchanged);
    sleep(time).await;
    for (node, list) in nodes.iter().zip(&lists) {
        assert!(!list.has_changed().unwrap(), "now it is {}", names(node));
    }
}

async fn six(nodes: &Nodes, network: &Network) -> Vec<Gossip> {
    let mut all = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        all.push(nodes.serving(network, name).await);
    }
    agree(&all.iter().collect::<Vec<_>>(), "a b c d e f").await;
    all
}

#[tokio::test]
async fn two_halves_go_on_alone_and_agree_when_they_meet_again() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let all = six(&nodes, &network).await;
    let all: Vec<&Gossip> = all.iter().collect();
    let (one, other) = all.split_at(2);
    for time in [Duration::ZERO, Duration::from_secs(60)] {
        network.cut(one, other);
        let halves = tokio::join!(agree(one, "a b"), agree(other, "c d e f"));
        assert!(halves.0.max(halves.1) <= Duration::from_secs(5), "{halves:?}");
        stays(&all, time).await;
        network.heal();
        let healed = agree(&all, "a b c d e f").await;
        assert!(healed <= Duration::from_secs(10), "{healed:?}");
    }
}

#[tokio::test]
async fn halves_that_have_forgotten_each_other_meet_again_by_their_seeds() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let (a, b) = (nodes.serving(&network, "a").await, nodes.serving(&network, "b").await);
    agree(&[&a, &b], "a b").await;
    network.cut(&[&a], &[&b]);
    sleep(OUT_REMEMBERED_FOR * 2).await;
    assert_eq!((&*names(&a), &*names(&b)), ("a", "b"));
    network.heal();
    let healed = agree(&[&a, &b], "a b").await;
    assert!(healed <= Duration::from_secs(10), "{healed:?}");
}

#[tokio::test]
async fn a_pause_of_two_seconds_is_no_crash_and_a_longer_one_is_until_it_ends() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let all = six(&nodes, &network).await;
    let all: Vec<&Gossip> = all.iter().collect();
    let (paused, others) = all.split_at(1);
    for _ in 0..10 {
        network.cut(paused, others);
        stays(&all, Duration::from_secs(2)).await;
        network.heal();
        stays(&all, Duration::from_millis(500)).await;
    }
    network.cut(paused, others);
    assert!(agree(others, "b c d e f").await <= Duration::from_secs(5));
    network.heal();
    assert!(agree(&all, "a b c d e f").await <= Duration::from_secs(5));
}

/// One way is enough for nobody: a node that is heard by some is heard of by all, whichever link is cut.
#[tokio::test]
async fn a_link_that_is_cut_in_one_direction_throws_nobody_out() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let all = six(&nodes, &network).await;
    let all: Vec<&Gossip> = all.iter().collect();
    network.0.lock().cuts = vec![(all[0].address(), all[1].address()), (all[3].address(), all[2].address())];
    stays(&all, Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_network_that_loses_every_third_datagram_throws_nobody_out() {
    let (nodes, network) = (Nodes::new(), Network::default());
    network.0.lock().chance = fastrand::Rng::with_seed(7);
    let all = six(&nodes, &network).await;
    let all: Vec<&Gossip> = all.iter().collect();
    network.0.lock().lost_percent = 33;
    stays(&all, Duration::from_secs(60)).await;
    all[2].announce(MemberState::Draining).await.unwrap();
    all[2].leave().await;
    assert!(agree(&all, "a b d e f").await <= Duration::from_secs(3));
}

#[tokio::test]
async fn who_has_another_key_or_none_stays_outside() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let (a, b) = (nodes.serving(&network, "a").await, nodes.serving(&network, "b").await);
    let foreign = nodes.on(&network, "foreign", Some([2; KEY_LEN])).await;
    let keyless = nodes.on(&network, "keyless", None).await;
    agree(&[&a, &b], "a b").await;
    for outside in [&foreign, &keyless] {
        outside.announce(MemberState::Serving).await.unwrap();
    }
    stays(&[&a, &b, &foreign, &keyless], Duration::from_secs(10)).await;
    assert_eq!((&*names(&a), &*names(&foreign), &*names(&keyless)), ("a b", "foreign", "keyless"));
    assert!(a.traffic().refused > 0);
}

#[tokio::test]
async fn a_node_whose_seeds_are_away_goes_on_alone_and_finds_them_later() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let place = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    nodes.seed.set(place).unwrap();
    let b = nodes.serving(&network, "b").await;
    assert_eq!(names(&b), "b");
    let config =
        GossipConfig { key: Some([1; KEY_LEN]), ..GossipConfig::new(Member::new("a", "a"), nodes.clock.clone()) };
    let a = Gossip::start(config, UdpSocket::bind(place).await.unwrap()).await.unwrap();
    a.announce(MemberState::Serving).await.unwrap();
    assert!(agree(&[&a, &b], "a b").await <= Duration::from_secs(2));
}

/// Each has taken the name while it could not know of the other.
#[tokio::test]
async fn when_two_clusters_meet_the_first_node_of_a_name_stays() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let first = nodes.serving(&network, "a").await;
    sleep(Duration::from_millis(1)).await;
    let second = nodes.on(&network, "a", Some([1; KEY_LEN])).await;
    network.cut(&[&first], &[&second]);
    second.announce(MemberState::Serving).await.unwrap();
    network.heal();
    let b = nodes.serving(&network, "b").await;
    agree(&[&first, &second, &b], "a b").await;
    sleep(Duration::from_secs(3)).await;
    assert!(second.announce(MemberState::Draining).await.unwrap_err().is_invalid());
    first.announce(MemberState::Draining).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    for node in [&first, &second, &b] {
        assert_eq!(node.members().borrow()[0].state, MemberState::Draining, "it is the first one's");
    }
}

#[tokio::test]
async fn hostile_datagrams_do_no_harm() {
    let (nodes, network) = (Nodes::new(), Network::default());
    let all = six(&nodes, &network).await;
    let all: Vec<&Gossip> = all.iter().collect();
    let recorded = network.0.lock().recorded.clone();
    assert_eq!(recorded.len(), RECORDED_LEN);
    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut chance = fastrand::Rng::with_seed(3);
    let mut lists: Vec<_> = all.iter().map(|node| node.members()).collect();
    lists.iter_mut().for_each(watch::Receiver::mark_unchanged);
    let mut sent = 0;
    for _ in 0..2_000 {
        let mut datagram = recorded[chance.usize(..recorded.len())].clone();
        match chance.u8(..6) {
            0 => {}
            1 => datagram.truncate(chance.usize(..datagram.len())),
            2 => {
                let place = chance.usize(..datagram.len());
                datagram[place] ^= 1 << chance.u8(..8);
            }
            3 => datagram.extend_from_within(..),
            4 => datagram = (0..chance.usize(..2_000)).map(|_| chance.u8(..)).collect(),
            _ => datagram.resize(65_507, 0),
        }
        attacker.send_to(&datagram, all[chance.usize(..all.len())].address()).await.unwrap();
        sent += 1;
        if chance.u8(..20) == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    sleep(Duration::from_secs(10)).await;
    for (node, list) in all.iter().zip(&lists) {
        assert!(!list.has_changed().unwrap(), "now it is {}", names(node));
    }
    let refused: u64 = all.iter().map(|node| node.traffic().refused).sum();
    assert!(refused > sent / 2 && refused <= sent, "{refused} of {sent}");
    let late = nodes.serving(&network, "g").await;
    assert!(agree(&[&late, all[0], all[5]], "a b c d e f g").await < Duration::from_secs(5), "they still gossip");
}

#[tokio::test]
async fn the_facts_of_a_node_are_checked_before_it_gossips() {
    let me = Member { zone: "x".repeat(5_000).into(), ..Member::new("a", "a:1") };
    let config = GossipConfig::new(me, Arc::new(TokioClock::new()));
    let started = Gossip::start(config, UdpSocket::bind("127.0.0.1:0").await.unwrap()).await;
    assert!(started.err().is_some_and(|error| error.is_invalid()));
}
