//! Keeping alive what a waiter waits with: a lease, or a session.

use std::{future::Future, time::Duration};

use tokio::time::sleep;

/// How often it is renewed within its ttl.
const RENEWALS_PER_TTL: u32 = 3;

/// Renews again and again, until it turns out to be gone: then the wait has to begin anew. `renew` tells whether it is there; a
/// failure is no answer.
pub(super) async fn kept_while_waiting<F: Future<Output = Option<bool>>>(ttl: Duration, renew: impl Fn() -> F) {
    loop {
        sleep(ttl / RENEWALS_PER_TTL).await;
        if renew().await == Some(false) {
            return;
        }
    }
}
