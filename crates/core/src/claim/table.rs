//! [`Claims`]: the states of all slots at one node, and the claims of many slots that travel as one.
//!
//! It is told of views, claims, answers and time that has passed, and says which slots that concerns. Who sends, waits and
//! repeats is the code around it; what a step means for one slot is `state.rs`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    message::{ClaimAnswer, SlotsClaim},
    nodes::{Nodes, PerNode},
    outcomes::{Answered, Claimed, Recalled},
    state::{Answer, Ask, NodeId, Outcome, Role, SlotState},
};
use crate::{
    Moment, Version,
    lock::QUIET,
    placement::{SLOT_COUNT, Slot, SlotSet},
    rules::{Rule, keeps},
};

/// For how long what a slot's previous owner holds is of use to the next (rule H1).
pub(crate) const HANDOFF_TIME: Duration = Duration::from_secs(30);

/// How long reads wait for who is claimed from (rule C4), unless that one can't be reached. One that can has only to let go, and
/// is late where it is busy: in the restart of five busy nodes, three quarters of what was loaded again was so after 50 ms.
pub(crate) const CLAIM_WAIT: Duration = Duration::from_millis(500);

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
    /// It acted, and its view says that another node does; but that one has not claimed the slot, and may not have heard.
    Lingers,
}

/// The slots of one node.
pub(crate) struct Claims {
    nodes: Nodes,
    me: NodeId,
    slots: Box<[Entry]>,
    busy: Busy,
    /// Nobody held a lock when the node started.
    vouches_for_locks: bool,
}

/// What there may be to do. It spares looking through all slots when there is nothing.
#[derive(Default)]
struct Busy {
    claims: bool,
    lost: bool,
    lingers: bool,
    warms: bool,
    kept: bool,
    away: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    state: SlotState,
    /// When the slot was gained, for a claim.
    gained: Moment,
    /// The claim is the first since the node started, of a stand-in, which took no writes.
    is_first: bool,
    /// Who released it to this node, and until when what that one holds is of use (rule H1).
    warms: Option<(NodeId, Moment)>,
    /// The stores still have to be rid of what they hold of the slot before it is claimed.
    is_dirty: bool,
    /// The node goes on answering though its view gives the slot to another. Until when.
    lingers: Option<Moment>,
    /// Until when others may hold copies that were lent before this node had the slot.
    lent: Moment,
    /// Who released the slot to this node could prove that it had it: when that was heard (rule C6).
    vouched: Option<Moment>,
    /// Until when this node knows of a slot that its view took from it that nobody else has acted for it since; the clock's start: it doesn't.
    proven: Moment,
    /// Until when no locks of the slot are granted, as nobody has said which there are (rule C4); the clock's start: there is nothing to
    /// wait for.
    quiet: Moment,
    /// What that was before a claim whose answer may lift it.
    quiet_before: Moment,
    /// The store may hold entries of the slot though the node does not act for it, for who claimed it under this term, or will
    /// (zero). Until when.
    kept: Option<(Version, Moment)>,
}

impl Claims {
    /// A node that acts for nothing yet.
    pub(crate) fn new(me: &Arc<str>) -> Self {
        let mut nodes = Nodes::default();
        let me = nodes.id(me);
        let (state, gained) = (SlotState::NEW, Moment::default());
        let entry = Entry {
            state,
            gained,
            is_first: false,
            is_dirty: false,
            lingers: None,
            warms: None,
            lent: Moment::default(),
            vouched: None,
            proven: Moment::default(),
            quiet: Moment::default(),
            quiet_before: Moment::default(),
            kept: None,
        };
        let slots = vec![entry; usize::from(SLOT_COUNT)].into();
        Self { nodes, me, busy: Busy::default(), vouches_for_locks: false, slots }
    }

    /// Whether the node answers for a slot.
    pub(crate) fn phase(&self, slot: Slot) -> Phase {
        match self.entry(slot).state.role() {
            Role::Acting { .. } => Phase::Acts,
            Role::Claiming(claim) if claim.is_polite => Phase::Away,
            Role::Claiming(claim) if claim.is_late => Phase::Reads,
            Role::Claiming(_) => Phase::Waits,
            Role::Lost if self.entry(slot).lingers.is_some() => Phase::Lingers,
            _ => Phase::Away,
        }
    }

    /// Who else may have a slot that this node does not act for.
    pub(crate) fn elsewhere(&self, slot: Slot) -> Option<Arc<str>> {
        match self.entry(slot).state.role() {
            Role::Released { to } | Role::GaveUp { to: Some(to), .. } => Some(self.nodes.name(*to)),
            Role::Claiming(claim) if claim.is_polite => Some(self.nodes.name(claim.from)),
            _ => None,
        }
    }

    /// The term under which this node acts for a slot, or did until its view gave it to another that has not claimed it.
    pub(crate) fn held_term(&self, slot: Slot) -> Option<Version> {
        let state = &self.entry(slot).state;
        matches!(state.role(), Role::Acting { .. } | Role::Lost).then(|| state.acted())
    }

    /// Until when reads wait for a slot's claim.
    pub(crate) fn late_at(&self, slot: Slot) -> Moment {
        self.entry(slot).gained + CLAIM_WAIT
    }

    /// Since when this node is to own a slot, and when it heard from who had it, who could prove that, that it had stopped.
    pub(crate) fn gained(&self, slot: Slot) -> (Moment, Option<Moment>) {
        (self.entry(slot).gained, self.entry(slot).vouched)
    }

    /// Who released these slots could prove that it had them.
    pub(crate) fn vouch(&mut self, slots: &SlotSet, now: Moment) {
        slots.iter().for_each(|slot| self.entry_mut(slot).vouched = Some(now));
    }

    /// This node is about to lose these slots, and nobody else acts for them before then.
    pub(crate) fn prove(&mut self, slots: &SlotSet, until: Moment) {
        slots.iter().for_each(|slot| self.entry_mut(slot).proven = until);
    }

    /// Until when it is known of a slot that this node lost that nobody else acts for it.
    pub(crate) fn proven_until(&self, slot: Slot) -> Moment {
        self.entry(slot).proven
    }

    /// Until when no locks of a slot are granted; the clock's start: there is nothing to wait for.
    pub(crate) fn quiet_until(&self, slot: Slot) -> Moment {
        self.entry(slot).quiet
    }

    /// Who had these slots before has said which locks there are.
    pub(crate) fn lift_quiet(&mut self, slots: &SlotSet) {
        for slot in slots.iter() {
            let entry = self.entry_mut(slot);
            entry.quiet = entry.quiet_before;
        }
    }

    /// No locks of a slot are granted until then.
    pub(crate) fn keep_quiet(&mut self, slot: Slot, until: Moment) {
        let entry = self.entry_mut(slot);
        entry.quiet = entry.quiet.max(until);
    }

    /// Nobody has granted any locks until now.
    pub(crate) fn vouch_for_locks(&mut self) {
        self.vouches_for_locks = true;
        self.slots.iter_mut().for_each(|entry| entry.quiet = Moment::default());
    }

    /// Until when others may hold copies of a slot that were lent before this node had it.
    pub(crate) fn lent_until(&self, slot: Slot) -> Moment {
        self.entry(slot).lent
    }

    /// Others may hold copies of these slots until then.
    pub(crate) fn lend(&mut self, slots: &SlotSet, until: Moment) {
        for slot in slots.iter() {
            let entry = self.entry_mut(slot);
            entry.lent = entry.lent.max(until);
        }
    }

    /// Whether a slot is in the window in which who had it before is asked for what this node doesn't have.
    pub(crate) fn is_warming(&self, slot: Slot) -> bool {
        self.entry(slot).warms.is_some()
    }

    /// Who had a slot before, and the term by which that one knows the handoff.
    pub(crate) fn before(&self, slot: Slot, now: Moment) -> Option<(Arc<str>, Version)> {
        let Entry { state, warms, .. } = self.entry(slot);
        let (from, until) = (*warms)?;
        (now < until).then(|| (self.nodes.name(from), state.term()))
    }

    /// Whether `term` is the one under which this node released the slot last.
    pub(crate) fn released_under(&self, slot: Slot, term: Version) -> bool {
        self.entry(slot).kept.is_some_and(|(known, _)| known == term)
    }

    /// Whether `term` is the one under which `from` released the slot to this node, within the window.
    pub(crate) fn takes(&self, slot: Slot, from: &str, term: Version, now: Moment) -> bool {
        self.before(slot, now).is_some_and(|(before, known)| *before == *from && known == term)
    }

    /// Nothing more is taken from who had the slot before.
    pub(crate) fn close(&mut self, slot: Slot) {
        self.entry_mut(slot).warms = None;
    }

    /// The view changed: these are all that this node owns. Those that it begins to own are told; they are to be
    /// [gained](Self::gain) once the store is rid of what it holds of them. For others it goes on to answer until they are
    /// claimed, or for a while.
    pub(crate) fn lose_all_but(&mut self, is_mine: impl Fn(Slot) -> bool, now: Moment, lingers: Duration) -> SlotSet {
        let mut gained = SlotSet::default();
        for slot in Slot::all() {
            let role = *self.entry(slot).state.role();
            if is_mine(slot) {
                if !matches!(role, Role::Acting { .. } | Role::Claiming(_)) {
                    gained.insert(slot);
                }
                continue;
            }
            let entry = self.entry_mut(slot);
            entry.state.lost();
            entry.warms = None;
            if matches!(role, Role::Acting { .. }) {
                entry.kept = Some((Version::ZERO, now + HANDOFF_TIME));
                entry.lingers = (!lingers.is_zero()).then(|| now + lingers);
                (self.busy.kept, self.busy.lingers, self.busy.lost) = (true, true, true);
            }
        }
        gained
    }

    /// Slots for which the node does not answer any more though nobody has claimed them.
    pub(crate) fn stop_lingering(&mut self, now: Moment) -> SlotSet {
        if !self.busy.lingers {
            return SlotSet::default();
        }
        let stopped = self.each(|entry, _| entry.lingers.take_if(|until| *until <= now).is_some());
        self.busy.lingers = self.slots.iter().any(|entry| entry.lingers.is_some());
        stopped
    }

    /// This node owns a slot from now on, which `previous` did before.
    pub(crate) fn gain(&mut self, slot: Slot, previous: Option<Arc<str>>, term: Version, now: Moment, is_first: bool) {
        let previous = previous.map(|name| self.nodes.id(&name)).filter(|previous| *previous != self.me);
        // Nobody had it in any view: what was vouched for at the start holds for it too.
        let quiet = if self.vouches_for_locks && previous.is_none() { Moment::default() } else { now + QUIET };
        let entry = self.entry_mut(slot);
        entry.state.gained(previous, term);
        (entry.gained, entry.is_first, entry.kept, entry.lingers, entry.vouched) = (now, is_first, None, None, None);
        (entry.quiet, entry.quiet_before, entry.proven) = (quiet, Moment::default(), Moment::default());
        self.busy.claims = true;
    }

    /// Who took the place of this node while it did not know of it may have acted for these, as it says: it claims them from there, once
    /// the stores are [clean](Self::clean).
    pub(crate) fn recall(
        &mut self,
        slots: &SlotSet,
        (from, asked): (&Arc<str>, Moment),
        term: Version,
        now: Moment,
    ) -> Recalled {
        let from = self.nodes.id(from);
        let (mut recalled, mut is_all) = (SlotSet::default(), true);
        for slot in slots.iter() {
            let entry = self.entry_mut(slot);
            // What it released after it was asked need not be claimed from it twice.
            if entry.warms.is_some_and(|(by, until)| by == from && until >= asked + HANDOFF_TIME) {
                continue;
            }
            if entry.state.recalled(from, term) {
                (entry.gained, entry.is_first, entry.is_dirty, entry.warms) = (now, false, true, None);
                (entry.vouched, entry.proven) = (None, Moment::default());
                (entry.quiet, entry.quiet_before) = (now + QUIET, entry.quiet);
                recalled.insert(slot);
            }
            is_all &= entry.state.is_known_at(from);
        }
        self.busy.claims |= !recalled.is_empty();
        Recalled { recalled, is_all }
    }

    /// The stores are rid of what they held of these slots.
    pub(crate) fn clean(&mut self, slots: &SlotSet) {
        for slot in slots.iter() {
            self.entry_mut(slot).is_dirty = false;
        }
    }

    /// The slots that this node acts or acted for, and that nobody has claimed from it.
    pub(crate) fn unclaimed(&self) -> SlotSet {
        let acted = |slot: &Slot| matches!(self.entry(*slot).state.role(), Role::Acting { .. } | Role::Lost);
        Slot::all().filter(acted).collect()
    }

    /// The slots that this node acted for until its view gave them to others, who have not claimed them.
    pub(crate) fn lost(&mut self) -> SlotSet {
        if !self.busy.lost {
            return SlotSet::default();
        }
        let lost = self.each(|entry, _| matches!(entry.state.role(), Role::Lost));
        self.busy.lost = !lost.is_empty();
        lost
    }

    /// Whether a slot is claimed that has not been had yet, but for those that another has by its own view.
    pub(crate) fn is_claiming(&self) -> bool {
        self.claims_any_from(|_| true)
    }

    /// Whether a slot is claimed from somebody like that.
    pub(crate) fn claims_any_from(&self, is_such: impl Fn(&str) -> bool) -> bool {
        let claims = |entry: &Entry| {
            matches!(entry.state.role(), Role::Claiming(claim)
            if !claim.is_polite && is_such(self.nodes.known(claim.from)))
        };
        self.busy.claims && self.slots.iter().any(claims)
    }

    /// Slots whose window is over.
    pub(crate) fn become_warm(&mut self, now: Moment) -> SlotSet {
        if !self.busy.warms {
            return SlotSet::default();
        }
        let warm = self.each(|entry, _| entry.warms.take_if(|(_, until)| *until <= now).is_some());
        self.busy.warms = self.slots.iter().any(|entry| entry.warms.is_some());
        warm
    }

    /// Slots whose entries nobody will ask for any more.
    pub(crate) fn forget(&mut self, now: Moment) -> SlotSet {
        if !self.busy.kept {
            return SlotSet::default();
        }
        let forgotten = self.each(|entry, _| {
            let is_over = entry.kept.take_if(|(_, until)| *until <= now).is_some();
            is_over && !matches!(entry.state.role(), Role::Acting { .. })
        });
        self.busy.kept = self.slots.iter().any(|entry| entry.kept.is_some());
        forgotten
    }

    /// What is to be asked of whom, the claims of one node that say the same together.
    pub(crate) fn asks(&mut self) -> Vec<(Arc<str>, SlotsClaim)> {
        if !self.busy.claims {
            return Vec::new();
        }
        // Few, as slots come and go together.
        let mut asks: BTreeMap<(NodeId, Ask), SlotSet> = BTreeMap::new();
        self.busy.claims = false;
        for slot in Slot::all() {
            let entry = self.entry(slot);
            let Some(asked) = entry.state.ask() else { continue };
            if !entry.is_dirty {
                asks.entry(asked).or_default().insert(slot);
            }
            self.busy.claims = true;
        }
        let named = |((to, ask), slots)| (self.nodes.name(to), self.named_claim(ask, slots));
        asks.into_iter().map(named).collect()
    }

    /// Answers another node's claim.
    pub(crate) fn claimed(
        &mut self,
        claimer: &Arc<str>,
        asked: &SlotsClaim,
        is_mine: impl Fn(Slot) -> bool,
        now: Moment,
    ) -> Claimed {
        let claimer = self.nodes.id(claimer);
        let SlotsClaim { term, acted, gave_up, is_polite, slots } = asked;
        let gave_up = gave_up.as_ref().map(|(name, given_up)| (self.nodes.id(name), *given_up));
        let ask = Ask { term: *term, acted: *acted, gave_up, is_polite: *is_polite };
        let mut answers: BTreeMap<Answer, SlotSet> = BTreeMap::new();
        let mut claimed = Claimed::default();
        for slot in slots.iter() {
            let answered = self.phase(slot) != Phase::Away;
            let entry = self.entry_mut(slot);
            let had = matches!(entry.state.role(), Role::Acting { .. } | Role::Lost);
            let acted = entry.state;
            let answer = entry.state.claimed(claimer, ask, is_mine(slot));
            if !keeps(Rule::C2) {
                entry.state = acted;
            }
            if had && matches!(answer, Answer::Released { .. }) {
                entry.kept = Some((ask.term, now + HANDOFF_TIME));
                claimed.hands_over.insert(slot);
            }
            entry.lingers = None;
            if answered && self.phase(slot) == Phase::Away {
                self.close(slot);
                claimed.stops.insert(slot);
            }
            answers.entry(answer).or_default().insert(slot);
        }
        (self.busy.kept, self.busy.away) = (true, true);
        claimed.answers = answers.into_iter().map(|(answer, slots)| (slots, self.named_answer(answer))).collect();
        claimed
    }

    /// `from` answered the claim of `term`. `fresh` is above every term that is known, the answers' included.
    pub(crate) fn answered(
        &mut self,
        from: &Arc<str>,
        term: Version,
        answers: Vec<(SlotSet, ClaimAnswer)>,
        fresh: Version,
        now: Moment,
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
                // Of the latter there may be entries that the other has overtaken.
                let is_stale = matches!(self.phase(slot), Phase::Reads | Phase::Away);
                let entry = self.entry_mut(slot);
                match entry.state.answered(me, from, term, answer, fresh) {
                    Outcome::Nothing | Outcome::AsksOn => {}
                    Outcome::Acts => {
                        let hands_over = answer == Answer::Released { had: true };
                        entry.warms = hands_over.then_some((from, now + HANDOFF_TIME));
                        entry.kept = None;
                        self.busy.warms |= hands_over;
                        answered.acts.insert(slot);
                        if hands_over {
                            answered.heard.insert(slot);
                        }
                        if is_stale {
                            answered.forgets.insert(slot);
                        }
                    }
                    Outcome::AsksLater => answered.is_turned_down = true,
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
    pub(crate) fn become_late(&mut self, gone: impl Fn(&str) -> bool, now: Moment) -> SlotSet {
        if !self.busy.claims {
            return SlotSet::default();
        }
        let mut gone = PerNode::new(gone);
        self.each(|entry, nodes| {
            // Of one that is gone no answer is to be expected.
            let mut is_gone = || entry.state.ask().is_some_and(|(from, _)| gone.of(from, nodes));
            !entry.is_dirty && (now >= entry.gained + CLAIM_WAIT || is_gone()) && entry.state.is_late()
        })
    }

    /// Slots claimed for long enough from who is no member any more (`wait` says for how long, of one that isn't), or for a `lease`
    /// from stand-ins after a start: the node acts.
    pub(crate) fn give_up(&mut self, wait: impl Fn(&str) -> Option<Duration>, lease: Duration, now: Moment) -> SlotSet {
        if !self.busy.claims {
            return SlotSet::default();
        }
        let mut wait = PerNode::new(wait);
        self.each(|entry, nodes| {
            let first = entry.is_first.then_some(lease);
            let mut asked = || entry.state.ask().and_then(|(from, _)| first.or_else(|| wait.of(from, nodes)));
            !entry.is_dirty && asked().is_some_and(|wait| now >= entry.gained + wait) && entry.state.given_up()
        })
    }

    /// Claims back the slots that this node's view says are its own and that others have (rule C5): politely of who can be
    /// reached. The others are told; they are claimed once the stores are [clean](Self::clean).
    pub(crate) fn claim_back(
        &mut self,
        is_mine: impl Fn(Slot) -> bool,
        is_unreachable: impl Fn(&str) -> bool,
        term: Version,
        now: Moment,
    ) -> SlotSet {
        let mut claimed = SlotSet::default();
        if !std::mem::take(&mut self.busy.away) {
            return claimed;
        }
        for slot in Slot::all().filter(|slot| is_mine(*slot)) {
            let Some(other) = self.elsewhere(slot) else { continue };
            self.busy.away = true;
            self.busy.claims = true;
            let entry = self.entry_mut(slot);
            let is_unreachable = is_unreachable(&other);
            if entry.state.claims_back(is_unreachable, term) && is_unreachable {
                (entry.gained, entry.is_first, entry.is_dirty, entry.kept) = (now, false, true, None);
                (entry.vouched, entry.proven) = (None, Moment::default());
                (entry.quiet, entry.quiet_before) = (now + QUIET, Moment::default());
                claimed.insert(slot);
            }
        }
        claimed
    }

    /// Tells states of a slot apart that may go on differently. What time brings about is told by the tenth of a second.
    #[cfg(test)]
    pub(crate) fn sketch(&self, slot: Slot, now: Moment) -> String {
        let Entry { state, gained, is_first, warms, is_dirty, lingers, lent, kept, .. } = self.entry(slot);
        let tenths = |time: Duration| (time.as_millis() + 50) / 100;
        let claimed_for = state.ask().map(|_| tenths(now.since(*gained)).min(10));
        let lingers = lingers.map(|until| tenths(until.since(now)));
        let (warms, kept) = (warms.map(|(from, _)| from), kept.map(|(term, _)| term));
        format!("{state:?}{claimed_for:?}{is_first}{is_dirty}{lingers:?}{warms:?}{kept:?}{}", tenths(lent.since(now)))
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

    fn named_claim(&self, ask: Ask, slots: SlotSet) -> SlotsClaim {
        let Ask { term, acted, gave_up, is_polite } = ask;
        let gave_up = gave_up.map(|(node, given_up)| (self.nodes.name(node), given_up));
        SlotsClaim { term, acted, gave_up, is_polite, slots }
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
        for slot in claims.lose_all_but(|slot| *owner(slot, to) == *me, Moment::default(), Duration::ZERO).iter() {
            claims.gain(slot, previous(slot), version(term), Moment::default(), false);
        }
    }

    #[test]
    fn slots_that_move_are_claimed_in_one_message_and_the_others_are_not_touched() {
        let (mut a, mut b) = (Claims::new(&name("a")), Claims::new(&name("b")));
        change(&mut a, "a", None, SLOT_COUNT, 1);
        change(&mut b, "b", None, SLOT_COUNT, 1);
        assert_eq!((count(&a, Phase::Acts), count(&b, Phase::Away)), (16_384, 16_384));

        change(&mut b, "b", Some(SLOT_COUNT), 10_000, 2);
        assert_eq!((count(&b, Phase::Waits), count(&b, Phase::Away)), (6_384, 10_000));
        let asks = b.asks();
        let [(to, ask)] = &asks[..] else { panic!("{asks:?}") };
        assert_eq!((&**to, ask.slots.len()), ("a", 6_384));
        let Claimed { answers, stops, hands_over } = a.claimed(&name("b"), ask, |_| true, Moment::default());
        assert!(matches!(&answers[..], [(slots, ClaimAnswer::Released { had: true })] if slots.len() == 6_384));
        assert_eq!((stops.len(), hands_over.len()), (6_384, 6_384));
        assert_eq!((count(&a, Phase::Acts), count(&a, Phase::Away)), (10_000, 6_384));
        assert_eq!(a.elsewhere(Slot::new(SLOT_COUNT - 1).unwrap()), Some(name("b")));
        let answered = b.answered(&name("a"), ask.term, answers, version(9), Moment::default());
        assert_eq!((answered.acts.len(), count(&b, Phase::Acts)), (6_384, 6_384));
        assert!(b.asks().is_empty());
    }

    #[test]
    fn reads_begin_after_a_while_and_a_claim_from_who_is_gone_ends() {
        let mut b = Claims::new(&name("b"));
        change(&mut b, "b", Some(SLOT_COUNT), 10_000, 2);
        let start = Moment::default();
        let wait = Duration::from_secs(1);
        assert!(b.become_late(|_| false, start + (CLAIM_WAIT - Duration::from_nanos(1))).is_empty());
        assert_eq!((b.become_late(|_| false, start + CLAIM_WAIT).len(), count(&b, Phase::Reads)), (6_384, 6_384));
        assert!(b.become_late(|_| false, start + CLAIM_WAIT).is_empty(), "it is news once");
        assert!(b.give_up(|_| None, wait, start + wait).is_empty());
        assert!(b.give_up(|_| Some(wait), wait, start + (wait - Duration::from_nanos(1))).is_empty());
        assert_eq!((b.give_up(|_| Some(wait), wait, start + wait).len(), count(&b, Phase::Acts)), (6_384, 6_384));
    }

    #[test]
    fn what_another_acted_for_is_recalled_once_it_is_had_and_not_from_who_has_just_released_it() {
        let (a, mut b, c) = (name("a"), Claims::new(&name("b")), name("c"));
        let start = Moment::default();
        change(&mut b, "b", Some(SLOT_COUNT), 10_000, 2);
        let [(_, ask)] = &b.asks()[..] else { panic!("it claims from a") };
        let Recalled { recalled, is_all } = b.recall(&ask.slots, (&c, start), version(3), start);
        assert_eq!((recalled.len(), is_all), (0, false), "it is still claimed from a");
        assert!(b.recall(&ask.slots, (&a, start), version(3), start).is_all, "that is where it is claimed from");

        let (asked, heard) = (start, start + Duration::from_millis(1));
        let answers = vec![(ask.slots.clone(), ClaimAnswer::Released { had: true })];
        b.answered(&a, ask.term, answers, version(9), heard);
        let late = b.recall(&ask.slots, (&a, asked), version(10), heard);
        assert_eq!((late.recalled.len(), late.is_all), (0, true), "it was asked before it released them");
        let Recalled { recalled, is_all } = b.recall(&ask.slots, (&c, asked), version(10), heard);
        assert_eq!((recalled.len(), is_all), (6_384, true));
    }

    #[test]
    fn a_slot_that_another_took_is_claimed_back_at_once_only_if_that_one_is_away() {
        let (mut a, b) = (Claims::new(&name("a")), name("b"));
        change(&mut a, "a", None, SLOT_COUNT, 1);
        let slots: SlotSet = Slot::all().take(3).collect();
        let claim = SlotsClaim {
            term: version(5),
            acted: Version::ZERO,
            gave_up: None,
            is_polite: false,
            slots: slots.clone(),
        };
        a.claimed(&b, &claim, |_| true, Moment::default());
        for (is_away, is_polite) in [(false, true), (true, false)] {
            let mut a = Claims {
                nodes: Nodes::default(),
                me: 0,
                slots: a.slots.clone(),
                busy: Busy { away: true, ..Busy::default() },
                vouches_for_locks: false,
            };
            for known in ["a", "b"] {
                a.nodes.id(&name(known));
            }
            let dirty = a.claim_back(|_| true, |other| is_away && other == "b", version(6), Moment::default());
            assert_eq!((dirty == slots, a.asks().is_empty()), (is_away, is_away), "not before the stores are clean");
            assert_eq!(a.phase(Slot::new(0).unwrap()), if is_away { Phase::Waits } else { Phase::Away });
            a.clean(&dirty);
            let asks = a.asks();
            assert!(matches!(&asks[..], [(to, asked)] if **to == *b && asked.is_polite == is_polite), "{asks:?}");
        }
    }
}
