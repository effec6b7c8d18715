//! Who was a member, and who is about to be one: what a node remembers of others beside its view.

use std::{sync::Arc, time::Duration};

use super::Node;
use crate::{
    Member, Moment, View,
    link::Peer,
    membership::MEMBERS_MAX,
    rules::{Rule, keeps},
};

/// For how long who left can still be claimed from: longer than it takes any node to find out that it was sent away, and as long as
/// a lease can be.
const DEPARTED_FOR: Duration = Duration::from_secs(60);

/// The most of them. The links of those who left first go first.
const DEPARTED_MAX: usize = 256;

/// The most links to nodes that are no members: lists that somebody writes differ in a few.
const STRANGERS_MAX: usize = 64;

/// How long who took this node's marks may take to become a member of its view: as long as the slowest membership takes to tell of one.
const MARK_TAKER_WAIT: Duration = Duration::from_secs(10);

impl Node {
    /// Takes down since when there are the members that there are, and who is to be asked for what it did before.
    pub(super) fn meet(&self, view: &View) {
        let now = self.clock().now();
        let mut attendance = self.0.attendance.lock();
        let came = attendance.take(view.members(), now);
        self.0.keeper.set_tag(attendance.rank(self.name()));
        drop(attendance);
        if self.carries_claims() {
            self.0.came.lock().extend(came.into_iter().filter(|name| name != self.name()));
        }
        let has_others = self.carries_claims() && view.peers().next().is_some();
        self.0.contact.has_others(has_others, now);
    }

    /// Members that came since this was last asked, or began to serve.
    pub(crate) fn take_newcomers(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.0.came.lock())
    }

    /// A member is still to be asked for what it acted for.
    pub(crate) fn recall_later(&self, name: Arc<str>) {
        self.0.unrecalled.lock().insert(name);
    }

    /// Members that are still to be asked for that. Who has left is when it comes back.
    pub(crate) fn take_unrecalled(&self) -> Vec<Arc<str>> {
        let (unrecalled, view) = (std::mem::take(&mut *self.0.unrecalled.lock()), self.peek_view());
        unrecalled.into_iter().filter(|name| view.members().position(name).is_some()).collect()
    }

    /// As [`Attendance::member_for`].
    pub(crate) fn member_for(&self, name: &str, incarnation: u32) -> Option<Duration> {
        self.0.attendance.lock().member_for(name, incarnation, self.clock().now())
    }

    /// Who was a member until lately.
    pub(crate) fn departed(&self) -> Vec<Arc<str>> {
        self.0.departed.lock().iter().map(|(_, peer)| peer.member().name.clone()).collect()
    }

    /// How many members have left so far, or started anew.
    pub(crate) fn departures(&self) -> u64 {
        self.0.departures.sum()
    }

    /// Until when others may hold copies, kept for `lease` at most, that an earlier run of this node lent (rule C4).
    pub(crate) fn lent_before_until(&self, lease: Duration) -> Moment {
        if self.0.began == Moment::NEVER || !keeps(Rule::C4) { Moment::default() } else { self.0.began + lease }
    }

    /// Whether marks can be told to all members.
    pub(crate) fn tells_marks(&self) -> bool {
        self.carries_claims() || self.peek_view().peers().next().is_none()
    }

    /// Somebody took this node's marks, who may be no member yet.
    pub(crate) fn marks_taken_by(&self, name: &Arc<str>) {
        if self.peek_view().peer(name).is_some() {
            return;
        }
        let now = self.clock().now();
        let mut takers = self.0.mark_takers.lock();
        takers.retain(|_, taken| now.since(*taken) < MARK_TAKER_WAIT);
        if takers.len() < MEMBERS_MAX {
            takers.insert(name.clone(), now);
        }
    }

    /// One who took this node's marks and is about to be a member. What it does not know yet it must be told, and can't be.
    pub(crate) fn mark_taker(&self) -> Option<Arc<str>> {
        let (now, view) = (self.clock().now(), self.view());
        let mut takers = self.0.mark_takers.lock();
        takers.retain(|name, taken| now.since(*taken) < MARK_TAKER_WAIT && view.peer(name).is_none());
        takers.keys().next().cloned()
    }

    /// The link to a node that says that it is there, member or not.
    pub(crate) fn reach_at(&self, name: &str, address: &str) -> Option<Arc<Peer>> {
        if let Some(peer) = self.peek_view().peer(name).filter(|peer| *peer.member().address == *address) {
            return Some(peer.clone());
        }
        let mut strangers = self.0.strangers.lock();
        if let Some(known) = strangers.get(address) {
            return Some(known.clone());
        }
        let (member, config) = (Member::new(name, address), &self.0.config);
        let client = config.transport.link(&member).ok()?;
        let seed = self.chance(|chance| chance.u64(..));
        let peer = Arc::new(Peer::new(member, client, config.clock.clone(), self.0.contact.clone(), seed));
        if strangers.len() >= STRANGERS_MAX {
            strangers.clear();
        }
        strangers.insert(address.into(), peer.clone());
        Some(peer)
    }

    /// Takes down whom a change of the view took away, for [`DEPARTED_FOR`].
    pub(super) fn see_off(&self, old: &View, new: &View, now: Moment) {
        let is_the_same = |member: &&Member| {
            new.members().iter().any(|it| it.name == member.name && it.incarnation == member.incarnation)
        };
        let left = old.members().iter().filter(|member| !is_the_same(member)).count();
        self.0.departures.add(left as u64);
        let is_member = |peer: &Arc<Peer>| new.peer(&peer.member().name).is_some();
        let mut departed = self.0.departed.lock();
        departed.retain(|(left, peer)| now.since(*left) < DEPARTED_FOR && !is_member(peer));
        departed.extend(old.peers().filter(|peer| !is_member(peer)).map(|peer| (now, peer.clone())));
        let excess = departed.len().saturating_sub(DEPARTED_MAX);
        departed.drain(..excess);
    }
}
