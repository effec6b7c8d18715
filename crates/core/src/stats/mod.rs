//! What is counted, where it happens. The daemon shows these numbers as metrics; core knows no metrics library.

mod histogram;
mod sizes;
mod striped;

use std::sync::atomic::{AtomicU64, Ordering};

pub use histogram::{BOUNDS_SECONDS, Histogram, HistogramSnapshot};
pub use sizes::{BOUNDS as SIZE_BOUNDS, Sizes, SizesSnapshot};
pub use striped::Striped;

use crate::{Answer, Error, ErrorKind, Outcome, store::Tier};

/// A counter off the hit's path.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The sum.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A fixed set of labels with a counter, or a histogram, for each.
macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident of $cell:ident, $label:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $label { $($(#[$variant_doc])* $variant),* }

        impl $label {
            /// Every one.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As metrics have it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        #[doc = concat!("A [`", stringify!($cell), "`] for each label.")]
        #[derive(Default, Debug)]
        pub struct $name([$cell; $label::ALL.len()]);

        impl $name {
            /// That of this label.
            #[must_use]
            pub fn of(&self, label: $label) -> &$cell {
                &self.0[label as usize]
            }
        }
    };
}

labelled! {
    /// Where a value was loaded from.
    Loads of Counter, Source {
        /// The origin, as the owner.
        Origin = "origin",
        /// The owner.
        Peer = "peer",
        /// The stand-in, or the origin as the stand-in.
        StandIn = "stand_in",
        /// The slot's previous owner.
        Handoff = "handoff",
    }
}

labelled! {
    /// Why a load failed.
    LoadErrors of Counter, LoadErrorKind {
        /// The origin failed.
        Origin = "origin",
        /// A deadline passed.
        Timeout = "timeout",
        /// A limit was reached.
        Overload = "overload",
        /// No node could be reached that may answer.
        Peer = "peer",
    }
}

labelled! {
    /// How a request to an origin or a peer ended.
    Results of Counter, RequestResult {
        /// With an answer, "not found" included.
        Ok = "ok",
        /// With an error.
        Error = "error",
        /// At its deadline.
        Timeout = "timeout",
    }
}

labelled! {
    /// What another node spoke when it asked.
    ServerRequests of Counter, Protocol {
        /// Frames on a gRPC stream.
        Grpc = "grpc",
        /// golang/groupcache's protocol, and the client API for writes.
        Http = "http",
    }
}

labelled! {
    /// Entries that changed their owner.
    Handoffs of Counter, Direction {
        /// Taken from who had them before.
        In = "in",
        /// Given to who has them now.
        Out = "out",
    }
}

labelled! {
    /// How a write ended.
    Writes of Counter, WriteResult {
        /// Done.
        Ok = "ok",
        /// Its condition was not met.
        Conflict = "conflict",
        /// Refused or failed; nothing changed.
        Error = "error",
        /// Its outcome is unknown.
        Indeterminate = "indeterminate",
    }
}

labelled! {
    /// What became of loads that were to be made under a lock.
    LoadLocks of Counter, LoadLockResult {
        /// It was had.
        Taken = "taken",
        /// It was had, and another node had loaded the value meanwhile.
        Found = "found",
        /// It was not had, and the load was made all the same.
        Bypassed = "bypassed",
        /// It was not had, and the load was not made.
        Refused = "refused",
    }
}

labelled! {
    /// How it ended that somebody wanted a lock.
    LockAcquisitions of Counter, LockResult {
        /// It was had.
        Granted = "granted",
        /// Another held it all the time.
        Held = "held",
        /// The service was away, refused or had too much to do.
        Error = "error",
    }
}

labelled! {
    /// How a client's get ended.
    GetDurations of Histogram, GetOutcome {
        /// The node had the value, or knew that there is none.
        Hit = "hit",
        /// It had a copy of another node's value.
        Hot = "hot",
        /// It had it past its ttl.
        Stale = "stale",
        /// It fetched it.
        Miss = "miss",
        /// In an error.
        Error = "error",
    }
}

impl GetOutcome {
    /// The label under which a get counts.
    #[must_use]
    pub const fn of(answer: &Result<Answer, Error>) -> Self {
        match answer {
            Err(_) => Self::Error,
            Ok(answer) => match answer.outcome {
                Outcome::Hit(Tier::Main) => Self::Hit,
                Outcome::Hit(Tier::Hot | Tier::StandIn) => Self::Hot,
                Outcome::Stale { .. } => Self::Stale,
                Outcome::Miss { .. } => Self::Miss,
            },
        }
    }
}

impl LoadErrorKind {
    /// The label under which an error counts.
    #[must_use]
    pub const fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::TimedOut => Self::Timeout,
            ErrorKind::Overloaded => Self::Overload,
            ErrorKind::OwnerUnreachable | ErrorKind::NoAuthority | ErrorKind::Draining => Self::Peer,
            _ => Self::Origin,
        }
    }
}

impl Protocol {
    /// Whether an asker can be told that it asked the wrong node. Where it can't, that node answers all the same, passes nothing
    /// on and keeps nothing: golang/groupcache's protocol has no way to say no.
    #[must_use]
    pub const fn can_redirect(self) -> bool {
        matches!(self, Self::Grpc)
    }
}

/// Requests to the origin of one kind.
#[derive(Default, Debug)]
pub struct OriginStats {
    /// How they ended.
    pub results: Results,
    /// How long they took.
    pub duration: Histogram,
}

/// What one group counts at one node. Nothing but counters: what can be asked of the store is asked there.
#[derive(Default, Debug)]
pub struct GroupStats {
    /// Gets answered from the main tier.
    pub hits_main: Striped,
    /// Gets answered from a copy.
    pub hits_hot: Striped,
    /// Gets that the node's own store could not answer.
    pub misses: Striped,
    /// Gets answered with a value past its ttl, within the windows that allow it.
    pub stale_hits: Counter,
    /// Keys loaded.
    pub loads: Loads,
    /// Gets that shared another's flight.
    pub loads_deduped: Counter,
    /// Loads that failed.
    pub load_errors: LoadErrors,
    /// How long clients' gets of single keys took. Counted by who serves clients.
    pub get_durations: GetDurations,
    /// Requests that other nodes made of this one.
    pub server_requests: ServerRequests,
    /// Deletes and invalidations of keys carried out here.
    pub invalidations: Counter,
    /// Writes carried out here as the owner.
    pub writes: Writes,
    /// Entries that came with slots from other nodes, or went with slots to them.
    pub handoffs: Handoffs,
    /// Loads of single keys at the origin.
    pub origin_load: OriginStats,
    /// Loads of several keys at once at the origin.
    pub origin_load_many: OriginStats,
    /// Writes to the origin.
    pub origin_write: OriginStats,
    /// Loads that were to be made under a lock.
    pub load_locks: LoadLocks,
    /// Leases that were granted to other nodes, on copies of what this node owns.
    pub leases: Counter,
}

impl GroupStats {
    /// The counter of hits in `tier`.
    pub(crate) fn hits(&self, tier: Tier) -> &Striped {
        match tier {
            Tier::Main => &self.hits_main,
            Tier::Hot | Tier::StandIn => &self.hits_hot,
        }
    }

    /// Gets that callers asked of this node.
    #[must_use]
    pub fn gets(&self) -> u64 {
        self.hits_main.sum() + self.hits_hot.sum() + self.stale_hits.sum() + self.misses.sum()
    }
}
