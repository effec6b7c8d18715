//! What must hold by any registry, on real ones: as scenarios that the tests of each call.
//!
//! Time passes for real here, because registries count leases by it; a scenario waits a lease, never for luck.

use std::{fmt::Debug, sync::Arc, time::Duration};

use larder_core::{
    Clock, Member, MemberState, Members, Membership, Moment,
    placement::{Slot, SlotTable},
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

pub(crate) use crate::testing::BootClock;
use crate::testing::Server;

/// How long anything may take that happens in milliseconds on a machine that does nothing else, or by an agent of Consul that
/// found no leader: it waits up to half a minute then.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// A registry that the scenarios do harm to.
pub(crate) trait Registrar: Server {
    /// How long leases are.
    const TTL: Duration;

    /// The membership of a node with leases this long, on the way that this URL begins with, or straight.
    fn join(&self, me: Member, lease_ttl: Duration, by: Option<&str>) -> Arc<dyn Membership>;
}

/// Makes a test of each scenario, with a server of this kind, where its program is.
macro_rules! each_scenario {
    ($server:ty, $program:literal) => {
        $crate::registry::tests::each_scenario! { @ $server, $program:
            stopped_and_started_it_costs_nothing
            killed_and_emptied_it_costs_nothing
            emptied_in_an_instant_it_costs_nothing
            paused_for_longer_than_a_lease_it_costs_nothing
            who_crashes_meanwhile_is_out_when_it_is_back
            a_new_run_at_the_same_address_takes_over_at_once
            while_it_is_away_authority_ends_in_time_and_goes_to_nobody_else
            no_slot_has_two_owners_with_authority_under_a_cut
        }
    };
    (@ $server:ty, $program:literal: $($name:ident)+) => {
        mod scenarios {
            use super::*;

            $(
                // The nodes run on threads of their own: they must not stand still while a process is waited for.
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    if needs($program) {
                        $crate::registry::tests::$name(<$server>::start()).await;
                    }
                }
            )+
        }
    };
}
pub(crate) use each_scenario;

pub(crate) fn member(name: &str) -> Member {
    Member {
        incarnation: u32::from(name.as_bytes()[0]),
        ..Member::new(name, format!("10.0.0.1:{}", name.as_bytes()[0]))
    }
}

/// A node that serves.
pub(crate) struct Node {
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) list: watch::Receiver<Members>,
    pub(crate) me: Member,
}

impl Node {
    pub(crate) async fn join<S: Registrar>(server: &S, me: Member, by: Option<&str>) -> Self {
        Self::announce(server.join(me.clone(), S::TTL, by), me).await
    }

    pub(crate) async fn announce(membership: Arc<dyn Membership>, me: Member) -> Self {
        within("joining", membership.announce(MemberState::Serving)).await.unwrap();
        Self { list: membership.members(), membership, me }
    }

    /// Waits until its list is that of these nodes.
    pub(crate) async fn lists(&mut self, names: &str) {
        let is_it = |members: &Members| members.iter().flat_map(|member| member.name.chars()).eq(names.chars());
        let listed = timeout(SOON, self.list.wait_for(is_it)).await.is_ok();
        assert!(listed, "{} lists {:?} and not {names}", self.me.name, *self.list.borrow());
    }

    /// Waits for a proof from a read that is sent from now on.
    pub(crate) async fn proves_anew(&self) {
        let now = BootClock.now();
        let mut proofs = self.membership.authority().unwrap();
        let is_new = |proof: &Option<larder_core::Proof>| proof.as_ref().is_some_and(|proof| proof.sent > now);
        within("a proof", proofs.wait_for(is_new)).await.unwrap();
    }

    /// Waits until nothing is proved any more.
    pub(crate) async fn proves_nothing(&self) {
        let proofs = self.membership.authority().unwrap();
        let holds = || proofs.borrow().as_ref().is_some_and(|proof| proof.holds_at(BootClock.now()));
        within("the end of a proof", async {
            while holds() {
                sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Every list that it has from now on, until it is dropped.
    pub(crate) fn record(&self) -> JoinHandle<Vec<Members>> {
        let mut list = self.list.clone();
        tokio::spawn(async move {
            let mut lists = vec![list.borrow_and_update().clone()];
            while list.changed().await.is_ok() {
                lists.push(list.borrow_and_update().clone());
            }
            lists
        })
    }
}

pub(crate) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(SOON, work).await.unwrap_or_else(|_| panic!("{what} takes too long"))
}

/// Nodes that all list one another.
pub(crate) async fn nodes<S: Registrar>(server: &S, names: &str) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in names.chars() {
        nodes.push(Node::join(server, member(&name.to_string()), None).await);
    }
    for node in &mut nodes {
        node.lists(names).await;
    }
    nodes
}

/// Waits until leases have run out that nobody renewed from now on, proofs before them.
pub(crate) async fn leases_run_out<S: Registrar>(nodes: &[Node]) {
    for node in nodes {
        node.proves_nothing().await;
    }
    sleep(S::TTL).await;
}

/// What every node lists stays what it is, whatever `harm` does to the registry; and all heals.
async fn costs_nothing<S: Registrar>(server: &mut S, harm: impl AsyncFnOnce(&mut S, &[Node])) {
    let mut nodes = nodes(server, "abc").await;
    let records: Vec<_> = nodes.iter().map(Node::record).collect();
    harm(server, &nodes).await;
    for node in &mut nodes {
        node.proves_anew().await;
    }
    // A newcomer sees all of them, and they see it.
    nodes.push(Node::join(server, member("d"), None).await);
    for node in &mut nodes {
        node.lists("abcd").await;
    }
    drop(nodes);
    for record in records {
        let lists = within("the end of a record", record).await.unwrap();
        let names = |members: &Members| members.iter().map(|member| member.name.to_string()).collect::<String>();
        assert!(
            lists.iter().all(|list| names(list).starts_with("abc")),
            "{:?}",
            lists.iter().map(names).collect::<Vec<_>>()
        );
    }
}

pub(crate) async fn stopped_and_started_it_costs_nothing<S: Registrar>(mut server: S) {
    costs_nothing(&mut server, async |server, nodes| {
        server.stop();
        leases_run_out::<S>(nodes).await;
        server.restart();
    })
    .await;
}

pub(crate) async fn killed_and_emptied_it_costs_nothing<S: Registrar>(mut server: S) {
    costs_nothing(&mut server, async |server, nodes| {
        server.kill();
        leases_run_out::<S>(nodes).await;
        server.forget();
        server.restart();
    })
    .await;
}

pub(crate) async fn emptied_in_an_instant_it_costs_nothing<S: Registrar>(mut server: S) {
    costs_nothing(&mut server, async |server, _| {
        server.kill();
        server.forget();
        server.restart();
    })
    .await;
}

pub(crate) async fn paused_for_longer_than_a_lease_it_costs_nothing<S: Registrar>(mut server: S) {
    costs_nothing(&mut server, async |server, nodes| {
        server.pause();
        leases_run_out::<S>(nodes).await;
        server.resume();
    })
    .await;
}

/// Who crashed while it was away is out soon after, and nobody else ever.
pub(crate) async fn who_crashes_meanwhile_is_out_when_it_is_back<S: Registrar>(mut server: S) {
    let mut nodes = nodes(&server, "abc").await;
    server.kill();
    leases_run_out::<S>(&nodes[1..]).await;
    let records: Vec<_> = nodes[1..].iter().map(Node::record).collect();
    drop(nodes.remove(0));
    assert!(nodes.iter().all(|node| node.list.borrow().len() == 3), "the last list stands");
    server.restart();
    for node in &mut nodes {
        node.lists("bc").await;
        node.proves_anew().await;
    }
    drop(nodes);
    for record in records {
        assert_eq!(
            within("the end of a record", record).await.unwrap().len(),
            2,
            "the list with it and the one without"
        );
    }
}

/// A former run of the same node is not waited for.
pub(crate) async fn a_new_run_at_the_same_address_takes_over_at_once<S: Registrar>(server: S) {
    let mut watcher = Node::join(&server, member("b"), None).await;
    let former = Node::announce(server.join(member("a"), 5 * SOON, None), member("a")).await;
    watcher.lists("ab").await;
    drop(former);
    let again = Member { incarnation: 7, weight: 3, ..member("a") };
    let _node = Node::join(&server, again.clone(), None).await;
    let expected = Members::new([again, watcher.me.clone()]).unwrap();
    within("the new run", watcher.list.wait_for(|members| *members == expected)).await.unwrap();
}

/// Somebody who held a slot, by which run, from when until when.
#[derive(Clone, PartialEq, Debug)]
struct Holding {
    name: String,
    from: Moment,
    until: Moment,
}

/// Notes while this node may act as the owner of the slot. It needs a proof of a list that makes it the owner. Who gained the
/// slot, or was without proof for a moment and may have been replaced meanwhile, waits a lease from then and acts on a proof
/// that was sent after the wait (rule C6); a founder has nobody to wait for the first time.
async fn note_holdings<S: Registrar>(
    node: Arc<dyn Membership>,
    name: String,
    slot: Slot,
    is_founder: bool,
    holdings: watch::Sender<Vec<Holding>>,
) {
    let proofs = node.authority().unwrap();
    let mut waits_until = is_founder.then(Moment::default);
    let mut was_owner = false;
    loop {
        let now = BootClock.now();
        let proof = proofs.borrow().clone().filter(|proof| proof.holds_at(now));
        let proof = proof.filter(|proof| owner(&proof.members, slot).as_deref() == Some(&*name));
        if proof.is_none() && was_owner {
            waits_until = None;
        }
        was_owner = proof.is_some();
        if let Some(proof) = proof
            && proof.sent >= *waits_until.get_or_insert(now + S::TTL)
        {
            holdings.send_modify(|holdings| match holdings.last_mut() {
                Some(last) if last.name == name => last.until = now,
                _ => holdings.push(Holding { name: name.clone(), from: now, until: now }),
            });
        }
        sleep(Duration::from_millis(3)).await;
    }
}

fn owner(members: &Members, slot: Slot) -> Option<String> {
    let takers: Vec<&Member> = members.iter().filter(|member| member.takes_keys()).collect();
    let named: Vec<(&str, u32)> = takers.iter().map(|member| (&*member.name, member.weight)).collect();
    SlotTable::new(&named).owner(slot).map(|taker| takers[taker].name.to_string())
}

/// A node that is cut from the registry stops in time: before anybody else may act in its place.
pub(crate) async fn no_slot_has_two_owners_with_authority_under_a_cut<S: Registrar>(server: S) {
    let way = crate::testing::Proxy::to(server.address()).await;
    let url = way.url();
    let mut cut_off = Node::join(&server, member("a"), Some(&url)).await;
    let mut other = Node::join(&server, member("b"), None).await;
    cut_off.lists("ab").await;
    other.lists("ab").await;
    let mut record = Record::of::<S>(&cut_off, &other);
    record.shows("a").await;
    way.cut();
    cut_off.proves_nothing().await;
    other.lists("b").await;
    record.shows("ab").await;
    assert_eq!(cut_off.list.borrow().len(), 2, "it can't know better");
    way.mend();
    cut_off.lists("ab").await;
    other.lists("ab").await;
    record.shows("aba").await;
    cut_off.proves_anew().await;
    for pair in record.end().windows(2) {
        assert!(pair[0].until < pair[1].from, "both act: {pair:?}");
    }
}

/// While the registry is away, its last word counts for 0.9 leases, and for nobody else than before.
pub(crate) async fn while_it_is_away_authority_ends_in_time_and_goes_to_nobody_else<S: Registrar>(mut server: S) {
    let nodes = nodes(&server, "ab").await;
    let mut record = Record::of::<S>(&nodes[0], &nodes[1]);
    record.shows("a").await;
    for is_paused in [true, false] {
        if is_paused {
            server.pause();
        } else {
            server.stop();
        }
        let away = BootClock.now();
        for node in &nodes {
            node.proves_nothing().await;
        }
        let last = record.last();
        assert!(last.until <= away + S::TTL.mul_f64(0.9), "{last:?}, away since {away:?}");
        if is_paused {
            server.resume();
        } else {
            server.restart();
        }
        for node in &nodes {
            node.proves_anew().await;
        }
        record.goes_on_after(BootClock.now()).await;
    }
    let holdings = record.end();
    assert_eq!(holdings.len(), 1, "{holdings:?}");
}

/// Who acted as the owner of a slot that is the first node's, and when.
struct Record {
    holdings: watch::Receiver<Vec<Holding>>,
    notes: JoinSet<()>,
}

impl Record {
    fn of<S: Registrar>(owner_now: &Node, other: &Node) -> Self {
        let list = other.list.borrow().clone();
        let slot = Slot::all().find(|slot| owner(&list, *slot).as_deref() == Some(&*owner_now.me.name)).unwrap();
        let holdings = watch::Sender::new(Vec::new());
        let mut notes = JoinSet::new();
        for (node, is_founder) in [(owner_now, true), (other, false)] {
            let (node, name) = (node.membership.clone(), node.me.name.to_string());
            notes.spawn(note_holdings::<S>(node, name, slot, is_founder, holdings.clone()));
        }
        Self { holdings: holdings.subscribe(), notes }
    }

    /// Waits until these have acted, by turns.
    async fn shows(&mut self, names: &str) {
        let by_these = |holdings: &Vec<Holding>| holdings.iter().flat_map(|it| it.name.chars()).eq(names.chars());
        let shown = timeout(SOON, self.holdings.wait_for(by_these)).await.is_ok();
        assert!(shown, "{:?} is not by {names}", self.holdings.borrow());
    }

    fn last(&self) -> Holding {
        self.holdings.borrow().last().expect("somebody acted").clone()
    }

    /// Waits until whoever acted last acts at this moment or later.
    async fn goes_on_after(&mut self, moment: Moment) {
        let acts = |holdings: &Vec<Holding>| holdings.last().is_some_and(|last| last.until >= moment);
        within("somebody to act", self.holdings.wait_for(acts)).await.unwrap();
    }

    fn end(self) -> Vec<Holding> {
        drop(self.notes);
        self.holdings.borrow().clone()
    }
}

/// What the outcome of a refused call says.
pub(crate) fn refusal<T: Debug>(result: Result<T, larder_core::Error>) -> String {
    let error = result.unwrap_err();
    assert!(error.is_invalid(), "{error}");
    error.message().to_owned()
}
