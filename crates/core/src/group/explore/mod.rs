//! Every state that small scopes of writes can reach, in the code that runs everywhere.
//!
//! Two nodes, one key, and a handful of clients that put, invalidate and get run on one thread and on a clock that stands still.
//! Whatever goes between the nodes and to the origin waits on a [wire](wire) until the explorer lets it go on, loses it or has it
//! come twice; so do views, a crash and time that passes. A sequence of such choices is run from the start, and all sequences are,
//! depth first; where two lead to the same state, one is followed. What tells states apart is all that the nodes know of the key
//! and all that waits ([`World::sketch`]); times count by the tenth of a second, versions by their order.
//!
//! In each state nobody has or gets anything older than what was acknowledged before it asked while all share a view, and
//! invariants I1, I2 and I4 hold. A get whose link breaks may be answered by a stand-in and is let off. What a write that comes twice to its owner would do is not tried: links don't repeat writes.

mod wire;
mod world;

use std::{collections::HashSet, io::Write, time::Duration};

use wire::Holds;
use world::{Event, LEASE, World};

use crate::rules::{Rule, without};

const NODES: usize = 2;

/// The longest sequence. None is as long, as everything happens a limited number of times.
const STEPS_MAX: usize = 200;

/// The most sequences of a scope: some half a minute of those in which nothing starts anew.
const SEQUENCES_MAX: usize = 300_000;

/// What a client does, and at which node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Op {
    Get(usize),
    Put(usize, &'static str),
    /// Changes the row behind everybody's back, and invalidates the key.
    Change(usize, &'static str),
}

impl Op {
    fn place(self) -> usize {
        match self {
            Self::Get(place) | Self::Put(place, _) | Self::Change(place, _) => place,
        }
    }
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
struct Scope {
    name: &'static str,
    ops: &'static [Op],
    /// The owner has the value.
    is_cached: bool,
    /// And the other node a copy.
    is_lent: bool,
    /// How often the key passes to the other node; each hears of it when it likes.
    views: usize,
    /// Which nodes may crash and start again; one does, once.
    restarts: &'static [usize],
    /// How many messages get lost.
    losses: usize,
    /// How many come twice.
    doubles: usize,
    /// Times that may pass, and how often.
    passes: &'static [(Duration, usize)],
    holds: Holds,
}

const QUIET: Scope = Scope {
    name: "",
    ops: &[],
    is_cached: true,
    is_lent: false,
    views: 0,
    restarts: &[],
    losses: 0,
    doubles: 0,
    passes: &[],
    holds: Holds { leaves: false, claims: false },
};

/// Long enough for whatever is tried again to be so.
const PAUSE: Duration = Duration::from_millis(300);

/// Long enough for a claim that was lost to be made again. Two nodes that claim have a hundred things to do a second.
const BRIEF: Duration = Duration::from_millis(50);

/// How far a scope was gone through.
#[derive(Clone, Copy, Default, Debug)]
struct Explored {
    states: usize,
    sequences: usize,
    steps_max: usize,
}

/// Goes through all states of a scope; says how many there are, or how the first that is wrong comes about.
fn explore(scope: Scope) -> Result<Explored, String> {
    let mut search = Search { scope, explored: Explored::default(), seen: HashSet::new(), path: Vec::new() };
    loop {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        if runtime.expect("a runtime").block_on(search.go_on())? {
            search.explored.states = search.seen.len();
            return Ok(search.explored);
        }
    }
}

/// How far a scope has been gone through.
struct Search {
    scope: Scope,
    explored: Explored,
    /// The fingerprints of all states.
    seen: HashSet<u64>,
    /// Which of how many choices is taken at each step.
    path: Vec<(usize, usize)>,
}

impl Search {
    /// Runs sequences for as long as the world is of use. Whether there are no more.
    async fn go_on(&mut self) -> Result<bool, String> {
        let mut world = World::begin(self.scope).await;
        loop {
            self.follow(&mut world).await?;
            self.explored.sequences += 1;
            if self.explored.sequences > SEQUENCES_MAX {
                return Err(format!("{}: there are too many sequences", self.scope.name));
            }
            self.explored.steps_max = self.explored.steps_max.max(self.path.len());
            while let Some((choice, count)) = self.path.pop() {
                if choice + 1 < count {
                    self.path.push((choice + 1, count));
                    break;
                }
            }
            match world.again().await {
                _ if self.path.is_empty() => return Ok(true),
                Some(again) => world = again,
                None => return Ok(false),
            }
        }
    }

    /// Takes the choices of the path, and goes on with the first ones until nothing new comes.
    async fn follow(&mut self, world: &mut World) -> Result<(), String> {
        let mut taken: Vec<Event> = Vec::new();
        for at in 0..STEPS_MAX {
            let is_new = at >= self.path.len();
            if is_new && !self.seen.insert(fingerprint(&world.sketch())) {
                return Ok(());
            }
            let mut events = world.events();
            if is_new {
                if events.is_empty() {
                    return Ok(());
                }
                self.path.push((0, events.len()));
            }
            let (choice, count) = self.path[at];
            if events.len() != count {
                return Err(format!("{}: a sequence does not come out the same: {taken:#?}", self.scope.name));
            }
            taken.push(events.swap_remove(choice));
            world.take(&taken[at]).await;
            world.judge().map_err(|wrong| format!("{}: {wrong}, after {taken:#?}", self.scope.name))?;
        }
        Err(format!("{}: it does not end: {taken:#?}", self.scope.name))
    }
}

/// Two of a million with one fingerprint of 64 bits would be a marvel.
fn fingerprint(sketch: &str) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::with_seed(7).hash_one(sketch)
}

/// Tells whoever runs this how far it has come.
fn say(line: &str) {
    // Where nobody reads, nobody is told.
    let _unread = writeln!(std::io::stdout(), "{line}");
}

/// Explores a scope and tells of it.
fn tell(scope: Scope) -> Result<Explored, String> {
    let start = tokio::time::Instant::now();
    let explored = explore(scope);
    say(&format!("{}: {:?} in {:?}", scope.name, explored.as_ref().map_err(|_| "wrong"), start.elapsed()));
    explored
}

const LOAD: Scope = Scope {
    name: "two puts around a load",
    ops: &[Op::Put(0, "a"), Op::Put(1, "b"), Op::Get(0), Op::Get(1)],
    is_cached: false,
    ..QUIET
};

const QUESTION: Scope = Scope {
    name: "a put and an invalidation around two questions",
    ops: &[Op::Put(0, "a"), Op::Change(1, "b"), Op::Get(1), Op::Get(1)],
    is_cached: false,
    holds: Holds { leaves: true, claims: false },
    ..QUIET
};

const LENT: Scope = Scope {
    name: "two puts and an invalidation of what is lent",
    ops: &[Op::Put(0, "a"), Op::Put(1, "b"), Op::Change(0, "c"), Op::Get(1)],
    is_lent: true,
    ..QUIET
};

const LOST: Scope = Scope {
    name: "a put and an invalidation of what is lent, with a message lost and one doubled",
    ops: &[Op::Put(0, "a"), Op::Change(1, "b"), Op::Get(1)],
    is_lent: true,
    losses: 1,
    doubles: 1,
    passes: &[(PAUSE, 1)],
    ..QUIET
};

const LATE: Scope = Scope {
    name: "a lease that runs out on its way",
    ops: &[Op::Put(0, "a"), Op::Get(1), Op::Get(1)],
    passes: &[(LEASE, 1)],
    holds: Holds { leaves: true, claims: false },
    ..QUIET
};

const MOVED: Scope = Scope {
    name: "a view change that puts straddle",
    ops: &[Op::Put(0, "a"), Op::Put(1, "b")],
    views: 1,
    passes: &[(BRIEF, 1)],
    ..QUIET
};

const CLAIMED: Scope = Scope {
    name: "a view change that a put straddles, with a message of the claim lost",
    ops: &[Op::Put(0, "a")],
    views: 1,
    losses: 1,
    passes: &[(BRIEF, 1)],
    holds: Holds { leaves: false, claims: true },
    ..QUIET
};

const BACK: Scope =
    Scope { name: "a key that goes and comes back", ops: &[Op::Put(1, "a")], views: 2, passes: &[(BRIEF, 1)], ..QUIET };

const CRASHED: Scope = Scope {
    name: "an owner or a holder that crashes",
    ops: &[Op::Put(1, "a"), Op::Get(1)],
    is_lent: true,
    restarts: &[0, 1],
    passes: &[(LEASE, 1)],
    ..QUIET
};

/// Those that take seconds where everything is optimized. [`LOAD`] takes no longer elsewhere.
const SCOPES: [Scope; 8] = [QUESTION, LENT, LOST, LATE, MOVED, CLAIMED, BACK, CRASHED];

/// Rules without which something goes wrong in these scopes.
const NEEDED: [(Rule, Scope); 10] = [
    (Rule::G2, QUESTION),
    (Rule::G6, LOAD),
    (Rule::P2, LOAD),
    (Rule::P4, LENT),
    (Rule::P5, LENT),
    (Rule::L1, LATE),
    (Rule::W3, MOVED),
    (Rule::W4, BACK),
    (Rule::C2, MOVED),
    (Rule::C4, CRASHED),
];

#[test]
fn two_puts_around_a_load_leave_nobody_with_anything_older() {
    tell(LOAD).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes where nothing is optimized: `cargo xtask explore`")]
fn nobody_has_anything_older_than_what_was_acknowledged() {
    for scope in SCOPES {
        tell(scope).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes where nothing is optimized: `cargo xtask explore`")]
fn each_rule_is_needed() {
    for (rule, scope) in NEEDED {
        let wrong = without(Some(rule), || tell(scope)).err();
        let wrong = wrong.unwrap_or_else(|| panic!("nothing goes wrong without {rule:?}"));
        assert!(
            wrong.contains("I1") || wrong.contains("I2") || wrong.contains("I4") || wrong.contains("I3"),
            "{wrong}"
        );
        say(&format!("without {rule:?}: {}", wrong.split(", after").next().unwrap_or_default()));
    }
}
