//! [`Custody`]: of which slots this node has all the records that there are (rules B1, B4 and B6).
//!
//! A slot whose records may be elsewhere is not answered for: what would be answered, or loaded, might be older than a write that was
//! acknowledged. That this node has them is known under the term of its claim, so that nothing has to be said when it loses the slot:
//! the next time that it acts for it, it does so under another.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Records;
use crate::{
    Node, Version,
    placement::{SLOT_COUNT, Slot, SlotSet},
};

/// No view: they are numbered from 0.
const NO_VIEW: u64 = u64::MAX;

/// What a node knows of the records that there are.
pub(crate) struct Custody {
    pub(super) records: Arc<dyn Records>,
    /// Nobody joins or leaves but by somebody's writing it into a list: who owns a slot has owned it all along (rule B6).
    pub(super) is_fixed: bool,
    /// The term under which a slot's records were gathered.
    gathered: Mutex<Box<[Version]>>,
    /// The number of the view whose members are remembered, and under which everything is on as many disks as it has to be.
    settled_view: AtomicU64,
    /// How many groups were opened: what was gathered before does not say anything of the last.
    groups: AtomicU64,
    changed: watch::Sender<()>,
    /// There is something new to do for who keeps records.
    pub(super) work: Notify,
}

impl Custody {
    pub(crate) fn new(records: Arc<dyn Records>, is_fixed: bool) -> Self {
        Self {
            records,
            is_fixed,
            gathered: Mutex::new(vec![Version::ZERO; usize::from(SLOT_COUNT)].into()),
            settled_view: AtomicU64::new(NO_VIEW),
            groups: AtomicU64::new(0),
            changed: watch::Sender::new(()),
            work: Notify::new(),
        }
    }

    pub(crate) fn records(&self) -> &Arc<dyn Records> {
        &self.records
    }

    fn has(&self, slot: Slot, term: Version) -> bool {
        self.gathered.lock()[usize::from(slot.number())] == term
    }

    /// Another group has opened, whose records may be elsewhere.
    pub(crate) fn opened(&self) {
        let mut gathered = self.gathered.lock();
        self.groups.fetch_add(1, Ordering::Relaxed);
        gathered.fill(Version::ZERO);
        drop(gathered);
        self.work.notify_one();
    }

    /// How many groups there are whose records are gathered from now on.
    pub(super) fn groups(&self) -> u64 {
        self.groups.load(Ordering::Relaxed)
    }

    /// All records of these slots and so many groups are here, each for as long as this node acts for the slot under this term.
    pub(super) fn gathered(&self, groups: u64, slots: impl Iterator<Item = (Slot, Version)>) {
        let mut gathered = self.gathered.lock();
        if self.groups() != groups {
            return;
        }
        for (slot, term) in slots {
            gathered[usize::from(slot.number())] = term;
        }
        drop(gathered);
        self.changed.send_replace(());
    }

    /// Everything is as it has to be under the view of this number.
    pub(super) fn settled(&self, view: u64) {
        self.settled_view.store(view, Ordering::Release);
        self.changed.send_replace(());
    }

    pub(super) fn is_settled(&self, view: u64) -> bool {
        self.settled_view.load(Ordering::Acquire) == view
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
        let gathered = custody.gathered.lock();
        let is_missing = |(slot, term): &(Slot, Version)| gathered[usize::from(slot.number())] != *term;
        self.tenure().held_terms().into_iter().filter(is_missing).collect()
    }

    /// Of these slots, those that this node still acts for under these terms.
    pub(super) fn still_held(&self, slots: &[(Slot, Version)]) -> SlotSet {
        let is_held = |(slot, term): &&(Slot, Version)| self.tenure().held_term(*slot) == Some(*term);
        slots.iter().filter(is_held).map(|(slot, _)| *slot).collect()
    }
}
