//! Asks: what a flight to another node does.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Boarded, Fetched, Group, Landing, boarded, load::Role, unreachable, unsettled, wait_error};
use crate::{
    Error, Key, Moment,
    flight::Leader,
    link::Peer,
    peer::{AskedAs, PeerAnswer, PeerError, PeerGet},
    placement::Slot,
    stats::Source,
    view::Place,
};

/// How often an owner is looked for when those who are asked say that they aren't it.
const ASK_TRIES_MAX: u32 = 4;

/// The pause before the second of those tries; it doubles, and half of it is chance. Views that differ agree within
/// milliseconds of the slower node's hearing of the change.
const ASK_PAUSE: Duration = Duration::from_millis(5);

impl Group {
    /// Joins the question for a key that has not left yet, or asks it.
    pub(super) fn board_ask(&self, key: &Key, slot: Slot, deadline: Instant) -> Result<Boarded, Error> {
        let (leader, boarded) = boarded(self.0.asks.board(key, deadline))?;
        if let Some(leader) = leader {
            tokio::spawn(self.clone().ask(leader, key.clone(), slot, deadline));
        }
        Ok(boarded)
    }

    async fn ask(self, leader: Leader<Landing>, key: Key, slot: Slot, deadline: Instant) {
        let landing = leader.unless_abandoned(self.ask_owner(&leader, &key, slot, deadline)).await;
        if let Some(landing) = landing {
            leader.land(|_| landing);
        }
    }

    /// Asks the owner; while that can't be reached, the stand-in.
    async fn ask_owner(&self, leader: &Leader<Landing>, key: &Key, slot: Slot, deadline: Instant) -> Landing {
        for attempt in 0..ASK_TRIES_MAX {
            let peer = match self.0.node.view().owner_place(slot, key.as_bytes()) {
                Place::At(peer) => peer,
                Place::Mine | Place::Nobody => return Landing::Elsewhere,
            };
            match self.ask_peer(leader, &peer, key, AskedAs::Owner, deadline).await {
                Ok(Some(fetched)) => return Landing::Fetched(fetched),
                Ok(None) => self.pause(attempt).await,
                Err(PeerError::Answered(error)) => return Landing::Failed(error),
                Err(PeerError::TimedOut) => return self.failed(Error::timed_out("the owner was asked")),
                Err(PeerError::Unreachable { .. }) => return self.ask_stand_in(leader, key, slot).await,
            }
        }
        self.failed(unsettled())
    }

    /// The owner failed to answer this very request (rule S1).
    async fn ask_stand_in(&self, leader: &Leader<Landing>, key: &Key, slot: Slot) -> Landing {
        if !self.has_origin() {
            return self.failed(unreachable(
                "the owner of the key can't be reached, and this group has no origin to load it from",
            ));
        }
        let deadline = leader.deadline().unwrap_or_else(Instant::now);
        let place = self.0.node.view().stand_in_place(slot, key.as_bytes());
        if let Place::At(peer) = place {
            match self.ask_peer(leader, &peer, key, AskedAs::StandIn, deadline).await {
                Ok(Some(fetched)) => return Landing::Fetched(Fetched { source: Source::StandIn, ..fetched }),
                Err(PeerError::Answered(error)) => return Landing::Failed(error),
                Err(PeerError::TimedOut) => return self.failed(Error::timed_out("the stand-in was asked")),
                Ok(None) | Err(PeerError::Unreachable { .. }) => {}
            }
        }
        // This node is the stand-in; or owner and stand-in are both away, and each node that is asked stands in for them.
        self.stand_in(key, slot, deadline).await
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

    /// One question to one node. `None`: it isn't the owner.
    async fn ask_peer(
        &self,
        leader: &Leader<Landing>,
        peer: &Arc<Peer>,
        key: &Key,
        asked_as: AskedAs,
        deadline: Instant,
    ) -> Result<Option<Fetched>, PeerError> {
        loop {
            let seal = leader.seal();
            let deadline = leader.deadline().unwrap_or(deadline);
            let question =
                PeerGet::new(self.name().clone(), key.clone(), asked_as, self.0.config.value_len_max, deadline);
            match peer.get(question.on_leaving(move || seal.close())).await {
                // Somebody with more time joined before the question left.
                Err(PeerError::TimedOut) if leader.deadline().is_some_and(|latest| latest > deadline) => {}
                Ok(answer) => return Ok(self.fetched(answer)),
                Err(error) => return Err(error),
            }
        }
    }

    /// What a node's answer says. `None`: that it isn't the owner.
    pub(super) fn fetched(&self, answer: PeerAnswer) -> Option<Fetched> {
        let PeerAnswer::Found { value, meta, lease: _ } = answer else { return None };
        self.0.stats.loads.of(Source::Peer).add(1);
        let now = self.now();
        let fresh_until = match meta.and_then(|meta| meta.ttl_left) {
            Some(left) => now + left,
            None => Moment::NEVER,
        };
        let load_start = self.0.node.reading_before(meta.map_or(Duration::ZERO, |meta| meta.age));
        let version = meta.map(|meta| meta.version);
        Some(Fetched { value, version, load_start, fresh_until, source: Source::Peer, stored: false })
    }

    fn failed(&self, error: Error) -> Landing {
        self.count_failure(&error);
        Landing::Failed(error)
    }

    async fn pause(&self, attempt: u32) {
        let share = self.0.node.chance(|chance| 0.5 + chance.f64() / 2.0);
        tokio::time::sleep(ASK_PAUSE.mul_f64(share) * 2_u32.pow(attempt)).await;
    }
}
