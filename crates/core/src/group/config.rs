//! [`GroupConfig`]: how a group keeps and loads its values.

use std::time::Duration;

use super::load_lock::LoadLock;
use crate::{Error, ErrorKind, store::Policy};

/// The longest lease on a copy: what a cluster that lost touch with an owner may serve is never older than this.
pub const HOT_LEASE_MAX: Duration = Duration::from_secs(60);

/// What a group promises of its answers.
///
/// ```
/// use larder_core::group::Consistency;
///
/// assert_eq!(Consistency::default(), Consistency::Eventual);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// A get that begins after a write was acknowledged returns nothing older, between nodes that share a view and reach each other. It
    /// stays available: while views differ or a link is cut, what is returned is older by [`GroupConfig::hot_lease`] at most.
    #[default]
    Eventual,
    /// Linearizable for each key, whatever fails; where that can't be kept, an error. It needs a membership that
    /// [proves](crate::Membership::authority) who owns what.
    Strong,
}

/// How a group keeps and loads its values. [`GroupConfig::default`] has the documented defaults.
///
/// ```
/// use std::time::Duration;
/// use larder_core::GroupConfig;
///
/// let config = GroupConfig { ttl: Some(Duration::from_secs(300)), ..GroupConfig::default() };
/// assert!(config.check().is_ok());
/// assert!(GroupConfig { origin_concurrency: 0, ..config }.check().is_err());
/// ```
#[derive(Clone, PartialEq, Debug)]
pub struct GroupConfig {
    /// Bytes for keys, values and bookkeeping, main and hot tier together.
    pub capacity_bytes: u64,
    /// Which entry goes when there is no room.
    pub policy: Policy,
    /// How long a value is fresh, from the start of its load; `None`: until it is evicted or invalidated.
    pub ttl: Option<Duration>,
    /// Up to which part of it the ttl is shortened at random, 0.0 to 1.0, so that what was loaded together does not
    /// expire together.
    pub ttl_jitter: f64,
    /// How long "not found" is remembered; zero: never.
    pub negative_ttl: Duration,
    /// For how long past its ttl a value is served while it is loaded anew behind (RFC 5861).
    pub stale_while_revalidate: Duration,
    /// For how long past its ttl a value is served when its load fails or exceeds `soft_timeout` (RFC 5861).
    pub stale_if_error: Duration,
    /// After which part of its ttl a value in use is loaded anew behind, 0.0 to 1.0; 0.0: never.
    pub refresh_ahead: f64,
    /// How long a caller waits for a load before it is content with a stale value; zero: as long as it takes.
    pub soft_timeout: Duration,
    /// How long a load may take.
    pub hard_timeout: Duration,
    /// How long a node that isn't the owner may keep a copy; zero: not at all. With strong consistency none does.
    pub hot_lease: Duration,
    /// What its answers promise.
    pub consistency: Consistency,
    /// The longest value, in bytes.
    pub value_len_max: usize,
    /// How many loads may be under way at once at this node.
    pub origin_concurrency: usize,
    /// The same for the whole cluster, divided among its members; 0: no such limit.
    pub origin_budget: usize,
    /// Whether loads are made under a lock. With one, keys are loaded each by itself.
    pub load_lock: LoadLock,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            capacity_bytes: 256 << 20,
            policy: Policy::default(),
            ttl: None,
            ttl_jitter: 0.1,
            negative_ttl: Duration::from_secs(5),
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            refresh_ahead: 0.0,
            soft_timeout: Duration::ZERO,
            hard_timeout: Duration::from_secs(10),
            hot_lease: Duration::from_secs(1),
            consistency: Consistency::Eventual,
            value_len_max: 8 << 20,
            origin_concurrency: 64,
            origin_budget: 0,
            load_lock: LoadLock::Off,
        }
    }
}

impl GroupConfig {
    /// Says whether the settings can be.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] names the first that can't.
    pub fn check(&self) -> Result<(), Error> {
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let wrong = if self.capacity_bytes == 0 {
            "capacity must be more than 0 bytes"
        } else if !part(self.ttl_jitter) {
            "ttl_jitter must be from 0 to 1"
        } else if !part(self.refresh_ahead) {
            "refresh_ahead must be from 0 to 1"
        } else if self.ttl == Some(Duration::ZERO) {
            "ttl must be more than 0; leave it out to keep values until they are evicted"
        } else if self.hard_timeout.is_zero() {
            "hard_timeout must be more than 0"
        } else if self.hot_lease > HOT_LEASE_MAX {
            "hot_lease must be at most 60s"
        } else if self.value_len_max == 0 {
            "max_value must be more than 0 bytes"
        } else if self.origin_concurrency == 0 {
            "origin_concurrency must be at least 1"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, wrong))
    }

    /// Says whether an open group may go from these settings to `new` ones.
    pub(super) fn check_change(&self, new: &Self) -> Result<(), Error> {
        let fixed = [
            ("capacity", self.capacity_bytes == new.capacity_bytes),
            ("policy", self.policy == new.policy),
            ("hard_timeout", self.hard_timeout == new.hard_timeout),
            ("hot_lease", self.hot_lease == new.hot_lease),
            ("consistency", self.consistency == new.consistency),
        ];
        let changed = fixed.iter().find(|(_, same)| !same);
        changed.map_or(Ok(()), |(name, _)| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("{name} can't change while the group is open: restart the node"),
            ))
        })
    }

    /// For how long past its ttl a value is kept at all.
    pub(super) fn stale_window(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }
}
