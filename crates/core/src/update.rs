//! [`Store`]: the seam to an origin that takes writes.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::{Error, Key, LoadError, Value, Version};

/// What is to become of a key at its origin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It has this value.
    Put(Value),
    /// It has none.
    Delete,
}

/// A change for an origin.
#[derive(Clone, Debug)]
pub struct Update {
    /// The key.
    pub key: Key,
    /// What is to become of it.
    pub change: Change,
    /// Its place among all changes of the key. An origin that *fences* takes nothing older than what it has, which is what
    /// keeps a write of a node that stood still from undoing a later one.
    pub version: Version,
    /// Tells a repetition from another write: the writer's own `Idempotency-Key`. An origin that wants one where there is
    /// none takes the version's text, which no other write of the cluster has.
    pub idempotency_key: Option<Arc<str>>,
    /// When the answer is of no more use. The future is dropped then.
    pub deadline: Instant,
}

/// Why an origin did not take a change. The text reaches whoever wrote, so that it must hold no secret.
#[derive(Debug)]
pub enum UpdateError {
    /// It is certain that nothing changed, and the same change would fare no better later: the origin refused it for what it is, such
    /// as by a constraint. A write-behind change ends here.
    Refused(LoadError),
    /// It is certain that nothing changed, for a reason that is none of the change's: the origin was not reached, was too busy or did
    /// not let this node in. The same change may succeed later.
    Unreached(LoadError),
    /// The origin has a newer version of the key. Nothing changed, but what is cached is old.
    Conflict,
    /// The change may be made or not, now or a little later: no answer came, or none that tells.
    Unknown(LoadError),
}

impl UpdateError {
    /// Nothing changed and nothing will, for this reason.
    pub fn refused(message: impl fmt::Display) -> Self {
        Self::Refused(Error::origin(message).into())
    }

    /// Nothing changed for now, for this reason.
    pub fn unreached(message: impl fmt::Display) -> Self {
        Self::Unreached(Error::origin(message).into())
    }

    /// Nobody knows what changed, for this reason.
    pub fn unknown(message: impl fmt::Display) -> Self {
        Self::Unknown(Error::origin(message).into())
    }
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) | Self::Unreached(error) | Self::Unknown(error) => error.fmt(f),
            Self::Conflict => f.write_str("the origin has a newer version of the key"),
        }
    }
}

impl std::error::Error for UpdateError {}

/// Where changes of values go: what a group with write-through or write-behind has beside its [`Loader`](crate::Loader).
///
/// One change of a key is under way at a time, in the order of their versions, as long as its owner is not replaced. A
/// change that panics counts as [`UpdateError::Unknown`].
///
/// ```
/// use std::{collections::HashMap, sync::Mutex};
///
/// use futures_util::future::BoxFuture;
/// use larder_core::{Change, Key, Store, Update, UpdateError, Value};
///
/// /// Keeps what it is told in memory.
/// #[derive(Default)]
/// struct Memory(Mutex<HashMap<Key, Value>>);
///
/// impl Store for Memory {
///     fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
///         Box::pin(async move {
///             let mut values = self.0.lock().map_err(UpdateError::unreached)?;
///             match update.change {
///                 Change::Put(value) => values.insert(update.key, value),
///                 Change::Delete => values.remove(&update.key),
///             };
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait Store: Send + Sync + 'static {
    /// Makes one change. That there is nothing to delete is no error.
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>>;

    /// How many changes [`update_many`](Self::update_many) takes at once; 1 (the default) if it isn't there.
    fn update_batch_len_max(&self) -> usize {
        1
    }

    /// Makes several changes of different keys in one request to the origin and answers each in its place. Only called with 2
    /// to [`update_batch_len_max`](Self::update_batch_len_max) of them. That one is refused must not keep back another.
    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(updates.len());
            for update in updates {
                answers.push(self.update(update).await);
            }
            answers
        })
    }

    /// Whether it takes no change that is older than what it has.
    fn fences(&self) -> bool {
        false
    }
}
