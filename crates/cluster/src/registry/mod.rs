//! What every membership has in common in which nodes register themselves with somebody: a registry such as etcd.
//!
//! A node puts an entry of itself into the registry and keeps it alive; entries that nobody keeps alive end. All else is
//! one thing, the *read*: of all members at once, such that no failure of the registry can have made it stale. It is made
//! once a second, and when the registry hints at a change. Every list comes from a read, and every proof of authority
//! (rule A2 of the protocol). A hint that is late or lost therefore costs a second and nothing else, and there is no list
//! kept up to date change by change that could drift from the truth.
//!
//! - [`Registry`] is what etcd and Consul have to do. Each call of it is bounded in time by itself.
//! - [`Registrant`] is a membership made of one: the tasks that keep the entry, read, and wait for hints.
//! - [`Listing`] judges reads: what becomes the list, and what proves what. It does no I/O.
//!
//! A registry that is away costs nothing: the last list stands. When it is back it may have lost entries of nodes that
//! live, because nobody could keep them alive; why that throws out nobody is told in `listing.rs`.

mod connection;
mod facts;
mod keeper;
mod listing;
mod registrant;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, future::Future, time::Duration};

use larder_core::{Member, Members};

pub use connection::TlsFiles;
pub(crate) use connection::{causes, connector, tls_config};
pub(crate) use facts::Facts;
pub use registrant::Registrant;

/// The shortest lease: registries count in seconds, and a lease is renewed three times within it.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);

/// The longest lease: a node that crashed is a member until it has run out.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(600);

/// The share of a lease that one request may take: as renewals come thrice a lease, one that is never answered leaves time
/// for two more.
const REQUESTS_PER_LEASE: u32 = 3;

/// The longest that any request may take, however long the lease.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a request may take for an entry with this lease.
pub(crate) fn request_time_max(lease_ttl: Duration) -> Duration {
    (lease_ttl / REQUESTS_PER_LEASE).min(REQUEST_TIME_MAX)
}

/// Why something could not be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The registry can't be reached, doesn't answer, or can't do it now.
    Away(String),
    /// It will not do it, now or later, unless somebody changes something.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Away(why) | Self::Refused(why)) = self;
        f.write_str(why)
    }
}

/// What became of an attempt to register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Registered {
    /// The entry is there.
    Done,
    /// This other member has the name.
    Held(Member),
}

/// Somebody who keeps entries of members, and ends those that nobody keeps alive. Every call is bounded in time.
pub trait Registry: Send + Sync + 'static {
    /// Makes this node's entry say this, under the lease that is there or a new one. `replaces` tells which entry of the
    /// same name may give way.
    fn register(
        &self,
        me: &Member,
        replaces: impl Fn(&Member) -> bool + Send + Sync,
    ) -> impl Future<Output = Result<Registered, Failure>> + Send;

    /// Keeps the entry alive. `false`: it is gone, and so is its lease.
    fn renew(&self) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Takes the entry away.
    fn deregister(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Reads all members, as of a moment between the call and its answer.
    fn read(&self) -> impl Future<Output = Result<Members, Failure>> + Send;

    /// Waits until something may have changed since a read of this rank. It may say so too often.
    fn changed(&self, since: u64) -> impl Future<Output = Result<(), Failure>> + Send;
}
