//! [`History`]: what clients asked, when, and what they were answered.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// What is written: each write of a run has its own.
pub(crate) type Id = u64;

/// A version as its `ETag` shows it; later ones are greater.
pub(crate) type Version = u128;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    Get,
    Put(Id),
    /// Only while the key has this version.
    PutIf(Version, Id),
    PutIfAbsent(Id),
    Delete,
}

impl Op {
    /// What it writes, if it does; `None` in it: nothing is there afterwards.
    pub(crate) fn writes(self) -> Option<Option<Id>> {
        match self {
            Self::Get => None,
            Self::Put(id) | Self::PutIf(_, id) | Self::PutIfAbsent(id) => Some(Some(id)),
            Self::Delete => Some(None),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// A get's value.
    Found(Id, Version),
    /// A get found nothing.
    Nothing,
    /// A write was done; its version, where it is told.
    Done(Option<Version>),
    /// A write's condition was not met.
    Refused,
    /// The answer says that nothing was done, or a get got none.
    NotDone,
    /// Nobody knows: a write may have been done, or may be yet.
    Unknown,
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) client: usize,
    /// Which node was asked.
    pub(crate) node: String,
    pub(crate) key: Arc<str>,
    pub(crate) op: Op,
    /// When it was about to be sent, since the history began.
    pub(crate) began: Duration,
    /// When its answer was there.
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
    /// How the node put it: status, kind of problem, where the value came from.
    pub(crate) said: String,
}

impl Operation {
    /// A write that was acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.outcome, Outcome::Done(_))
    }

    /// From when on it can't take effect any more. One of unknown outcome may do so at any time.
    pub(crate) fn over(&self) -> Duration {
        if self.outcome == Outcome::Unknown { Duration::MAX } else { self.ended }
    }

    /// Whether it may have taken effect.
    pub(crate) fn may_be_done(&self) -> bool {
        self.is_done() || self.outcome == Outcome::Unknown
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, node, key, op, began, ended, outcome, said } = self;
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        write!(f, "{:10.3} … {:10.3} ms  client {client:2} at {node}  {key}: ", ms(began), ms(ended))?;
        match op {
            Op::PutIf(version, id) => write!(f, "PutIf({version:024x}, {id})")?,
            op => write!(f, "{op:?}")?,
        }
        match outcome {
            Outcome::Found(id, version) => write!(f, " → {id} of version {version:024x}")?,
            Outcome::Done(Some(version)) => write!(f, " → done, version {version:024x}")?,
            outcome => write!(f, " → {outcome:?}")?,
        }
        write!(f, "  ({said})")
    }
}

/// What several clients write down.
pub(crate) struct History {
    start: Instant,
    operations: Mutex<Vec<Operation>>,
}

impl History {
    pub(crate) fn begin() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), operations: Mutex::default() })
    }

    /// Now, on the one clock that all clients go by.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn add(&self, operation: Operation) {
        self.operations.lock().push(operation);
    }

    pub(crate) fn len(&self) -> usize {
        self.operations.lock().len()
    }

    /// The operations of each key, by when they began.
    pub(crate) fn by_key(&self) -> BTreeMap<Arc<str>, Vec<Operation>> {
        let mut keys: BTreeMap<Arc<str>, Vec<Operation>> = BTreeMap::new();
        for operation in &*self.operations.lock() {
            keys.entry(operation.key.clone()).or_default().push(operation.clone());
        }
        keys.values_mut().for_each(|operations| operations.sort_by_key(|operation| operation.began));
        keys
    }
}

/// Histories that are written down by hand.
#[cfg(test)]
pub(crate) mod by_hand {
    use super::*;

    /// An operation of client 0 from one millisecond to another.
    pub(crate) fn op(began: u64, ended: u64, op: Op, outcome: Outcome) -> Operation {
        let (began, ended) = (Duration::from_millis(began), Duration::from_millis(ended));
        Operation { client: 0, node: "a".into(), key: "k".into(), op, began, ended, outcome, said: String::new() }
    }

    pub(crate) fn put(began: u64, ended: u64, id: Id) -> Operation {
        op(began, ended, Op::Put(id), Outcome::Done(Some(id.into())))
    }

    pub(crate) fn got(began: u64, ended: u64, id: Id) -> Operation {
        op(began, ended, Op::Get, Outcome::Found(id, id.into()))
    }

    pub(crate) fn got_nothing(began: u64, ended: u64) -> Operation {
        op(began, ended, Op::Get, Outcome::Nothing)
    }

    pub(crate) fn deleted(began: u64, ended: u64) -> Operation {
        op(began, ended, Op::Delete, Outcome::Done(None))
    }
}
