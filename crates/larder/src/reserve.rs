//! Keeps a node's clock reserved in its journal, so that a restart goes on above every version that it gave (rule V2).

use std::time::Duration;

use larder_core::{Error, Standing, version::Reading};
use larder_origin::journal::{Journal, JournalError};
use tokio::time::sleep;

/// How far ahead of the wall clock the node's is reserved. By so much it may run ahead after a restart, which has to stay well below the
/// minute that other nodes bear.
const AHEAD: Duration = Duration::from_secs(10);

/// How far ahead of the node's clock, where that runs ahead of the wall already and only counts: room for millions of versions. No more, or a
/// node that is started again and again would run further ahead each time.
const ROOM: Duration = Duration::from_millis(100);

/// When it is reserved anew: while there is as much left as a busy disk takes for many a commit. So hardly a write waits for it.
const RENEW_AFTER: Duration = Duration::from_secs(5);

/// The pause after a disk had no room, or too much to do.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Has the node of this standing go on above all that is in the journal. From here on no version goes out that is not reserved: that
/// is what [`keep`] is for.
pub(crate) fn begin(standing: &Standing, journal: &Journal) {
    let floor = journal.clock_floor();
    let ahead = Duration::from_millis(floor.wall_ms().saturating_sub(standing.wall_ms()));
    if ahead > AHEAD {
        let ahead = ahead.as_secs();
        tracing::warn!(
            "the node's clock goes on {ahead} s ahead of the wall clock, which was turned back or was wrong before: from 60 s \
             on the other nodes do not listen"
        );
    }
    standing.start_above(floor);
    standing.reserve().begin();
}

/// Reserves the clock ahead, until the journal takes nothing any more.
pub(crate) async fn keep(node: larder_core::Node, journal: Journal) {
    let standing = node.standing();
    let reserve = standing.reserve();
    loop {
        let ahead_of = |ms: u64, ahead: Duration| ms.saturating_add(ahead.as_millis() as u64);
        let until_ms = ahead_of(standing.wall_ms(), AHEAD).max(ahead_of(standing.reading().wall_ms(), ROOM));
        let until = Reading::from_bits(until_ms << 16);
        let pause = match journal.reserve_clock(until).await {
            Ok(()) => {
                reserve.extend(until);
                RENEW_AFTER
            }
            Err(error) if error.is_retryable() => {
                reserve.delay(Error::from(error));
                RETRY_AFTER
            }
            Err(error) => {
                // Nothing will be written there any more, and so nothing anywhere (rule B7).
                if !matches!(error, JournalError::Closed) {
                    tracing::error!(%error, "this node takes no writes any more");
                }
                return reserve.end(Error::from(error));
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = reserve.wanted(), if pause == RENEW_AFTER => {}
        }
    }
}
