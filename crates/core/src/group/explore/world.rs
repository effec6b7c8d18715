//! [`World`]: two nodes and their clients, in one of the states that they can be in.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    task::{AbortHandle, JoinHandle},
    time::sleep,
};

use super::{
    NODES, Op, PAUSE, Scope,
    wire::{Fate, Kind, Port, Step, Wire, name, text},
};
use crate::{
    Clock, Error, Group, GroupConfig, Key, Member, MemberState, Members, Moment, Node, NodeConfig, Ring, Value,
    claim::Phase, flight::UNDER_WAY_MAX, peer::Condition, placement::Slot, stats::Protocol, store::Tier,
    testing::clock::TokioClock,
};

/// The one group.
const GROUP: &str = "g";

/// The row before anybody wrote it.
const FIRST: &str = "first";

/// How long a copy may be kept.
pub(super) const LEASE: Duration = Duration::from_secs(1);

/// Longer than all that a sequence takes.
const TIMEOUT: Duration = Duration::from_secs(8);

/// More often than any key has to be asked for to be lent.
const ASKED: usize = 100;

/// Long enough for whatever can run to do so; nothing waits for so short a time.
const MOMENT: Duration = Duration::from_millis(1);

/// What can happen next.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A client begins.
    Begins(usize),
    /// What waits on the wire goes on, or doesn't.
    Wire(u64, Step, Fate),
    /// A node hears of the next view.
    View(usize),
    /// A node crashes, and is there again.
    Restarts(usize),
    /// Time passes.
    Passes(usize),
}

/// How far a client is.
enum Progress {
    Waiting,
    /// It goes on, and must see the row as it was then, or as it was later. `None`: it may see anything, as its link broke.
    Begun {
        task: JoinHandle<Result<String, Error>>,
        floor: Option<usize>,
    },
    Ended,
}

pub(super) struct World {
    scope: Scope,
    wire: Arc<Wire>,
    clock: Arc<TokioClock>,
    key: Key,
    slot: Slot,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    drivers: Vec<AbortHandle>,
    /// How many keys were used up.
    keys: usize,
    progress: Vec<Progress>,
    /// What nobody may miss any more: the row as it was when the last write that is acknowledged changed it.
    floor: usize,
    /// Which view each node has.
    views: [usize; NODES],
    losses: usize,
    doubles: usize,
    restarts: usize,
    passed: Vec<usize>,
}

impl World {
    /// The state that everything begins with: the first node owns the key and has loaded it, and where the scope has it so
    /// the other has a copy.
    pub(super) async fn begin(scope: Scope) -> Self {
        let clock = Arc::new(TokioClock::new());
        let wire = Wire::new(scope.views > 0);
        let mut world = Self {
            scope,
            wire,
            clock,
            key: Key::new("k").expect("a key"),
            slot: Slot::of(GROUP, b"k"),
            nodes: Vec::new(),
            groups: Vec::new(),
            drivers: Vec::new(),
            keys: 0,
            progress: Vec::new(),
            floor: 0,
            views: [0; NODES],
            losses: 0,
            doubles: 0,
            restarts: 0,
            passed: Vec::new(),
        };
        for place in 0..NODES {
            let (node, group) = world.start(place);
            world.nodes.push(node);
            world.groups.push(group);
            world.drive(place);
        }
        world.prepare().await;
        world
    }

    /// The same state again, with a key that nothing was done with, once all has ended that goes on. A world in which slots
    /// moved is not of use again.
    pub(super) async fn again(mut self) -> Option<Self> {
        for progress in &self.progress {
            if let Progress::Begun { task, .. } = progress {
                task.abort();
            }
        }
        self.wire.release();
        if self.scope.views > 0 {
            self.drivers.iter().for_each(AbortHandle::abort);
            self.nodes.iter().for_each(Node::close);
            self.wire.close();
            return None;
        }
        // Whatever is tried again has been by then.
        sleep(PAUSE).await;
        for group in &self.groups {
            group.0.store.remove(self.key.as_bytes());
        }
        self.prepare().await;
        Some(self)
    }

    async fn prepare(&mut self) {
        // Which of two serving nodes owns a key is the hash's to say.
        loop {
            let key = Key::new(format!("k{}", self.keys)).expect("a key");
            self.keys += 1;
            if self.nodes[0].place(GROUP, key.as_bytes()).owner.as_deref() == Some("n0") {
                (self.slot, self.key) = (Slot::of(GROUP, key.as_bytes()), key);
                break;
            }
        }
        let scope = self.scope;
        self.progress = scope.ops.iter().map(|_| Progress::Waiting).collect();
        (self.losses, self.doubles, self.restarts, self.floor) = (scope.losses, scope.doubles, 0, 0);
        self.passed = vec![0; scope.passes.len()];
        self.wire.forget_rows();
        self.wire.change_row(FIRST);
        // What an earlier run may have lent has run out.
        sleep(LEASE).await;
        if scope.is_cached || scope.is_lent {
            self.get(0).await.expect("loaded");
        }
        self.heat(0);
        if scope.is_lent {
            self.get(1).await.expect("lent");
            assert!(self.hit(1).is_some(), "the other node has a copy");
        }
        self.wire.hold(scope.holds);
    }

    /// The key is in demand.
    fn heat(&self, place: usize) {
        for _ in 0..ASKED {
            self.groups[place].0.demand.asked(self.key.as_bytes());
        }
    }

    async fn get(&self, place: usize) -> Result<String, Error> {
        let answer = self.groups[place].get(self.key.as_bytes(), TIMEOUT).await?;
        Ok(text(answer.value.as_ref()))
    }

    fn start(&self, place: usize) -> (Node, Group) {
        let run = self.wire.run(place);
        let port = Port { wire: self.wire.clone(), place, run };
        let config = NodeConfig {
            name: name(place),
            http: "".into(),
            ring: Ring::Slots,
            incarnation: u32::try_from(place + 1).expect("few") + 8 * u32::try_from(run).expect("few"),
            seed: 42 + place as u64,
            clock: self.clock.clone(),
            transport: Arc::new(port.clone()),
        };
        let node = Node::new(config, self.members(self.views[place])).expect("a node");
        self.wire.serve(place, node.service(Protocol::Grpc));
        let config =
            GroupConfig { capacity_bytes: 1 << 16, ttl_jitter: 0.0, hot_lease: LEASE, ..GroupConfig::default() };
        let origin = Arc::new(port);
        let group = node.open_group_through(GROUP, config, origin.clone(), origin).expect("a group");
        (node, group)
    }

    fn drive(&mut self, place: usize) {
        if self.scope.views > 0 {
            self.drivers.push(tokio::spawn(self.nodes[place].clone().claim_slots()).abort_handle());
        }
    }

    /// Who there is in a view. Where views change, one of the two has everything and then the other.
    fn members(&self, view: usize) -> Members {
        let member = |place: usize| {
            let has_all = self.scope.views == 0 || place == view % 2;
            let state = if has_all { MemberState::Serving } else { MemberState::Draining };
            Member { state, ..Member::new(name(place), name(place)) }
        };
        Members::new((0..NODES).map(member)).expect("members")
    }

    /// Lets everything that can run do so.
    pub(super) async fn quiet(&mut self) {
        sleep(MOMENT).await;
    }

    /// What can happen next.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (number, step) in self.wire.steps() {
            let is_message = matches!(step.kind, Kind::Request | Kind::Repeatable | Kind::Answer);
            events.push(Event::Wire(number, step.clone(), Fate::GoesOn));
            if is_message && self.losses > 0 {
                events.push(Event::Wire(number, step.clone(), Fate::GetsLost));
            }
            if step.kind == Kind::Repeatable && self.doubles > 0 {
                events.push(Event::Wire(number, step, Fate::ComesTwice));
            }
        }
        let ops = self.scope.ops;
        let waits = |at: &usize| matches!(self.progress[*at], Progress::Waiting);
        // Of those that do the same, the first begins first.
        let is_first = |at: &usize| !(0..*at).any(|before| ops[before] == ops[*at] && waits(&before));
        events.extend((0..ops.len()).filter(waits).filter(is_first).map(Event::Begins));
        events.extend((0..NODES).filter(|place| self.views[*place] < self.scope.views).map(Event::View));
        if self.restarts == 0 {
            events.extend(self.scope.restarts.iter().copied().map(Event::Restarts));
        }
        let may_pass = |at: &usize| self.passed[*at] < self.scope.passes[*at].1;
        events.extend((0..self.passed.len()).filter(may_pass).map(Event::Passes));
        events
    }

    /// Has something happen, and whatever follows from it.
    pub(super) async fn take(&mut self, event: &Event) {
        match event {
            Event::Begins(at) => self.begins(*at),
            Event::Wire(number, step, fate) => {
                match fate {
                    Fate::GoesOn => {}
                    Fate::GetsLost => {
                        self.losses -= 1;
                        let asker = if step.kind == Kind::Answer { step.to } else { step.from };
                        self.forgive(asker);
                    }
                    Fate::ComesTwice => self.doubles -= 1,
                }
                self.wire.let_go(*number, *fate);
            }
            Event::View(place) => {
                self.views[*place] += 1;
                let members = self.members(self.views[*place]);
                self.nodes[*place].change_view(members).expect("a view");
            }
            Event::Restarts(place) => self.restart(*place),
            Event::Passes(at) => {
                self.passed[*at] += 1;
                sleep(self.scope.passes[*at].0).await;
            }
        }
        self.quiet().await;
    }

    fn begins(&mut self, at: usize) {
        let op = self.scope.ops[at];
        let (group, key) = (self.groups[op.place()].clone(), self.key.clone());
        let mut floor = self.floor;
        let task = match op {
            Op::Get(_) => tokio::spawn(async move {
                let answer = group.get(key.as_bytes(), TIMEOUT).await?;
                Ok(text(answer.value.as_ref()))
            }),
            Op::Put(_, value) => tokio::spawn(async move {
                group.put(key.as_bytes(), Value::from(value), None, Condition::Always, TIMEOUT).await?;
                Ok(value.to_owned())
            }),
            Op::Change(_, value) => {
                floor = self.wire.change_row(value);
                tokio::spawn(async move {
                    group.invalidate(key.as_bytes(), TIMEOUT).await?;
                    Ok(value.to_owned())
                })
            }
        };
        self.progress[at] = Progress::Begun { task, floor: Some(floor) };
    }

    /// The gets of a node whose link to the other broke: they may be answered by who stands in for it.
    fn forgive(&mut self, place: usize) {
        for (op, progress) in self.scope.ops.iter().zip(&mut self.progress) {
            if let (Op::Get(at), Progress::Begun { floor, .. }) = (op, progress)
                && *at == place
            {
                *floor = None;
            }
        }
    }

    fn restart(&mut self, place: usize) {
        self.restarts += 1;
        self.wire.crash(place);
        self.forgive(1 - place);
        for (op, progress) in self.scope.ops.iter().zip(&mut self.progress) {
            if op.place() == place && matches!(progress, Progress::Begun { .. }) {
                *progress = Progress::Ended;
            }
        }
        if let Some(driver) = self.drivers.get(place) {
            driver.abort();
        }
        self.nodes[place].close();
        let (node, group) = self.start(place);
        (self.nodes[place], self.groups[place]) = (node, group);
        self.heat(place);
    }

    /// What a node would answer at once.
    fn hit(&self, place: usize) -> Option<String> {
        self.groups[place].look(self.key.as_bytes()).map(|answer| text(answer.value.as_ref()))
    }

    /// Whether all nodes have the same view. While they differ, less is promised.
    fn is_agreed(&self) -> bool {
        self.views.iter().all(|view| *view == self.views[0])
    }

    /// What is wrong with this state.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        for at in 0..self.progress.len() {
            let Progress::Begun { task, floor } = &mut self.progress[at] else { continue };
            let Some(ended) = task.now_or_never() else { continue };
            let floor = *floor;
            self.progress[at] = Progress::Ended;
            let op = self.scope.ops[at];
            let value = match ended.map_err(|panicked| format!("{op:?} panicked: {panicked}"))? {
                Ok(value) => value,
                // It was told that it failed.
                Err(_) => continue,
            };
            let seen = self.wire.place_of(&value).ok_or_else(|| format!("{op:?} saw {value}, which never was"))?;
            match (op, floor) {
                (Op::Get(_), Some(floor)) if seen < floor => {
                    return Err(format!("I3: {op:?} began after {} and saw {value}", self.wire.rows()[floor]));
                }
                (Op::Get(_), _) => {}
                (Op::Put(..) | Op::Change(..), _) => self.floor = self.floor.max(seen),
            }
        }
        for place in 0..NODES {
            let inner = &self.groups[place].0;
            let (_, attached) = inner.loads.sketch(&self.key);
            if attached > 1 {
                return Err(format!("I1: {attached} loads at {place} may be installed"));
            }
            if inner.origin.as_ref().is_some_and(|origin| origin.in_flight() > UNDER_WAY_MAX + 1) {
                return Err(format!("I1: too many loads are under way at {place}"));
            }
            if let Some(value) = self.hit(place).filter(|_| self.is_agreed()) {
                let seen = self.wire.place_of(&value).ok_or_else(|| format!("{value} never was"))?;
                if seen < self.floor {
                    return Err(format!("I2: {place} has {value} after {}", self.wire.rows()[self.floor]));
                }
            }
        }
        self.judge_copy()
    }

    /// Invariant I4: a copy is not kept for longer than its owner counts.
    fn judge_copy(&self) -> Result<(), String> {
        if self.scope.views > 0 || self.restarts > 0 {
            return Ok(());
        }
        let now = self.clock.now();
        let Some(hit) = self.groups[1].0.store.peek(self.key.as_bytes(), now) else { return Ok(()) };
        let until = hit.meta().fresh_until;
        if hit.meta().tier != Tier::Hot || now >= until {
            return Ok(());
        }
        let lent = self.groups[0].0.leases.of(&self.key, now).map_or(Moment::default(), |lease| lease.ends);
        if lent < until { Err(format!("I4: a copy is kept {:?} too long", until.since(lent))) } else { Ok(()) }
    }

    /// Tells states apart that may go on differently.
    pub(super) fn sketch(&self) -> String {
        use std::fmt::Write as _;
        let (mut sketch, now) = (String::new(), self.clock.now());
        let tenths = |until: Moment| (until.since(now).as_millis() + 50) / 100;
        for place in 0..NODES {
            let inner = &self.groups[place].0;
            let held = inner.store.peek(self.key.as_bytes(), now).map(|hit| {
                let meta = hit.meta();
                let left = if meta.fresh_until == Moment::NEVER { 0 } else { 1 + tenths(meta.fresh_until) };
                (text(hit.into_value().as_ref()), meta.tier, meta.version, left)
            });
            let lease = inner.leases.of(&self.key, now).map(|lease| (lease.holders, tenths(lease.ends)));
            let tenure = self.nodes[place].tenure();
            let tenure = if self.scope.views > 0 { tenure.sketch(self.slot, now) } else { String::new() };
            let flights = (inner.loads.sketch(&self.key), inner.asks.sketch(&self.key));
            let waits = tenths(self.nodes[place].lent_before_until(LEASE));
            let (inherits, is_buried) =
                (self.groups[place].inherits(&self.key), self.groups[place].is_buried(&self.key));
            let settled = inner.unsettled.is_settled(&self.key, || now);
            let phase: Phase = self.nodes[place].phase(self.slot, self.key.as_bytes());
            let _written =
                write!(sketch, "{held:?}{lease:?}{tenure}{flights:?}{waits}{inherits}{is_buried}{settled}{phase:?}|");
        }
        for (_, step) in self.wire.steps() {
            let _written = write!(sketch, "{step:?}");
        }
        for progress in &self.progress {
            let _written = match progress {
                Progress::Waiting => write!(sketch, "-"),
                Progress::Begun { floor, .. } => write!(sketch, "{floor:?}"),
                Progress::Ended => write!(sketch, "+"),
            };
        }
        let Self { floor, views, losses, doubles, restarts, passed, .. } = self;
        let rows = self.wire.rows();
        let _written = write!(sketch, "{rows:?}{floor}{views:?}{losses}{doubles}{restarts}{passed:?}");
        ranked(&sketch)
    }
}

/// With each version's rank in the place of the version: which moment it was made at makes no difference.
fn ranked(sketch: &str) -> String {
    const MARK: &str = "Version(";
    let version = |part: &str| part.split(')').next().unwrap_or_default().to_owned();
    let mut versions: Vec<String> = sketch.split(MARK).skip(1).map(version).collect();
    versions.sort();
    versions.dedup();
    let mut parts = sketch.split(MARK);
    let mut ranked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let at = versions.binary_search(&version(part)).unwrap_or_default();
        ranked.push_str(&format!("v{at}"));
        ranked.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    ranked
}
