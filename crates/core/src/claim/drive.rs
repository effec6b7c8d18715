//! What is done about the claims of a node: they are sent, repeated and given up, and what was released is handed over.
//!
//! What a step means is `state.rs`; here are time and messages.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    handoff,
    message::{CARRIED_LEN_MAX, Carried, ClaimAnswer, GivenUp, SlotCall, SlotReply, SlotRequest, SlotsClaim},
    outcomes::{Answered, Claimed},
    tenure::Unheard,
};
use crate::{
    Group, Key, Moment, Node, Version,
    lock::CarriedLocks,
    peer::PeerError,
    placement::{Slot, SlotSet},
};

/// How long the answer to a claim is waited for before it is repeated.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause before a claim that came to nothing is repeated; it doubles, and half of it is chance.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest such pause: how late a node that comes back is claimed from.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often the claims are looked at while some are under way.
const STEP: Duration = Duration::from_millis(10);

/// The same while none is.
const STEP_IDLE: Duration = Duration::from_millis(100);

/// How often slots are claimed back that others have of what is this node's own (rule C5). Until then nobody may answer for them: by their
/// own view the others don't own them.
const CLAIM_BACK_EVERY: Duration = Duration::from_millis(200);

/// The pause before members are asked again for what they acted for (rule W5): some may not be there for long.
const RECALL_EVERY: Duration = Duration::from_millis(500);

/// How often it is looked at whether another member was heard of lately.
const CONTACT_EVERY: Duration = Duration::from_millis(50);

/// How long a node goes on claiming from one that is no member of its view, and says that this node is none of its own: views that can
/// agree do so sooner. Where they can't, both act.
const DISAGREEMENT_WAIT: Duration = Duration::from_secs(3);

/// Of whom is claimed, and whether politely: such claims are in no hurry and must not hold up others.
type Addressee = (Arc<str>, bool);

/// How it is with the claims of one addressee. One is under way at a time.
struct Sending {
    /// How often it came to nothing.
    failures: u32,
    /// When it is repeated; `None`: it is under way.
    again_at: Option<Instant>,
}

/// What sending a claim came to.
enum Sent {
    Answered,
    TurnedDown,
    Unanswered,
}

/// Does what there is to do about the claims of `node`, for as long as it is polled.
pub(crate) async fn drive(node: Node) {
    let mut under_way: JoinSet<(Addressee, Sent)> = JoinSet::new();
    let (mut pushing, mut others, mut learning) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
    // Those that were there before this node are asked at once.
    let (mut recalling, mut recalls_at) = (JoinSet::new(), Instant::now());
    others.spawn(keep_contact(node.clone()));
    let mut sendings: HashMap<Addressee, Sending> = HashMap::new();
    let mut claimed_back = Instant::now();
    loop {
        let now = Instant::now();
        node.step_claims();
        let newcomers = node.take_newcomers();
        if !newcomers.is_empty() {
            let node = node.clone();
            others.spawn(async move {
                node.tell_marks_to(newcomers.clone()).await;
                node.recall_from(newcomers).await;
            });
        }
        if recalling.is_empty() && now >= recalls_at {
            let late = node.take_unrecalled();
            if !late.is_empty() {
                let node = node.clone();
                recalling.spawn(async move { node.recall_from(late).await });
            }
        }
        if learning.is_empty() && node.groups().iter().any(|group| !group.knows_marks()) {
            learning.spawn(node.clone().learn_marks());
        }
        if now >= claimed_back + CLAIM_BACK_EVERY {
            claimed_back = now;
            node.claim_back().await;
        }
        // Who does not know what is void must not act (rule T2).
        let knows_marks = node.groups().iter().all(Group::knows_marks);
        let asks = if knows_marks { node.tenure().asks() } else { Vec::new() };
        sendings.retain(|(to, is_polite), sending| {
            let is_asked = |(asked, claim): &(Arc<str>, SlotsClaim)| asked == to && claim.is_polite == *is_polite;
            sending.again_at.is_none() || asks.iter().any(is_asked)
        });
        for (to, claim) in asks {
            let id = (to.clone(), claim.is_polite);
            let sending = sendings.entry(id.clone()).or_insert(Sending { failures: 0, again_at: Some(now) });
            if sending.again_at.is_some_and(|at| at <= now) {
                sending.again_at = None;
                let node = node.clone();
                under_way.spawn(async move { (id, claim_from(node, to, claim).await) });
            }
        }
        if pushing.is_empty() {
            let handoffs = node.tenure().take_handoffs(node.clock().now());
            if !handoffs.is_empty() {
                pushing.spawn(handoff::push(node.clone(), handoffs));
            }
        }
        let is_busy = node.tenure().is_claiming() || node.tenure().has_handoffs();
        let pause = if is_busy { STEP } else { STEP_IDLE };
        tokio::select! {
            () = sleep(pause) => {}
            () = node.tenure().work.notified() => {}
            Some(_) = pushing.join_next() => node.tenure().handed_over(),
            Some(_) = others.join_next() => {}
            Some(_) = learning.join_next() => {}
            Some(_) = recalling.join_next() => recalls_at = Instant::now() + RECALL_EVERY,
            Some(sent) = under_way.join_next() => {
                let Ok((id, sent)) = sent else { continue };
                let Some(sending) = sendings.get_mut(&id) else { continue };
                match sent {
                    Sent::Answered => drop(sendings.remove(&id)),
                    Sent::TurnedDown => {
                        let pause = if id.1 { CLAIM_BACK_EVERY } else { PAUSE_MIN };
                        sending.again_at = Some(Instant::now() + pause);
                    }
                    Sent::Unanswered => {
                        let doubled = PAUSE_MIN.saturating_mul(2_u32.saturating_pow(sending.failures)).min(PAUSE_MAX);
                        sending.failures = sending.failures.saturating_add(1);
                        let share = node.chance(|chance| 0.5 + chance.f64() / 2.0);
                        sending.again_at = Some(Instant::now() + doubled.mul_f64(share));
                    }
                }
            }
        }
    }
}

async fn keep_contact(node: Node) {
    loop {
        node.keep_contact().await;
        sleep(CONTACT_EVERY).await;
    }
}

/// Sends a claim, and does what the answer says.
async fn claim_from(node: Node, to: Arc<str>, claim: SlotsClaim) -> Sent {
    let (term, count) = (claim.term, claim.slots.len());
    match node.say(&to, SlotCall::Claim(claim), Instant::now() + CLAIM_TIMEOUT).await {
        Ok(SlotReply::Claimed(answers, carried)) => {
            node.tenure().heard(&to, None);
            tracing::debug!(%to, slots = count, "slots were claimed");
            node.claim_answered(&to, term, answers, &carried).await
        }
        Ok(_) => Sent::Unanswered,
        Err(error) => {
            let is_unreached = matches!(error, PeerError::Unreachable { .. });
            node.tenure().heard(&to, Some(if is_unreached { Unheard::Unreached } else { Unheard::Silent }));
            tracing::debug!(%to, slots = count, %error, "a claim was not answered");
            Sent::Unanswered
        }
    }
}

impl Node {
    /// Says something about slots to a member, or to one that was until lately.
    pub(crate) async fn say(&self, to: &str, call: SlotCall, deadline: Instant) -> Result<SlotReply, PeerError> {
        let Some(peer) = self.reach(to) else {
            return Err(PeerError::not_sent(format!("node {to:?} is no member")));
        };
        let request = SlotRequest { from: self.name().clone(), incarnation: self.standing().incarnation(), call };
        peer.say(request, deadline).await
    }

    /// What time brings about.
    fn step_claims(&self) {
        let (view, now) = (self.view(), self.clock().now());
        // Who was sent away may be there all the same: it is asked, and has its time to answer.
        let lost = |name: &str| self.reach(name).is_none() || self.tenure().unheard(name) == Some(Unheard::Unreached);
        let lease = self.hot_lease();
        let wait = |name: &str| {
            let is_unheard = self.reach(name).is_none() || self.tenure().unheard(name).is_some();
            // Who answers is not gone, whatever this node's view says: it may be this node that was sent away, and is about to
            // hear of it.
            let wait = if is_unheard { lease } else { lease.max(DISAGREEMENT_WAIT) };
            view.members().position(name).is_none().then_some(wait)
        };
        self.tenure().become_late(lost, now);
        self.tenure().give_up(wait, lease, now);
        let stopped = self.tenure().stop_lingering(now);
        if !stopped.is_empty() {
            self.groups().iter().for_each(|group| group.detach(&stopped));
        }
        self.tenure().become_warm(now, || self.groups().iter().for_each(Group::forget_tombstones));
        let forgotten = self.tenure().forget(now);
        if !forgotten.is_empty() {
            let node = self.clone();
            tokio::spawn(async move { node.drop_slots(forgotten).await });
        }
    }

    async fn claim_back(&self) {
        let (view, now) = (self.view(), self.clock().now());
        let is_mine = |slot| view.is_mine(slot, &[]);
        let is_away = |name: &str| view.peer(name).is_none_or(|peer| !peer.is_admitted());
        let claimed = self.tenure().claim_back(is_mine, is_away, self.next_version(), now);
        if !claimed.is_empty() {
            tracing::info!(slots = claimed.len(), "slots are claimed back");
            self.forget_locks(|slot| claimed.contains(slot));
            self.drop_slots(claimed.clone()).await;
            self.tenure().clean(&claimed);
        }
    }

    /// `from` answered the claim of `term`.
    async fn claim_answered(
        &self,
        from: &Arc<str>,
        term: Version,
        answers: Vec<(SlotSet, ClaimAnswer)>,
        carried: &Carried,
    ) -> Sent {
        for (_, answer) in &answers {
            if let ClaimAnswer::Refused { known }
            | ClaimAnswer::Elsewhere { given_up: GivenUp { until: known, .. }, .. } = answer
                && self.standing().observe(known.reading()).is_err()
            {
                return Sent::Unanswered;
            }
        }
        let (fresh, now) = (self.next_version(), self.clock().now());
        let Answered { acts, heard, forgets, is_turned_down } = self.tenure().answered(from, term, answers, fresh, now);
        if !acts.is_empty() {
            self.drop_slots(forgets).await;
            // Before anything is written here.
            self.take_carried(&acts, &heard, carried, now);
            self.tenure().show(&acts);
            let (node, from) = (self.clone(), from.clone());
            tokio::spawn(async move {
                let confirm = SlotCall::Confirm { term, slots: acts };
                // If it gets lost, the next claim of the slots tells as much.
                drop(node.say(&from, confirm, Instant::now() + CLAIM_TIMEOUT).await);
            });
        }
        if is_turned_down { Sent::TurnedDown } else { Sent::Answered }
    }

    /// Takes what came with slots that this node is about to act for (rule C2).
    fn take_carried(&self, slots: &SlotSet, heard: &SlotSet, carried: &Carried, now: Moment) {
        let Carried { vouched, leased, leases_left, guards, remembered, locks } = carried;
        if let Some(locks) = locks.as_ref().filter(|locks| self.can_be_carried(locks)) {
            // Where owners have to prove what they own, who couldn't may not have been the last to grant.
            let counts = |slot: &Slot| !self.gives_proofs() || vouched.contains(*slot);
            self.take_locks(&heard.iter().filter(counts).collect(), locks, now);
        }
        self.tenure().vouch(&vouched.iter().filter(|slot| slots.contains(*slot)).collect(), now);
        let lent: SlotSet = leased.iter().filter(|slot| slots.contains(*slot)).collect();
        self.tenure().lend(&lent, now + *leases_left);
        let is_theirs = |group: &Arc<str>, key: &Key| slots.contains(Slot::of(group, key.as_bytes()));
        for (group, key) in guards.iter().filter(|(group, key)| is_theirs(group, key)) {
            if let Ok(group) = self.group(group) {
                group.guard_inherited(key);
            }
        }
        // The latest come first, and are to be forgotten last.
        for remembered in remembered.iter().rev().filter(|it| is_theirs(&it.group, &it.key)) {
            if let Ok(group) = self.group(&remembered.group) {
                group.remember(remembered);
            }
        }
    }

    /// Rids the stores of what they hold of some slots, and detaches what is under way for them.
    pub(super) async fn drop_slots(&self, slots: SlotSet) {
        if slots.is_empty() {
            return;
        }
        let groups = self.groups();
        let dropped = tokio::task::spawn_blocking(move || {
            for group in groups {
                group.detach(&slots);
                group.drop_slots(&slots);
            }
        });
        if dropped.await.is_err() {
            tracing::error!("entries that are not to be kept could not be dropped");
        }
    }

    /// Answers another node's claim (rules C2 and C3), and tells what goes with what is released.
    pub(crate) fn claimed(&self, claimer: &Arc<str>, claim: &SlotsClaim) -> (Vec<(SlotSet, ClaimAnswer)>, Carried) {
        let (view, now) = (self.view(), self.clock().now());
        if view.members().position(claimer).is_none() {
            // Lists that differ, where somebody writes them; else this node is about to hear of the other.
            let known = self.standing().next_version();
            return (vec![(claim.slots.clone(), ClaimAnswer::Refused { known })], Carried::default());
        }
        let is_mine = |slot| view.is_mine(slot, &[]);
        // Only what it stops acting for now has it had until now.
        let needs_proof = self.gives_proofs();
        let proven = |slot: &Slot| needs_proof && self.can_vouch(*slot, now);
        let vouched: SlotSet = claim.slots.iter().filter(proven).collect();
        let Claimed { answers, stops, hands_over } = self.tenure().claimed(claimer, claim, is_mine, now);
        if !stops.is_empty() {
            // What is under way must not come in any more once the claimer knows.
            self.groups().iter().for_each(|group| group.detach(&stops));
            self.send_lock_waiters_away(|slot| stops.contains(slot));
        }
        self.stop_flushing(&stops);
        if !hands_over.is_empty() {
            tracing::info!(to = %claimer, slots = hands_over.len(), "slots are released");
        }
        let (mut carried, mut room) = (Carried::default(), CARRIED_LEN_MAX);
        let is_released = |(_, answer): &&(SlotSet, ClaimAnswer)| matches!(answer, ClaimAnswer::Released { .. });
        let mut locks = CarriedLocks::default();
        for (slots, _) in answers.iter().filter(is_released) {
            self.carry_locks(slots, &mut room, &mut locks);
            vouched.iter().filter(|slot| slots.contains(*slot)).for_each(|slot| carried.vouched.insert(slot));
            self.groups().iter().for_each(|group| group.carry(slots, &mut carried, &mut room));
            // What was lent before this node had the slots may still be out.
            let lent: SlotSet = slots.iter().filter(|slot| now < self.tenure().lent_until(*slot)).collect();
            for slot in lent.iter() {
                carried.leased.insert(slot);
                carried.leases_left = carried.leases_left.max(self.tenure().lent_until(slot).since(now));
            }
        }
        carried.locks = Some(locks);
        (answers, carried)
    }

    /// Sends the claims of this node, and does what their answers say; hands over what is claimed from it. To be polled for
    /// as long as the node is to take part in a cluster whose transport [carries claims](crate::Transport::carries_claims).
    pub async fn claim_slots(self) {
        if self.carries_claims() {
            drive(self).await;
        }
    }

    /// Whether the node acts for all slots that are its own, but for those whose owner before is no member any more: of that
    /// one no answer is waited for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let view = self.view();
        !self.tenure().claims_any_from(|from| view.members().position(from).is_some())
    }

    /// Bounds the bytes of keys and values that this node pushes to who claims slots from it (rule H1), each time that somebody does;
    /// 1 GiB unless it is told. With 0 nothing is pushed, nor does this node ask who had its slots before for what it misses: slots
    /// begin empty, and in groups without an origin what was in them is lost.
    pub fn limit_handoffs(&self, bytes: usize) {
        self.tenure().handoff_len_max.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn handoff_len_max(&self) -> usize {
        self.tenure().handoff_len_max.load(Ordering::Relaxed)
    }

    /// Waits until all slots of this node were claimed by others, and their entries handed over, or there is nobody who
    /// would claim any.
    pub async fn handed_over(&self) {
        let has_others = || {
            let view = self.view();
            view.members().iter().any(|member| member.takes_keys() && member.name != *self.name())
        };
        self.tenure().until(|tenure| !has_others() || !tenure.has_to_hand_over()).await;
    }
}
