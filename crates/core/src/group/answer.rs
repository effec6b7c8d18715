//! [`Answer`]: a value, or that there is none, and how it was come by.

use std::{borrow::Cow, time::Duration};

use crate::{
    Clock, Moment, Value, Version,
    peer::{PeerAnswer, PeerMeta},
    stats::Source,
    store::{Hit, Tier},
    version::Reading,
};

/// How an answer was come by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The node's own store had it.
    Hit(Tier),
    /// The store had it past its ttl, within the windows that allow it.
    Stale {
        /// How long past its ttl it is.
        by: Duration,
    },
    /// It had to be fetched.
    Miss {
        /// From where.
        source: Source,
        /// Whether the fetch was another caller's.
        collapsed: bool,
        /// Whether this node keeps it.
        stored: bool,
    },
}

/// The answer to a get: the value, and what is known of it.
///
/// ```
/// use larder_core::{Answer, Outcome};
///
/// fn freshness(answer: &Answer) -> &'static str {
///     match answer.outcome {
///         Outcome::Hit(_) => "kept",
///         Outcome::Stale { .. } => "kept beyond its ttl",
///         Outcome::Miss { .. } => "just fetched",
///     }
/// }
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The value; `None`: there is none.
    pub value: Option<Value>,
    /// Its version; golang/groupcache's nodes tell none.
    pub version: Option<Version>,
    /// When its load began, on its owner's hybrid clock.
    pub load_start: Reading,
    /// What is left of its ttl, zero if it is stale; `None`: it has none.
    pub ttl_left: Option<Duration>,
    /// How it was come by.
    pub outcome: Outcome,
}

impl Answer {
    pub(super) fn from_store(hit: Hit, now: Moment) -> Self {
        let meta = hit.meta();
        let outcome = if now < meta.fresh_until {
            Outcome::Hit(meta.tier)
        } else {
            Outcome::Stale { by: now.since(meta.fresh_until) }
        };
        let ttl_left = (meta.fresh_until != Moment::NEVER).then(|| meta.fresh_until.since(now));
        Self { version: Some(meta.version), load_start: meta.load_start, ttl_left, outcome, value: hit.into_value() }
    }

    pub(super) fn from_flight(fetched: Fetched, collapsed: bool, now: impl FnOnce() -> Moment) -> Self {
        let Fetched { value, version, load_start, fresh_until, source, stored } = fetched;
        let outcome = Outcome::Miss { source, collapsed, stored };
        let ttl_left = (fresh_until != Moment::NEVER).then(|| fresh_until.since(now()));
        Self { value, version, load_start, ttl_left, outcome }
    }

    pub(super) fn nothing(load_start: Reading) -> Self {
        let outcome = Outcome::Miss { source: Source::Origin, collapsed: false, stored: false };
        Self { value: None, version: None, load_start, ttl_left: None, outcome }
    }

    /// Time since its load began.
    #[must_use]
    pub fn age(&self, clock: &dyn Clock) -> Duration {
        self.age_at(clock.wall_ms())
    }

    fn age_at(&self, wall_ms: u64) -> Duration {
        Duration::from_millis(wall_ms.saturating_sub(self.load_start.wall_ms()))
    }

    /// How it was come by, as HTTP's `Cache-Status` says it (RFC 9211).
    ///
    /// ```
    /// use larder_core::Answer;
    ///
    /// fn was_kept(answer: &Answer) -> bool {
    ///     answer.cache_status().starts_with("larder; hit")
    /// }
    /// ```
    #[must_use]
    pub fn cache_status(&self) -> Cow<'static, str> {
        Cow::Borrowed(match (self.outcome, &self.value) {
            (Outcome::Hit(_), None) => "larder; hit; detail=negative",
            (Outcome::Hit(Tier::Main), Some(_)) => "larder; hit",
            (Outcome::Hit(Tier::Hot | Tier::StandIn), Some(_)) => "larder; hit; detail=hot",
            (Outcome::Stale { by }, _) => {
                // Rounded up: what is stale by half a second is not fresh.
                let seconds = by.as_secs() + u64::from(by.subsec_nanos() > 0);
                return Cow::Owned(format!("larder; hit; ttl=-{seconds}; detail=stale"));
            }
            // That the value was stored is told to the one who had it fetched.
            (Outcome::Miss { collapsed: true, .. }, _) => "larder; fwd=uri-miss; collapsed",
            (Outcome::Miss { stored: true, .. }, _) => "larder; fwd=uri-miss; stored",
            (Outcome::Miss { .. }, _) => "larder; fwd=uri-miss",
        })
    }

    /// As another node is told, at this time of the wall clock.
    pub(super) fn for_peer(self, wall_ms: u64) -> PeerAnswer {
        let age = self.age_at(wall_ms);
        let meta = self.version.map(|version| PeerMeta { version, age, ttl_left: self.ttl_left });
        PeerAnswer::Found { value: self.value, meta, lease: None }
    }
}

/// What a flight brings to all who wait for it.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) value: Option<Value>,
    pub(super) version: Option<Version>,
    pub(super) load_start: Reading,
    pub(super) fresh_until: Moment,
    pub(super) source: Source,
    pub(super) stored: bool,
}
