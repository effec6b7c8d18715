//! [`Threads`]: work that blocks, on a bounded number of threads.

use std::sync::Arc;

use larder_core::Error;
use tokio::{sync::Semaphore, task::spawn_blocking};

/// Some of the runtime's threads for blocking work, so that an origin that hangs can't take all of them.
///
/// A thread is taken until its work is done, also when nobody waits for the work any longer: that is what bounds it.
pub(crate) struct Threads(Arc<Semaphore>);

impl Threads {
    pub(crate) fn new(len_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(len_max)))
    }

    /// Runs `work` once a thread is free. Given up while it waits, it never begins; later it runs on, unheard.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let thread = Arc::clone(&self.0).acquire_owned().await.map_err(Error::origin)?;
        let done = spawn_blocking(move || {
            let result = work();
            drop(thread);
            result
        });
        // Only a panic in `work`, or a runtime that ends.
        done.await.map_err(|error| Error::origin(format!("the load was broken off: {error}")))
    }
}
