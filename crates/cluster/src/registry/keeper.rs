//! [`Keeper`]: keeps this node's entry what it should be.

use std::{sync::Arc, time::Duration};

use larder_core::{Error, ErrorKind, Member, MemberState, Moment};
use tokio::time::sleep;

use super::{
    Failure, Registered, Registry,
    registrant::{Entry, Shared},
};
use crate::backoff::Backoff;

/// How often an entry is renewed within its lease: two renewals may be lost before it ends.
const RENEWALS_PER_LEASE: u32 = 3;

/// How much longer than a lease a former run of this node may seem to live: registries look for ended leases now and then.
const ENDING_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a registry that refused this node is left alone.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// How often it is looked whether a name is free now.
const HELD_PAUSE: Duration = Duration::from_millis(250);

/// Nothing is to be done until something is wished.
const IDLE_PAUSE: Duration = Duration::from_secs(3600);

/// What this node wants of its entry.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Wish {
    /// Of this wish; 0 is before the first.
    pub(super) number: u64,
    /// The state that the entry should say; `None`: there should be none.
    pub(super) state: Option<MemberState>,
}

impl Wish {
    pub(super) fn is_to_leave(self) -> bool {
        self.number > 0 && self.state.is_none()
    }
}

/// What came of the wishes up to a number.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) number: u64,
    pub(super) result: Result<(), Error>,
}

impl Default for Outcome {
    fn default() -> Self {
        Self { number: 0, result: Ok(()) }
    }
}

/// Registers, renews, registers again, and takes the entry away.
pub(super) struct Keeper<R> {
    shared: Arc<Shared<R>>,
    me: Member,
    /// What the entry says.
    said: Option<MemberState>,
    /// Whether there ever was an entry of this run.
    was_there: bool,
    /// Since when another member has had the name.
    held_since: Option<Moment>,
    /// Why the registry refuses this node.
    refused: Option<Error>,
    backoff: Backoff,
}

impl<R: Registry> Keeper<R> {
    pub(super) fn new(shared: Arc<Shared<R>>, me: Member) -> Self {
        let backoff = shared.backoff();
        Self { shared, me, said: None, was_there: false, held_since: None, refused: None, backoff }
    }

    pub(super) async fn keep(mut self) {
        let mut wishes = self.shared.wishes.subscribe();
        loop {
            let wish = *wishes.borrow_and_update();
            let pause = match wish.state {
                None if wish.number == 0 => IDLE_PAUSE,
                None => self.withdraw(wish.number).await,
                Some(state) => self.sustain(state, wish.number).await,
            };
            tokio::select! {
                _ = wishes.changed() => {}
                () = self.shared.entry_missed.notified() => {}
                () = sleep(pause) => {}
            }
        }
    }

    /// Has an entry with this state there for some time more. Tells how long to wait before it is looked after again.
    async fn sustain(&mut self, state: MemberState, number: u64) -> Duration {
        let is_there = self.shared.entry.lock().since.is_some();
        if is_there && self.said == Some(state) {
            match self.shared.registry.renew().await {
                Ok(true) => {
                    self.report(number, Ok(()));
                    return self.rest();
                }
                Ok(false) => {
                    tracing::warn!("{} has ended this node's entry: it is made anew", self.shared.kind);
                    *self.shared.entry.lock() = Entry { since: None, was_lost: true };
                }
                // Whether the entry is still there is seen when the registry answers again.
                Err(_) => return self.backoff.next(),
            }
        }
        let me = Member { state, ..self.me.clone() };
        match self.shared.registry.register(&me, |other| replaces(&me, other, !self.was_there)).await {
            Ok(Registered::Done) => {
                let now = self.shared.clock.now();
                self.shared.entry.lock().since = Some(now);
                (self.said, self.was_there, self.held_since, self.refused) = (Some(state), true, None, None);
                self.report(number, Ok(()));
                self.rest()
            }
            Ok(Registered::Held(other)) => self.wait_for_the_name(&other, number),
            Err(Failure::Refused(why)) => {
                self.refuse(number, why);
                REFUSED_PAUSE
            }
            Err(Failure::Away(_)) => self.backoff.next(),
        }
    }

    /// Who has the name is a former run of this node, which ends with its lease, or another node, which stays.
    fn wait_for_the_name(&mut self, other: &Member, number: u64) -> Duration {
        let now = self.shared.clock.now();
        let since = *self.held_since.get_or_insert(now);
        if now.since(since) < self.shared.lease_ttl + ENDING_TIME_MAX {
            return HELD_PAUSE;
        }
        let Member { name, address, .. } = other;
        let why =
            format!("the node at {address} is named {name:?} too: give this node another name, or stop the other");
        self.refuse(number, why);
        REFUSED_PAUSE
    }

    async fn withdraw(&mut self, number: u64) -> Duration {
        match self.shared.registry.deregister().await {
            Ok(()) => {
                *self.shared.entry.lock() = Entry::default();
                self.said = None;
                self.report(number, Ok(()));
                IDLE_PAUSE
            }
            Err(_) => self.backoff.next(),
        }
    }

    fn rest(&mut self) -> Duration {
        self.backoff.reset();
        self.shared.lease_ttl / RENEWALS_PER_LEASE
    }

    fn refuse(&mut self, number: u64, why: String) {
        if self.refused.as_ref().is_none_or(|refused| refused.message() != why) {
            tracing::error!("{} refuses this node: {why}", self.shared.kind);
        }
        let error = Error::new(ErrorKind::Invalid, why);
        self.refused = Some(error.clone());
        self.report(number, Err(error));
    }

    fn report(&self, number: u64, result: Result<(), Error>) {
        self.shared.outcome.send_replace(Outcome { number, result });
    }
}

/// Whether `other`'s entry may be replaced by this node's: it is its own, or that of a former run, known by its address.
/// Only a run that has had no entry yet has former runs; else two nodes that were given one name and one address would
/// push each other out for ever.
fn replaces(me: &Member, other: &Member, is_first: bool) -> bool {
    other.address == me.address && (other.incarnation == me.incarnation || is_first)
}
