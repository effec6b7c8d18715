//! A node that is asked by one with another view looks at its membership before it judges (rule W1).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use larder_core::{
    GroupConfig, Key, Member, Members, Membership, Node, NodeConfig, Ring, Transport,
    peer::{AskedAs, PeerAnswer, PeerGet},
    stats::Protocol,
    testing::{clock::TokioClock, origin::FakeOrigin},
};
use larder_peer::grpc::{GrpcTransport, serve};
use tokio::{
    net::TcpListener,
    sync::watch,
    time::{Instant, timeout},
};

/// A membership that learns of this list when somebody looks, and of no other.
struct Learns {
    list: watch::Sender<Members>,
    later: Members,
    looks: Arc<AtomicUsize>,
}

impl Membership for Learns {
    fn members(&self) -> watch::Receiver<Members> {
        self.list.subscribe()
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.looks.fetch_add(1, Ordering::Relaxed);
            self.list.send_replace(self.later.clone());
        })
    }
}

fn members(list: &[(&str, SocketAddr)]) -> Members {
    Members::new(list.iter().map(|(name, address)| Member::new(*name, address.to_string()))).unwrap()
}

fn node(name: &str, transport: &Arc<GrpcTransport>, list: Members) -> Node {
    let config = NodeConfig {
        name: name.into(),
        http: "".into(),
        ring: Ring::Slots,
        incarnation: 1,
        seed: 42,
        clock: Arc::new(TokioClock::new()),
        transport: transport.clone(),
    };
    let node = Node::new(config, list).unwrap();
    node.open_group("g", GroupConfig::default(), Some(Arc::new(FakeOrigin::new(1)))).unwrap();
    node
}

#[tokio::test]
async fn a_question_of_an_unknown_view_waits_for_one_look_at_the_membership() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (here, nowhere) = (listener.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 1)));
    let (before, later) = (members(&[("a", here), ("c", nowhere)]), members(&[("a", here), ("b", nowhere)]));
    let (asked_over, asks_over) = (Arc::new(GrpcTransport::new()), Arc::new(GrpcTransport::new()));
    let (asked, asks) = (node("a", &asked_over, before.clone()), node("b", &asks_over, later.clone()));
    let looks = Arc::new(AtomicUsize::new(0));
    let membership = Arc::new(Learns { list: watch::Sender::new(before), later, looks: looks.clone() });
    tokio::spawn(asked.clone().follow(membership));
    let (service, standing) = (asked.service(Protocol::Grpc), asked.standing().clone());
    tokio::spawn(serve(listener, service, standing, std::future::pending()));

    let link = asks_over.link(&Member::new("a", here.to_string())).unwrap();
    let is_moved = |key: &String| {
        let owner = |node: &Node| node.place("g", key.as_bytes()).owner.unwrap();
        &*owner(&asked) == "c" && &*owner(&asks) == "a"
    };
    let keys: Vec<String> = (0..).map(|number| format!("key{number}")).filter(is_moved).take(50).collect();
    for key in keys {
        let question = PeerGet {
            group: "g".into(),
            key: Key::copy_from(key.as_bytes()).unwrap(),
            asked_as: AskedAs::Owner,
            value_len_max: 1 << 20,
            deadline: Instant::now() + Duration::from_secs(30),
        };
        let answer = timeout(Duration::from_secs(60), link.get(question)).await.unwrap();
        assert!(matches!(answer, Ok(PeerAnswer::Found { value: Some(_), .. })), "{answer:?}");
    }
    assert_eq!(looks.load(Ordering::Relaxed), 1);
}
