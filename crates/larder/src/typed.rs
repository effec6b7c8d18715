//! [`TypedGroup`]: a group of values of one's own type, as JSON.

use std::{error::Error as StdError, future::Future, marker::PhantomData};

use larder_core::{Error, ErrorKind, Key, LoadError, Loader, Value};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Group, loader_fn};

/// A [`Group`] whose values are `T`s. They are JSON on every wire and in every store, so that other programs can read them.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder::Error> {
/// #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
/// struct User { name: String }
///
/// let node = larder::Node::builder().start().await?;
/// let loader = larder::typed_loader_fn(|key: larder::Key| async move {
///     Ok::<_, std::convert::Infallible>(Some(User { name: format!("user {}", key.as_bytes().escape_ascii()) }))
/// });
/// let users = node.group("users", loader).open()?.typed::<User>();
/// assert_eq!(users.get("42").await?, Some(User { name: "user 42".into() }));
/// # Ok(()) }
/// ```
pub struct TypedGroup<T> {
    group: Group,
    value: PhantomData<fn() -> T>,
}

impl<T> Clone for TypedGroup<T> {
    fn clone(&self) -> Self {
        Self { group: self.group.clone(), value: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned> TypedGroup<T> {
    pub(crate) fn new(group: Group) -> Self {
        Self { group, value: PhantomData }
    }

    /// The value of `key`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// As [`Group::get`]; [`ErrorKind::Origin`] also if what the origin or a writer left there is not a `T`.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<T>, Error> {
        self.group.get(key).await?.as_ref().map(decode).transpose()
    }

    /// Puts a value, as [`Group::put`].
    ///
    /// # Errors
    ///
    /// As [`Group::put`]; [`ErrorKind::Invalid`] if the value has no JSON form.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: &T) -> Result<(), Error> {
        let value = encode(value)
            .map_err(|error| Error::new(ErrorKind::Invalid, format!("the value can't be written as JSON: {error}")))?;
        self.group.put(key, value).await
    }

    /// Deletes a value, as [`Group::delete`].
    ///
    /// # Errors
    ///
    /// As [`Group::delete`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        self.group.delete(key).await
    }

    /// The group under it.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }
}

/// As [`loader_fn`](crate::loader_fn), for a closure that answers with values of a type of one's own.
pub fn typed_loader_fn<F, Fut, T, E>(load: F) -> impl Loader
where
    F: Fn(Key) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<T>, E>> + Send + 'static,
    T: Serialize + Send + 'static,
    E: Into<Box<dyn StdError + Send + Sync>> + 'static,
{
    loader_fn(move |key| {
        let load = load(key);
        async move {
            let value = load.await.map_err(Into::<LoadError>::into)?;
            value.as_ref().map(encode).transpose().map_err(LoadError::from)
        }
    })
}

fn encode<T: Serialize>(value: &T) -> serde_json::Result<Value> {
    Ok(Value::new(serde_json::to_vec(value)?).with_content_type("application/json"))
}

fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    let decoded = serde_json::from_slice(value);
    decoded.map_err(|error| Error::origin(format!("the value is not of the group's type: {error}")))
}
