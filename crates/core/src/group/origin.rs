//! [`Origin`]: a group's loader, with what every load of it is subject to: the limit on how many are under way,
//! `hard_timeout`, the longest value, and that a panic is a failure.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{GroupConfig, limit::Limit};
use crate::{
    Clock, Error, ErrorKind, Found, Key, LoadError, LoadRequest, Loaded, Loader, Value,
    stats::{OriginStats, RequestResult},
};

pub(super) struct Origin {
    loader: Arc<dyn Loader>,
    limit: Limit,
    concurrency: usize,
    budget: usize,
    hard_timeout: Duration,
    value_len_max: usize,
}

/// What a load brought.
pub(super) struct Brought {
    /// `None`: there is no such key.
    pub(super) value: Option<Value>,
    /// How long the origin says that it may be kept, if it says so.
    pub(super) ttl: Option<Duration>,
}

impl Origin {
    pub(super) fn new(loader: Arc<dyn Loader>, config: &GroupConfig) -> Self {
        Self {
            loader,
            limit: Limit::new(config.origin_concurrency),
            concurrency: config.origin_concurrency,
            budget: config.origin_budget,
            hard_timeout: config.hard_timeout,
            value_len_max: config.value_len_max,
        }
    }

    pub(super) fn batch_len_max(&self) -> usize {
        self.loader.batch_len_max()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.limit.in_flight()
    }

    /// Takes this node's share of the cluster's budget.
    pub(super) fn share_budget(&self, member_count: usize) {
        if self.budget > 0 {
            let share = (self.budget / member_count.max(1)).max(1);
            self.limit.resize(share.min(self.concurrency));
        }
    }

    pub(super) async fn load(
        &self,
        key: Key,
        previous: Option<Value>,
        clock: &dyn Clock,
        stats: &OriginStats,
    ) -> Result<Brought, Error> {
        let call = |deadline| self.loader.load(self.request(key, previous.clone(), deadline));
        self.fit(self.call(call, clock, stats).await?, previous)
    }

    /// Loads several keys in one request; answers each in its place.
    pub(super) async fn load_many(
        &self,
        keys: &[Key],
        clock: &dyn Clock,
        stats: &OriginStats,
    ) -> Vec<Result<Brought, Error>> {
        let call = |deadline| {
            let requests = keys.iter().map(|key| self.request(key.clone(), None, deadline)).collect();
            self.loader.load_many(requests)
        };
        let error = match self.call(call, clock, stats).await {
            Ok(answers) if answers.len() == keys.len() => {
                let fitted = answers.into_iter().map(|answer| self.fit(answer.map_err(into_error)?, None));
                return fitted.collect();
            }
            Ok(answers) => {
                Error::origin(format!("the loader was asked for {} keys and answered {}", keys.len(), answers.len()))
            }
            Err(error) => error,
        };
        keys.iter().map(|_| Err(error.clone())).collect()
    }

    fn request(&self, key: Key, previous: Option<Value>, deadline: Instant) -> LoadRequest {
        LoadRequest { key, previous, value_len_max: self.value_len_max, deadline }
    }

    async fn call<T, F>(
        &self,
        call: impl FnOnce(Instant) -> F,
        clock: &dyn Clock,
        stats: &OriginStats,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LoadError>>,
    {
        let Ok(_permit) = tokio::time::timeout(self.hard_timeout, self.limit.acquire()).await else {
            let message = "the origin is busy with other keys: raise origin_concurrency or ask for less at once";
            return Err(Error::new(ErrorKind::Overloaded, message).with_retry_after(Duration::from_secs(1)));
        };
        let start = clock.now();
        // A loader may panic before its first await, too.
        let loading = AssertUnwindSafe(async { call(Instant::now() + self.hard_timeout).await }).catch_unwind();
        let (result, label) = match tokio::time::timeout(self.hard_timeout, loading).await {
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

    /// What a loader's answer comes to: no value that is too long, and the `previous` one where nothing changed.
    fn fit(&self, loaded: Loaded, previous: Option<Value>) -> Result<Brought, Error> {
        let value = match loaded.found {
            Found::Value(value) if value.len() > self.value_len_max => {
                let (len, max) = (value.len(), self.value_len_max);
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
}

fn into_error(error: LoadError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(other) => Error::origin(other),
    }
}
