//! [`Watch`]: notices that the other node has fallen silent.
//!
//! HTTP/1.1 has one request on a connection at a time, so that a slow answer looks like a dead node. A request that takes
//! long is accompanied by probes: it is waited for as long as the other node shows any sign of life.

use std::{future::Future, time::Duration};

use futures_util::future::BoxFuture;
use larder_core::peer::{PeerError, SILENCE_MAX};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// How long a request may go unanswered before the node is probed, and for how long a sign of life counts.
const PROBE_AFTER: Duration = Duration::from_millis(500);

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = SILENCE_MAX.saturating_sub(PROBE_AFTER);

/// Asks a node for a sign of life, until the time that is given.
pub(super) trait Knock: Send + Sync {
    fn knock(&self, until: Instant) -> BoxFuture<'_, Result<(), PeerError>>;
}

/// What is known of a node's signs of life.
#[derive(Default)]
pub(super) struct Watch {
    /// When it was last probed, and whether it answered.
    last: Mutex<Option<(Instant, bool)>>,
}

impl Watch {
    /// Waits for `call` as long as the node shows signs of life on `link`.
    pub(super) async fn unless_silent<T>(
        &self,
        call: impl Future<Output = Result<T, PeerError>>,
        link: &dyn Knock,
    ) -> Result<T, PeerError> {
        let mut call = std::pin::pin!(call);
        loop {
            if let Ok(result) = timeout(PROBE_AFTER, &mut call).await {
                return result;
            }
            tokio::select! {
                result = &mut call => return result,
                alive = self.is_alive(link) => if !alive {
                    return Err(PeerError::fell_silent("the node gives no sign of life"));
                }
            }
        }
    }

    /// Asks for a sign of life, unless it was just found that there is none: who waited for that need not be waited for again.
    pub(super) async fn probe(&self, link: &dyn Knock, deadline: Instant) -> Result<(), PeerError> {
        let last = *self.last.lock().await;
        match last {
            Some((at, false)) if Instant::now() < at + PROBE_AFTER => {
                Err(PeerError::fell_silent("the node gave no sign of life"))
            }
            _ => link.knock(deadline).await,
        }
    }

    /// Probes the node, unless that was just done; all who wait for it share one probe.
    async fn is_alive(&self, link: &dyn Knock) -> bool {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        match *last {
            Some((at, alive)) if now < at + PROBE_AFTER => alive,
            _ => {
                let alive = link.knock(now + PROBE_TIMEOUT).await.is_ok();
                *last = Some((Instant::now(), alive));
                alive
            }
        }
    }
}
