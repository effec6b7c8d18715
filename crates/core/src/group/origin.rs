//! [`Origin`]: a group's loader and store, with what every request to them is subject to: the limit on how many are under way,
//! `hard_timeout`, the longest value, and that a panic is a failure.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    GroupConfig,
    limit::{Limit, Permit},
};
use crate::{
    Clock, Error, ErrorKind, Found, Key, LoadError, LoadRequest, Loaded, Loader, Store, Update, UpdateError, Value,
    stats::{OriginStats, RequestResult},
};

pub(super) struct Origin {
    loader: Arc<dyn Loader>,
    /// Where writes go, if they do.
    store: Option<Arc<dyn Store>>,
    limit: Limit,
}

/// What a load brought.
pub(super) struct Brought {
    /// `None`: there is no such key.
    pub(super) value: Option<Value>,
    /// How long the origin says that it may be kept, if it says so.
    pub(super) ttl: Option<Duration>,
}

impl Origin {
    pub(super) fn new(
        loader: Arc<dyn Loader>,
        store: Option<Arc<dyn Store>>,
        config: &GroupConfig,
        member_count: usize,
    ) -> Self {
        Self { loader, store, limit: Limit::new(in_flight_max(config, member_count)) }
    }

    /// Whether it takes writes.
    pub(super) fn takes_writes(&self) -> bool {
        self.store.is_some()
    }

    /// Waits for its turn to be asked something, by then.
    pub(super) async fn permit(&self, deadline: Instant) -> Result<Permit, Error> {
        tokio::time::timeout_at(deadline, self.limit.acquire()).await.map_err(|_| busy())
    }

    /// Waits for its turn, however long that takes, which is independent of this.
    pub(super) fn turn(&self) -> impl Future<Output = Permit> + Send + use<> {
        let limit = self.limit.clone();
        async move { limit.acquire().await }
    }

    /// Makes a change, within its deadline. From here on nobody can tell that nothing was done, unless the origin says so.
    pub(super) async fn update(
        &self,
        update: Update,
        _permit: Permit,
        clock: &dyn Clock,
        stats: &OriginStats,
    ) -> Result<(), UpdateError> {
        let Some(store) = &self.store else { return Err(UpdateError::refused("the origin takes no writes")) };
        let (start, deadline) = (clock.now(), update.deadline);
        let updating = AssertUnwindSafe(async { store.update(update).await }).catch_unwind();
        let (result, label) = match tokio::time::timeout_at(deadline, updating).await {
            Ok(Ok(Ok(()))) => (Ok(()), RequestResult::Ok),
            Ok(Ok(Err(error))) => (Err(error), RequestResult::Error),
            Ok(Err(_panic)) => {
                (Err(UpdateError::unknown("the store panicked: see the node's standard error")), RequestResult::Error)
            }
            Err(_late) => {
                (Err(UpdateError::Unknown(Error::timed_out("the origin was written").into())), RequestResult::Timeout)
            }
        };
        stats.duration.observe(clock.now().since(start));
        stats.results.of(label).add(1);
        result
    }

    pub(super) fn batch_len_max(&self) -> usize {
        self.loader.batch_len_max()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.limit.in_flight()
    }

    /// Takes what the settings allow a node of so many.
    pub(super) fn fit(&self, config: &GroupConfig, member_count: usize) {
        self.limit.resize(in_flight_max(config, member_count));
    }

    pub(super) async fn load(
        &self,
        key: Key,
        previous: Option<Value>,
        config: &GroupConfig,
        clock: &dyn Clock,
        stats: &OriginStats,
    ) -> Result<Brought, Error> {
        let call = |deadline| self.loader.load(request(key, previous.clone(), config, deadline));
        checked(self.call(call, config, clock, stats).await?, previous, config)
    }

    /// Loads several keys in one request; answers each in its place.
    pub(super) async fn load_many(
        &self,
        keys: &[Key],
        config: &GroupConfig,
        clock: &dyn Clock,
        stats: &OriginStats,
    ) -> Vec<Result<Brought, Error>> {
        let call = |deadline| {
            let requests = keys.iter().map(|key| request(key.clone(), None, config, deadline)).collect();
            self.loader.load_many(requests)
        };
        let error = match self.call(call, config, clock, stats).await {
            Ok(answers) if answers.len() == keys.len() => {
                let fitted = answers.into_iter().map(|answer| checked(answer.map_err(into_error)?, None, config));
                return fitted.collect();
            }
            Ok(answers) => {
                Error::origin(format!("the loader was asked for {} keys and answered {}", keys.len(), answers.len()))
            }
            Err(error) => error,
        };
        keys.iter().map(|_| Err(error.clone())).collect()
    }

    async fn call<T, F>(
        &self,
        call: impl FnOnce(Instant) -> F,
        config: &GroupConfig,
        clock: &dyn Clock,
        stats: &OriginStats,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LoadError>>,
    {
        let hard_timeout = config.hard_timeout;
        let _permit = self.permit(Instant::now() + hard_timeout).await?;
        let start = clock.now();
        // A loader may panic before its first await, too.
        let loading = AssertUnwindSafe(async { call(Instant::now() + hard_timeout).await }).catch_unwind();
        let (result, label) = match tokio::time::timeout(hard_timeout, loading).await {
            Ok(Ok(Ok(loaded))) => (Ok(loaded), RequestResult::Ok),
            Ok(Ok(Err(error))) => (Err(into_error(error)), RequestResult::Error),
            Ok(Err(_panic)) => {
                (Err(Error::origin("the loader panicked: see the node's standard error")), RequestResult::Error)
            }
            Err(_late) => (Err(Error::timed_out("the origin was asked")), RequestResult::Timeout),
        };
        stats.duration.observe(clock.now().since(start));
        stats.results.of(label).add(1);
        result
    }
}

fn busy() -> Error {
    let message = "the origin is busy with other keys: raise origin_concurrency or ask for less at once";
    Error::new(ErrorKind::Overloaded, message).with_retry_after(Duration::from_secs(1))
}

/// How many requests a node of so many may have under way: its share of the cluster's budget, if there is one.
fn in_flight_max(config: &GroupConfig, member_count: usize) -> usize {
    match config.origin_budget {
        0 => config.origin_concurrency,
        budget => (budget / member_count.max(1)).clamp(1, config.origin_concurrency),
    }
}

fn request(key: Key, previous: Option<Value>, config: &GroupConfig, deadline: Instant) -> LoadRequest {
    LoadRequest { key, previous, value_len_max: config.value_len_max, deadline }
}

/// What a loader's answer comes to: no value that is too long, and the `previous` one where nothing changed.
fn checked(loaded: Loaded, previous: Option<Value>, config: &GroupConfig) -> Result<Brought, Error> {
    let max = config.value_len_max;
    let value = match loaded.found {
        Found::Value(value) if value.len() > max => {
            let len = value.len();
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the value at the origin has {len} bytes: max_value is {max}"),
            ));
        }
        Found::Value(value) => Some(value),
        Found::Nothing => None,
        Found::Unchanged if previous.is_some() => previous,
        Found::Unchanged => {
            return Err(Error::origin("the origin says that nothing changed, but was not told of a value"));
        }
    };
    Ok(Brought { value, ttl: loaded.ttl })
}

pub(super) fn into_error(error: LoadError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(other) => Error::origin(other),
    }
}
