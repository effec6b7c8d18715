//! Complete copies: of which slots a member has copies of all records and marks that their owner has, so that it may answer for the owner
//! while that can't be reached (rule S1).
//!
//! The owner knows ([`Complete`]); who may have to stand in asks it, some times in a lease, and remembers what it heard ([`Said`]). What
//! the owner says is true of the moment at which it answers. The asker counts `hot_lease` from when it *asked*, which is earlier, as who
//! is lent a copy does (rule L1): every write that was acknowledged before it asked is among its records or at the origin. So nothing
//! that it answers with has been out of date for longer than `hot_lease`, whatever has become of the owner since.
//!
//! **What a member has dropped it tells with its next question**, and after a start that it may have dropped everything: the owner then
//! knows that its copies are not there any more, and brings them anew.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::{
    task::spawn_blocking,
    time::{Instant, sleep, sleep_until},
};

use super::{Custody, Holder, Record};
use crate::{
    Moment, Node, View,
    claim::{Phase, SlotCall, SlotReply},
    placement::{Slot, SlotSet},
};

/// How often a member asks within a lease: for three quarters of one at least it can stand in for an owner that dies.
const ASKS_PER_LEASE: u32 = 4;

/// The shortest time between two questions: of a shorter lease little is left once the answer is there.
const ASK_EVERY_MIN: Duration = Duration::from_millis(50);

/// How often it is looked at whether there is a group by now that needs it, and whether copies are incomplete. Most are complete once
/// the copies of a view are made; others are so when one had to go elsewhere, or a member has started anew.
const STEP: Duration = Duration::from_secs(1);

/// At the owner: which member has copies of everything.
#[derive(Default)]
pub(super) struct Complete(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    at: HashMap<Slot, At>,
    /// How often some may have become incomplete.
    breaks: u64,
}

impl Slots {
    fn retain(&mut self, slot: Slot, stays: impl Fn(&At) -> bool) {
        if self.at.get(&slot).is_none_or(|at| !stays(at)) {
            self.at.remove(&slot);
            self.breaks += 1;
        }
    }
}

struct At {
    name: Arc<str>,
    /// They are on their way until then. What is written meanwhile goes there too.
    is_there: bool,
}

impl Complete {
    /// All that there is of these slots is about to be brought to a member.
    pub(super) fn begins(&self, slots: &SlotSet, name: &Arc<str>) {
        let mut complete = self.0.lock();
        for slot in slots.iter() {
            let at = complete.at.entry(slot).or_insert_with(|| At { name: name.clone(), is_there: false });
            if at.name != *name {
                *at = At { name: name.clone(), is_there: false };
            }
        }
    }

    /// It was brought there. It is complete where nothing has gone elsewhere meanwhile.
    pub(super) fn ended(&self, slots: &SlotSet, name: &str) {
        let mut complete = self.0.lock();
        for slot in slots.iter() {
            if let Some(at) = complete.at.get_mut(&slot).filter(|at| *at.name == *name) {
                at.is_there = true;
            }
        }
    }

    /// The copy of a record of the slot is at this member. Told before the write is acknowledged.
    pub(super) fn kept(&self, slot: Slot, name: &str) {
        self.retain([slot], |at| *at.name == *name);
    }

    /// Where the copy of a record of the slot is, is not known.
    pub(super) fn is_unknown(&self, slot: Slot) {
        self.retain([slot], |_| false);
    }

    /// A mark of each of these slots was taken down by these members. Told before the owner goes by them.
    pub(super) fn marked<'a>(&self, took: impl IntoIterator<Item = (Slot, &'a [Arc<str>])>) {
        let mut complete = self.0.lock();
        for (slot, names) in took {
            complete.retain(slot, |at| names.contains(&at.name));
        }
    }

    /// What others have of these slots is not all that there is any more.
    pub(super) fn forget(&self, slots: &SlotSet) {
        self.retain(slots.iter(), |_| false);
    }

    /// A member has dropped copies of these slots, or may have.
    fn dropped(&self, slots: &SlotSet, by: &str) {
        self.retain(slots.iter(), |at| *at.name != *by);
    }

    fn retain(&self, slots: impl IntoIterator<Item = Slot>, stays: impl Fn(&At) -> bool) {
        let mut complete = self.0.lock();
        slots.into_iter().for_each(|slot| complete.retain(slot, &stays));
    }

    fn breaks(&self) -> u64 {
        self.0.lock().breaks
    }

    /// Who has them, or is about to: marks go there too.
    pub(super) fn at(&self, slot: Slot) -> Option<Arc<str>> {
        self.0.lock().at.get(&slot).map(|at| at.name.clone())
    }

    /// Looks at many slots at once: whether a member has what there is of one.
    fn look<R>(&self, with: impl FnOnce(&dyn Fn(Slot, &str) -> bool) -> R) -> R {
        let complete = self.0.lock();
        with(&|slot, name| complete.at.get(&slot).is_some_and(|at| at.is_there && *at.name == *name))
    }
}

/// At who may have to stand in: what owners have said.
#[derive(Default)]
pub(super) struct Said(Mutex<Sayings>);

#[derive(Default)]
struct Sayings {
    of: HashMap<Arc<str>, Saying>,
    /// How often something was dropped.
    drops: u64,
}

struct Saying {
    /// The slots of which this node has all copies.
    slots: SlotSet,
    /// When that was asked.
    asked: Moment,
    /// Under which view.
    view: u64,
    /// The slots of which this node has dropped copies for the owner, or may have, and has not told it.
    dropped: SlotSet,
    /// Of them those since it was last asked.
    dropped_since: SlotSet,
}

impl Default for Saying {
    fn default() -> Self {
        Self {
            slots: SlotSet::default(),
            asked: Moment::default(),
            view: 0,
            // An earlier run may have kept them on another disk.
            dropped: Slot::all().collect(),
            dropped_since: SlotSet::default(),
        }
    }
}

/// For how long a node may answer in the place of an owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Covers {
    /// Of whose records it has copies.
    owner: Arc<str>,
    /// Until then, if nothing comes in between.
    pub(crate) until: Moment,
    view: u64,
    drops: u64,
}

impl Covers {
    /// Whether a record is a copy of one of theirs.
    pub(crate) fn has(&self, record: &Record) -> bool {
        kept_for(&record.holder).as_ref() == Some(&self.owner)
    }
}

impl Said {
    /// Gives back what an owner is to be told with a question.
    fn asks(&self, owner: &Arc<str>) -> SlotSet {
        let mut sayings = self.0.lock();
        let saying = sayings.of.entry(owner.clone()).or_default();
        saying.dropped_since = SlotSet::default();
        saying.dropped.clone()
    }

    /// It answered.
    fn heard(&self, owner: &Arc<str>, mut slots: SlotSet, asked: Moment, view: u64) {
        let mut sayings = self.0.lock();
        let Some(saying) = sayings.of.get_mut(owner) else { return };
        saying.dropped = std::mem::take(&mut saying.dropped_since);
        saying.dropped.iter().for_each(|slot| slots.remove(slot));
        (saying.slots, saying.asked, saying.view) = (slots, asked, view);
    }

    /// Copies of these slots' records are about to be dropped that this node has kept for others.
    pub(super) fn drops(&self, copies: impl IntoIterator<Item = (Slot, Arc<str>)>) {
        let mut sayings = self.0.lock();
        for (slot, owner) in copies {
            sayings.drops += 1;
            if let Some(saying) = sayings.of.get_mut(&owner) {
                saying.slots.remove(slot);
                saying.dropped.insert(slot);
                saying.dropped_since.insert(slot);
            }
        }
    }

    /// Members that have left are asked anew if they come back.
    fn keep_members(&self, view: &View) {
        self.0.lock().of.retain(|name, _| view.members().position(name).is_some());
    }
}

impl Node {
    /// For how long this node may answer for a slot's owner, by what that said.
    pub(crate) fn covers(&self, slot: Slot, lease: Duration) -> Option<Covers> {
        let custody = self.custody()?;
        let view = self.peek_view();
        let owner = view.owner(slot, &[])?;
        let sayings = custody.said.0.lock();
        let saying = sayings.of.get(&owner.name).filter(|saying| saying.slots.contains(slot))?;
        let (view, drops) = (saying.view, sayings.drops);
        let covers = Covers { owner: owner.name.clone(), until: saying.asked + lease, view, drops };
        drop(sayings);
        self.still_covers(&covers).then_some(covers)
    }

    /// Whether that still holds: what was looked up since then had everything to go by.
    pub(crate) fn still_covers(&self, covers: &Covers) -> bool {
        let drops = self.custody().map(|custody| custody.said.0.lock().drops);
        drops == Some(covers.drops) && self.peek_view().number() == covers.view && self.clock().now() < covers.until
    }

    /// Asks the others of which of their slots this node has copies of everything: each once in a part of a lease, and none where no
    /// group needs it.
    pub(super) async fn ask_for_copies(&self, custody: &Custody) {
        loop {
            let leases = self.groups_behind().map(|group| group.config().hot_lease);
            let Some(lease) = leases.filter(|lease| !lease.is_zero()).min() else {
                sleep(STEP).await;
                continue;
            };
            let until = Instant::now() + (lease / ASKS_PER_LEASE).max(ASK_EVERY_MIN);
            let view = self.view();
            custody.said.keep_members(&view);
            let owners = view.peers().filter(|peer| peer.is_admitted()).map(|peer| peer.member().name.clone());
            join_all(owners.map(|owner| self.ask_for_copies_of(custody, &view, owner, until))).await;
            sleep_until(until).await;
        }
    }

    async fn ask_for_copies_of(&self, custody: &Custody, view: &View, owner: Arc<str>, until: Instant) {
        let (asked, dropped) = (self.clock().now(), custody.said.asks(&owner));
        let call = SlotCall::Copies { view: view.digest(), dropped };
        match self.say(&owner, call, until).await {
            Ok(SlotReply::Copies { slots }) => custody.said.heard(&owner, slots, asked, view.number()),
            Ok(_) => {}
            Err(error) => tracing::trace!(%owner, %error, "a member does not say which copies are complete"),
        }
    }

    /// Answers a member that asks what [`ask_for_copies`](Self::ask_for_copies) does, under the view of this digest.
    pub(crate) fn copies_at(&self, asker: &Arc<str>, view: u64, dropped: &SlotSet) -> SlotSet {
        let Some(custody) = self.custody() else { return SlotSet::default() };
        custody.complete.dropped(dropped, asker);
        // As for an answer of its own (rule A1).
        let is_sure = self.contact().is_sure(|| self.clock().now()) && self.peek_view().digest() == view;
        if !is_sure {
            return SlotSet::default();
        }
        let mut slots = self.slots_with_records();
        // After that look: what is gathered makes copies incomplete before it counts.
        custody.complete.look(|is_at| slots.retain(|slot| is_at(*slot, asker)));
        slots.into_iter().collect()
    }

    /// The slots that this node acts for and has all records of.
    fn slots_with_records(&self) -> Vec<Slot> {
        let without: SlotSet = self.slots_without_records().into_iter().map(|(slot, _)| slot).collect();
        let held = self.tenure().held_terms().into_iter().map(|(slot, _)| slot);
        held.filter(|slot| !without.contains(*slot) && self.phase(*slot, &[]) == Phase::Acts).collect()
    }

    /// Brings copies to stand-ins that don't have all of them, from time to time.
    pub(super) async fn complete_copies(&self, custody: &Custody) {
        let mut seen_complete = None;
        loop {
            sleep(STEP).await;
            let (view, breaks) = (self.view(), custody.complete.breaks());
            let is_needed = self.groups_behind().any(|group| !group.config().hot_lease.is_zero());
            if !is_needed || !custody.is_settled(view.number()) || seen_complete == Some((view.number(), breaks)) {
                continue;
            }
            let Some(incomplete) = self.incomplete(custody, &view).await else { continue };
            if incomplete.is_empty() {
                seen_complete = Some((view.number(), breaks));
            }
            for (name, slots) in incomplete {
                let is_there = view.peer(&name).is_some_and(|peer| peer.is_admitted()) && !custody.is_shunned(&name);
                if is_there && let Err(error) = self.copy_slots(custody, &name, &slots).await {
                    tracing::debug!(to = %name, %error, "a stand-in does not have all copies of writes");
                    custody.shun(&name);
                }
            }
        }
    }

    /// The slots that this node acts for and whose stand-ins don't have all copies, by stand-in.
    async fn incomplete(&self, custody: &Custody, view: &Arc<View>) -> Option<HashMap<Arc<str>, SlotSet>> {
        let (known, slots) = (view.clone(), self.slots_with_records());
        let stand_in = move |slot: Slot| known.stand_in(slot, &[]).map(|member| (slot, member.name.clone()));
        let found = spawn_blocking(move || slots.into_iter().filter_map(stand_in).collect());
        let mut stand_ins: Vec<(Slot, Arc<str>)> = found.await.ok()?;
        custody.complete.look(|is_at| stand_ins.retain(|(slot, name)| !is_at(*slot, name)));
        let mut incomplete: HashMap<Arc<str>, SlotSet> = HashMap::new();
        for (slot, name) in stand_ins {
            incomplete.entry(name).or_default().insert(slot);
        }
        Some(incomplete)
    }
}

/// For whom a record is kept, if that is another.
pub(super) fn kept_for(holder: &Holder) -> Option<Arc<str>> {
    match holder {
        Holder::Owner => None,
        Holder::CopyFor(owner) => Some(owner.clone()),
    }
}
