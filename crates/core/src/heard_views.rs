//! [`HeardViews`]: which views other nodes were heard to have, and which of them this node has looked for.
//!
//! Rule W1: who meets a view that it doesn't know looks at its membership first, then judges. A view is looked for once
//! while somebody waits for it, and again from time to time while it goes on being heard. Here is only who wants what; the
//! looking itself is the affair of whoever follows the membership.

use std::{collections::VecDeque, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use crate::membership::LOOK_TIME_MAX;

/// How many views are remembered, this node's own and others': far more than there are at once while a membership settles.
const VIEWS_MAX: usize = 64;

/// How long after a look that did not find it a view is looked for again, if it is still heard.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The views that this node has had, has looked for, or is to look for.
#[derive(Debug)]
pub(crate) struct HeardViews {
    /// The latest at the end.
    views: Mutex<VecDeque<Heard>>,
    wanted: Notify,
    looked: watch::Sender<()>,
}

#[derive(Debug)]
struct Heard {
    digest: u64,
    look: Look,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// It is, or was, this node's own.
    Needless,
    /// It has not been looked for.
    Wanted,
    /// It was looked for then, and not found.
    Done(Instant),
    /// It was looked for, and is to be once more. Nobody waits for that.
    WantedAgain,
}

impl Default for HeardViews {
    fn default() -> Self {
        Self { views: Mutex::default(), wanted: Notify::new(), looked: watch::Sender::new(()) }
    }
}

impl HeardViews {
    /// This node has this view now.
    pub(crate) fn adopt(&self, digest: u64) {
        remember(&mut self.views.lock(), digest, Look::Needless);
        self.looked.send_replace(());
    }

    /// Another node has this view. Whether this node can judge what it asks: it knows the view, or has looked for it.
    pub(crate) fn hear(&self, digest: u64) -> bool {
        let mut views = self.views.lock();
        let heard = views.iter_mut().find(|heard| heard.digest == digest);
        let (wants, can_judge) = match heard {
            None => {
                remember(&mut views, digest, Look::Wanted);
                (true, false)
            }
            Some(heard) => match heard.look {
                Look::Done(at) if at.elapsed() >= LOOK_AGAIN_AFTER => {
                    heard.look = Look::WantedAgain;
                    (true, true)
                }
                look => (false, look != Look::Wanted),
            },
        };
        drop(views);
        if wants {
            self.wanted.notify_one();
        }
        can_judge
    }

    /// Waits until this node can judge by this view: [`LOOK_TIME_MAX`] at most, and once.
    pub(crate) async fn meet(&self, digest: u64) {
        let mut looked = self.looked.subscribe();
        if self.hear(digest) {
            return;
        }
        // The sender is a field of this.
        if timeout(LOOK_TIME_MAX, looked.wait_for(|()| self.is_looked_for(digest))).await.is_err() {
            self.done(&[digest]);
        }
    }

    fn is_looked_for(&self, digest: u64) -> bool {
        // One that was forgotten meanwhile has had its time.
        !self.views.lock().iter().any(|heard| heard.digest == digest && heard.look == Look::Wanted)
    }

    /// Waits until views are to be looked for: these.
    pub(crate) async fn wanted(&self) -> Vec<u64> {
        loop {
            let wanted = |heard: &&Heard| matches!(heard.look, Look::Wanted | Look::WantedAgain);
            let digests: Vec<u64> = self.views.lock().iter().filter(wanted).map(|heard| heard.digest).collect();
            if !digests.is_empty() {
                return digests;
            }
            self.wanted.notified().await;
        }
    }

    /// These have been looked for.
    pub(crate) fn done(&self, digests: &[u64]) {
        let now = Instant::now();
        for heard in self.views.lock().iter_mut() {
            if digests.contains(&heard.digest) && heard.look != Look::Needless {
                heard.look = Look::Done(now);
            }
        }
        self.looked.send_replace(());
    }
}

fn remember(views: &mut VecDeque<Heard>, digest: u64, look: Look) {
    views.retain(|heard| heard.digest != digest);
    if views.len() >= VIEWS_MAX {
        views.pop_front();
    }
    views.push_back(Heard { digest, look });
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_view_is_waited_for_until_it_was_looked_for_and_not_again() {
        let views = Arc::new(HeardViews::default());
        views.adopt(1);
        assert!(views.hear(1));
        let waiter = tokio::spawn({
            let views = views.clone();
            async move { views.meet(2).await }
        });
        assert_eq!(views.wanted().await, [2]);
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished() && !views.hear(2));
        views.done(&[2]);
        waiter.await.unwrap();
        assert!(views.hear(2));
        let start = Instant::now();
        views.meet(2).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_a_look_takes_though_nobody_looks() {
        let views = HeardViews::default();
        let start = Instant::now();
        views.meet(2).await;
        assert_eq!(start.elapsed(), LOOK_TIME_MAX);
        views.meet(2).await;
        assert_eq!(start.elapsed(), LOOK_TIME_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_that_is_adopted_is_waited_for_no_longer() {
        let views = Arc::new(HeardViews::default());
        let waiter = tokio::spawn({
            let views = views.clone();
            async move { views.meet(2).await }
        });
        tokio::task::yield_now().await;
        let start = Instant::now();
        views.adopt(2);
        waiter.await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_still_heard_after_a_while_is_looked_for_again_while_nobody_waits() {
        let views = HeardViews::default();
        assert!(!views.hear(2));
        assert_eq!(views.wanted().await, [2]);
        views.done(&[2]);
        assert!(views.hear(2));
        assert!(timeout(Duration::ZERO, views.wanted()).await.is_err());
        advance(LOOK_AGAIN_AFTER).await;
        assert!(views.hear(2));
        assert_eq!(views.wanted().await, [2]);
    }

    #[test]
    fn of_many_views_the_latest_are_remembered() {
        let views = HeardViews::default();
        for digest in 0..1_000 {
            views.adopt(digest);
        }
        assert_eq!(views.views.lock().len(), VIEWS_MAX);
        assert!(views.hear(999) && !views.hear(0));
    }
}
