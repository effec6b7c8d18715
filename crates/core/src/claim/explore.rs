//! Every state that three nodes can bring one slot into, within two changes of the view and one crash.
//!
//! The nodes run the very [`SlotState`]. A message that was sent once may come at any later time, any number of times or
//! never: so they are lost, doubled and reordered, and nodes pause. Views come to each node when they like, and some not at
//! all. What is bounded is how many fresh terms each node takes.

use std::collections::{BTreeSet, HashSet, VecDeque};

use super::state::{Answer, Ask, NodeId, Outcome, Role, SlotState};
use crate::{Version, version::Reading};

const NODES: usize = 3;
const VIEWS: u8 = 3;
/// How far the worlds are followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Scope {
    /// The fresh terms of all nodes together: a claim for each change of the view, and more for who is refused or claims back.
    terms: u8,
    /// Whether a node crashes, and restarts or not.
    has_crash: bool,
    /// Whether the owner may find out at any time that another acted as well, and claims from it (rule W5).
    has_recall: bool,
}

/// Without a crash there is more to follow of everything else.
const SCOPES: [Scope; 3] = [
    Scope { terms: 4, has_crash: false, has_recall: false },
    Scope { terms: 3, has_crash: false, has_recall: true },
    Scope { terms: 2, has_crash: true, has_recall: true },
];
/// In how many steps a cluster whose messages flow again has to settle.
const STEPS_MAX: usize = 40;

/// A rule that is taken out, to see that it is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    /// C2: who is claimed from stops acting.
    Stopping,
    /// C3: a lower term is refused.
    Refusing,
    /// C3: who is claiming gives its claim up when another claims the slot from it.
    GivingUp,
    /// C3: who does not act for the slot names who may.
    Naming,
    /// C2: what was released is kept until it is confirmed, and goes to who claims after a claim that was given up.
    Keeping,
    /// C5: who released a slot that is its own by its view claims it back.
    ClaimingBack,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
enum Message {
    Claim { claimer: usize, to: usize, ask: Ask },
    Answer { from: usize, to: usize, term: Version, answer: Answer },
    Confirm { claimer: usize, to: usize, term: Version },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Member {
    slot: SlotState,
    /// The view that it has; 0: none.
    view: u8,
    is_gone: bool,
    clock: u64,
    incarnation: u32,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    members: [Member; NODES],
    sent: BTreeSet<Message>,
    has_crashed: bool,
    terms: u8,
}

#[derive(Clone, Copy)]
struct Rules {
    /// The owner in each view.
    owners: [usize; VIEWS as usize],
    scope: Scope,
    without: Without,
}

impl World {
    /// Lets go of the messages that change nothing any more, whenever they come: answers that nobody waits for, and
    /// whatever goes to who is gone.
    fn forget_the_dead_letters(&mut self) {
        let members = &self.members;
        self.sent.retain(|message| match *message {
            Message::Claim { to, .. } => !members[to].is_gone,
            Message::Answer { to, term, .. } => members[to].slot.ask().is_some_and(|(_, ask)| ask.term == term),
            Message::Confirm { claimer, to, term } => members[to].slot.waits_for_confirmation(id(claimer), term),
        });
    }

    /// What a world settles into depends on its members alone.
    fn members(&self) -> u64 {
        fingerprint(&self.members)
    }
}

fn id(node: usize) -> NodeId {
    NodeId::try_from(node).unwrap()
}

fn place(node: NodeId) -> usize {
    node as usize
}

impl Rules {
    fn owner(&self, view: u8) -> Option<usize> {
        (view > 0).then(|| self.owners[usize::from(view) - 1])
    }

    fn is_mine(&self, node: usize, view: u8) -> bool {
        self.owner(view) == Some(node)
    }

    /// The first owner acts; the others have the same view.
    fn begin(&self) -> World {
        let member = Member { slot: SlotState::NEW, view: 1, is_gone: false, clock: 0, incarnation: 0 };
        let mut members = [member; NODES];
        let owner = self.owners[0];
        members[owner].slot.gained(None, version(&mut members[owner].clock, owner, 0));
        World { members, sent: BTreeSet::new(), has_crashed: !self.scope.has_crash, terms: self.scope.terms }
    }

    fn fresh(&self, world: &mut World, node: usize) -> Option<Version> {
        world.terms = world.terms.checked_sub(1)?;
        let member = &mut world.members[node];
        Some(version(&mut member.clock, node, member.incarnation))
    }

    fn view_comes(&self, world: &mut World, node: usize, view: u8) -> Option<()> {
        let before = world.members[node].view;
        // One that was away may find its own name there, and then it is its stand-in that was the owner meanwhile.
        let previous = self.owner(if before == 0 { view - 1 } else { before });
        let previous = if before == 0 && previous == Some(node) { Some((node + 1) % NODES) } else { previous };
        world.members[node].view = view;
        if self.is_mine(node, view) {
            let needs_term = !matches!(world.members[node].slot.role(), Role::Acting { .. } | Role::Claiming(_));
            let term = if needs_term { self.fresh(world, node)? } else { Version::ZERO };
            let previous = previous.filter(|previous| *previous != node).map(id);
            world.members[node].slot.gained(previous, term);
            self.send_ask(world, node);
        } else {
            world.members[node].slot.lost();
        }
        Some(())
    }

    fn send_ask(&self, world: &mut World, node: usize) {
        let Member { slot, .. } = world.members[node];
        if let Some((to, mut ask)) = slot.ask() {
            if self.without == Without::Keeping {
                ask.gave_up = None;
            }
            world.sent.insert(Message::Claim { claimer: node, to: place(to), ask });
        }
    }

    fn deliver(&self, world: &mut World, message: &Message) -> Option<()> {
        match *message {
            Message::Claim { claimer, to, ask } => {
                let Member { slot, view: mine, .. } = world.members[to];
                if world.members[to].is_gone {
                    return None;
                }
                let member = &mut world.members[to];
                member.clock = member.clock.max(ask.term.reading().to_bits());
                if self.without == Without::Refusing {
                    member.slot.forget_term();
                }
                let answer = member.slot.claimed(id(claimer), ask, self.is_mine(to, mine));
                match (self.without, answer) {
                    (Without::Stopping, Answer::Released { .. }) if matches!(slot.role(), Role::Acting { .. }) => {
                        member.slot = slot;
                    }
                    (Without::GivingUp, Answer::Elsewhere { .. }) if matches!(slot.role(), Role::Claiming(_)) => {
                        member.slot = slot;
                    }
                    (Without::Naming, Answer::Elsewhere { .. }) => {
                        member.slot = slot;
                        return None;
                    }
                    _ => {}
                }
                world.sent.insert(Message::Answer { from: to, to: claimer, term: ask.term, answer });
            }
            Message::Answer { from, to, term, answer } => {
                if world.members[to].is_gone {
                    return None;
                }
                let waits = world.members[to].slot.ask().is_some_and(|(at, ask)| place(at) == from && ask.term == term);
                if !waits {
                    return None;
                }
                let mut fresh = Version::ZERO;
                if let Answer::Refused { known } = answer {
                    let member = &mut world.members[to];
                    member.clock = member.clock.max(known.reading().to_bits());
                    fresh = self.fresh(world, to)?;
                }
                let outcome = world.members[to].slot.answered(id(to), id(from), term, answer, fresh);
                if outcome == Outcome::Acts {
                    world.sent.insert(Message::Confirm { claimer: to, to: from, term });
                }
                self.send_ask(world, to);
            }
            Message::Confirm { claimer, to, term } => {
                if world.members[to].is_gone {
                    return None;
                }
                world.members[to].slot.confirmed(id(claimer), term);
            }
        }
        Some(())
    }

    fn give_up(&self, world: &mut World, node: usize) -> Option<()> {
        let (from, _) = world.members[node].slot.ask()?;
        if !world.members[place(from)].is_gone {
            return None;
        }
        world.members[node].slot.given_up();
        Some(())
    }

    fn claim_back(&self, world: &mut World, node: usize, is_unreachable: bool) -> Option<()> {
        let Member { slot, view, is_gone, .. } = world.members[node];
        let released = match slot.role() {
            Role::Released { .. } | Role::GaveUp { to: Some(_), .. } => true,
            Role::Claiming(claim) => claim.is_polite && is_unreachable && world.members[place(claim.from)].is_gone,
            _ => false,
        };
        if is_gone || !released || !self.is_mine(node, view) || self.without == Without::ClaimingBack {
            return None;
        }
        let term = self.fresh(world, node)?;
        world.members[node].slot.claims_back(is_unreachable, term);
        self.send_ask(world, node);
        Some(())
    }

    /// The owner hears that `from` acts or acted.
    fn recall(&self, world: &mut World, node: usize, from: usize) -> Option<()> {
        let Member { slot, view, is_gone, .. } = world.members[node];
        let acts = |slot: &SlotState| matches!(slot.role(), Role::Acting { .. });
        let other = world.members[from].slot;
        let acted = acts(&other) || matches!(other.role(), Role::Lost);
        if is_gone || node == from || !acts(&slot) || !acted || !self.is_mine(node, view) {
            return None;
        }
        let term = self.fresh(world, node)?;
        world.members[node].slot.recalled(id(from), term);
        self.send_ask(world, node);
        Some(())
    }

    fn crash(&self, world: &mut World, node: usize, restarts: bool) {
        world.has_crashed = true;
        let member = &mut world.members[node];
        *member = Member { slot: SlotState::NEW, view: 0, is_gone: !restarts, clock: member.clock, incarnation: 1 };
    }

    /// Every world that can come next.
    fn next(&self, world: &World) -> Vec<World> {
        let mut worlds = Vec::new();
        let mut step = |step: &dyn Fn(&mut World) -> Option<()>| {
            let mut next = world.clone();
            if step(&mut next).is_some() {
                next.forget_the_dead_letters();
                if next != *world {
                    worlds.push(next);
                }
            }
        };
        for node in 0..NODES {
            if !world.members[node].is_gone {
                for view in world.members[node].view + 1..=VIEWS {
                    step(&|world| self.view_comes(world, node, view));
                }
                for is_unreachable in [false, true] {
                    step(&|world| self.claim_back(world, node, is_unreachable));
                }
                step(&|world| self.give_up(world, node));
                for from in (0..NODES).filter(|_| self.scope.has_recall) {
                    step(&|world| self.recall(world, node, from));
                }
            }
            if !world.has_crashed {
                for restarts in [false, true] {
                    step(&|world| {
                        self.crash(world, node, restarts);
                        Some(())
                    });
                }
            }
        }
        for message in &world.sent {
            step(&|world| self.deliver(world, message));
        }
        worlds
    }

    /// What is wrong with a world at once.
    fn judge(&self, world: &World) -> Result<(), String> {
        let acting = |alone: bool| {
            let acts =
                move |member: &&Member| matches!(member.slot.role(), Role::Acting { alone: it } if alone || !*it);
            world.members.iter().filter(acts)
        };
        let terms: HashSet<Version> = acting(true).map(|member| member.slot.term()).collect();
        if terms.len() < acting(true).count() {
            return Err("two act under one term".into());
        }
        // Who acts alone has no word of the one before, which may be cut off; two who both have it are one too many.
        if acting(false).count() > 1 {
            return Err("two act who were both told that the one before had stopped".into());
        }
        Ok(())
    }

    /// What is wrong with a world once all have the last view and messages flow.
    fn judge_settled(&self, world: &World) -> Result<(), String> {
        let mut world = World { sent: BTreeSet::new(), ..world.clone() };
        let owner = self.owners[usize::from(VIEWS) - 1];
        if world.members[owner].is_gone {
            return Ok(());
        }
        world.terms = u8::MAX;
        for node in 0..NODES {
            if !world.members[node].is_gone && world.members[node].view < VIEWS {
                self.view_comes(&mut world, node, VIEWS).ok_or("no term")?;
            }
        }
        let acts = |world: &World, node: usize| matches!(world.members[node].slot.role(), Role::Acting { .. });
        for _ in 0..STEPS_MAX {
            let others = (0..NODES).filter(|node| *node != owner && !world.members[*node].is_gone);
            if acts(&world, owner) && others.clone().all(|node| !acts(&world, node)) {
                return Ok(());
            }
            world.sent.clear();
            for node in 0..NODES {
                self.send_ask(&mut world, node);
                self.give_up(&mut world, node);
                let to = match *world.members[node].slot.role() {
                    Role::Released { to, .. } | Role::GaveUp { to: Some(to), .. } => Some(place(to)),
                    Role::Claiming(claim) if claim.is_polite => Some(place(claim.from)),
                    _ => None,
                };
                let is_unreachable = to.is_some_and(|to| world.members[to].is_gone);
                self.claim_back(&mut world, node, is_unreachable);
            }
            for _ in 0..STEPS_MAX {
                let Some(message) = world.sent.pop_first() else { break };
                self.deliver(&mut world, &message);
            }
        }
        Err("the slot finds no owner".into())
    }
}

fn version(clock: &mut u64, node: usize, incarnation: u32) -> Version {
    *clock += 1;
    Version::new(Reading::from_bits(*clock), incarnation * 8 + u32::try_from(node).unwrap() + 1)
}

/// Goes through all worlds; says how many there are, or what is wrong with the first that is.
fn explore(rules: Rules) -> Result<usize, String> {
    let begin = rules.begin();
    let mut settled = HashSet::new();
    let mut seen = HashSet::from([fingerprint(&begin)]);
    let mut queue = VecDeque::from([begin]);
    while let Some(world) = queue.pop_front() {
        let wrong = |what: String| format!("{what}: owners {:?}, {world:#?}", rules.owners);
        rules.judge(&world).map_err(wrong)?;
        if settled.insert(world.members()) {
            rules.judge_settled(&world).map_err(wrong)?;
        }
        queue.extend(rules.next(&world).into_iter().filter(|next| seen.insert(fingerprint(next))));
    }
    Ok(seen.len())
}

/// Two worlds of a million with one fingerprint of 64 bits would be a marvel.
fn fingerprint(it: &impl std::hash::Hash) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::with_seed(7).hash_one(it)
}

/// The owners of three views, but for the names of the nodes.
const OWNERS: [[usize; 3]; 5] = [[0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 1, 2], [0, 0, 0]];

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes where nothing is optimized: `cargo xtask explore`")]
fn no_two_act_and_every_slot_finds_its_owner() {
    let worlds = SCOPES.map(|scope| {
        let explored = OWNERS.map(|owners| explore(Rules { owners, scope, without: Without::Nothing }));
        explored.map(|worlds| worlds.unwrap_or_else(|wrong| panic!("{wrong}"))).iter().sum::<usize>()
    });
    assert_eq!(worlds, [151_200, 18_465, 28_172], "as many as there were when this was written");
}

#[test]
#[cfg_attr(debug_assertions, ignore = "it takes minutes where nothing is optimized: `cargo xtask explore`")]
fn each_rule_is_needed() {
    for without in [
        Without::Stopping,
        Without::Refusing,
        Without::GivingUp,
        Without::Naming,
        Without::Keeping,
        Without::ClaimingBack,
    ] {
        let mut scopes = SCOPES.iter().flat_map(|scope| OWNERS.map(|owners| Rules { owners, scope: *scope, without }));
        let wrong = scopes.find_map(|rules| explore(rules).err());
        assert!(wrong.is_some(), "nothing goes wrong without {without:?}");
    }
}
