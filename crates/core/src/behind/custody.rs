//! [`Custody`]: of which slots this node has all the records that there are, and where their second copies are (rules B1, B4 and B6).
//!
//! A slot whose records may be elsewhere is not answered for: what would be answered, or loaded, might be older than a write that was
//! acknowledged. That this node has them is known under the term of its claim, so that nothing has to be said when it loses the slot:
//! the next time that it acts for it, it does so under another.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    Records,
    complete::{Complete, Said},
    gather::Gathering,
    pieces::Partial,
};
use crate::{
    Node, Version, View,
    claim::Phase,
    placement::{SLOT_COUNT, Slot, SlotSet},
};

/// How long a member is asked last to keep copies that could not, as long as it takes to find out again.
const SHUNNED_FOR: Duration = Duration::from_secs(1);

/// No view: they are numbered from 0.
const NO_VIEW: u64 = u64::MAX;

/// What a node knows of the records that there are.
pub(crate) struct Custody {
    pub(super) records: Arc<dyn Records>,
    /// Nobody joins or leaves but by somebody's writing it into a list: who owns a slot has owned it all along (rule B6).
    pub(super) is_fixed: bool,
    /// The members that there were when the last run of this node ended (rule B6).
    pub(super) members_before: Option<Vec<Arc<str>>>,
    known: Mutex<Known>,
    /// The number of the view whose members are remembered, and under which everything is on as many disks as it has to be.
    settled_view: AtomicU64,
    /// What could be had at the start of this run was.
    pub(super) has_started: AtomicBool,
    /// Members that have or may have copies of this node's records, by slot.
    holders: Mutex<HashMap<Slot, SmallVec<[Arc<str>; 2]>>>,
    shunned: Mutex<HashMap<Arc<str>, Instant>>,
    pub(super) complete: Complete,
    pub(super) said: Said,
    pub(super) partial: Partial,
    pub(super) gatherings: Mutex<Vec<Gathering>>,
    /// Members that told what they have of slots, which need not keep it once it is where it has to be.
    pub(super) to_forget: Mutex<Vec<Told>>,
    pub(super) changed: watch::Sender<()>,
    /// There is something new to do for who keeps records.
    pub(super) work: Notify,
}

/// Who told what they have of slots, and under which terms this node acts for those.
pub(super) struct Told {
    pub(super) by: BTreeSet<Arc<str>>,
    pub(super) slots: Vec<(Slot, Version)>,
}

struct Known {
    /// The term under which a slot's records were gathered.
    gathered: Box<[Version]>,
    /// How many groups were opened: what was gathered before does not say anything of the last.
    groups: u64,
    /// How often it came to be that records are not on as many disks as they have to be.
    unsettled: u64,
}

impl Custody {
    pub(crate) fn new(records: Arc<dyn Records>, is_fixed: bool) -> Self {
        let gathered = vec![Version::ZERO; usize::from(SLOT_COUNT)].into();
        Self {
            members_before: records.members(),
            records,
            is_fixed,
            known: Mutex::new(Known { gathered, groups: 0, unsettled: 0 }),
            settled_view: AtomicU64::new(NO_VIEW),
            has_started: AtomicBool::new(false),
            holders: Mutex::default(),
            shunned: Mutex::default(),
            complete: Complete::default(),
            said: Said::default(),
            partial: Partial::default(),
            gatherings: Mutex::default(),
            to_forget: Mutex::default(),
            changed: watch::Sender::new(()),
            work: Notify::new(),
        }
    }

    pub(crate) fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    fn has(&self, slot: Slot, term: Version) -> bool {
        self.known.lock().gathered[usize::from(slot.number())] == term
    }

    /// Another group has opened, whose records may be elsewhere.
    pub(crate) fn opened(&self) {
        let mut known = self.known.lock();
        known.groups += 1;
        known.gathered.fill(Version::ZERO);
        drop(known);
        self.work.notify_one();
    }

    /// How many groups there are whose records are gathered from now on.
    pub(super) fn groups(&self) -> u64 {
        self.known.lock().groups
    }

    /// All records of these slots and so many groups are here, each for as long as this node acts for the slot under this term. Whether
    /// that still says something.
    pub(super) fn gathered(&self, groups: u64, slots: &[(Slot, Version)]) -> bool {
        let mut known = self.known.lock();
        if known.groups != groups {
            return false;
        }
        for (slot, term) in slots {
            known.gathered[usize::from(slot.number())] = *term;
        }
        drop(known);
        self.changed.send_replace(());
        true
    }

    /// How often it came to be that records are not where they have to be: for [`settled`](Self::settled).
    pub(super) fn unsettled(&self) -> u64 {
        self.known.lock().unsettled
    }

    /// Records of slots that this node gained are not where they have to be. Nothing is taken down until they are (rule B1).
    pub(super) fn unsettle(&self, slots: &SlotSet) {
        let mut known = self.known.lock();
        known.unsettled += 1;
        self.settled_view.store(NO_VIEW, Ordering::Release);
        // Who had them when this node acted for the slots before may have dropped them.
        self.holders.lock().retain(|slot, _| !slots.contains(*slot));
        self.complete.forget(slots);
    }

    /// Everything is as it has to be under the view of this number, unless something was [unsettled](Self::unsettle) since then.
    pub(super) fn settled(&self, view: u64, unsettled: u64) {
        let known = self.known.lock();
        if known.unsettled == unsettled {
            self.settled_view.store(view, Ordering::Release);
        }
        drop(known);
        self.changed.send_replace(());
    }

    pub(super) fn is_settled(&self, view: u64) -> bool {
        self.settled_view.load(Ordering::Acquire) == view
    }

    /// A member has copies of records of a slot, or may have.
    pub(super) fn holds(&self, slot: Slot, name: &Arc<str>) {
        let mut holders = self.holders.lock();
        let of_slot = holders.entry(slot).or_default();
        if !of_slot.contains(name) {
            of_slot.push(name.clone());
        }
    }

    /// Members that have or may have copies of records of a slot.
    pub(super) fn holders(&self, slot: Slot) -> SmallVec<[Arc<str>; 2]> {
        self.holders.lock().get(&slot).cloned().unwrap_or_default()
    }

    /// A member has copies of all records of these slots.
    pub(super) fn copied(&self, slots: &SlotSet, name: &Arc<str>, view: &View) {
        let mut holders = self.holders.lock();
        for slot in slots.iter() {
            let of_slot = holders.entry(slot).or_default();
            of_slot.retain(|name| view.members().position(name).is_some());
            if !of_slot.contains(name) {
                of_slot.push(name.clone());
            }
        }
    }

    /// Whether all records of a slot have copies at members of the view, and this one is to have those that come.
    pub(super) fn is_copied(&self, slot: Slot, to: Option<&str>, view: &View) -> bool {
        let holders = self.holders.lock();
        let of_slot = holders.get(&slot).map_or(&[][..], |of_slot| of_slot);
        let is_there = to.is_some_and(|to| of_slot.iter().any(|name| **name == *to));
        is_there && of_slot.iter().all(|name| view.members().position(name).is_some())
    }

    /// A member could not keep a copy just now.
    pub(super) fn shun(&self, name: &Arc<str>) {
        let (mut shunned, now) = (self.shunned.lock(), Instant::now());
        shunned.retain(|_, until| now < *until);
        shunned.insert(name.clone(), now + SHUNNED_FOR);
    }

    pub(super) fn is_shunned(&self, name: &str) -> bool {
        self.shunned.lock().get(name).is_some_and(|until| Instant::now() < *until)
    }
}

impl Node {
    /// Whether this node has all records of a slot that it acts for.
    pub(crate) fn has_records_of(&self, slot: Slot) -> bool {
        let held = || self.tenure().held_term(slot);
        self.custody().is_some_and(|custody| held().is_some_and(|term| custody.has(slot, term)))
    }

    /// Whether writes of a slot can be taken down: all its records are here, and on as many disks as they have to be (rule B1).
    pub(crate) fn takes_records_of(&self, slot: Slot) -> bool {
        let is_settled = || self.custody().is_some_and(|custody| custody.is_settled(self.peek_view().number()));
        is_settled() && self.has_records_of(slot)
    }

    /// Waits until it is so, of what is known of records. Who waits has a deadline of its own.
    pub(crate) async fn until_records(&self, is_so: impl Fn() -> bool) {
        let Some(custody) = self.custody() else { return };
        loop {
            let (mut gathered, mut claims) = (custody.changed.subscribe(), self.tenure().changes());
            if is_so() {
                return;
            }
            tokio::select! {
                // The senders live as long as the node.
                _ = gathered.changed() => {}
                _ = claims.changed() => {}
            }
        }
    }

    /// The slots that this node acts for, each with its term, of which it does not have all records.
    pub(super) fn slots_without_records(&self) -> Vec<(Slot, Version)> {
        let Some(custody) = self.custody() else { return Vec::new() };
        let held = self.tenure().held_terms();
        let known = custody.known.lock();
        let is_missing = |(slot, term): &(Slot, Version)| known.gathered[usize::from(slot.number())] != *term;
        held.into_iter().filter(is_missing).collect()
    }

    /// Whether this node acts for all slots that a view says are its own, and has all their records.
    pub(super) fn has_all_records(&self, view: &View) -> bool {
        let mut mine = Slot::all().filter(|slot| view.is_mine(*slot, &[]));
        mine.all(|slot| self.phase(slot, &[]) == Phase::Acts) && self.slots_without_records().is_empty()
    }

    /// Of these slots, those that this node still acts for under these terms.
    pub(super) fn still_held(&self, slots: &[(Slot, Version)]) -> SlotSet {
        let is_held = |(slot, term): &&(Slot, Version)| self.tenure().held_term(*slot) == Some(*term);
        slots.iter().filter(is_held).map(|(slot, _)| *slot).collect()
    }
}
