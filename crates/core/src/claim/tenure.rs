//! [`Tenure`]: which slots this node acts for, as all that it serves at once ask it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{
    handoff::{CONFIRM_WAIT, HANDOFF_LEN_MAX, Handoff},
    message::{ClaimAnswer, SlotsClaim},
    outcomes::{Answered, Claimed, Recalled},
    table::{Claims, Phase},
};
use crate::{
    Clock, Moment, Version,
    placement::{SLOT_COUNT, Slot, SlotSet},
};

/// Beside a slot's phase: who had it before is asked for what this node doesn't have.
const WARMS: u8 = 8;

/// How often it is looked at again whether reads of a slot begin that should have: as often as its claim is.
const LATE_STEP: Duration = Duration::from_millis(10);

/// Which slots this node acts for.
///
/// A hit asks with one load of a byte. The bytes follow [`Claims`], which knows the reasons, and are written under its lock
/// alone; so that nothing counts too early, what a step of the claims means for the stores is done before its byte is
/// written, where it gives the node a slot, and after, where it takes one away.
pub(crate) struct Tenure {
    claims: Mutex<Claims>,
    phases: Box<[AtomicU8]>,
    changed: watch::Sender<()>,
    /// Some slot came with copies that were lent. It spares each write a look.
    has_lent: AtomicBool,
    /// There is something new to do for whoever sends claims and entries.
    pub(crate) work: Notify,
    handoffs: Mutex<Handoffs>,
    /// The most bytes of keys and values that one handoff pushes.
    pub(crate) handoff_len_max: AtomicUsize,
    /// Who did not answer the last claim.
    unheard: Mutex<HashMap<Arc<str>, Unheard>>,
}

/// Why the last claim was not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unheard {
    /// It could not be made.
    Unreached,
    /// No answer came in time.
    Silent,
}

/// What goes to who claimed it.
#[derive(Default)]
struct Handoffs {
    waiting: Vec<Handoff>,
    /// Some are on their way.
    is_sending: bool,
}

impl Tenure {
    /// A node that acts for nothing yet.
    pub(crate) fn new(me: &Arc<str>) -> Self {
        Self {
            claims: Mutex::new(Claims::new(me)),
            phases: (0..SLOT_COUNT).map(|_| AtomicU8::new(Phase::Away as u8)).collect(),
            changed: watch::Sender::new(()),
            has_lent: AtomicBool::new(false),
            work: Notify::new(),
            handoffs: Mutex::default(),
            handoff_len_max: AtomicUsize::new(HANDOFF_LEN_MAX),
            unheard: Mutex::default(),
        }
    }

    #[inline]
    fn byte(&self, slot: Slot) -> &AtomicU8 {
        &self.phases[usize::from(slot.number())]
    }

    /// Whether the node answers for a slot.
    #[inline]
    pub(crate) fn phase(&self, slot: Slot) -> Phase {
        match self.byte(slot).load(Ordering::Acquire) & !WARMS {
            byte if byte == Phase::Acts as u8 => Phase::Acts,
            byte if byte == Phase::Reads as u8 => Phase::Reads,
            byte if byte == Phase::Waits as u8 => Phase::Waits,
            byte if byte == Phase::Lingers as u8 => Phase::Lingers,
            _ => Phase::Away,
        }
    }

    /// Whether who had the slot before is asked for what this node doesn't have.
    #[inline]
    pub(crate) fn is_warming(&self, slot: Slot) -> bool {
        self.byte(slot).load(Ordering::Acquire) & WARMS != 0
    }

    /// Whether the node acts for the slot and all that there is of it is in its store.
    #[inline]
    pub(crate) fn is_settled_at(&self, slot: Slot) -> bool {
        self.byte(slot).load(Ordering::Acquire) == Phase::Acts as u8
    }

    fn publish(&self, claims: &Claims, slots: &SlotSet) {
        if slots.is_empty() {
            return;
        }
        for slot in slots.iter() {
            let warms = if claims.is_warming(slot) { WARMS } else { 0 };
            self.byte(slot).store(claims.phase(slot) as u8 | warms, Ordering::Release);
        }
        self.changed.send_replace(());
        self.work.notify_one();
    }

    /// The view changed: these are all that this node owns. Tells those that it begins to own: they are to be
    /// [gained](Self::gain) once the stores are rid of what they hold of them.
    pub(crate) fn lose_all_but(&self, is_mine: impl Fn(Slot) -> bool, now: Moment, lingers: Duration) -> SlotSet {
        let mut claims = self.claims.lock();
        let gained = claims.lose_all_but(&is_mine, now, lingers);
        self.publish(&claims, &Slot::all().filter(|slot| !is_mine(*slot)).collect());
        // Who asks for one of those in between waits.
        for slot in gained.iter() {
            self.byte(slot).store(Phase::Waits as u8, Ordering::Release);
        }
        gained
    }

    /// This node owns these slots from now on, which others did before.
    pub(crate) fn gain(
        &self,
        slots: &SlotSet,
        previous: impl Fn(Slot) -> Option<Arc<str>>,
        term: Version,
        now: Moment,
        is_first: bool,
    ) {
        let mut claims = self.claims.lock();
        for slot in slots.iter() {
            claims.gain(slot, previous(slot), term, now, is_first);
        }
        self.publish(&claims, slots);
    }

    /// Waits until it is known whether the node answers for a slot: [`CLAIM_WAIT`](super::table::CLAIM_WAIT) at most.
    pub(crate) async fn known(&self, slot: Slot, clock: &dyn Clock) {
        while self.phase(slot) == Phase::Waits {
            let mut changed = self.changed.subscribe();
            let left = self.claims.lock().late_at(slot).since(clock.now());
            if left.is_zero() {
                self.become_late(|_| false, clock.now());
            }
            if self.phase(slot) == Phase::Waits {
                // Told or not, it is looked at again. However late it is, reads don't begin before the stores are rid of what they held of
                // the slot, and who sees to that needs its turn.
                drop(timeout(left.max(LATE_STEP), changed.changed()).await);
            }
        }
    }

    /// Waits until the node acts for a slot, or another does. Whether it does.
    pub(crate) async fn acts(&self, slot: Slot) -> bool {
        loop {
            let mut changed = self.changed.subscribe();
            match self.phase(slot) {
                Phase::Acts => return true,
                Phase::Away | Phase::Lingers => return false,
                // The sender is a field of this.
                Phase::Waits | Phase::Reads => drop(changed.changed().await),
            }
        }
    }

    /// Tells of every change of the claims.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The term under which the node acts for a slot, or did until its view gave it to another that has not claimed it.
    pub(crate) fn held_term(&self, slot: Slot) -> Option<Version> {
        self.claims.lock().held_term(slot)
    }

    /// The slots for which it does, each with its term.
    pub(crate) fn held_terms(&self) -> Vec<(Slot, Version)> {
        let claims = self.claims.lock();
        Slot::all().filter_map(|slot| claims.held_term(slot).map(|term| (slot, term))).collect()
    }

    /// Waits until it is so of the claims.
    pub(crate) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = self.changed.subscribe();
            // Not under the channel's lock: who tells of a change holds that of the claims.
            if is_so(self) {
                return;
            }
            // The sender is a field of this.
            drop(changed.changed().await);
        }
    }

    /// Whether some slot is claimed that has not been had yet.
    pub(crate) fn is_claiming(&self) -> bool {
        self.claims.lock().is_claiming()
    }

    /// Whether some slot is claimed from somebody like that.
    pub(crate) fn claims_any_from(&self, is_such: impl Fn(&str) -> bool) -> bool {
        self.claims.lock().claims_any_from(is_such)
    }

    /// Whether some slot waits for who claims it, or its entries for being handed over.
    pub(crate) fn has_to_hand_over(&self) -> bool {
        // In this order: who claims the last slots has what goes with them waiting before the slots are not unclaimed any more.
        if !self.unclaimed().is_empty() {
            return true;
        }
        let handoffs = self.handoffs.lock();
        handoffs.is_sending || !handoffs.waiting.is_empty()
    }

    /// The slots that this node acts or acted for, and that nobody has claimed from it.
    pub(crate) fn unclaimed(&self) -> SlotSet {
        self.claims.lock().unclaimed()
    }

    /// The slots that this node acted for until its view gave them to others, who have not claimed them.
    pub(crate) fn lost(&self) -> SlotSet {
        self.claims.lock().lost()
    }

    #[cfg(test)]
    pub(crate) fn sketch(&self, slot: Slot, now: Moment) -> String {
        format!("{}{}", self.byte(slot).load(Ordering::Acquire), self.claims.lock().sketch(slot, now))
    }

    pub(crate) fn elsewhere(&self, slot: Slot) -> Option<Arc<str>> {
        self.claims.lock().elsewhere(slot)
    }

    /// Since when this node is to own a slot, and when it heard from who had it, who could prove that, that it had stopped.
    pub(crate) fn gained(&self, slot: Slot) -> (Moment, Option<Moment>) {
        self.claims.lock().gained(slot)
    }

    /// Who released these slots could prove that it had them.
    pub(crate) fn vouch(&self, slots: &SlotSet, now: Moment) {
        self.claims.lock().vouch(slots, now);
    }

    /// This node is about to lose these slots, and nobody else acts for them before then.
    pub(crate) fn prove(&self, slots: &SlotSet, until: Moment) {
        self.claims.lock().prove(slots, until);
    }

    /// Until when it is known of a slot that this node lost that nobody else acts for it.
    pub(crate) fn proven_until(&self, slot: Slot) -> Moment {
        self.claims.lock().proven_until(slot)
    }

    /// Until when no locks of a slot are granted; the clock's start: there is nothing to wait for (rule C4).
    pub(crate) fn quiet_until(&self, slot: Slot) -> Moment {
        self.claims.lock().quiet_until(slot)
    }

    /// Those of some slots of which no locks are granted yet, and until when.
    pub(crate) fn quiet_slots(&self, slots: &SlotSet, now: Moment) -> Vec<(Slot, Moment)> {
        let claims = self.claims.lock();
        let quiet = slots.iter().map(|slot| (slot, claims.quiet_until(slot)));
        quiet.filter(|(_, until)| now < *until).collect()
    }

    /// Who had these slots before has said which locks there are.
    pub(crate) fn lift_quiet(&self, slots: &SlotSet) {
        self.claims.lock().lift_quiet(slots);
    }

    /// No locks of a slot are granted until then.
    pub(crate) fn keep_quiet(&self, slot: Slot, until: Moment) {
        self.claims.lock().keep_quiet(slot, until);
    }

    /// No locks of any slot are granted until then.
    pub(crate) fn keep_all_quiet(&self, until: Moment) {
        let mut claims = self.claims.lock();
        Slot::all().for_each(|slot| claims.keep_quiet(slot, until));
    }

    /// Nobody has granted any locks until now.
    pub(crate) fn vouch_for_locks(&self) {
        self.claims.lock().vouch_for_locks();
    }

    /// Until when others may hold copies of a slot that were lent before this node had it.
    pub(crate) fn lent_until(&self, slot: Slot) -> Moment {
        if self.has_lent.load(Ordering::Acquire) { self.claims.lock().lent_until(slot) } else { Moment::default() }
    }

    /// Others may hold copies of these slots until then.
    pub(crate) fn lend(&self, slots: &SlotSet, until: Moment) {
        if !slots.is_empty() {
            self.claims.lock().lend(slots, until);
            self.has_lent.store(true, Ordering::Release);
        }
    }

    pub(crate) fn before(&self, slot: Slot, now: Moment) -> Option<(Arc<str>, Version)> {
        if self.is_warming(slot) { self.claims.lock().before(slot, now) } else { None }
    }

    pub(crate) fn released_under(&self, slot: Slot, term: Version) -> bool {
        self.claims.lock().released_under(slot, term)
    }

    pub(crate) fn takes(&self, slot: Slot, from: &str, term: Version, now: Moment) -> bool {
        self.claims.lock().takes(slot, from, term, now)
    }

    pub(crate) fn close(&self, slot: Slot) {
        let mut claims = self.claims.lock();
        claims.close(slot);
        self.publish(&claims, &[slot].into_iter().collect());
    }

    /// Another node's claim. It does not act for what it stops from here on; the stores are to be told. What it holds of it
    /// is to be handed over from then on, or once the claimer has confirmed.
    pub(crate) fn claimed(
        &self,
        claimer: &Arc<str>,
        claim: &SlotsClaim,
        is_mine: impl Fn(Slot) -> bool,
        now: Moment,
    ) -> Claimed {
        let mut claims = self.claims.lock();
        let claimed = claims.claimed(claimer, claim, is_mine, now);
        if !claimed.hands_over.is_empty() {
            let (to, slots) = (claimer.clone(), claimed.hands_over.clone());
            let handoff = Handoff { to, term: claim.term, slots, from: now + CONFIRM_WAIT };
            self.handoffs.lock().waiting.push(handoff);
        }
        self.publish(&claims, &claim.slots);
        claimed
    }

    /// What is to be handed over by now, for who does it and then says so.
    pub(crate) fn take_handoffs(&self, now: Moment) -> Vec<Handoff> {
        let mut handoffs = self.handoffs.lock();
        let (begin, wait) = std::mem::take(&mut handoffs.waiting).into_iter().partition(|handoff| handoff.from <= now);
        handoffs.waiting = wait;
        let begin: Vec<Handoff> = begin;
        handoffs.is_sending = !begin.is_empty();
        begin
    }

    /// Whether something waits to be handed over.
    pub(crate) fn has_handoffs(&self) -> bool {
        !self.handoffs.lock().waiting.is_empty()
    }

    /// What was taken has been handed over.
    pub(crate) fn handed_over(&self) {
        self.handoffs.lock().is_sending = false;
        self.changed.send_replace(());
    }

    pub(crate) fn confirmed(&self, claimer: &Arc<str>, term: Version, slots: &SlotSet) {
        self.claims.lock().confirmed(claimer, term, slots);
        for handoff in &mut self.handoffs.lock().waiting {
            if handoff.to == *claimer && handoff.term == term {
                handoff.from = Moment::default();
            }
        }
        self.work.notify_one();
    }

    /// Why a node did not answer the last claim; `None`: it did, or none was made yet.
    pub(crate) fn unheard(&self, name: &str) -> Option<Unheard> {
        self.unheard.lock().get(name).copied()
    }

    /// A claim of a node was answered, or was not.
    pub(crate) fn heard(&self, name: &Arc<str>, unheard: Option<Unheard>) {
        let mut all = self.unheard.lock();
        match unheard {
            Some(why) => drop(all.insert(name.clone(), why)),
            None => drop(all.remove(name)),
        }
    }

    /// What is to be asked of whom.
    pub(crate) fn asks(&self) -> Vec<(Arc<str>, SlotsClaim)> {
        self.claims.lock().asks()
    }

    /// `from` answered the claim of `term`. Those that the node may act for from now on are to be [shown](Self::show) once the
    /// stores have forgotten what is to be forgotten.
    pub(crate) fn answered(
        &self,
        from: &Arc<str>,
        term: Version,
        answers: Vec<(SlotSet, ClaimAnswer)>,
        fresh: Version,
        now: Moment,
    ) -> Answered {
        self.claims.lock().answered(from, term, answers, fresh, now)
    }

    /// What the claims say of these slots counts from now on.
    pub(crate) fn show(&self, slots: &SlotSet) {
        self.publish(&self.claims.lock(), slots);
    }

    /// Reads begin of what has been claimed for long enough, or from who is gone (rule C4).
    pub(crate) fn become_late(&self, gone: impl Fn(&str) -> bool, now: Moment) {
        let mut claims = self.claims.lock();
        let late = claims.become_late(gone, now);
        self.publish(&claims, &late);
    }

    /// The node acts for what it has claimed for long enough from nodes that are no members any more.
    pub(crate) fn give_up(&self, wait: impl Fn(&str) -> Option<Duration>, lease: Duration, now: Moment) {
        let mut claims = self.claims.lock();
        let acts = claims.give_up(wait, lease, now);
        self.publish(&claims, &acts);
    }

    /// Claims back what others have of what is this node's own (rule C5), once the stores are [clean](Self::clean) of it.
    pub(crate) fn claim_back(
        &self,
        is_mine: impl Fn(Slot) -> bool,
        is_unreachable: impl Fn(&str) -> bool,
        term: Version,
        now: Moment,
    ) -> SlotSet {
        let mut claims = self.claims.lock();
        let claimed = claims.claim_back(is_mine, is_unreachable, term, now);
        self.publish(&claims, &claimed);
        claimed
    }

    /// Claims from `from` what that one acted for as well, unknown to this node (rule W5), once the stores are
    /// [clean](Self::clean) of it. Nothing of it counts from here on.
    pub(crate) fn recall(
        &self,
        slots: &SlotSet,
        (from, asked): (&Arc<str>, Moment),
        term: Version,
        now: Moment,
    ) -> Recalled {
        let mut claims = self.claims.lock();
        let recalled = claims.recall(slots, (from, asked), term, now);
        self.publish(&claims, &recalled.recalled);
        recalled
    }

    /// The stores are rid of what they held of these slots.
    pub(crate) fn clean(&self, slots: &SlotSet) {
        self.claims.lock().clean(slots);
        self.work.notify_one();
    }

    /// The node does not answer any more for what it lost long enough ago though nobody has claimed it.
    pub(crate) fn stop_lingering(&self, now: Moment) -> SlotSet {
        let mut claims = self.claims.lock();
        let stopped = claims.stop_lingering(now);
        self.publish(&claims, &stopped);
        stopped
    }

    /// Ends the windows that are over. When the last one is, `all_warm` is called before another begins.
    pub(crate) fn become_warm(&self, now: Moment, all_warm: impl FnOnce()) {
        let mut claims = self.claims.lock();
        let warm = claims.become_warm(now);
        if !warm.is_empty() && !Slot::all().any(|slot| claims.is_warming(slot)) {
            all_warm();
        }
        self.publish(&claims, &warm);
    }

    /// Slots whose entries nobody will ask for any more.
    pub(crate) fn forget(&self, now: Moment) -> SlotSet {
        self.claims.lock().forget(now)
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::{sync::mpsc, thread};

    use tokio::time::sleep;

    use super::{super::table::CLAIM_WAIT, *};
    use crate::{testing::clock::TokioClock, version::Reading};

    /// If it kept the processor nobody could make the stores rid of it.
    #[test]
    fn who_waits_for_a_slot_that_is_late_lets_others_have_their_turn() {
        let (done, is_done) = mpsc::channel();
        // One that never lets go of its thread can't be given up there.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            let story = async {
                let (clock, term) = (TokioClock::new(), |number| Version::new(Reading::from_bits(number), 1));
                let (tenure, slot) = (Tenure::new(&"a".into()), Slot::all().next().into_iter().collect::<SlotSet>());
                tenure.gain(&slot, |_| None, term(1), clock.now(), false);
                let recalled = tenure.recall(&slot, (&"b".into(), clock.now()), term(2), clock.now());
                sleep(CLAIM_WAIT * 2).await;
                let first = slot.iter().next().map(|slot| tenure.known(slot, &clock));
                let known = async {
                    if let Some(known) = first {
                        known.await;
                    }
                };
                let cleans = async {
                    sleep(CLAIM_WAIT).await;
                    tenure.clean(&slot);
                };
                tokio::join!(known, cleans);
                recalled.recalled.len()
            };
            done.send(runtime.ok().map(|runtime| runtime.block_on(story)))
        });
        assert_eq!(is_done.recv_timeout(Duration::from_secs(60)), Ok(Some(1)));
    }
}
