//! What every [`Membership`] in which nodes register themselves must do, as one suite.
//!
//! [`registered_membership_contract!`](crate::registered_membership_contract) turns each behaviour below into a test of its
//! own. A node is on the list from its first [`announce`](Membership::announce) on. One whose membership is dropped without
//! [`leave`](Membership::leave) is a node that crashed: nothing of it may go on, and the others have to find out.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{ARRIVAL_TIME, arrives, sorted};
use crate::{Error, Member, MemberState, Members, Membership, membership::LOOK_TIME_MAX};

/// How much longer than [`LOOK_TIME_MAX`] a look may seem to take, because a busy machine must not fail a test.
const LOOK_SLACK: Duration = Duration::from_secs(5);

/// How long everybody may take to notice that a node has left: it said so, and nobody has to find out.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(5);

/// How often nodes do something in the test in which they do many things.
const TURNS_LEN: usize = 40;

/// A cluster that the suite has nodes join.
pub trait Cluster {
    /// The membership of one more node with these facts, whatever their state: it has not announced any yet.
    fn join(&self, me: Member) -> impl Future<Output = Result<Arc<dyn Membership>, Error>>;

    /// The longest until everybody has noticed that a node ended without a word, with room for a busy machine.
    fn crash_time_max(&self) -> Duration;
}

fn member(name: &str) -> Member {
    let number = name.bytes().map(u32::from).sum::<u32>();
    let http = format!("10.0.1.{}:5273", number % 250).into();
    Member { incarnation: number, http, ..Member::new(name, format!("10.0.1.{}:5274", number % 250)) }
}

fn with_state(member: &Member, state: MemberState) -> Member {
    Member { state, ..member.clone() }
}

/// A node, and what it is to the others.
struct Node {
    me: Member,
    membership: Arc<dyn Membership>,
    list: watch::Receiver<Members>,
}

impl Node {
    /// Joins, and announces the state that stands in the facts.
    async fn join(cluster: &impl Cluster, me: Member) -> Self {
        let joins = async {
            let membership = cluster.join(me.clone()).await?;
            membership.announce(me.state).await?;
            Ok::<_, Error>(membership)
        };
        let joined = timeout(ARRIVAL_TIME, joins).await.expect("joining ends in time");
        let membership = joined.unwrap_or_else(|error| panic!("{} can't join: {error}", me.name));
        let list = membership.members();
        Self { me, membership, list }
    }

    async fn announce(&mut self, state: MemberState) {
        let announced = timeout(ARRIVAL_TIME, self.membership.announce(state)).await;
        announced.expect("announcing ends in time").expect("the node is not refused");
        self.me.state = state;
    }

    async fn leave(&self) {
        timeout(LEAVE_TIME_MAX, self.membership.leave()).await.expect("leaving ends in time");
    }
}

/// Nodes that are serving, of whom each knows all.
async fn cluster_of(cluster: &impl Cluster, names: &[&str]) -> Vec<Node> {
    let mut nodes = Vec::with_capacity(names.len());
    for name in names {
        nodes.push(Node::join(cluster, member(name)).await);
    }
    agree(&mut nodes).await;
    nodes
}

/// Waits until each of these nodes has the list of all of them.
async fn agree(nodes: &mut [Node]) {
    let members: Vec<Member> = nodes.iter().map(|node| node.me.clone()).collect();
    for node in nodes {
        arrives(&mut node.list, &members).await;
    }
}

/// A list that arrives says everything that the joiner said of itself.
pub async fn a_joiner_appears_at_everybody_with_all_its_facts(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b"]).await;
    let joiner = Member {
        incarnation: u32::MAX,
        weight: 7,
        zone: "eu west/1, \"ü\"".into(),
        state: MemberState::Joining,
        ..member("c")
    };
    nodes.push(Node::join(cluster, joiner).await);
    agree(&mut nodes).await;
    let weightless = Member { incarnation: 1, weight: 0, http: "".into(), ..member("d") };
    nodes.push(Node::join(cluster, weightless).await);
    agree(&mut nodes).await;
}

/// Also the node itself sees what it announced.
pub async fn announced_states_reach_everybody(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b"]).await;
    nodes.push(Node::join(cluster, with_state(&member("c"), MemberState::Joining)).await);
    agree(&mut nodes).await;
    for state in [MemberState::Serving, MemberState::Draining, MemberState::Serving] {
        nodes[2].announce(state).await;
        agree(&mut nodes).await;
    }
}

/// What was announced last counts, however fast it followed what was announced before.
pub async fn the_last_of_many_states_stays(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b"]).await;
    for state in [MemberState::Draining, MemberState::Serving, MemberState::Joining, MemberState::Draining] {
        nodes[1].announce(state).await;
    }
    agree(&mut nodes).await;
}

/// Nobody has to find out that a node is gone which said so.
pub async fn who_leaves_is_gone_at_all_soon(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b", "c"]).await;
    let leaver = nodes.remove(1);
    let start = Instant::now();
    leaver.leave().await;
    agree(&mut nodes).await;
    assert!(start.elapsed() <= LEAVE_TIME_MAX, "the others had to find out");
    drop(leaver);
    let last = nodes.pop().expect("there are two");
    last.leave().await;
    agree(&mut nodes).await;
}

/// A node that ended without a word is found out, and nobody else is taken for it.
pub async fn who_crashes_is_gone_at_all_in_time(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b", "c"]).await;
    drop(nodes.remove(0));
    let start = Instant::now();
    agree(&mut nodes).await;
    let elapsed = start.elapsed();
    assert!(elapsed <= cluster.crash_time_max(), "it took {elapsed:?}");
}

/// A run of a node that has ended doesn't keep the next one from joining, and what the others had of it goes.
pub async fn a_restarted_node_takes_the_place_of_its_former_run(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b", "c"]).await;
    drop(nodes.remove(1));
    let again = Member {
        incarnation: 12,
        address: "10.0.2.1:5274".into(),
        http: "10.0.2.1:5273".into(),
        weight: 3,
        ..member("b")
    };
    nodes.push(Node::join(cluster, again).await);
    agree(&mut nodes).await;
    let left = nodes.pop().expect("there are three");
    left.leave().await;
    drop(left);
    agree(&mut nodes).await;
    nodes.push(Node::join(cluster, Member { incarnation: 7, ..member("b") }).await);
    agree(&mut nodes).await;
}

/// Two nodes of one name would answer for each other's keys: the later one is refused, and nothing becomes of it.
pub async fn of_two_live_nodes_with_one_name_the_first_stays(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b"]).await;
    let twin = Member { incarnation: 99, address: "10.0.3.1:5274".into(), weight: 5, ..member("b") };
    let joins = async {
        let membership = cluster.join(twin).await?;
        membership.announce(MemberState::Serving).await
    };
    let refused = timeout(ARRIVAL_TIME, joins).await.expect("the refusal comes in time");
    let error = refused.expect_err("the name is taken");
    assert!(error.is_invalid() && error.message().contains("\"b\""), "{error}");
    nodes[1].announce(MemberState::Draining).await;
    nodes.push(Node::join(cluster, member("c")).await);
    agree(&mut nodes).await;
}

/// Equal lists make equal views: whatever nodes did at once, all end with the same list.
pub async fn nodes_that_do_many_things_at_once_agree_in_the_end(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b", "c"]).await;
    let mut chance = fastrand::Rng::with_seed(5);
    let states = [MemberState::Joining, MemberState::Serving, MemberState::Draining];
    for turn in 0..TURNS_LEN {
        match chance.u8(..10) {
            0 | 1 if nodes.len() < 6 => nodes.push(Node::join(cluster, member(&format!("node-{turn}"))).await),
            2 if nodes.len() > 3 => {
                nodes.swap_remove(chance.usize(1..nodes.len())).leave().await;
            }
            3 if nodes.len() > 3 => drop(nodes.swap_remove(chance.usize(1..nodes.len()))),
            _ => {
                let place = chance.usize(..nodes.len());
                nodes[place].announce(states[chance.usize(..states.len())]).await;
            }
        }
    }
    agree(&mut nodes).await;
}

/// Each list costs every node a new view, so that the same one must not come twice in a row; nor may an older one come after
/// a later one.
pub async fn the_same_facts_again_wake_nobody(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b"]).await;
    let mut watched = nodes[0].list.clone();
    let recorder = tokio::spawn(async move {
        let mut lists = vec![watched.borrow_and_update().clone()];
        while watched.changed().await.is_ok() {
            lists.push(watched.borrow_and_update().clone());
        }
        lists
    });
    for _ in 0..3 {
        nodes[0].announce(MemberState::Serving).await;
        nodes[1].announce(MemberState::Serving).await;
        nodes[0].membership.look().await;
        // So that the recorder sees each list, also where nothing of this takes time.
        tokio::task::yield_now().await;
    }
    nodes[1].announce(MemberState::Draining).await;
    agree(&mut nodes).await;
    drop(nodes);
    let lists = timeout(ARRIVAL_TIME, recorder).await.expect("who watches is told of the end");
    let lists = lists.expect("the recorder does not panic");
    for pair in lists.windows(2) {
        assert!(pair[0] != pair[1], "the same list came twice: {:?}", pair[0]);
        assert!(pair[0].rank() <= pair[1].rank(), "{:?} came after {:?}", pair[1], pair[0]);
    }
}

/// A question waits for the look, so that it ends soon whatever there is to be seen.
pub async fn looking_ends_in_time(cluster: &impl Cluster) {
    let looks = async |node: &Node| {
        let looked = timeout(LOOK_TIME_MAX + LOOK_SLACK, node.membership.look()).await;
        assert!(looked.is_ok(), "{} looks too long", node.me.name);
    };
    let alone = Node::join(cluster, member("a")).await;
    looks(&alone).await;
    let mut nodes = vec![alone, Node::join(cluster, member("b")).await];
    agree(&mut nodes).await;
    for node in &nodes {
        looks(node).await;
    }
    drop(nodes.pop());
    looks(&nodes[0]).await;
}

/// Where there is authority, what is proved is the list that everybody has, and the proof goes on being renewed.
pub async fn proofs_show_the_list_and_are_renewed(cluster: &impl Cluster) {
    let mut nodes = cluster_of(cluster, &["a", "b"]).await;
    let Some(mut proofs) = nodes[1].membership.authority() else { return };
    nodes[0].announce(MemberState::Draining).await;
    agree(&mut nodes).await;
    let expected = sorted(&[nodes[0].me.clone(), nodes[1].me.clone()]);
    let mut latest = None;
    for _ in 0..3 {
        let shown = proofs.wait_for(|proof| {
            proof.as_ref().is_some_and(|proof| proof.members == expected && latest.is_none_or(|then| then < proof.sent))
        });
        let shown = timeout(ARRIVAL_TIME, shown).await.expect("a proof comes in time");
        let proof = shown.expect("the membership has not ended").clone().expect("it was waited for");
        assert!(proof.sent < proof.until);
        latest = Some(proof.sent);
    }
}

/// Nothing of a membership stays behind: who watches its lists is told of the end.
pub async fn a_dropped_membership_ends_with_all_it_had_under_way(cluster: &impl Cluster) {
    let Node { membership, mut list, .. } = Node::join(cluster, member("a")).await;
    drop(membership);
    let ended = timeout(ARRIVAL_TIME, async { while list.changed().await.is_ok() {} });
    assert!(ended.await.is_ok(), "lists still come");
}

/// Makes a module of tests, one for each behaviour of
/// [`testing::membership::registered`](crate::testing::membership::registered); `$cluster` makes the
/// [`Cluster`](crate::testing::membership::registered::Cluster) of one test, in an async context. It needs `tokio` with
/// `macros` and `rt`.
#[macro_export]
macro_rules! registered_membership_contract {
    ($name:ident, $cluster:expr) => {
        $crate::registered_membership_contract!(
            @tests $name, $cluster,
            a_joiner_appears_at_everybody_with_all_its_facts
            announced_states_reach_everybody
            the_last_of_many_states_stays
            who_leaves_is_gone_at_all_soon
            who_crashes_is_gone_at_all_in_time
            a_restarted_node_takes_the_place_of_its_former_run
            of_two_live_nodes_with_one_name_the_first_stays
            nodes_that_do_many_things_at_once_agree_in_the_end
            the_same_facts_again_wake_nobody
            looking_ends_in_time
            proofs_show_the_list_and_are_renewed
            a_dropped_membership_ends_with_all_it_had_under_way
        );
    };
    (@tests $name:ident, $cluster:expr, $($behaviour:ident)*) => {
        mod $name {
            use super::*;
            $(
                #[tokio::test]
                async fn $behaviour() {
                    $crate::testing::membership::registered::$behaviour(&$cluster).await;
                }
            )*
        }
    };
}
