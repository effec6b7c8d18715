//! Lists that differ and lists that change: no loop, no second hop, and nothing kept that a change has overtaken.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use larder_core::{
    Error, ErrorKind, GroupConfig, Member, Members, Membership, Node, NodeConfig, Ring,
    peer::{PeerClient, Transport},
    stats::Protocol,
    testing::{clock::TokioClock, fake_peer::FakeNetwork, origin::FakeOrigin},
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{Cluster, TIMEOUT, members, names, quiet, slot, text};

fn change(cluster: &Cluster, place: usize, listed: &[usize]) {
    let names: Vec<String> = listed.iter().map(|place| cluster.nodes[*place].name().to_string()).collect();
    cluster.nodes[place].change_view(members(&names)).unwrap();
}

#[tokio::test(start_paused = true)]
async fn views_of_equal_members_are_equal_whatever_their_order() {
    let cluster = Cluster::new(3);
    let reversed: Vec<String> = names(3).into_iter().rev().collect();
    let before = cluster.nodes[0].view();
    cluster.nodes[0].change_view(members(&reversed)).unwrap();
    assert!(Arc::ptr_eq(&before, &cluster.nodes[0].view()), "nothing changed");
    assert_eq!(cluster.nodes[0].view().digest(), cluster.nodes[1].view().digest());
    let slots: usize = (0..3).map(|place| cluster.nodes[place].view().owned_slot_count()).sum();
    assert_eq!(slots, 16_384);
}

#[tokio::test(start_paused = true)]
async fn nodes_that_disagree_stand_in_for_each_other_and_pass_nothing_on_twice() {
    let cluster = Cluster::new(2);
    // Each takes the other for the owner of everything.
    change(&cluster, 0, &[1]);
    change(&cluster, 1, &[0]);
    let started = Instant::now();
    let (one, other) = tokio::join!(cluster.get(0, "k"), cluster.get(1, "k"));
    for result in [one, other] {
        assert_eq!(text(&result.unwrap()), "k=0");
    }
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    assert_eq!(cluster.origin.requests(), 2);
    for group in &cluster.groups {
        assert!(group.stats().server_requests.of(Protocol::Grpc).sum() <= 4);
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_origin_nodes_that_disagree_have_nothing_to_answer() {
    let cluster = Cluster::plain(2);
    change(&cluster, 0, &[1]);
    change(&cluster, 1, &[0]);
    assert_eq!(cluster.get(0, "k").await.unwrap_err().kind(), ErrorKind::OwnerUnreachable);
}

/// Rule W2.
#[tokio::test(start_paused = true)]
async fn where_nobody_stands_in_a_get_waits_while_nodes_come_to_agree() {
    let cluster = Cluster::plain(2);
    change(&cluster, 0, &[1]);
    change(&cluster, 1, &[0]);
    let get = cluster.spawn_get(0, "k");
    sleep(Duration::from_millis(200)).await;
    assert!(!get.is_finished());
    change(&cluster, 1, &[1]);
    assert!(get.await.unwrap().unwrap().value.is_none());
}

#[tokio::test(start_paused = true)]
async fn over_groupcaches_protocol_nodes_that_disagree_answer_all_the_same_and_keep_nothing() {
    let cluster = Cluster::new(2);
    change(&cluster, 0, &[1]);
    change(&cluster, 1, &[0]);
    for node in &cluster.nodes {
        cluster.network.add(node.name().clone(), node.service(Protocol::Http));
    }
    for place in 0..2 {
        assert_eq!(text(&cluster.get(place, "k").await.unwrap()), "k=0");
        assert_eq!(cluster.groups[place].store_stats().items(), 0);
    }
}

/// Rules W3 and W4.
#[tokio::test(start_paused = true)]
async fn a_load_that_a_change_of_owner_overtakes_is_answered_and_not_kept() {
    let cluster = Cluster::new(3);
    let owner = cluster.owner("k");
    cluster.origin.close_gate();
    let get = cluster.spawn_get(owner, "k");
    cluster.origin.requested(1).await;
    let others: Vec<usize> = (0..3).filter(|place| *place != owner).collect();
    change(&cluster, owner, &others);
    cluster.origin.let_through(1);
    assert_eq!(text(&get.await.unwrap().unwrap()), "k=0");
    assert_eq!(cluster.groups[owner].store_stats().items(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_comes_back_does_not_bring_old_values_back() {
    let cluster = Cluster::new(2);
    let owner = cluster.owner("k");
    cluster.get(owner, "k").await.unwrap();
    change(&cluster, owner, &[1 - owner]);
    assert_eq!(cluster.groups[owner].store_stats().main.evictions.moved, 1);
    cluster.origin.change("k");
    change(&cluster, owner, &[0, 1]);
    assert_eq!(text(&cluster.get(owner, "k").await.unwrap()), "k=1");
}

#[tokio::test(start_paused = true)]
async fn what_stays_with_its_owner_stays() {
    let cluster = Cluster::new(2);
    let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).filter(|key| cluster.owner(key) == 0).collect();
    for key in &keys {
        cluster.get(0, key).await.unwrap();
    }
    let mut more = names(3);
    more.sort();
    let before = cluster.nodes[0].view();
    cluster.nodes[0].change_view(members(&more)).unwrap();
    let after = cluster.nodes[0].view();
    let kept = keys.iter().filter(|key| after.is_mine(slot(key), key.as_bytes())).count();
    assert!(keys.iter().all(|key| before.is_mine(slot(key), key.as_bytes())));
    assert!((1..keys.len()).contains(&kept));
    assert_eq!(cluster.groups[0].store_stats().main.items, kept as u64);
}

#[tokio::test(start_paused = true)]
async fn lists_that_change_under_load_leave_every_answer_right() {
    let cluster = Cluster::with(4, &GroupConfig::default(), FakeOrigin::new(8));
    let mut gets = JoinSet::new();
    for caller in 0..400_usize {
        let group = cluster.groups[caller % 4].clone();
        gets.spawn(async move {
            for n in 0..20 {
                let key = format!("k{}", (caller * 7 + n) % 50);
                match group.get(&key, TIMEOUT).await {
                    Ok(answer) => assert_eq!(text(&answer), format!("{key}=0")),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::OwnerUnreachable, "{error}"),
                }
                tokio::task::yield_now().await;
            }
        });
    }
    for round in 0..20_usize {
        for place in 0..4 {
            let listed: Vec<usize> = (0..4).filter(|other| (round + place) % 5 != *other).collect();
            change(&cluster, place, &listed);
            quiet().await;
        }
    }
    gets.join_all().await;
    assert!(cluster.origin.under_way_max() <= 8, "four nodes, two loads of a key each at most");
}

#[tokio::test(start_paused = true)]
async fn a_node_without_members_that_take_keys_says_so() {
    let cluster = Cluster::new(1);
    cluster.nodes[0].change_view(larder_core::Members::default()).unwrap();
    let error = cluster.get(0, "k").await.unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::OwnerUnreachable, true));
}

/// Members that a test lists.
struct Listed(watch::Sender<Members>);

impl Membership for Listed {
    fn members(&self) -> watch::Receiver<Members> {
        self.0.subscribe()
    }
}

/// A network on which the link to one member is not made before somebody says so.
struct Held {
    network: FakeNetwork,
    held: &'static str,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Transport for Held {
    fn name(&self) -> &'static str {
        self.network.name()
    }

    fn link(&self, member: &Member) -> Result<Arc<dyn PeerClient>, Error> {
        if *member.name == *self.held {
            self.go_on.lock().unwrap().recv_timeout(TIMEOUT).expect("the test goes on meanwhile");
        }
        self.network.link(member)
    }
}

/// All on one thread: a view that were worked out there would have nobody served meanwhile.
#[tokio::test]
async fn gets_are_served_while_a_view_of_a_thousand_members_is_worked_out() {
    let thousand = names(1_000);
    let (go_on, held) = mpsc::channel();
    let transport = Held { network: FakeNetwork::default(), held: "n999", go_on: Mutex::new(held) };
    let config = NodeConfig {
        name: "n0".into(),
        http: "".into(),
        ring: Ring::Slots,
        incarnation: 1,
        seed: 42,
        clock: Arc::new(TokioClock::new()),
        transport: Arc::new(transport),
    };
    let node = Node::new(config, members(&thousand[..1])).unwrap();
    let origin = FakeOrigin::new(1);
    let group = node.open_group("g", GroupConfig::default(), Some(Arc::new(origin))).unwrap();
    let listed = Arc::new(Listed(watch::Sender::new(members(&thousand[..1]))));
    let following = tokio::spawn(node.clone().follow(listed.clone()));
    listed.0.send_replace(members(&thousand));
    for number in 0..100 {
        group.get(format!("k{number}"), TIMEOUT).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(node.view().members().len(), 1);
    go_on.send(()).unwrap();
    let changed = async {
        while node.view().members().len() == 1 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(4 * TIMEOUT, changed).await.expect("a new view");
    assert_eq!(node.view().members().len(), 1_000);
    following.abort();
}
