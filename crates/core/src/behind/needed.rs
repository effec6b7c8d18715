//! What goes wrong without each of the rules of write-behind: the same story, told with the rule and without it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    Group, GroupConfig, Member, Members, Node, NodeConfig, PeerService, Ring, Value,
    peer::Condition,
    rules::{Rule, without},
    stats::Protocol,
    testing::{clock::TokioClock, fake_peer::FakeNetwork, fake_records::FakeRecords, table::FakeTable},
};

const TIMEOUT: Duration = Duration::from_secs(5);

/// Longer than nodes take to agree on anything: some leases.
const LONG: Duration = Duration::from_secs(5);

/// Three nodes.
struct World {
    network: FakeNetwork,
    table: FakeTable,
    disks: Vec<FakeRecords>,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    /// Owner, stand-in and the third of the key.
    parts: [usize; 3],
    /// What the nodes do by themselves.
    tasks: Mutex<HashMap<usize, JoinSet<()>>>,
}

fn members(places: &[usize]) -> Members {
    let member = |place: &usize| Member::new(format!("n{place}"), format!("n{place}"));
    Members::new(places.iter().map(member)).expect("names")
}

impl World {
    fn new(disks: Vec<FakeRecords>, table: FakeTable, there: &[usize]) -> Self {
        let (network, clock) = (FakeNetwork::with_claims(), Arc::new(TokioClock::new()));
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        for (place, disk) in disks.iter().enumerate() {
            let config = NodeConfig {
                name: format!("n{place}").into(),
                http: "".into(),
                ring: Ring::Slots,
                incarnation: place as u32 + 1,
                seed: place as u64,
                clock: clock.clone(),
                transport: Arc::new(network.of_a_node()),
            };
            let node = Node::new(config, members(&[0, 1, 2])).expect("a node");
            node.set_records(Arc::new(disk.clone()), false).expect("the first");
            let origin = Arc::new(table.clone());
            let config = GroupConfig::default();
            groups.push(node.open_group_behind("g", config, origin.clone(), origin, TIMEOUT).expect("a group"));
            nodes.push(node);
        }
        let place = nodes[0].place("g", b"k");
        let of =
            |name: Option<Arc<str>>| nodes.iter().position(|node| Some(node.name()) == name.as_ref()).expect("one");
        let (owner, stand_in) = (of(place.owner), of(place.stand_in));
        let world = Self {
            network,
            table,
            disks,
            nodes,
            groups,
            parts: [owner, stand_in, 3 - owner - stand_in],
            tasks: Mutex::default(),
        };
        for place in there.iter().map(|part| world.parts[*part]) {
            world.come(place);
        }
        world
    }

    fn come(&self, place: usize) {
        let node = &self.nodes[place];
        let service: Arc<dyn PeerService> = node.service(Protocol::Grpc);
        self.network.add(node.name().clone(), service);
        let mut tasks = JoinSet::new();
        tasks.spawn(node.clone().claim_slots());
        tasks.spawn(node.clone().keep_records());
        self.tasks.lock().insert(place, tasks);
    }

    /// The same disks and origin, in a later run of those of the parts that are there.
    fn again(&self, there: &[usize]) -> Self {
        let disks = self.disks.iter().map(FakeRecords::restarted).collect();
        Self::new(disks, self.table.clone(), there)
    }

    /// Those of the parts that are left have a view of themselves.
    fn leave(&self, left: &[usize]) {
        let left: Vec<usize> = left.iter().map(|part| self.parts[*part]).collect();
        for place in &left {
            self.nodes[*place].change_view(members(&left)).expect("a view");
        }
    }

    fn kill(&self, part: usize) {
        self.network.remove(self.nodes[self.parts[part]].name());
        self.tasks.lock().remove(&self.parts[part]);
    }

    async fn put(&self, part: usize, value: &'static str) {
        let until = Instant::now() + LONG;
        let group = &self.groups[self.parts[part]];
        while group.put("k", Value::from(value), None, Condition::Always, TIMEOUT).await.is_err() {
            assert!(Instant::now() < until, "{value} can't be put");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What a part answers within a while; nothing if it gives no answer.
    async fn get(&self, part: usize) -> Option<String> {
        let group = &self.groups[self.parts[part]];
        let answered = async {
            loop {
                if let Ok(answer) = group.get("k", TIMEOUT).await {
                    return answer.value.map(|value| String::from_utf8_lossy(&value).into_owned());
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, answered).await.unwrap_or_default()
    }

    async fn flush(&self, part: usize) {
        self.disks[self.parts[part]].flush().await.expect("it is taken down");
    }
}

async fn three() -> World {
    let world = World::new((0..3).map(|_| FakeRecords::new()).collect(), FakeTable::new(), &[0, 1, 2]);
    world.table.set("k", "old");
    world.put(0, "first").await;
    world.flush(0).await;
    world
}

/// The owner's disk is lost with it.
async fn the_other_copy_is_answered_when_the_owner_is_gone() -> bool {
    let world = three().await;
    world.put(0, "new").await;
    world.kill(0);
    world.leave(&[1, 2]);
    world.get(2).await.as_deref() == Some("new")
}

async fn what_was_written_is_answered_after_an_invalidation() -> bool {
    let world = three().await;
    world.put(0, "new").await;
    world.groups[world.parts[0]].invalidate("k", TIMEOUT).await.expect("it is dropped");
    world.get(1).await.as_deref() == Some("new")
}

/// The copy is not with who becomes the owner.
async fn who_becomes_the_owner_finds_a_copy_that_another_has() -> bool {
    let world = three().await;
    world.kill(1);
    world.put(0, "new").await;
    world.come(world.parts[1]);
    world.kill(0);
    world.leave(&[1, 2]);
    world.get(1).await.as_deref() == Some("new")
}

async fn what_was_flushed_is_no_record_of_the_next_owner() -> bool {
    let world = three().await;
    world.put(0, "new").await;
    world.flush(0).await;
    world.table.set("k", "changed there");
    world.kill(0);
    world.leave(&[1, 2]);
    world.get(2).await.as_deref() == Some("changed there")
}

async fn who_starts_alone_with_an_old_record_does_not_undo_a_later_one() -> bool {
    let world = three().await;
    world.put(0, "old").await;
    world.kill(0);
    world.leave(&[1, 2]);
    world.put(1, "new").await;
    world.flush(1).await;
    assert_eq!(world.table.row("k").as_deref(), Some("new"));
    let again = world.again(&[0]);
    again.leave(&[0]);
    let answered = again.get(0).await;
    again.flush(0).await;
    answered.is_none() && world.table.row("k").as_deref() == Some("new")
}

fn tell(story: impl Future<Output = bool>) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(story)
}

/// Tells a story with a rule and without it.
fn is_needed<S: Future<Output = bool>>(rule: Rule, story: impl Fn() -> S) {
    assert!(tell(story()), "{rule:?} is kept, and something is wrong all the same");
    assert!(!without(Some(rule), || tell(story())), "nothing is wrong without {rule:?}");
}

#[test]
fn without_b1_a_write_is_lost_with_its_owner() {
    is_needed(Rule::B1, the_other_copy_is_answered_when_the_owner_is_gone);
}

#[test]
fn without_b3_a_write_is_not_answered_before_it_is_flushed() {
    is_needed(Rule::B3, what_was_written_is_answered_after_an_invalidation);
}

#[test]
fn without_b4_a_new_owner_answers_with_something_older() {
    is_needed(Rule::B4, who_becomes_the_owner_finds_a_copy_that_another_has);
}

#[test]
fn without_b5_what_was_flushed_comes_back() {
    is_needed(Rule::B5, what_was_flushed_is_no_record_of_the_next_owner);
}

#[test]
fn without_b6_who_starts_alone_undoes_what_others_have_done() {
    is_needed(Rule::B6, who_starts_alone_with_an_old_record_does_not_undo_a_later_one);
}
