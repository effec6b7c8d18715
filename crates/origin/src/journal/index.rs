//! [`Index`]: what is in the journal, counted, and which records are to be flushed, by age. In memory, after each commit.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use larder_core::{
    Version,
    behind::{Holder, Place, Record, RecordId},
    placement::SlotSet,
    version::Reading,
};

use super::record::Outline;

/// What a commit changed.
#[derive(Debug)]
pub(super) enum Delta {
    Added { id: RecordId, is_owned: bool, written_ms: u64, cost: u64 },
    Removed { id: RecordId, is_owned: bool, written_ms: u64, cost: u64 },
    DeadAdded { group: Arc<str>, cost: u64 },
    DeadRemoved { group: Arc<str>, cost: u64 },
    Horizon(Version),
}

impl Delta {
    pub(super) fn added(record: &Record, cost: u64) -> Self {
        let (id, is_owned) = (record.id.clone(), record.holder == Holder::Owner);
        Self::Added { id, is_owned, written_ms: record.written_ms, cost }
    }

    pub(super) fn gone(id: RecordId, outline: &Outline, cost: u64) -> Self {
        Self::Removed { id, is_owned: outline.is_owned, written_ms: outline.written_ms, cost }
    }

    pub(super) fn removed(record: &Record, cost: u64) -> Self {
        let (id, is_owned) = (record.id.clone(), record.holder == Holder::Owner);
        Self::Removed { id, is_owned, written_ms: record.written_ms, cost }
    }
}

/// What a group has in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GroupStats {
    /// Records that this node is to flush.
    pub records: u64,
    /// Records that it keeps for another.
    pub copies: u64,
    /// What both take, in bytes, [`RECORD_OVERHEAD`](super::RECORD_OVERHEAD) each included.
    pub bytes: u64,
    /// Writes that were given up.
    pub dead_letters: u64,
    /// What those take that this node is to flush.
    pub records_bytes: u64,
    /// When the oldest record that this node is to flush was written, by the wall clock, in milliseconds since 1970.
    pub oldest_ms: Option<u64>,
}

#[derive(Default)]
struct OfGroup {
    /// All of them, those of a key by version.
    ids: BTreeSet<RecordId>,
    /// Those that this node is to flush.
    ages: BTreeSet<(u64, RecordId)>,
    copies: u64,
    bytes: u64,
    owned_bytes: u64,
    dead_letters: u64,
}

/// What is in the journal.
#[derive(Default)]
pub(super) struct Index {
    groups: HashMap<Arc<str>, OfGroup>,
    /// What records and dead letters take.
    pub(super) bytes: u64,
    /// What is on its way to the disk may take.
    pub(super) reserved: u64,
    pub(super) horizon: Version,
}

impl Index {
    pub(super) fn apply(&mut self, delta: Delta) {
        match delta {
            Delta::Added { id, is_owned, written_ms, cost } => {
                let group = self.groups.entry(Arc::clone(&id.place.group)).or_default();
                group.bytes += cost;
                self.bytes += cost;
                group.ids.insert(id.clone());
                if is_owned {
                    group.owned_bytes += cost;
                    group.ages.insert((written_ms, id));
                } else {
                    group.copies += 1;
                }
            }
            Delta::Removed { id, is_owned, written_ms, cost } => {
                let group = self.groups.entry(Arc::clone(&id.place.group)).or_default();
                group.bytes = group.bytes.saturating_sub(cost);
                self.bytes = self.bytes.saturating_sub(cost);
                group.ids.remove(&id);
                if is_owned {
                    group.owned_bytes = group.owned_bytes.saturating_sub(cost);
                    group.ages.remove(&(written_ms, id));
                } else {
                    group.copies = group.copies.saturating_sub(1);
                }
            }
            Delta::DeadAdded { group, cost } => {
                self.groups.entry(group).or_default().dead_letters += 1;
                self.bytes += cost;
            }
            Delta::DeadRemoved { group, cost } => {
                let group = self.groups.entry(group).or_default();
                group.dead_letters = group.dead_letters.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(cost);
            }
            Delta::Horizon(version) => self.horizon = self.horizon.max(version),
        }
    }

    /// Takes another's counts. What is reserved stays so.
    pub(super) fn replace(&mut self, counted: Self) {
        *self = Self { reserved: self.reserved, ..counted };
    }

    pub(super) fn group(&self, group: &str) -> GroupStats {
        self.groups.get(group).map(OfGroup::stats).unwrap_or_default()
    }

    pub(super) fn all(&self) -> GroupStats {
        let mut sum = GroupStats::default();
        for stats in self.groups.values().map(OfGroup::stats) {
            sum.records += stats.records;
            sum.copies += stats.copies;
            sum.bytes += stats.bytes;
            sum.records_bytes += stats.records_bytes;
            sum.dead_letters += stats.dead_letters;
            sum.oldest_ms = sum.oldest_ms.into_iter().chain(stats.oldest_ms).min();
        }
        sum
    }

    pub(super) fn oldest(&self, group: &str, len_max: usize) -> Vec<RecordId> {
        let ages = self.groups.get(group).into_iter().flat_map(|group| &group.ages);
        ages.take(len_max).map(|(_, id)| id.clone()).collect()
    }

    /// The records of a group in these slots that this node is to flush.
    pub(super) fn owned(&self, group: &str, slots: &SlotSet) -> Vec<RecordId> {
        let ages = self.groups.get(group).into_iter().flat_map(|group| &group.ages);
        ages.map(|(_, id)| id).filter(|id| slots.contains(id.place.slot)).cloned().collect()
    }

    pub(super) fn newest(&self, place: &Place) -> Option<Version> {
        let last = Version::new(Reading::from_bits(u64::MAX), u32::MAX);
        let (first, last) = (place.clone().at(Version::ZERO), place.clone().at(last));
        let ids = &self.groups.get(&place.group)?.ids;
        ids.range(first..=last).next_back().map(|id| id.version)
    }
}

impl OfGroup {
    fn stats(&self) -> GroupStats {
        GroupStats {
            records: self.ages.len() as u64,
            copies: self.copies,
            bytes: self.bytes,
            records_bytes: self.owned_bytes,
            dead_letters: self.dead_letters,
            oldest_ms: self.ages.first().map(|(written_ms, _)| *written_ms),
        }
    }
}
