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
    outcomes::Recalled,
};
use crate::{Member, Members, Moment, Node, membership::MEMBERS_MAX, placement::SlotSet};

/// For how long a node is sure to be among the others after it heard of one, where no group says: half a lease.
const SURE_FOR: Duration = Duration::from_millis(500);

/// The shortest such time: nodes under load take some time to say a word.
const SURE_FOR_MIN: Duration = Duration::from_millis(250);

/// How long who is asked whether the view stands has for the answer. If nobody has one, the node is cut off anyway, and goes
/// on.
const ANSWER_WAIT: Duration = Duration::from_millis(50);

/// How long a node asks that has not even done so for a while. It stood still, so that most likely it is not cut off, and others have acted
/// in its place: its links are to be made anew, and they may be busy.
const SLEPT_WAIT: Duration = Duration::from_secs(3);

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
        let is_sure = || self.contact().is_sure(|| self.clock().now());
        while !is_sure() {
            let waking = self.waking().clone().lock_owned().await;
            if is_sure() {
                return;
            }
            // In a task of its own: who waits for it may go at any time, and what it has begun is not to be left half done.
            let node = self.clone();
            let woken = tokio::spawn(async move {
                node.wake_up().await;
                drop(waking);
            });
            // If it panicked another begins.
            drop(woken.await);
        }
    }

    async fn wake_up(&self) {
        let now = || self.clock().now();
        let stood_still = || now().since(self.contact().last());
        // Also while it asked: what comes to nothing then does not say that it is cut off.
        let sleeps = || stood_still() > 2 * self.contact().sure_for();
        let (mut has_slept, mut asks_all, mut until) = (false, false, Instant::now() + ANSWER_WAIT);
        while !self.contact().is_sure(now) {
            if !has_slept && sleeps() {
                tracing::info!(stood_still = ?stood_still(), "this node stood still: it asks what others did in its place");
                (has_slept, asks_all, until) = (true, true, Instant::now() + SLEPT_WAIT);
            }
            let (view, sent) = (self.view(), now());
            let is_alone = view.peers().next().is_none();
            let mut peers: Vec<Arc<str>> = view.peers().map(|peer| peer.member().name.clone()).collect();
            if is_alone {
                peers = self.departed();
            }
            let is_member =
                if asks_all { self.recall_from(peers.clone()).await } else { self.ask_some(peers.clone()).await };
            // The slowest of all may take longer than what the others said counts.
            asks_all &= is_member.is_none();
            match is_member {
                None if !has_slept && sleeps() => {}
                // Links of before may be dead, and who is there be busy.
                None if !peers.is_empty() && Instant::now() + ANSWER_WAIT < until => sleep(ANSWER_WAIT).await,
                None => {
                    tracing::debug!("nobody says whether the view stands");
                    // They are asked all the same, until they say it.
                    peers.into_iter().for_each(|peer| self.recall_later(peer));
                    self.contact().set(if is_alone { Moment::NEVER } else { now() });
                }
                Some(true) => self.contact().set(sent),
                Some(false) if !view.is_serving() => self.contact().set(now()),
                // It was sent away. Its membership is about to say so, or that it is back.
                Some(false) => sleep(ANSWER_WAIT).await,
            }
        }
    }

    /// Asks some members whether this node is one, and all of them what they acted for if it was sent away. `None`: nobody answers.
    async fn ask_some(&self, mut members: Vec<Arc<str>>) -> Option<bool> {
        let last = self.contact().last();
        self.chance(|chance| chance.shuffle(&mut members));
        let asked = members.iter().take(ASKED_MAX).map(|name| Box::pin(self.ask_recall(name.clone(), ANSWER_WAIT)));
        let asked = asked.collect::<Vec<_>>();
        if asked.is_empty() {
            return None;
        }
        let (Heard { sent, member_for, .. }, _) = select_ok(asked).await.ok()?;
        if member_for.is_some_and(|member_for| member_for < sent.since(last)) {
            tracing::info!("this node was sent away for a while: it asks what others did in its place");
            self.recall_from(members).await;
        }
        Some(member_for.is_some())
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
    /// is this node's (rule W5). Who does not say it, or has some that is still being claimed from another, is to be asked again. Gives
    /// back whether this node is a member by somebody's view; `None`: nobody answered.
    pub(super) async fn recall_from(&self, members: Vec<Arc<str>>) -> Option<bool> {
        let ask = |member: Arc<str>| async move { (member.clone(), self.ask_recall(member, RECALL_TIMEOUT).await) };
        let mut heard = stream::iter(members).map(ask).buffer_unordered(RECALLS_MAX);
        let mut is_member = None;
        while let Some((from, heard)) = heard.next().await {
            let Ok(Heard { slots, sent, member_for }) = heard else {
                self.recall_later(from);
                continue;
            };
            is_member = Some(is_member == Some(true) || member_for.is_some());
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
        is_member
    }

    async fn ask_recall(&self, from: Arc<str>, wait: Duration) -> Result<Heard, ()> {
        let (view, sent) = (self.view(), self.clock().now());
        let is_theirs = |slot| view.owner(slot, &[]).is_some_and(|owner| owner.name == from);
        let has_yours = self.tenure().lost().iter().any(is_theirs);
        match self.say(&from, SlotCall::Recall { has_yours }, Instant::now() + wait).await {
            Ok(SlotReply::Recalled { member_for, slots }) => Ok(Heard { sent, member_for, slots }),
            Ok(_) => Err(()),
            Err(error) => {
                tracing::debug!(%from, %error, "a member was not heard");
                Err(())
            }
        }
    }

    /// Answers a member that asks what [`recall_from`](Self::recall_from) does.
    pub(crate) fn recalled(&self, from: &Arc<str>, incarnation: u32, has_mine: bool) -> SlotReply {
        // Names come from outside: only members are remembered.
        if has_mine && self.peek_view().members().position(from).is_some() {
            self.recall_later(from.clone());
            self.tenure().work.notify_one();
        }
        SlotReply::Recalled { member_for: self.member_for(from, incarnation), slots: self.tenure().unclaimed() }
    }
}
