//! [`FakeStore`]: an origin in memory that takes writes, and that tests can make refuse, break off or hang.

use std::{collections::HashMap, future::pending, sync::Arc};

use futures_util::future::{BoxFuture, join_all};
use parking_lot::Mutex;

use crate::{
    Change, Error, ErrorKind, Key, LoadError, LoadRequest, Loaded, Loader, Store, Update, UpdateError, Value, Version,
};

/// What the origin does with those who put a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreMood {
    /// Refuses.
    Refusing,
    /// Makes the change, and breaks off before it says so.
    BreakingOff,
    /// Never answers, and changes nothing.
    Hanging,
    /// It takes nothing for now, and nothing changes.
    Full,
}

/// An origin in memory that fences if it is told to. Clones are the same origin.
///
/// ```
/// use larder_core::{Store, testing::{fake_store::FakeStore, store::put}};
/// use larder_core::Key;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder_core::UpdateError> {
/// let origin = FakeStore::fencing(1);
/// let key = Key::new("42").expect("a key");
/// origin.update(put(&key, "Ada", 2)).await?;
/// origin.update(put(&key, "Bo", 1)).await.expect_err("it is older than what is there");
/// assert_eq!(origin.held(&key).as_deref(), Some(&b"Ada"[..]));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct FakeStore(Arc<State>);

struct State {
    batch_len_max: usize,
    fences: bool,
    /// The last change of each key; nothing where it was a deletion.
    held: Mutex<HashMap<Key, (Version, Option<Value>)>>,
    moods: Mutex<HashMap<Key, StoreMood>>,
    /// All changes that were made, in their order.
    made: Mutex<Vec<(Key, Version)>>,
}

impl FakeStore {
    /// An origin that takes batches of up to this many changes, in whatever order they come.
    #[must_use]
    pub fn new(batch_len_max: usize) -> Self {
        Self::with(batch_len_max, false)
    }

    /// The same, for one that takes nothing older than what it has.
    #[must_use]
    pub fn fencing(batch_len_max: usize) -> Self {
        Self::with(batch_len_max, true)
    }

    fn with(batch_len_max: usize, fences: bool) -> Self {
        let (held, moods, made) = Default::default();
        Self(Arc::new(State { batch_len_max, fences, held, moods, made }))
    }

    /// Changes what becomes of those who put `key` from now on; `None`: what they ask for.
    pub fn set_mood(&self, key: &Key, mood: Option<StoreMood>) {
        let mut moods = self.0.moods.lock();
        match mood {
            Some(mood) => moods.insert(key.clone(), mood),
            None => moods.remove(key),
        };
    }

    /// What it holds under `key`.
    #[must_use]
    pub fn held(&self, key: &Key) -> Option<Value> {
        self.0.held.lock().get(key).and_then(|(_, value)| value.clone())
    }

    /// The versions of the changes of `key` that were made, in the order in which they were.
    #[must_use]
    pub fn made(&self, key: &Key) -> Vec<Version> {
        self.0.made.lock().iter().filter(|(made, _)| made == key).map(|(_, version)| *version).collect()
    }

    fn make(&self, update: Update) -> Result<(), UpdateError> {
        let Update { key, change, version, .. } = update;
        let mut held = self.0.held.lock();
        if self.0.fences && held.get(&key).is_some_and(|(newest, _)| *newest > version) {
            return Err(UpdateError::Conflict);
        }
        let value = match change {
            Change::Put(value) => Some(value),
            Change::Delete => None,
        };
        self.0.made.lock().push((key.clone(), version));
        held.insert(key, (version, value));
        Ok(())
    }
}

impl Loader for FakeStore {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            let Some(value) = self.held(&request.key) else { return Ok(Loaded::nothing()) };
            if value.len() > request.value_len_max {
                return Err(Error::new(ErrorKind::TooLarge, "the value is over the limit").into());
            }
            Ok(Loaded::value(value))
        })
    }
}

impl Store for FakeStore {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move {
            let mood = self.0.moods.lock().get(&update.key).copied();
            match mood.filter(|_| matches!(update.change, Change::Put(_))) {
                None => self.make(update),
                Some(StoreMood::Refusing) => Err(UpdateError::refused("the origin is in a bad mood")),
                Some(StoreMood::BreakingOff) => {
                    self.make(update)?;
                    Err(UpdateError::unknown("the origin broke off its answer"))
                }
                Some(StoreMood::Hanging) => pending().await,
                Some(StoreMood::Full) => Err(UpdateError::unreached("the origin is full")),
            }
        })
    }

    fn update_batch_len_max(&self) -> usize {
        self.0.batch_len_max
    }

    fn update_many(&self, updates: Vec<Update>) -> BoxFuture<'_, Vec<Result<(), UpdateError>>> {
        Box::pin(join_all(updates.into_iter().map(|update| self.update(update))))
    }

    fn fences(&self) -> bool {
        self.0.fences
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{store_contract, testing::store::Arrange};

    impl Arrange for FakeStore {
        fn store(&self) -> &dyn Store {
            self
        }

        fn loader(&self) -> &dyn Loader {
            self
        }

        fn refuse(&self, key: &Key) -> bool {
            self.set_mood(key, Some(StoreMood::Refusing));
            true
        }

        fn keep_out(&self, key: &Key) -> bool {
            self.set_mood(key, Some(StoreMood::Full));
            true
        }

        fn break_off(&self, key: &Key) -> bool {
            self.set_mood(key, Some(StoreMood::BreakingOff));
            true
        }

        fn hang(&self, key: &Key) -> bool {
            self.set_mood(key, Some(StoreMood::Hanging));
            true
        }
    }

    store_contract!(contract, FakeStore::new(1));
    store_contract!(contract_with_batches, FakeStore::new(100));
    store_contract!(contract_where_it_fences, FakeStore::fencing(7));
}
