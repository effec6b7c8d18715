//! [`Record`]: a write that its origin does not have yet; [`Mark`]: up to which version a key is there.
//!
//! What they look like on a disk is the affair of who keeps them, and what they look like on the wire that of the transport.

use std::{fmt, sync::Arc, time::Duration};

use crate::{Change, Key, Version, placement::Slot};

/// A key of a group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The group.
    pub group: Arc<str>,
    /// The key's slot.
    pub slot: Slot,
    /// The key.
    pub key: Key,
}

impl Place {
    /// The place of a group's key.
    pub fn new(group: impl Into<Arc<str>>, key: Key) -> Self {
        let group = group.into();
        Self { slot: Slot::of(&group, key.as_bytes()), group, key }
    }

    /// The record of this version here.
    #[must_use]
    pub const fn at(self, version: Version) -> RecordId {
        RecordId { place: self, version }
    }
}

/// Keys may be secrets, so that only their length and first bytes are shown.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.group, self.key)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A write: where, and its version, which no other write of the cluster has.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Where.
    pub place: Place,
    /// Which.
    pub version: Version,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of version {}", self.place, self.version)
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a node holds a record for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Holder {
    /// It owned the slot when it took the write, or took the record over since: it is to flush it.
    Owner,
    /// It keeps the second copy for the member of this name, which is to flush it.
    CopyFor(Arc<str>),
}

/// A write that its origin does not have yet.
///
/// # Examples
///
/// ```
/// use larder_core::{Change, Key, Version, behind::{Place, Record}};
///
/// let id = Place::new("users", Key::new("42")?).at(Version::ZERO);
/// let record = Record::new(id, Change::Put("Zaphod".into()));
/// assert!(record.idempotency_key.is_none());
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which write it is.
    pub id: RecordId,
    /// What is to become of the key. Of a value its bytes, content type and tags are kept.
    pub change: Change,
    /// How long the value is fresh once it was looked up, if its writer said so.
    pub ttl: Option<Duration>,
    /// The writer's own, if there was one.
    pub idempotency_key: Option<Arc<str>>,
    /// What this node holds it for.
    pub holder: Holder,
    /// When it was first taken down, by the wall clock, in milliseconds since 1970; 0 has who keeps it fill it in.
    pub written_ms: u64,
}

impl Record {
    /// A write that this node took as owner, now.
    #[must_use]
    pub const fn new(id: RecordId, change: Change) -> Self {
        Self { id, change, ttl: None, idempotency_key: None, holder: Holder::Owner, written_ms: 0 }
    }

    /// The same, of a value that is fresh for so long.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Option<Duration>) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same, with its writer's idempotency key.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// The same, held for this reason.
    #[must_use]
    pub fn held_as(mut self, holder: Holder) -> Self {
        self.holder = holder;
        self
    }
}

/// That a key's writes up to a version are at the origin, or need not go there any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The key.
    pub place: Place,
    /// The newest version that is settled.
    pub version: Version,
    /// When it was settled, by the wall clock, in milliseconds since 1970; 0 has who keeps it fill it in.
    pub written_ms: u64,
}

impl Mark {
    /// That everything up to `version` is settled, now.
    #[must_use]
    pub const fn new(place: Place, version: Version) -> Self {
        Self { place, version, written_ms: 0 }
    }
}

/// What became of a record that was to be taken down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Appended {
    /// It is there.
    Stored,
    /// Its key has a mark of its version or a later one: it needs no keeping.
    Settled,
    /// It is older than marks that were forgotten, so that nobody knows whether it was flushed: it is among the dead letters.
    Buried,
}

/// How a key's changes up to a version came to their end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    /// The origin has them.
    Flushed,
    /// The origin has something newer.
    Conflict,
    /// The origin refuses them for good, for this reason.
    Refused(Arc<str>),
}

/// What is to be taken down before the key is flushed again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settlement {
    /// The key.
    pub key: Key,
    /// Up to which version.
    pub version: Version,
    /// How.
    pub how: Settled,
}
