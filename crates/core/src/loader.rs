//! [`Loader`]: the seam to an origin.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::{Key, Value};

/// Why a load failed. The text reaches whoever asked for the key, so that it must hold no secret. An [`Error`](crate::Error)
/// in the box keeps its kind; anything else counts as [`ErrorKind::Origin`](crate::ErrorKind::Origin).
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;

/// What is asked of an origin.
#[derive(Clone, Debug)]
pub struct LoadRequest {
    /// The key.
    pub key: Key,
    /// What an earlier load brought, if it is still held: an origin that finds its [validator](Value::validator)
    /// unchanged may answer [`Found::Unchanged`].
    pub previous: Option<Value>,
    /// Values longer than this, in bytes, are refused; best before they are read.
    pub value_len_max: usize,
    /// When the answer is of no more use. The flight drops the load's future then.
    pub deadline: Instant,
}

/// What an origin says of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Its value.
    Value(Value),
    /// That there is none.
    Nothing,
    /// That it is still [`LoadRequest::previous`].
    Unchanged,
}

/// A load's result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What was found.
    pub found: Found,
    /// How long it may be kept: `None` as the group has it, [`Duration::ZERO`] not at all.
    pub ttl: Option<Duration>,
}

impl Loaded {
    /// A value, to be kept as long as the group keeps values.
    pub fn value(value: impl Into<Value>) -> Self {
        Self { found: Found::Value(value.into()), ttl: None }
    }

    /// No such key.
    #[must_use]
    pub const fn nothing() -> Self {
        Self { found: Found::Nothing, ttl: None }
    }

    /// The same with a ttl of its own.
    #[must_use]
    pub const fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// Where values come from when no node has them.
///
/// At most one load of a key is under way for the callers of all nodes that share a view. A load that panics counts as
/// failed. Its future is dropped when nobody waits for it any longer, or at its deadline.
///
/// ```
/// use futures_util::future::BoxFuture;
/// use larder_core::{LoadError, LoadRequest, Loaded, Loader};
///
/// /// Finds every key, and its length.
/// struct Lengths;
///
/// impl Loader for Lengths {
///     fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
///         Box::pin(async move { Ok(Loaded::value(request.key.as_bytes().len().to_string())) })
///     }
/// }
/// ```
pub trait Loader: Send + Sync + 'static {
    /// Loads one key.
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>>;

    /// How many keys [`load_many`](Self::load_many) takes at once; 1 (the default) if it isn't there.
    fn batch_len_max(&self) -> usize {
        1
    }

    /// Loads several keys in one request to the origin and answers each in its place. Only called with 2 to
    /// [`batch_len_max`](Self::batch_len_max) requests.
    fn load_many(
        &self,
        requests: Vec<LoadRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<Loaded, LoadError>>, LoadError>> {
        Box::pin(async move {
            let mut answers = Vec::with_capacity(requests.len());
            for request in requests {
                answers.push(self.load(request).await);
            }
            Ok(answers)
        })
    }
}
