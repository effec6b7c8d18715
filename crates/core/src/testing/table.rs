//! [`FakeTable`]: an origin in memory that is read and written, and that tests hold up at every step.

use std::{collections::HashMap, sync::Arc};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::{
    Change, Found, LoadError, LoadRequest, Loaded, Loader, Store, Update, UpdateError, Value, Version, version::Reading,
};

/// What becomes of a write.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Writing {
    /// It is done.
    #[default]
    Done,
    /// It is refused, and nothing changes.
    Refused,
    /// It is done, and the answer gets lost.
    DoneUnheard,
    /// It is not done yet, and the answer gets lost: [`FakeTable::do_late`] does it.
    Late,
    /// It never ends.
    Hangs,
}

/// An origin in memory. Clones are the same origin. A load reads its row when it begins, and a write changes it when it has passed
/// its gate.
///
/// ```
/// use larder_core::testing::table::FakeTable;
///
/// let table = FakeTable::new();
/// table.set("k", "v");
/// assert_eq!(table.row("k").as_deref(), Some("v"));
/// ```
#[derive(Clone)]
pub struct FakeTable(Arc<State>);

struct State {
    rows: Mutex<HashMap<Vec<u8>, Row>>,
    late: Mutex<Vec<Update>>,
    writing: Mutex<Writing>,
    fences: Mutex<bool>,
    loads: Gate,
    writes: Gate,
}

#[derive(Clone)]
struct Row {
    value: Option<Value>,
    version: Version,
}

/// What passes here is counted, and waits where it is closed.
struct Gate {
    begun: watch::Sender<usize>,
    closed: Mutex<bool>,
    permits: Semaphore,
}

impl Gate {
    fn new() -> Self {
        Self { begun: watch::Sender::new(0), closed: Mutex::default(), permits: Semaphore::new(0) }
    }

    async fn pass(&self) {
        self.begun.send_modify(|begun| *begun += 1);
        if !*self.closed.lock() {
            return;
        }
        if let Ok(permit) = self.permits.acquire().await {
            permit.forget();
        }
    }

    async fn reached(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        // The sender lives as long as this gate does.
        let _seen = begun.wait_for(|begun| *begun >= count).await;
    }
}

impl Default for FakeTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeTable {
    /// A table without rows.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(State {
            rows: Mutex::default(),
            late: Mutex::default(),
            writing: Mutex::default(),
            fences: Mutex::default(),
            loads: Gate::new(),
            writes: Gate::new(),
        }))
    }

    /// Changes a row behind everybody's back.
    pub fn set(&self, key: &str, value: &str) {
        let value = Some(Value::from(value.to_owned()));
        self.0.rows.lock().insert(key.into(), Row { value, version: Version::ZERO });
    }

    /// Changes a row behind everybody's back, to what is newer than all that there is.
    pub fn set_newer(&self, key: &str, value: &str) {
        let value = Some(Value::from(value.to_owned()));
        let version = Version::new(Reading::from_bits(u64::MAX), 0);
        self.0.rows.lock().insert(key.into(), Row { value, version });
    }

    /// What a row holds.
    #[must_use]
    pub fn row(&self, key: &str) -> Option<String> {
        let rows = self.0.rows.lock();
        let value = rows.get(key.as_bytes())?.value.clone()?;
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// Changes what becomes of writes from now on.
    pub fn set_writing(&self, writing: Writing) {
        *self.0.writing.lock() = writing;
    }

    /// Takes nothing older than what it has from now on.
    pub fn fence(&self) {
        *self.0.fences.lock() = true;
    }

    /// Does what writes left undone.
    pub fn do_late(&self) {
        for update in std::mem::take(&mut *self.0.late.lock()) {
            // Nobody is there any more to be told.
            let _unheard = self.change(&update);
        }
    }

    /// Loads that begin from now on read their row and wait.
    pub fn close_loads(&self) {
        *self.0.loads.closed.lock() = true;
    }

    /// Lets `count` loads go on.
    pub fn let_loads(&self, count: usize) {
        self.0.loads.permits.add_permits(count);
    }

    /// Waits until so many loads have begun.
    pub async fn loads_begun(&self, count: usize) {
        self.0.loads.reached(count).await;
    }

    /// How many loads have begun.
    #[must_use]
    pub fn loads(&self) -> usize {
        *self.0.loads.begun.borrow()
    }

    /// Writes that begin from now on wait before they change anything.
    pub fn close_writes(&self) {
        *self.0.writes.closed.lock() = true;
    }

    /// Lets `count` writes go on.
    pub fn let_writes(&self, count: usize) {
        self.0.writes.permits.add_permits(count);
    }

    /// Waits until so many writes have begun.
    pub async fn writes_begun(&self, count: usize) {
        self.0.writes.reached(count).await;
    }

    fn change(&self, update: &Update) -> Result<(), UpdateError> {
        let mut rows = self.0.rows.lock();
        let row = rows.get(update.key.as_bytes());
        if *self.0.fences.lock() && row.is_some_and(|row| row.version > update.version) {
            return Err(UpdateError::Conflict);
        }
        let value = match &update.change {
            Change::Put(value) => Some(value.clone()),
            Change::Delete => None,
        };
        rows.insert(update.key.as_bytes().to_vec(), Row { value, version: update.version });
        Ok(())
    }
}

impl Loader for FakeTable {
    fn load(&self, request: LoadRequest) -> BoxFuture<'_, Result<Loaded, LoadError>> {
        Box::pin(async move {
            let row = self.0.rows.lock().get(request.key.as_bytes()).cloned();
            self.0.loads.pass().await;
            let found = row.and_then(|row| row.value).map_or(Found::Nothing, Found::Value);
            Ok(Loaded { found, ttl: None })
        })
    }
}

impl Store for FakeTable {
    fn update(&self, update: Update) -> BoxFuture<'_, Result<(), UpdateError>> {
        Box::pin(async move {
            self.0.writes.pass().await;
            let writing = *self.0.writing.lock();
            match writing {
                Writing::Done => self.change(&update),
                Writing::Refused => Err(UpdateError::refused("the table takes no such value")),
                Writing::DoneUnheard => {
                    self.change(&update)?;
                    Err(UpdateError::unknown("the connection broke"))
                }
                Writing::Late => {
                    self.0.late.lock().push(update);
                    Err(UpdateError::unknown("the connection broke"))
                }
                Writing::Hangs => std::future::pending().await,
            }
        })
    }

    fn fences(&self) -> bool {
        *self.0.fences.lock()
    }
}
