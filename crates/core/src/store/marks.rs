//! [`Marks`]: what makes entries void whose load began at or before a reading of the clock: all, or those of a tag.
//!
//! To raise a mark takes one step, whatever the number of entries; they are reclaimed when a look-up or a sweep comes by.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::{TAG_COUNT, Tag, Tags, entry::Entry};
use crate::version::Reading;

/// Which entries a mark is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mark {
    /// All of the store.
    All,
    /// Those that bear the tag.
    Tag(Tag),
}

/// The marks of a store; zero is none.
#[derive(Default)]
pub(super) struct Marks {
    all: AtomicU64,
    /// Made when the first tag is marked.
    tags: OnceLock<Box<[AtomicU64]>>,
}

impl Marks {
    fn mark(&self, mark: Mark) -> Option<&AtomicU64> {
        match mark {
            Mark::All => Some(&self.all),
            Mark::Tag(tag) => self
                .tags
                .get_or_init(|| std::iter::repeat_with(AtomicU64::default).take(usize::from(TAG_COUNT)).collect())
                .get(usize::from(tag.number())),
        }
    }

    /// Raises a mark; refused with the present one if that is as high.
    pub(super) fn raise(&self, mark: Mark, to: Reading) -> Result<(), Reading> {
        let Some(mark) = self.mark(mark) else { return Ok(()) };
        let before = mark.fetch_max(to.to_bits(), Ordering::AcqRel);
        if before < to.to_bits() { Ok(()) } else { Err(Reading::from_bits(before)) }
    }

    pub(super) fn get(&self, mark: Mark) -> Reading {
        Reading::from_bits(match (mark, self.tags.get()) {
            (Mark::All, _) => self.all.load(Ordering::Acquire),
            (Mark::Tag(tag), Some(tags)) => tags[usize::from(tag.number())].load(Ordering::Acquire),
            (Mark::Tag(_), None) => 0,
        })
    }

    /// Whether a mark makes the entry void.
    #[inline]
    pub(super) fn void(&self, entry: &Entry) -> bool {
        let all = self.all.load(Ordering::Acquire);
        (all != 0 && entry.load_start().to_bits() <= all)
            || entry.tags().is_some_and(|tags| self.void_by(tags, entry.load_start()))
    }

    fn void_by(&self, tags: &Tags, load_start: Reading) -> bool {
        let Some(marks) = self.tags.get() else { return false };
        tags.iter().any(|tag| {
            let mark = marks[usize::from(tag.number())].load(Ordering::Acquire);
            mark != 0 && load_start.to_bits() <= mark
        })
    }
}
