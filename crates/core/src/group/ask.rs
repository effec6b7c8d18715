//! Asks: what a flight to another node does.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Boarded, Fetched, Group, Landing, ROUTE_TRIES_MAX, boarded, load::Role, unreachable, unsettled, wait_error,
};
use crate::{
    Error, Key, Moment, Value,
    flight::{Leader, Sealed},
    link::Peer,
    peer::{AskedAs, Asker, Leave, PeerAnswer, PeerError, PeerGet, PeerMeta, waiting},
    placement::Slot,
    rules::{Rule, keeps},
    stats::Source,
    store::{Inserted, Meta, Tier},
    view::Place,
};

/// How often an owner is looked for when those who are asked say that they aren't it, where a stand-in is to answer then.
const ASK_TRIES_MAX: u32 = 4;

/// The pause before the second of those tries; it doubles, and half of it is chance. Views that differ agree within
/// milliseconds of the slower node's hearing of the change.
const ASK_PAUSE: Duration = Duration::from_millis(5);

impl Group {
    /// Joins the question for a key that has not left yet, or asks it.
    pub(super) fn board_ask(&self, key: &Key, slot: Slot, deadline: Instant) -> Result<Boarded, Error> {
        let (leader, boarded) = boarded(self.0.asks.board(key, deadline))?;
        if let Some(leader) = leader {
            self.lead_ask(leader, slot, deadline);
        }
        Ok(boarded)
    }

    /// Asks the owner. It takes a task only where one question is not enough.
    fn lead_ask(&self, leader: Leader<Landing>, slot: Slot, deadline: Instant) {
        // After the boarding, so that a change of owner either shows here or finds this flight in the table.
        match self.owner_place(slot, leader.key().as_bytes()) {
            Place::At(owner) if leader.is_cleared() => {
                let question = self.question(leader.key(), AskedAs::Owner, deadline);
                let (group, sent) = (self.clone(), Moment::default());
                owner.ask(FirstAsk { question, group, slot, sent, leader: Some(leader) });
            }
            _ => drop(tokio::spawn(self.clone().ask(leader, slot, None))),
        }
    }

    /// The flight's work, after the answer to the `first` question, if that was asked.
    async fn ask(self, leader: Leader<Landing>, slot: Slot, first: Option<Asked>) {
        if let Some(landing) = leader.unless_abandoned(self.ask_owner(&leader, slot, first)).await {
            leader.land(|_| landing);
        }
    }

    /// Asks the owner; while that can't be reached, the stand-in.
    async fn ask_owner(&self, leader: &Leader<Landing>, slot: Slot, mut first: Option<Asked>) -> Landing {
        let (node, key) = (&self.0.node, leader.key());
        let mut told = None;
        let tries_max = if self.is_stood_in_for() { ASK_TRIES_MAX } else { ROUTE_TRIES_MAX };
        for attempt in 0..tries_max {
            let asked = match first.take().filter(|asked| !is_early(asked, leader)) {
                Some(asked) => asked,
                None => match told.take().map_or_else(|| self.owner_place(slot, key.as_bytes()), Place::At) {
                    Place::At(owner) => self.ask_peer(leader, &owner, AskedAs::Owner).await,
                    Place::Mine | Place::Nobody => return Landing::Elsewhere,
                },
            };
            match asked {
                Ok(PeerAnswer::Found { value, meta, lease: _ }) => return Landing::Fetched(self.found(value, meta)),
                Ok(PeerAnswer::NotOwner { to, .. }) => {
                    // Whom it tells of is asked at once. After that, views that differ get time to agree.
                    told = to.and_then(|to| node.view().peer(&to).cloned());
                    if told.is_none() || attempt > 0 {
                        self.pause(attempt).await;
                    }
                }
                Ok(PeerAnswer::NotHeld) => self.pause(attempt).await,
                Err(PeerError::Answered(error)) => return Landing::Failed(error),
                Err(PeerError::TimedOut) => return self.failed(Error::timed_out("the owner was asked")),
                Err(PeerError::Unreachable { .. }) => return self.ask_stand_in(leader, slot).await,
            }
        }
        // The lists of the members differ, and nobody answers for the key as its owner. A stand-in may.
        self.ask_stand_in(leader, slot).await
    }

    /// Whether another mostly can answer in the place of an owner. One that may be without what was written can't.
    fn is_stood_in_for(&self) -> bool {
        self.has_origin() && !self.is_strong() && !self.writes_behind()
    }

    /// The owner failed to answer this very request (rule S1).
    async fn ask_stand_in(&self, leader: &Leader<Landing>, slot: Slot) -> Landing {
        if self.is_strong() {
            return self.failed(unreachable("the owner of the key can't be reached, and nobody may answer for it"));
        }
        if !self.has_origin() {
            return self.failed(unreachable(
                "the owner of the key can't be reached, and this group has no origin to load it from",
            ));
        }
        let key = leader.key();
        let place = self.0.node.view().stand_in_place(slot, key).await;
        if let Place::At(stand_in) = place {
            match self.ask_peer(leader, &stand_in, AskedAs::StandIn).await.map(|answer| self.fetched(answer)) {
                Ok(Some(fetched)) => return Landing::Fetched(Fetched { source: Source::StandIn, ..fetched }),
                Err(PeerError::Answered(error)) => return Landing::Failed(error),
                Err(PeerError::TimedOut) => return self.failed(Error::timed_out("the stand-in was asked")),
                Ok(None) | Err(PeerError::Unreachable { .. }) => {}
            }
        }
        // This node is the stand-in; or owner and stand-in are both away, and each node that is asked stands in for them. The question may
        // never have left, and who comes now finds the load, or that it has gone on for too long.
        leader.seal();
        self.stand_in(key, slot, latest(leader)).await
    }

    /// Loads a key in the place of its owner.
    pub(super) async fn stand_in(&self, key: &Key, slot: Slot, deadline: Instant) -> Landing {
        match self.board_load(key, slot, Role::StandIn, deadline) {
            Err(error) => Landing::Failed(error),
            Ok(Boarded { waiter, .. }) => match waiter.wait().await {
                Ok(landing) => landing,
                Err(error) => Landing::Failed(wait_error(error)),
            },
        }
    }

    /// One question to one node.
    async fn ask_peer(&self, leader: &Leader<Landing>, peer: &Arc<Peer>, asked_as: AskedAs) -> Asked {
        loop {
            let sealer = leader.sealer();
            let question = self.question(leader.key(), asked_as, latest(leader));
            let (asker, answer) = waiting(question, move || leave(sealer.seal()));
            peer.ask(asker);
            let asked = answer.await;
            if !is_early(&asked, leader) {
                return asked;
            }
        }
    }

    pub(super) fn question(&self, key: &Key, asked_as: AskedAs, deadline: Instant) -> PeerGet {
        let value_len_max = self.0.settings.get().value_len_max;
        PeerGet { group: self.name().clone(), key: key.clone(), asked_as, value_len_max, deadline }
    }

    /// What a node's answer says. `None`: that it isn't the owner.
    fn fetched(&self, answer: PeerAnswer) -> Option<Fetched> {
        match answer {
            PeerAnswer::Found { value, meta, lease: _ } => Some(self.found(value, meta)),
            PeerAnswer::NotOwner { .. } | PeerAnswer::NotHeld => None,
        }
    }

    fn found(&self, value: Option<Value>, meta: Option<PeerMeta>) -> Fetched {
        self.0.stats.loads.of(Source::Peer).add(1);
        let fresh_until = match meta.and_then(|meta| meta.ttl_left) {
            Some(left) => self.now() + left,
            None => Moment::NEVER,
        };
        let load_start = self.0.node.reading_before(meta.map_or(Duration::ZERO, |meta| meta.age));
        let version = meta.map(|meta| meta.version);
        Fetched { value, version, load_start, fresh_until, source: Source::Peer, stored: false }
    }

    /// Keeps a copy until its lease or its ttl ends. Only what was asked for and nothing has overtaken since is kept (rule G6): whoever
    /// calls is about to land the question's flight, and nobody can have [revoked](Self::revoked) the lease in between.
    fn keep_copy(&self, key: &Key, slot: Slot, lease_ends: Moment, fetched: Fetched) -> Fetched {
        let Fetched { value, version: Some(version), load_start, fresh_until, .. } = &fetched else { return fetched };
        let fresh_until = lease_ends.min(*fresh_until);
        let (load_start, keep_until) = (*load_start, fresh_until);
        let meta = Meta { slot, tier: Tier::Hot, version: *version, load_start, fresh_until, keep_until };
        let stored = matches!(self.0.store.insert(key.as_bytes(), value.clone(), meta), Inserted::Stored);
        Fetched { stored, ..fetched }
    }

    pub(super) fn failed(&self, error: Error) -> Landing {
        self.count_failure(&error);
        Landing::Failed(error)
    }

    /// The key went elsewhere before anything was asked. The first time that is looked after at once.
    pub(super) async fn pause_before_rerouting(&self, attempt: u32, deadline: Instant) -> Result<(), Error> {
        let Some(paused) = attempt.checked_sub(1) else { return Ok(()) };
        timeout_at(deadline, self.pause(paused)).await.map_err(|_| unsettled())
    }

    async fn pause(&self, attempt: u32) {
        let share = self.0.node.chance(|chance| 0.5 + chance.f64() / 2.0);
        sleep(ASK_PAUSE.mul_f64(share) * 2_u32.pow(attempt)).await;
    }
}

/// What a question came to.
type Asked = Result<PeerAnswer, PeerError>;

/// Whether the question timed out while somebody with more time had joined before it left.
fn is_early(asked: &Asked, leader: &Leader<Landing>) -> bool {
    matches!(asked, Err(PeerError::TimedOut)) && leader.deadline().is_some_and(|latest| Instant::now() < latest)
}

/// Until when the flight is waited for.
fn latest(leader: &Leader<Landing>) -> Instant {
    leader.deadline().unwrap_or_else(Instant::now)
}

fn leave(sealed: Sealed) -> Leave {
    match sealed {
        Sealed::Until(deadline) => Leave::Until(deadline),
        Sealed::Abandoned => Leave::Not,
    }
}

/// Who asks a flight's first question, which is the only one mostly.
struct FirstAsk {
    question: PeerGet,
    group: Group,
    slot: Slot,
    /// When it left: a lease counts from then.
    sent: Moment,
    /// `None` once it has landed.
    leader: Option<Leader<Landing>>,
}

impl Asker for FirstAsk {
    fn question(&self) -> &PeerGet {
        &self.question
    }

    fn leaves(&mut self) -> Leave {
        self.sent = self.group.now();
        self.leader.as_ref().map_or(Leave::Not, |leader| leave(leader.seal()))
    }

    fn answered(&mut self, answer: Asked) {
        let Self { group, slot, sent, leader, .. } = self;
        let Some(leader) = leader.take() else { return };
        // Rule L1.
        let counts_from = if keeps(Rule::L1) { *sent } else { group.now() };
        let asked = match answer {
            Ok(PeerAnswer::Found { value, meta, lease }) => {
                let fetched = group.found(value, meta);
                let key = leader.key().clone();
                return leader.land(|attached| {
                    let lease = lease.filter(|_| attached);
                    Landing::Fetched(match lease {
                        Some(lease) => group.keep_copy(&key, *slot, counts_from + lease, fetched),
                        None => fetched,
                    })
                });
            }
            Err(PeerError::Answered(error)) => return leader.land(|_| Landing::Failed(error)),
            other => other,
        };
        tokio::spawn(group.clone().ask(leader, *slot, Some(asked)));
    }
}
