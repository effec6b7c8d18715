//! [`store_fn`]: a closure as a store.

use std::future::Future;

use futures_util::future::BoxFuture;
use larder_core::{Change, Store, Update, UpdateError};
use serde::de::DeserializeOwned;

/// A store that calls a closure; see [`store_fn`].
pub struct StoreFn<F>(F);

/// Makes a store of a closure from an [`Update`] to `Result<(), UpdateError>`. An error that says
/// [`UpdateError::Refused`] promises that nothing changed; whoever is not sure answers [`UpdateError::Unknown`].
///
/// ```
/// use larder::{Change, UpdateError, store_fn};
///
/// let reads_only = store_fn(|update| async move {
///     match update.change {
///         Change::Put(value) => Err(UpdateError::refused(format!("{} bytes are too many", value.len()))),
///         Change::Delete => Ok(()),
///     }
/// });
/// # let _ = reads_only;
/// ```
pub fn store_fn<F, Fut>(update: F) -> StoreFn<F>
where
    F: Fn(Update) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), UpdateError>> + Send + 'static,
{
    StoreFn(update)
}

impl<F, Fut> Store for StoreFn<F>
where
    F: Fn(Update) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), UpdateError>> + Send + 'static,
{
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin((self.0)(update))
    }
}

/// As [`store_fn`], for a closure that takes the key and the value of a type of one's own, which is JSON in the cache; `None`: it is
/// deleted.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct User { name: String }
///
/// let store = larder::typed_store_fn(|update, user: Option<User>| async move {
///     println!("{:?} is {:?} as of {}", update.key, user.map(|user| user.name), update.version);
///     Ok(())
/// });
/// # let _ = store;
/// ```
pub fn typed_store_fn<F, Fut, T>(update: F) -> impl Store
where
    F: Fn(Update, Option<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), UpdateError>> + Send + 'static,
    T: DeserializeOwned + Send + 'static,
{
    store_fn(move |change: Update| {
        let value = match &change.change {
            Change::Put(value) => serde_json::from_slice(value).map(Some),
            Change::Delete => Ok(None),
        };
        // Nothing is asked of the origin with a value that isn't one.
        let begun = value.map(|value| update(change, value));
        async move {
            match begun {
                Ok(updating) => updating.await,
                Err(error) => Err(UpdateError::refused(format!("the value is not of the group's type: {error}"))),
            }
        }
    })
}
