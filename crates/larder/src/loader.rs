//! [`loader_fn`]: a closure as a loader.

use std::{error::Error as StdError, future::Future, marker::PhantomData};

use futures_util::future::BoxFuture;
use larder_core::{Key, LoadError, LoadRequest, Loaded, Loader, Value};

/// A loader that calls a closure; see [`loader_fn`].
pub struct LoaderFn<F, V> {
    load: F,
    value: PhantomData<fn() -> V>,
}

/// Makes a loader of a closure from a key to `Result<Option<V>, E>`, where `V` can be made into a [`Value`]: bytes, a
/// string. `None` is "not found". The error's text reaches whoever asked for the key.
///
/// ```
/// use larder::{Key, loader_fn};
///
/// let squares = loader_fn(|key: Key| async move {
///     let number: u64 = std::str::from_utf8(key.as_bytes())?.parse()?;
///     Ok::<_, larder::LoadError>(Some((number * number).to_string()))
/// });
/// # let _ = squares;
/// ```
pub fn loader_fn<F, Fut, V, E>(load: F) -> LoaderFn<F, V>
where
    F: Fn(Key) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    V: Into<Value> + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    LoaderFn { load, value: PhantomData }
}

impl<F, Fut, V, E> Loader for LoaderFn<F, V>
where
    F: Fn(Key) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<V>, E>> + Send + 'static,
    V: Into<Value> + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        let load = (self.load)(request.key);
        Box::pin(async move {
            Ok(match load.await.map_err(Into::into)? {
                Some(value) => Loaded::value(value),
                None => Loaded::nothing(),
            })
        })
    }
}
