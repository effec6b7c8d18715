//! Whether a node has been among the others all the time (rules A1 and W5).
//!
//! A node that slept, or was stopped, may have been sent away meanwhile and others have acted in its place. It finds that out
//! by its clock, which goes on: before it answers for anything again, it asks. Likewise a node whose view gains a member
//! asks it for what it acted for while they did not share a view.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::select_ok, stream};
use tokio::time::{Instant, sleep};

use super::{
    message::{SlotCall, SlotReply},
    table::Recalled,
};
use crate::{Member, Members, Moment, Node, membership::MEMBERS_MAX, placement::SlotSet};

/// For how long a node is sure to be among the others after it heard of one, where no group says: half a lease.
const SURE_FOR: Duration = Duration::from_millis(500);

/// The shortest such time: nodes under load take some time to say a word.
const SURE_FOR_MIN: Duration = Duration::from_millis(250);

/// How long who is asked whether the view stands has for the answer. If nobody has one, the node is cut off anyway, and goes
/// on.
const ANSWER_WAIT: Duration = Duration::from_millis(50);

/// The same for a node that has heard nothing for so long that its links are gone: it has to make them anew, as nothing else
/// tells one that stood still from one that is cut off.
const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(1);

/// How many are asked at once.
const ASKED_MAX: usize = 3;

/// How many members are asked at once for what they acted for.
const RECALLS_MAX: usize = 32;

/// How long that may take each of them. Who takes longer is asked again.
const RECALL_TIMEOUT: Duration = Duration::from_millis(500);

/// When this node last asked something of another that was answered.
///
/// It moves on by questions that were sent before its time was over; after that it takes [`Node::awaken`].
pub(crate) struct Contact {
    /// [`Moment::NEVER`] while there is nobody else.
    last: AtomicU64,
    /// Half of the shortest lease of any group, in nanoseconds.
    sure_for: AtomicU64,
}

impl Contact {
    pub(crate) fn new() -> Self {
        let sure_for = AtomicU64::new(nanos(SURE_FOR));
        Self { last: AtomicU64::new(Moment::NEVER.as_nanos()), sure_for }
    }

    fn last(&self) -> Moment {
        Moment::from_nanos(self.last.load(Ordering::Relaxed))
    }

    fn sure_for(&self) -> Duration {
        Duration::from_nanos(self.sure_for.load(Ordering::Relaxed))
    }

    fn ends(&self) -> Moment {
        self.last() + self.sure_for()
    }

    /// Whether the node is sure to be among the others. A node by itself always is, and needs no clock for it.
    #[inline]
    pub(crate) fn is_sure(&self, now: impl FnOnce() -> Moment) -> bool {
        self.last.load(Ordering::Relaxed) == Moment::NEVER.as_nanos() || now() < self.ends()
    }

    /// Copies of some group's values may be kept for so long.
    pub(crate) fn lease(&self, lease: Duration) {
        self.sure_for.fetch_min(nanos((lease / 2).max(SURE_FOR_MIN)), Ordering::Relaxed);
    }

    /// A question that was sent then has been answered.
    #[inline]
    pub(crate) fn heard(&self, sent: Moment) {
        let last = self.last();
        if last < sent && sent < self.ends() {
            self.last.fetch_max(sent.as_nanos(), Ordering::Relaxed);
        }
    }

    fn set(&self, to: Moment) {
        self.last.store(to.as_nanos(), Ordering::Relaxed);
    }

    /// There are others from now on, or none.
    pub(crate) fn has_others(&self, has: bool, now: Moment) {
        match (has, self.last() == Moment::NEVER) {
            (true, true) => self.set(now),
            // To one that slept the others seem to be gone, until it hears them.
            (false, false) if self.is_sure(|| now) => self.set(Moment::NEVER),
            _ => {}
        }
    }
}

/// Since when a node's view has had the members that it has, and which it had before.
#[derive(Default)]
pub(crate) struct Attendance(HashMap<Arc<str>, Seen>);

struct Seen {
    incarnation: u32,
    takes_keys: bool,
    /// `None`: it was sent away.
    since: Option<Moment>,
}

impl Attendance {
    /// Takes down the members of a view. Those are told that came, and who takes keys from now on: by its own view it may have done so
    /// for a while, and have been the only one.
    pub(crate) fn take(&mut self, members: &Members, now: Moment) -> Vec<Arc<str>> {
        if self.0.len() > 2 * MEMBERS_MAX {
            self.0.retain(|_, seen| seen.since.is_some());
        }
        for (name, seen) in &mut self.0 {
            if members.position(name).is_none() {
                seen.since = None;
            }
        }
        let mut came = Vec::new();
        for member in members.iter() {
            let Member { name, incarnation, .. } = member;
            let takes_keys = member.takes_keys();
            let stays = |seen: &&Seen| seen.incarnation == *incarnation && seen.since.is_some();
            let before = self.0.get(name).filter(stays);
            if before.is_none_or(|before| takes_keys && !before.takes_keys) {
                came.push(name.clone());
            }
            let since = before.map_or(Some(now), |before| before.since);
            self.0.insert(name.clone(), Seen { incarnation: *incarnation, takes_keys, since });
        }
        came
    }

    /// How many nodes of lesser names have been members, this run of it being asked.
    pub(crate) fn rank(&self, name: &str) -> u64 {
        self.0.keys().filter(|known| ***known < *name).count() as u64
    }

    /// For how long a node has been a member without a break. `None`: it was sent away. One that never was a member has not
    /// been: where somebody writes them, lists may differ.
    pub(crate) fn member_for(&self, name: &str, incarnation: u32, now: Moment) -> Option<Duration> {
        match self.0.get(name) {
            // Not every list of members knows incarnations.
            Some(seen) if seen.incarnation == incarnation || seen.incarnation == 0 => {
                seen.since.map(|since| now.since(since))
            }
            _ => Some(Duration::MAX),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What another says of this node and of itself.
struct Heard {
    /// When it was asked.
    sent: Moment,
    /// For how long this node has been in its view; `None`: it was sent away.
    member_for: Option<Duration>,
    /// What it acted for.
    slots: SlotSet,
}

impl Node {
    /// Waits until the node is sure that its view stands, or that nobody can tell it (rule A1).
    pub(crate) async fn awaken(&self) {
        let now = || self.clock().now();
        if self.contact().is_sure(now) {
            return;
        }
        let _one = self.waking().lock().await;
        while !self.contact().is_sure(now) {
            let last = self.contact().last();
            let view = self.view();
            let is_alone = view.peers().next().is_none();
            let mut peers: Vec<Arc<str>> = view.peers().map(|peer| peer.member().name.clone()).collect();
            if is_alone {
                peers = self.departed();
            }
            self.chance(|chance| chance.shuffle(&mut peers));
            let is_long_ago = now().since(last) > 2 * self.contact().sure_for();
            let wait = if is_long_ago { FIRST_ANSWER_WAIT } else { ANSWER_WAIT };
            let asked = peers.iter().take(ASKED_MAX).map(|name| Box::pin(self.ask_recall(name.clone(), wait)));
            let asked = asked.collect::<Vec<_>>();
            let heard = if asked.is_empty() { Err(()) } else { select_ok(asked).await.map(|(heard, _)| heard) };
            match heard {
                Err(()) => {
                    tracing::debug!("nobody says whether the view stands");
                    self.contact().set(if is_alone { Moment::NEVER } else { now() });
                }
                Ok(Heard { sent, member_for: Some(member_for), .. }) => {
                    if member_for < sent.since(last) {
                        tracing::info!("this node was sent away for a while: it asks what others did in its place");
                        self.recall_from(peers).await;
                    }
                    self.contact().set(sent);
                }
                Ok(Heard { member_for: None, .. }) if !view.is_serving() => self.contact().set(now()),
                // It was sent away. Its membership is about to say so, or that it is back.
                Ok(_) => sleep(ANSWER_WAIT).await,
            }
        }
    }

    /// Sees to it that the node stays sure.
    pub(super) async fn keep_contact(&self) {
        let now = self.clock().now();
        let ends = self.contact().ends();
        if ends == Moment::NEVER || now < ends.before(self.contact().sure_for() / 2) {
            return;
        }
        if now >= ends {
            return self.awaken().await;
        }
        let view = self.view();
        let admitted: Vec<_> = view.peers().filter(|peer| peer.is_admitted()).collect();
        if let Some(peer) = self.chance(|chance| chance.choice(&admitted).copied().cloned())
            && peer.is_there(Instant::now() + ANSWER_WAIT).await
        {
            self.contact().heard(now);
        }
    }

    /// Asks members for what they acted for while they did not share a view with this node, and claims from them what of it
    /// is this node's (rule W5). Who does not say it, or has some that is still being claimed from another, is to be asked again.
    pub(super) async fn recall_from(&self, members: Vec<Arc<str>>) {
        let ask = |member: Arc<str>| async move { (member.clone(), self.ask_recall(member, RECALL_TIMEOUT).await) };
        let mut heard = stream::iter(members).map(ask).buffer_unordered(RECALLS_MAX);
        while let Some((from, heard)) = heard.next().await {
            let Ok(Heard { slots, sent, .. }) = heard else {
                self.recall_later(from);
                continue;
            };
            let view = self.view();
            let mine: SlotSet = slots.iter().filter(|slot| view.is_mine(*slot, &[])).collect();
            let Recalled { recalled, is_all } =
                self.tenure().recall(&mine, (&from, sent), self.next_version(), self.clock().now());
            if !is_all {
                self.recall_later(from.clone());
            }
            if !recalled.is_empty() {
                tracing::info!(%from, slots = recalled.len(), "another node acted for slots of this one: they are claimed");
                self.drop_slots(recalled.clone()).await;
                self.tenure().clean(&recalled);
            }
        }
    }

    async fn ask_recall(&self, from: Arc<str>, wait: Duration) -> Result<Heard, ()> {
        let sent = self.clock().now();
        match self.say(&from, SlotCall::Recall, Instant::now() + wait).await {
            Ok(SlotReply::Recalled { member_for, slots }) => Ok(Heard { sent, member_for, slots }),
            Ok(_) => Err(()),
            Err(error) => {
                tracing::debug!(%from, %error, "a member was not heard");
                Err(())
            }
        }
    }

    /// Answers a member that asks what [`recall_from`](Self::recall_from) does.
    pub(crate) fn recalled(&self, from: &str, incarnation: u32) -> SlotReply {
        SlotReply::Recalled { member_for: self.member_for(from, incarnation), slots: self.tenure().unclaimed() }
    }
}
