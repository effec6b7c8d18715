//! What is stored, as callers see it: [`Meta`], [`Hit`], and the outcomes of an insert.

use super::Entry;
use crate::{Moment, Value, Version, placement::Slot, version::Reading};

/// What a node is to an entry. All share one budget of bytes; statistics count what it doesn't own together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Tier {
    /// This node owns the key.
    Main,
    /// A copy of what another node owns, kept for as long as that one allows because the key is in demand here.
    Hot,
    /// What it loaded in the place of an owner that could not be reached, for those who can't reach it either.
    StandIn,
}

/// What is known of an entry beside its value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The slot of its key, so that a hit checks ownership without hashing.
    pub slot: Slot,
    /// Owned or copied.
    pub tier: Tier,
    /// Its place in the order of the key's values.
    pub version: Version,
    /// The clock's reading when its load began; its age counts from there, in every copy.
    pub load_start: Reading,
    /// Until when it is an answer like any other.
    pub fresh_until: Moment,
    /// Until when it is kept: at or after `fresh_until`; in between it may be answered as stale.
    pub keep_until: Moment,
}

/// What a look-up found. It shares the entry with the store, and keeps it from being freed.
///
/// # Examples
///
/// ```
/// use larder_core::{Moment, store::{Hit, Tier}};
///
/// fn answer(hit: &Hit, now: Moment) -> Option<&[u8]> {
///     let meta = hit.meta();
///     if meta.tier == Tier::Main && now < meta.fresh_until { hit.bytes() } else { None }
/// }
/// ```
#[derive(Clone)]
pub struct Hit(Entry);

impl Hit {
    #[inline]
    pub(super) const fn new(entry: Entry) -> Self {
        Self(entry)
    }

    /// What is known beside the value.
    #[inline]
    #[must_use]
    pub fn meta(&self) -> Meta {
        self.0.meta()
    }

    /// The value's bytes; `None` where it is remembered that there is no value.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.0.has_value().then(|| self.0.value())
    }

    /// The value, where it lies; `None` where it is remembered that there is none.
    #[inline]
    #[must_use]
    pub fn into_value(self) -> Option<Value> {
        self.0.has_value().then(|| Value::stored(self.0))
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Self) -> bool {
        self.meta() == other.meta() && self.clone().into_value() == other.clone().into_value()
    }
}

impl Eq for Hit {}

/// As that of a [`Value`], it shows no bytes.
impl std::fmt::Debug for Hit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hit").field("value", &self.clone().into_value()).field("meta", &self.meta()).finish()
    }
}

/// What became of an [`insert`](super::Store::insert).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Inserted {
    /// It is stored.
    Stored,
    /// It is too large for the store. What was there for the key is gone; nothing else was evicted.
    TooLarge,
}

/// What became of an [`insert_if`](super::Store::insert_if).
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub enum Judged {
    /// The judge agreed, and it is stored.
    Stored,
    /// The judge refused; this is what is there.
    Refused(Option<Hit>),
    /// The judge agreed, but it is too large for the store. What was there for the key is gone; nothing else was
    /// evicted.
    TooLarge,
}
