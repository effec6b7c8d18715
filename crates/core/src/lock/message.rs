//! What is asked about a lock of the node that keeps it, and what that one answers.

use std::time::Duration;

use super::{LockName, LockToken};

/// What is asked about a lock.
///
/// Who asks makes the token: so a question that is asked again, there or of another owner, is known as the same, and what became of
/// it can be given up by who never heard.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LockCall {
    /// Takes it.
    Acquire {
        /// Which.
        name: LockName,
        /// What it will be held with.
        token: LockToken,
        /// How long it lasts unless it is renewed.
        ttl: Duration,
        /// How long it is waited for.
        wait: Duration,
    },
    /// Has it last for its ttl once more.
    Renew {
        /// Which.
        name: LockName,
        /// What it is held with.
        token: LockToken,
    },
    /// Frees it, or gives up the wait for it.
    Release {
        /// Which.
        name: LockName,
        /// What it is held with, or was asked for.
        token: LockToken,
    },
}

impl LockCall {
    /// Which lock it is about.
    #[must_use]
    pub fn name(&self) -> &LockName {
        let (Self::Acquire { name, .. } | Self::Renew { name, .. } | Self::Release { name, .. }) = self;
        name
    }
}

/// What is answered about a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LockReply {
    /// To who takes it.
    Acquired(Option<Granted>),
    /// To who renews it: for how long it lasts from now on. `None`: it is not held with this token.
    Renewed(Option<Duration>),
    /// To who frees it: whether it was held with this token.
    Released(bool),
}

/// A lock that was granted by its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Granted {
    /// The grant's number.
    pub fence: u64,
    /// How long it lasts from when it was asked for.
    pub ttl: Duration,
}
