//! What every [`Membership`](crate::Membership) must do: one suite for those whose list somebody [writes](written), one for
//! those in which nodes [register](registered) themselves.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};

use crate::{Member, Members};

pub mod registered;
pub mod written;

/// How long a list may take to arrive; long, because a busy machine must not fail a test.
const ARRIVAL_TIME: Duration = Duration::from_secs(30);

/// Waits until the receiver has this list.
async fn arrives(receiver: &mut watch::Receiver<Members>, expected: &[Member]) {
    let expected = sorted(expected);
    let arrived = timeout(ARRIVAL_TIME, receiver.wait_for(|members| *members == expected)).await;
    let arrived = arrived.map(|result| result.expect("the membership has not ended").clone());
    assert!(arrived.is_ok(), "{expected:?} does not arrive, but {:?} is there", *receiver.borrow());
}

fn sorted(members: &[Member]) -> Members {
    Members::new(members.iter().cloned()).expect("the suite's lists are sound")
}
