//! [`LockService`]: the seam to whatever keeps locks; [`Locks`] and [`LockGuard`]: what programs hold them by.
//!
//! A lock is a lease on a name that comes with a number, its *fence*. The lease ends by itself, so that a holder that vanished
//! holds nobody up for ever. It therefore may end while its holder, which was stopped or cut off, believes in it. Two things
//! guard against that, and neither is enough alone:
//!
//! - The holder counts the lease on a clock of its own, from when it *sent* what the lease began with, and gives the lock up before
//!   the service can have: [`Hold::until`]. Who doesn't look can't know, however.
//! - Fences of one name grow from holder to holder. What the lock protects refuses a fence below one that it has seen, and so the
//!   late work of a former holder. Without that a lock saves work, and does not make it safe: see Martin Kleppmann, "How to do
//!   distributed locking" (2016), and for leases Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism for distributed
//!   file cache consistency" (1989).
//!
//! Here is what services have to do and what they are asked; `guard.rs` is the one implementation of holding a lock, `delivery.rs` of
//! granting one to somebody else, and `counted.rs` counts. One service is here too, as it lives on the core's claims: [`ClusterLocks`],
//! locks that nodes keep themselves. How any node asks for them is `cluster.rs`; what their owner does is `keeper.rs`, around the state
//! machine `table.rs` and the numbers of `fence.rs`. Not here: services that other software keeps, and how anybody is reached over a
//! network.

mod cluster;
mod counted;
mod delivery;
mod fence;
mod guard;
mod keeper;
mod message;
mod table;

use std::{fmt, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub(crate) use self::keeper::{Keeper, QUIET};
pub use self::{
    cluster::ClusterLocks,
    counted::LockStats,
    delivery::Delivery,
    guard::{Acquire, DEFAULT_TTL, DEFAULT_WAIT, LockGuard, Locks},
    keeper::{CARRIED_LOCKS_MAX, CarriedLocks},
    message::{Granted, LockCall, LockReply},
    table::CarriedLock,
};
use crate::{Error, ErrorKind, Moment};

/// The longest name of a lock, in bytes: that of a key, so that a key can be locked by its name.
pub const LOCK_NAME_LEN_MAX: usize = 1024;

/// The shortest ttl: what is renewed thrice within it must get to a service and back meanwhile.
pub const LOCK_TTL_MIN: Duration = Duration::from_millis(100);

/// The longest ttl: who waits for a lock whose holder vanished waits this long.
pub const LOCK_TTL_MAX: Duration = Duration::from_secs(60);

/// The longest wait: that of any request.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);

/// The greatest fence: greater integers are not exact in JSON, as most programs read it.
pub const FENCE_MAX: u64 = (1 << 53) - 1;

/// The longest token, in bytes: more than any service needs, and little in a URL.
pub const LOCK_TOKEN_LEN_MAX: usize = 128;

/// The share of a ttl that a holder gives away: clocks may run that much apart, and who is told that its lock is lost needs a
/// moment to stop.
const MARGIN_SHARE: u32 = 10;

/// What is locked: any bytes, 1 to [`LOCK_NAME_LEN_MAX`] of them. Cheap to clone.
///
/// ```
/// use larder_core::lock::LockName;
///
/// assert_eq!(LockName::new("nightly-job")?.as_bytes(), b"nightly-job");
/// assert!(LockName::new("").unwrap_err().is_invalid());
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Bytes);

impl LockName {
    /// Takes `bytes` as a name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if there are none, [`ErrorKind::TooLarge`] if there are more than [`LOCK_NAME_LEN_MAX`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, Error> {
        let bytes = bytes.into();
        match bytes.len() {
            0 => Err(invalid("the lock's name is empty: give it 1 to 1024 bytes".to_owned())),
            1..=LOCK_NAME_LEN_MAX => Ok(Self(bytes)),
            len => {
                let message = format!("the lock's name has {len} bytes: {LOCK_NAME_LEN_MAX} is the most");
                Err(Error::new(ErrorKind::TooLarge, message))
            }
        }
    }

    /// The name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// What a holder proves with that a lock is its own: it is given by the service, and every node takes it.
///
/// Whoever knows it can renew and free the lock, so that it is shown in no log: `Debug` hides it.
///
/// ```
/// use larder_core::lock::LockToken;
///
/// let token = LockToken::new("694d8f1a-42")?;
/// assert_eq!((token.as_str(), format!("{token:?}").as_str()), ("694d8f1a-42", "LockToken(…)"));
/// assert!(LockToken::new("a b").unwrap_err().is_invalid());
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct LockToken(Arc<str>);

impl LockToken {
    /// Takes `text` as a token, which says nothing of whether it holds anything.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is not 1 to [`LOCK_TOKEN_LEN_MAX`] letters, digits, `-`, `.` and `_`: a token stands in URLs
    /// as it is.
    pub fn new(text: impl Into<Arc<str>>) -> Result<Self, Error> {
        let text = text.into();
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if (1..=LOCK_TOKEN_LEN_MAX).contains(&text.len()) && text.bytes().all(is_fine) {
            return Ok(Self(text));
        }
        Err(invalid("that is no lock's token: give the one that came with the lock, as it is".to_owned()))
    }

    /// The token.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LockToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockToken(…)")
    }
}

/// What is asked of a service: a lock, how long it shall last unless it is renewed, and how long it is waited for.
///
/// ```
/// use std::time::Duration;
/// use larder_core::lock::{LockName, LockRequest};
///
/// let name = LockName::new("nightly-job")?;
/// let request = LockRequest::new(name.clone(), Duration::from_secs(10), Duration::ZERO)?;
/// assert_eq!(request.ttl(), Duration::from_secs(10));
/// assert!(LockRequest::new(name, Duration::ZERO, Duration::ZERO).unwrap_err().is_invalid());
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LockRequest {
    name: LockName,
    ttl: Duration,
    wait: Duration,
    note: Bytes,
}

impl LockRequest {
    /// Checks the times.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the ttl is not [`LOCK_TTL_MIN`] to [`LOCK_TTL_MAX`], or the wait longer than [`LOCK_WAIT_MAX`].
    pub fn new(name: LockName, ttl: Duration, wait: Duration) -> Result<Self, Error> {
        if !(LOCK_TTL_MIN..=LOCK_TTL_MAX).contains(&ttl) {
            return Err(invalid(format!("a lock can't have a ttl of {} ms: give it 100 ms to 60 s", ttl.as_millis())));
        }
        if wait > LOCK_WAIT_MAX {
            return Err(invalid(format!("a lock is not waited for {} ms: 60 s is the most", wait.as_millis())));
        }
        Ok(Self { name, ttl, wait, note: Bytes::new() })
    }

    /// The same, with a word for the holder after this one: [`Grant::note_before`], where the service keeps such.
    #[must_use]
    pub fn with_note(self, note: Bytes) -> Self {
        Self { note, ..self }
    }

    /// What is to be locked.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// How long the lock shall last at least, unless it is renewed.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long it is waited for; zero: the answer is what is true at once.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// What the next holder is to be told; empty: nothing.
    #[must_use]
    pub fn note(&self) -> &Bytes {
        &self.note
    }
}

/// How long a lock is surely held.
///
/// ```
/// use std::time::Duration;
/// use larder_core::{Moment, lock::Hold};
///
/// let hold = Hold { sent: Moment::from_nanos(0), ttl: Duration::from_secs(10) };
/// assert_eq!(hold.until().since(hold.sent), Duration::from_secs(9));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// When what the service counts the ttl from was *sent*, on the clock that goes on while the machine sleeps.
    pub sent: Moment,
    /// What the service granted: it frees the lock no sooner than this after it was asked. At least what was asked for.
    pub ttl: Duration,
}

impl Hold {
    /// From then on nobody may rely on the lock: nine tenths of the ttl after `sent`.
    #[must_use]
    pub fn until(&self) -> Moment {
        self.sent + (self.ttl - self.ttl / MARGIN_SHARE)
    }
}

/// A lock that was had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// What it is renewed and freed with.
    pub token: LockToken,
    /// Greater than that of every earlier grant of the name; 1 to [`FENCE_MAX`].
    pub fence: u64,
    /// How long it is surely held.
    pub hold: Hold,
    /// What the holder before had to say to this one ([`LockRequest::with_note`]). Empty: nothing, or the service does not pass it on, or
    /// not for so long.
    pub note_before: Bytes,
}

/// What became of a request for a lock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Acquired {
    /// The lock was had.
    Granted(Grant),
    /// Another held it all the time that was to be waited.
    Held,
}

/// A lock that is held, as status pages show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldLock {
    /// Its name.
    pub name: LockName,
    /// The node at which its holder is.
    pub holder: Arc<str>,
    /// Its holder's number.
    pub fence: u64,
    /// How long it lasts yet unless it is renewed.
    pub ttl_left: Duration,
    /// How many wait for it, where that is known: at the node that keeps it.
    pub waiters: usize,
}

/// Whoever keeps locks.
///
/// The service does not renew what it granted: that is for the holder to do, by a [`LockGuard`] or from another process that was
/// given the token. Tokens are good at every node that has the same service behind it, so that an implementation keeps nothing of
/// what it granted. Calls other than waiting are bounded in time by the service itself.
///
/// [`lock_contract!`](crate::lock_contract) is what every implementation has to pass.
pub trait LockService: Send + Sync + 'static {
    /// Takes a lock, and waits for it as long as the request says if another holds it. Who waits is woken when the lock is
    /// freed, and does not ask again and again; where the service has an order, it is that of arrival.
    ///
    /// Where the future is dropped, nothing stays behind that would hold others up for longer than a call takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OwnerUnreachable`] or [`ErrorKind::TimedOut`] if the service is away, [`ErrorKind::Overloaded`] if too many
    /// wait already, [`ErrorKind::NoAuthority`] if it can't grant locks now, [`ErrorKind::Invalid`] if it refuses this node.
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>>;

    /// Has a lock last for its ttl once more. `None`: it is not held with this token any more, or never was.
    ///
    /// The answer is a proof: it must not come of something that can say so after the service has freed the lock.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); whether the lock is held is unknown then, and a former [`Hold`] stands.
    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>>;

    /// Frees a lock. `false`: it was not held with this token any more, or never was.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Self::acquire); the lock is free when its ttl has run out, if not before.
    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>>;

    /// Ends when the service tells of itself that the lock is not held with this token any more, for example because an operator
    /// took it away. It may be late, or never end (the default): renewals find out too.
    fn gone<'a>(&'a self, _name: &'a LockName, _token: &'a LockToken) -> BoxFuture<'a, ()> {
        Box::pin(pending())
    }
}

impl<S: LockService + ?Sized> LockService for Arc<S> {
    fn acquire(&self, request: LockRequest) -> BoxFuture<'_, Result<Acquired, Error>> {
        (**self).acquire(request)
    }

    fn renew<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<Option<Hold>, Error>> {
        (**self).renew(name, token)
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, Result<bool, Error>> {
        (**self).release(name, token)
    }

    fn gone<'a>(&'a self, name: &'a LockName, token: &'a LockToken) -> BoxFuture<'a, ()> {
        (**self).gone(name, token)
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_any_bytes_up_to_its_limit() {
        for good in [&b"\0"[..], b"\xff", b"/", b"a/b", &[b'x'; LOCK_NAME_LEN_MAX]] {
            assert_eq!(LockName::new(good.to_vec()).unwrap().as_bytes(), good);
        }
        assert!(LockName::new("").unwrap_err().is_invalid());
        assert!(LockName::new(vec![0; LOCK_NAME_LEN_MAX + 1]).unwrap_err().is_too_large());
    }

    #[test]
    fn times_outside_of_their_limits_are_refused() {
        let request = |ttl, wait| LockRequest::new(LockName::new("a").unwrap(), ttl, wait);
        assert!(request(LOCK_TTL_MIN, Duration::ZERO).is_ok() && request(LOCK_TTL_MAX, LOCK_WAIT_MAX).is_ok());
        let instant = Duration::from_nanos(1);
        for (ttl, wait) in [
            (Duration::ZERO, Duration::ZERO),
            (LOCK_TTL_MIN - instant, Duration::ZERO),
            (LOCK_TTL_MAX + instant, Duration::ZERO),
            (LOCK_TTL_MIN, LOCK_WAIT_MAX + instant),
            (Duration::MAX, Duration::MAX),
        ] {
            assert!(request(ttl, wait).unwrap_err().is_invalid(), "{ttl:?} {wait:?}");
        }
    }

    #[test]
    fn a_token_is_what_can_stand_in_a_url() {
        for good in ["a", "A-1._", &"x".repeat(LOCK_TOKEN_LEN_MAX)] {
            assert_eq!(LockToken::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a/b", "ü", "a\n", "%41", &"x".repeat(LOCK_TOKEN_LEN_MAX + 1)] {
            assert!(LockToken::new(bad).unwrap_err().is_invalid(), "{bad:?}");
        }
    }
}
