//! [`Claims`]: the states of all slots at one node, and the claims of many slots that travel as one.
//!
//! It is told of views, claims, answers and time that has passed, and says which slots that concerns. Who sends, waits and
//! repeats is the code around it; what a step means for one slot is `state.rs`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{
    message::{ClaimAnswer, SlotsClaim},
    state::{Answer, Ask, NodeId, Outcome, Role, SlotState},
};
use crate::{
    Moment, Version,
    placement::{SLOT_COUNT, Slot, SlotSet},
};

/// How long reads wait for who is claimed from (rule C4).
pub(crate) const CLAIM_WAIT: Duration = Duration::from_millis(50);

/// Whether a node answers for a slot that its view says is its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// It does not act: another has it.
    Away,
    /// It claims it and waits for the answer.
    Waits,
    /// It claims it, and the answer takes so long that reads begin.
    Reads,
    /// It acts.
    Acts,
}

/// What answers came to.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// Slots that the node acts for from now on.
    pub(crate) acts: SlotSet,
    /// Slots whose claims go to another node at once.
    pub(crate) asks_on: SlotSet,
    /// Slots whose claims were turned down, to be repeated after a look at the membership.
    pub(crate) turned_down: SlotSet,
}

/// The slots of one node.
pub(crate) struct Claims {
    nodes: Nodes,
    me: NodeId,
    slots: Box<[Entry]>,
}

#[derive(Clone, Copy)]
struct Entry {
    state: SlotState,
    /// When the slot was gained, for a claim.
    gained: Moment,
}

/// The numbers of nodes. Names are few: those of the members that there ever were.
#[derive(Default)]
struct Nodes {
    names: Vec<Arc<str>>,
    ids: HashMap<Arc<str>, NodeId>,
}

impl Nodes {
    fn id(&mut self, name: &Arc<str>) -> NodeId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = self.names.len() as NodeId;
        self.names.push(name.clone());
        self.ids.insert(name.clone(), id);
        id
    }

    fn name(&self, id: NodeId) -> Arc<str> {
        self.names[id as usize].clone()
    }
}

impl Claims {
    /// A node that acts for nothing yet.
    pub(crate) fn new(me: &Arc<str>) -> Self {
        let mut nodes = Nodes::default();
        let me = nodes.id(me);
        let entry = Entry { state: SlotState::NEW, gained: Moment::default() };
        Self { nodes, me, slots: vec![entry; usize::from(SLOT_COUNT)].into() }
    }

    /// Whether the node answers for a slot.
    pub(crate) fn phase(&self, slot: Slot) -> Phase {
        match self.entry(slot).state.role() {
            Role::Acting { .. } => Phase::Acts,
            Role::Claiming(claim) if claim.is_late => Phase::Reads,
            Role::Claiming(_) => Phase::Waits,
            _ => Phase::Away,
        }
    }

    /// Who else may have a slot that this node does not act for.
    pub(crate) fn elsewhere(&self, slot: Slot) -> Option<Arc<str>> {
        match self.entry(slot).state.role() {
            Role::Released { to } | Role::GaveUp { to: Some(to), .. } => Some(self.nodes.name(*to)),
            _ => None,
        }
    }

    /// The view changed: this node owns `slot` from now on, or another does.
    pub(crate) fn view_changed(
        &mut self,
        is_mine: impl Fn(Slot) -> bool,
        previous: impl Fn(Slot) -> Option<Arc<str>>,
        term: Version,
        now: Moment,
    ) {
        for slot in Slot::all() {
            if !is_mine(slot) {
                self.entry_mut(slot).state.lost();
                continue;
            }
            let previous = previous(slot).map(|name| self.nodes.id(&name)).filter(|previous| *previous != self.me);
            let entry = self.entry_mut(slot);
            let had_it = matches!(entry.state.role(), Role::Acting { .. } | Role::Claiming(_));
            entry.state.gained(previous, term);
            if !had_it {
                entry.gained = now;
            }
        }
    }

    /// What is to be asked of whom, the claims of one node that say the same together.
    pub(crate) fn asks(&self, view: u64) -> Vec<(Arc<str>, SlotsClaim)> {
        let mut asks: HashMap<(NodeId, Ask), SlotSet> = HashMap::new();
        for slot in Slot::all() {
            if let Some(asked) = self.entry(slot).state.ask() {
                asks.entry(asked).or_default().insert(slot);
            }
        }
        let named = |((to, ask), slots)| (self.nodes.name(to), self.named_claim(view, ask, slots));
        asks.into_iter().map(named).collect()
    }

    /// Answers another node's claim.
    pub(crate) fn claimed(
        &mut self,
        claimer: &Arc<str>,
        asked: &SlotsClaim,
        is_mine: impl Fn(Slot) -> bool,
        is_behind: bool,
    ) -> Vec<(SlotSet, ClaimAnswer)> {
        let claimer = self.nodes.id(claimer);
        let SlotsClaim { view: _, term, acted, gave_up, is_polite, slots } = asked;
        let gave_up = gave_up.as_ref().map(|(name, given_up)| (self.nodes.id(name), *given_up));
        let ask = Ask { term: *term, acted: *acted, gave_up, is_polite: *is_polite };
        let mut answers: HashMap<Answer, SlotSet> = HashMap::new();
        for slot in slots.iter() {
            let answer = self.entry_mut(slot).state.claimed(claimer, ask, is_mine(slot), is_behind);
            answers.entry(answer).or_default().insert(slot);
        }
        answers.into_iter().map(|(answer, slots)| (slots, self.named_answer(answer))).collect()
    }

    /// `from` answered the claim of `term`. `fresh` is above every term that is known, the answers' included.
    pub(crate) fn answered(
        &mut self,
        from: &Arc<str>,
        term: Version,
        answers: Vec<(SlotSet, ClaimAnswer)>,
        fresh: Version,
    ) -> Answered {
        let (from, me) = (self.nodes.id(from), self.me);
        let mut answered = Answered::default();
        for (slots, answer) in answers {
            let answer = match answer {
                ClaimAnswer::Released { had } => Answer::Released { had },
                ClaimAnswer::Refused { known } => Answer::Refused { known },
                ClaimAnswer::Elsewhere { at, given_up } => Answer::Elsewhere { at: self.nodes.id(&at), given_up },
            };
            for slot in slots.iter() {
                match self.entry_mut(slot).state.answered(me, from, term, answer, fresh) {
                    Outcome::Nothing => {}
                    Outcome::Acts => answered.acts.insert(slot),
                    Outcome::AsksOn => answered.asks_on.insert(slot),
                    Outcome::AsksLater => answered.turned_down.insert(slot),
                }
            }
        }
        answered
    }

    /// The claimer has stored what it was told when these slots were released to it.
    pub(crate) fn confirmed(&mut self, claimer: &Arc<str>, term: Version, slots: &SlotSet) {
        let claimer = self.nodes.id(claimer);
        for slot in slots.iter() {
            self.entry_mut(slot).state.confirmed(claimer, term);
        }
    }

    /// Slots whose claims have waited for [`CLAIM_WAIT`]: reads begin.
    pub(crate) fn become_late(&mut self, now: Moment) -> SlotSet {
        self.each(|entry, _| now >= entry.gained + CLAIM_WAIT && entry.state.is_late())
    }

    /// Slots claimed for `waited` already from nodes that are `gone`: nobody will answer, and the node acts.
    pub(crate) fn give_up(&mut self, gone: impl Fn(&str) -> bool, waited: Duration, now: Moment) -> SlotSet {
        self.each(|entry, nodes| {
            let is_gone = entry.state.ask().is_some_and(|(from, _)| gone(&nodes.names[from as usize]));
            let gives_up = is_gone && now >= entry.gained + waited;
            if gives_up {
                entry.state.given_up();
            }
            gives_up
        })
    }

    /// Claims back the slots that this node's view says are its own and that others have (rule C5).
    pub(crate) fn claim_back(
        &mut self,
        is_mine: impl Fn(Slot) -> bool,
        is_unreachable: impl Fn(&str) -> bool,
        term: Version,
    ) -> SlotSet {
        let mut claimed = SlotSet::default();
        for slot in Slot::all().filter(|slot| is_mine(*slot)) {
            let Some(other) = self.elsewhere(slot) else { continue };
            if self.entry_mut(slot).state.claims_back(is_unreachable(&other), term) {
                claimed.insert(slot);
            }
        }
        claimed
    }

    fn each(&mut self, mut step: impl FnMut(&mut Entry, &Nodes) -> bool) -> SlotSet {
        let (slots, nodes) = (&mut self.slots, &self.nodes);
        Slot::all().zip(slots).filter_map(|(slot, entry)| step(entry, nodes).then_some(slot)).collect()
    }

    fn entry(&self, slot: Slot) -> &Entry {
        &self.slots[usize::from(slot.number())]
    }

    fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        &mut self.slots[usize::from(slot.number())]
    }

    fn named_claim(&self, view: u64, ask: Ask, slots: SlotSet) -> SlotsClaim {
        let Ask { term, acted, gave_up, is_polite } = ask;
        let gave_up = gave_up.map(|(node, given_up)| (self.nodes.name(node), given_up));
        SlotsClaim { view, term, acted, gave_up, is_polite, slots }
    }

    fn named_answer(&self, answer: Answer) -> ClaimAnswer {
        match answer {
            Answer::Released { had } => ClaimAnswer::Released { had },
            Answer::Refused { known } => ClaimAnswer::Refused { known },
            Answer::Elsewhere { at, given_up } => ClaimAnswer::Elsewhere { at: self.nodes.name(at), given_up },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Reading;

    fn version(number: u64) -> Version {
        Version::new(Reading::from_bits(number), 1)
    }

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    /// Slots below this one are `a`'s, the others `b`'s.
    fn owner(slot: Slot, border: u16) -> Arc<str> {
        name(if slot.number() < border { "a" } else { "b" })
    }

    fn count(claims: &Claims, phase: Phase) -> usize {
        Slot::all().filter(|slot| claims.phase(*slot) == phase).count()
    }

    fn change(claims: &mut Claims, me: &str, from: Option<u16>, to: u16, term: u64) {
        let previous = |slot| from.map(|border| owner(slot, border));
        claims.view_changed(|slot| *owner(slot, to) == *me, previous, version(term), Moment::default());
    }

    #[test]
    fn slots_that_move_are_claimed_in_one_message_and_the_others_are_not_touched() {
        let (mut a, mut b) = (Claims::new(&name("a")), Claims::new(&name("b")));
        change(&mut a, "a", None, SLOT_COUNT, 1);
        change(&mut b, "b", None, SLOT_COUNT, 1);
        assert_eq!((count(&a, Phase::Acts), count(&b, Phase::Away)), (16_384, 16_384));

        change(&mut b, "b", Some(SLOT_COUNT), 10_000, 2);
        assert_eq!((count(&b, Phase::Waits), count(&b, Phase::Away)), (6_384, 10_000));
        let asks = b.asks(7);
        let [(to, ask)] = &asks[..] else { panic!("{asks:?}") };
        assert_eq!((&**to, ask.slots.len()), ("a", 6_384));
        let answers = a.claimed(&name("b"), ask, |_| true, false);
        assert!(matches!(&answers[..], [(slots, ClaimAnswer::Released { had: true })] if slots.len() == 6_384));
        assert_eq!((count(&a, Phase::Acts), count(&a, Phase::Away)), (10_000, 6_384));
        assert_eq!(a.elsewhere(Slot::new(SLOT_COUNT - 1).unwrap()), Some(name("b")));
        let answered = b.answered(&name("a"), ask.term, answers, version(9));
        assert_eq!((answered.acts.len(), count(&b, Phase::Acts)), (6_384, 6_384));
        assert!(b.asks(7).is_empty());
    }

    #[test]
    fn reads_begin_after_a_while_and_a_claim_from_who_is_gone_ends() {
        let mut b = Claims::new(&name("b"));
        change(&mut b, "b", Some(SLOT_COUNT), 10_000, 2);
        let start = Moment::default();
        let wait = Duration::from_secs(1);
        assert!(b.become_late(start + (CLAIM_WAIT - Duration::from_nanos(1))).is_empty());
        assert_eq!((b.become_late(start + CLAIM_WAIT).len(), count(&b, Phase::Reads)), (6_384, 6_384));
        assert!(b.become_late(start + CLAIM_WAIT).is_empty(), "it is news once");
        assert!(b.give_up(|_| false, wait, start + wait).is_empty());
        assert!(b.give_up(|_| true, wait, start + (wait - Duration::from_nanos(1))).is_empty());
        assert_eq!((b.give_up(|_| true, wait, start + wait).len(), count(&b, Phase::Acts)), (6_384, 6_384));
    }

    #[test]
    fn a_slot_that_another_took_is_claimed_back_at_once_only_if_that_one_is_away() {
        let (mut a, b) = (Claims::new(&name("a")), name("b"));
        change(&mut a, "a", None, SLOT_COUNT, 1);
        let slots: SlotSet = Slot::all().take(3).collect();
        let claim = SlotsClaim {
            view: 7,
            term: version(5),
            acted: Version::ZERO,
            gave_up: None,
            is_polite: false,
            slots: slots.clone(),
        };
        a.claimed(&b, &claim, |_| true, false);
        for (is_away, is_polite) in [(false, true), (true, false)] {
            let mut a = Claims { nodes: Nodes::default(), me: 0, slots: a.slots.clone() };
            for known in ["a", "b"] {
                a.nodes.id(&name(known));
            }
            assert_eq!(a.claim_back(|_| true, |other| is_away && other == "b", version(6)), slots);
            let asks = a.asks(7);
            assert!(matches!(&asks[..], [(to, asked)] if **to == *b && asked.is_polite == is_polite), "{asks:?}");
        }
    }
}
