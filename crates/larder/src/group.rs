//! [`Group`]: what a program asks for values.

use std::{sync::Arc, time::Duration};

use bytesize::ByteSize;
use larder_core::{
    Answer, Error, ErrorKind, GroupConfig, Loader, Store, Value,
    group::{LoadLock, TIMEOUT_DEFAULT},
    peer::Condition,
    store::Policy,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::typed::TypedGroup;

/// Keys with one origin and one set of rules, spread over all nodes. Cheap to clone.
#[derive(Clone)]
pub struct Group(larder_core::Group);

impl Group {
    /// The value of `key`; `None` if there is none. Waits for 10 s at most; [`lookup`](Self::lookup) takes a time.
    ///
    /// # Errors
    ///
    /// [`Error`] can be asked what went wrong, and whether to try again.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, Error> {
        let key = key.as_ref();
        if let Some(answer) = self.0.get_now(key) {
            return Ok(answer.value);
        }
        Ok(self.0.fetch(key, TIMEOUT_DEFAULT).await?.value)
    }

    /// The value of `key` with what is known of it: version, age, ttl left, and how it was come by. Waits for `timeout` at
    /// most.
    ///
    /// # Errors
    ///
    /// As for [`get`](Self::get).
    pub async fn lookup(&self, key: impl AsRef<[u8]>, timeout: Duration) -> Result<Answer, Error> {
        self.0.get(key, timeout).await
    }

    /// The values of several keys, each in its place, fetched together.
    ///
    /// # Errors
    ///
    /// If there are more than 1,000 keys; else each key has its own result.
    pub async fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Result<Option<Value>, Error>>, Error> {
        let keys: Vec<K> = keys.into_iter().collect();
        let answers = self.0.get_many(&keys, TIMEOUT_DEFAULT).await?;
        Ok(answers.into_iter().map(|answer| answer.map(|answer| answer.value)).collect())
    }

    /// Puts a value, into the origin too if the group [writes to it](GroupBuilder::write_through). When this returns, every node
    /// answers with it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly) if the group has an origin and does not write to it; see [`Error`].
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Value>) -> Result<(), Error> {
        self.0.put(key, value.into(), None, Condition::Always, TIMEOUT_DEFAULT).await.map(drop)
    }

    /// Deletes a value, at the origin too if the group [writes to it](GroupBuilder::write_through). In a group with an origin that
    /// it does not write to this is [`invalidate`](Self::invalidate).
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        self.0.delete(key, Condition::Always, TIMEOUT_DEFAULT).await.map(drop)
    }

    /// Drops what is cached for `key` on every node: it is loaded anew when it is next asked for. In a group without an origin it is
    /// gone.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn invalidate(&self, key: impl AsRef<[u8]>) -> Result<(), Error> {
        self.0.invalidate(key, TIMEOUT_DEFAULT).await
    }

    /// Drops every value that bears one of these [tags](Value::with_tags) on every node, however many there are.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn invalidate_tags<T: AsRef<[u8]>>(&self, tags: impl IntoIterator<Item = T>) -> Result<(), Error> {
        let tags: Vec<T> = tags.into_iter().collect();
        self.0.invalidate_tags(&tags, TIMEOUT_DEFAULT).await
    }

    /// Drops every value of the group on every node, however many there are.
    ///
    /// # Errors
    ///
    /// See [`Error`].
    pub async fn invalidate_all(&self) -> Result<(), Error> {
        self.0.invalidate_all(TIMEOUT_DEFAULT).await
    }

    /// The same group for values of a type of one's own, as JSON. The loader of a typed group is made by
    /// [`typed_loader_fn`](crate::typed_loader_fn).
    #[must_use]
    pub fn typed<T: Serialize + DeserializeOwned>(&self) -> TypedGroup<T> {
        TypedGroup::new(self.clone())
    }

    /// The group's inside: counters, settings, and gets with all there is to say.
    #[must_use]
    pub fn core(&self) -> &larder_core::Group {
        &self.0
    }
}

/// Settings of a group that is about to be opened. What isn't set is as in [`GroupConfig::default`].
#[must_use = "a group does nothing until it is opened"]
pub struct GroupBuilder<'a> {
    node: &'a larder_core::Node,
    name: String,
    config: GroupConfig,
    loader: Option<Arc<dyn Loader>>,
    store: Option<Arc<dyn Store>>,
}

impl<'a> GroupBuilder<'a> {
    pub(crate) fn new(node: &'a larder_core::Node, name: String, loader: Option<Arc<dyn Loader>>) -> Self {
        Self { node, name, config: GroupConfig::default(), loader, store: None }
    }

    /// Bytes for keys, values and bookkeeping.
    pub fn capacity(mut self, capacity: ByteSize) -> Self {
        self.config.capacity_bytes = capacity.as_u64();
        self
    }

    /// Which entry goes when there is no room.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = policy;
        self
    }

    /// How long a value is fresh, from the start of its load. Not set: until it is evicted or invalidated.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = Some(ttl);
        self
    }

    /// How long "not found" is remembered; zero: never.
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.config.negative_ttl = ttl;
        self
    }

    /// For how long past its ttl a value is served while it is loaded anew behind (RFC 5861).
    pub fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.config.stale_while_revalidate = window;
        self
    }

    /// For how long past its ttl a value is served when its load fails (RFC 5861).
    pub fn stale_if_error(mut self, window: Duration) -> Self {
        self.config.stale_if_error = window;
        self
    }

    /// How long a load may take.
    pub fn hard_timeout(mut self, timeout: Duration) -> Self {
        self.config.hard_timeout = timeout;
        self
    }

    /// Writes what is put and deleted to `store` before that is acknowledged: by the owner of its key, one change of a key after the
    /// other. [`store_fn`](crate::store_fn) makes one of a closure.
    ///
    /// ```
    /// use std::{collections::HashMap, sync::{Arc, Mutex}};
    /// use larder::{Change, Key, Node, Value, loader_fn, store_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder::Error> {
    /// let rows: Arc<Mutex<HashMap<Key, Value>>> = Arc::default();
    /// let (read, written) = (rows.clone(), rows.clone());
    /// let loader = loader_fn(move |key| {
    ///     let row = read.lock().unwrap().get(&key).cloned();
    ///     async { Ok::<_, std::io::Error>(row) }
    /// });
    /// let store = store_fn(move |update| {
    ///     match update.change {
    ///         Change::Put(value) => written.lock().unwrap().insert(update.key, value),
    ///         Change::Delete => written.lock().unwrap().remove(&update.key),
    ///     };
    ///     async { Ok(()) }
    /// });
    /// let node = Node::builder().start().await?;
    /// let users = node.group("users", loader).write_through(store).open()?;
    /// users.put("42", "Ada").await?;
    /// assert_eq!(rows.lock().unwrap()[&Key::new("42")?], Value::from("Ada"));
    /// # Ok(()) }
    /// ```
    pub fn write_through(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Whether loads are made under a lock: one load of a key in the whole cluster, also while nodes disagree on who owns it.
    pub fn load_lock(mut self, load_lock: LoadLock) -> Self {
        self.config.load_lock = load_lock;
        self
    }

    /// How many loads may be under way at once at this node.
    pub fn origin_concurrency(mut self, loads: usize) -> Self {
        self.config.origin_concurrency = loads;
        self
    }

    /// All settings at once.
    pub fn config(mut self, config: GroupConfig) -> Self {
        self.config = config;
        self
    }

    /// Opens the group.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the name can't be one or is taken, or a setting is impossible.
    pub fn open(self) -> Result<Group, Error> {
        let Self { node, name, config, loader, store } = self;
        let opened = match (loader, store) {
            (Some(loader), Some(store)) => node.open_group_through(&name, config, loader, store),
            (None, Some(_)) => {
                let message = "a group that writes to an origin has to load from it, too: open it with a loader";
                Err(Error::new(ErrorKind::Invalid, message))
            }
            (loader, None) => node.open_group(&name, config, loader),
        };
        opened.map(Group)
    }
}
