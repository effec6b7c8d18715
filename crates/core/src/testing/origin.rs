//! [`FakeOrigin`]: an origin in memory that tests can hold up, break and count.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::{Found, Key, LoadError, LoadRequest, Loaded, Loader, Value};

/// What the origin does with a load.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Mood {
    /// Answers: `"{key}={n}"` for the n-th state of the key, nothing for keys that begin with `missing`.
    #[default]
    Well,
    /// Answers with a validator, and that nothing changed where it is told of it.
    Validating,
    /// Has no keys any more.
    Empty,
    /// Fails.
    Failing,
    /// Panics.
    Panicking,
}

/// An origin in memory. Clones are the same origin.
#[derive(Clone)]
pub struct FakeOrigin(Arc<State>);

struct State {
    mood: Mutex<Mood>,
    batch_len_max: usize,
    /// Loads of each key, begun.
    begun: Mutex<HashMap<Vec<u8>, usize>>,
    /// How often each key was changed.
    changed: Mutex<HashMap<Vec<u8>, usize>>,
    requests: watch::Sender<usize>,
    under_way: Mutex<HashMap<Vec<u8>, usize>>,
    under_way_max: Mutex<usize>,
    /// Closed gates let a load through for each permit; open ones let all through.
    gate: Semaphore,
    gated: Mutex<bool>,
}

impl FakeOrigin {
    /// An origin that takes batches of up to this many keys.
    #[must_use]
    pub fn new(batch_len_max: usize) -> Self {
        Self(Arc::new(State {
            mood: Mutex::default(),
            batch_len_max,
            begun: Mutex::default(),
            changed: Mutex::default(),
            requests: watch::Sender::new(0),
            under_way: Mutex::default(),
            under_way_max: Mutex::default(),
            gate: Semaphore::new(0),
            gated: Mutex::default(),
        }))
    }

    /// Changes what loads do from now on.
    pub fn set_mood(&self, mood: Mood) {
        *self.0.mood.lock() = mood;
    }

    /// Changes a key's value.
    pub fn change(&self, key: &str) {
        *self.0.changed.lock().entry(key.into()).or_default() += 1;
    }

    /// Loads that begin from now on read their value and then wait.
    pub fn close_gate(&self) {
        *self.0.gated.lock() = true;
    }

    /// Lets `count` of the waiting loads go on.
    pub fn let_through(&self, count: usize) {
        self.0.gate.add_permits(count);
    }

    /// How many requests were made of it, whatever the number of keys.
    #[must_use]
    pub fn requests(&self) -> usize {
        *self.0.requests.borrow()
    }

    /// Waits until so many requests were made of it.
    pub async fn requested(&self, count: usize) {
        let mut requests = self.0.requests.subscribe();
        // The sender lives as long as this origin does.
        let _seen = requests.wait_for(|requests| *requests >= count).await;
    }

    /// How many loads of `key` have begun.
    #[must_use]
    pub fn loads(&self, key: &str) -> usize {
        self.0.begun.lock().get(key.as_bytes()).copied().unwrap_or_default()
    }

    /// The most loads of one key that were under way at the same time.
    #[must_use]
    pub fn under_way_max(&self) -> usize {
        *self.0.under_way_max.lock()
    }

    fn begin(&self, key: &Key) -> UnderWay {
        let State { begun, under_way, under_way_max, .. } = &*self.0;
        *begun.lock().entry(key.as_bytes().to_vec()).or_default() += 1;
        let mut under_way = under_way.lock();
        let count = under_way.entry(key.as_bytes().to_vec()).or_default();
        *count += 1;
        let mut most = under_way_max.lock();
        *most = (*most).max(*count);
        UnderWay { origin: self.clone(), key: key.clone() }
    }

    fn find(&self, key: &Key) -> Loaded {
        if key.as_bytes().starts_with(b"missing") {
            return Loaded::nothing();
        }
        let state = self.0.changed.lock().get(key.as_bytes()).copied().unwrap_or_default();
        let mut value = key.as_bytes().to_vec();
        value.extend_from_slice(format!("={state}").as_bytes());
        Loaded { found: Found::Value(Value::new(value)), ttl: None }
    }

    /// As [`find`](Self::find), for an asker that holds `previous`.
    fn validate(&self, key: &Key, previous: Option<&Value>) -> Loaded {
        let mut loaded = self.find(key);
        if let Found::Value(value) = &mut loaded.found {
            let validator = format!("v{}", value.escape_ascii());
            if previous.and_then(Value::validator) == Some(&validator) {
                loaded.found = Found::Unchanged;
            } else {
                *value = value.clone().with_validator(validator);
            }
        }
        loaded
    }

    async fn answer(&self, keys: Vec<Key>) -> Result<Vec<Loaded>, LoadError> {
        let _under_way: Vec<UnderWay> = keys.iter().map(|key| self.begin(key)).collect();
        let found = keys.iter().map(|key| self.find(key)).collect();
        let gated = *self.0.gated.lock();
        self.0.requests.send_modify(|requests| *requests += 1);
        if gated {
            self.0.gate.acquire().await?.forget();
        }
        let mood = *self.0.mood.lock();
        match mood {
            Mood::Well | Mood::Validating => Ok(found),
            Mood::Empty => Ok(keys.iter().map(|_| Loaded::nothing()).collect()),
            Mood::Failing => Err("the origin is in a bad mood".into()),
            Mood::Panicking => panic!("the origin panics, as it was told to"),
        }
    }
}

impl Loader for FakeOrigin {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            let validated = self.validate(&request.key, request.previous.as_ref());
            let mut answers = self.answer(vec![request.key]).await?;
            if *self.0.mood.lock() == Mood::Validating {
                return Ok(validated);
            }
            answers.pop().ok_or_else(|| "one key, one answer".into())
        })
    }

    fn batch_len_max(&self) -> usize {
        self.0.batch_len_max
    }

    fn load_many(
        &self,
        requests: Vec<LoadRequest>,
    ) -> BoxFuture<'_, Result<Vec<Result<Loaded, LoadError>>, LoadError>> {
        Box::pin(async move {
            let keys = requests.into_iter().map(|request| request.key).collect();
            Ok(self.answer(keys).await?.into_iter().map(Ok).collect())
        })
    }
}

/// A load that is under way.
struct UnderWay {
    origin: FakeOrigin,
    key: Key,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(count) = self.origin.0.under_way.lock().get_mut(self.key.as_bytes()) {
            *count -= 1;
        }
    }
}
