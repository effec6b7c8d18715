//! What other nodes ask of this one.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{Boarded, Group, Inner, ROUTE_TRIES_MAX, boarded, load::Led, load::Role, unsettled};
use crate::{
    Error, Key, Members, Moment,
    claim::Phase,
    link::Peer,
    peer::{AskedAs, PeerAnswer, PeerError, PeerMeta, PeerQuestion, Reply},
    placement::Slot,
    stats::Protocol,
    store::{HOT_SHARE, Tier},
    view::Place,
};

impl Group {
    /// Answers questions of other nodes that came together, each in its place. Asks no third node (rule G3), except that a
    /// stand-in hands a question on to an owner that it can reach. Keys that this node owns and has to load go to the origin
    /// in batches where its loader takes them.
    #[must_use]
    pub fn serve_all(&self, questions: Vec<PeerQuestion>, over: Protocol) -> Vec<Reply> {
        self.0.stats.server_requests.of(over).add(questions.len() as u64);
        let keys: Vec<&[u8]> = questions.iter().map(|question| question.key.as_bytes()).collect();
        let (now, wall_ms) = (self.now(), self.0.node.clock().wall_ms());
        let mut found = Vec::with_capacity(keys.len());
        self.0.store.get_many(&keys, now, |index, hit| {
            // A copy is for this node's own callers.
            let hit = hit.filter(|hit| hit.meta().tier == Tier::Main);
            let answer = hit.and_then(|hit| self.judge(keys[index], hit, now));
            found.push(answer.map(|answer| answer.for_peer(wall_ms)));
        });
        self.lend(&questions, &mut found, now);
        let mut batch = Vec::new();
        let replies = questions.into_iter().zip(found).map(|(question, found)| match found {
            Some(answer) => Reply::Now(Ok(answer)),
            None => self.begin_serving(question, over, &mut batch),
        });
        let replies = replies.collect();
        self.load_batch(batch);
        replies
    }

    /// Answers another node's question.
    ///
    /// # Errors
    ///
    /// [`Error`] as for [`get`](Self::get); it is the asker's answer.
    pub async fn serve(&self, question: PeerQuestion, over: Protocol) -> Result<PeerAnswer, Error> {
        match self.serve_all(vec![question], over).pop() {
            Some(Reply::Now(answer)) => answer,
            Some(Reply::Later(answer)) => answer.await,
            None => Err(unsettled()),
        }
    }

    /// Lends those who ask copies of what is hot (rule L1).
    fn lend(&self, questions: &[PeerQuestion], found: &mut [Option<PeerAnswer>], now: Moment) {
        let Inner { node, settings, demand, leases, .. } = &*self.0;
        let (hot_lease, capacity_bytes) = {
            let config = settings.get();
            (config.hot_lease, config.capacity_bytes)
        };
        if hot_lease.is_zero() || self.is_strong() {
            return;
        }
        let others = node.view().members().len().saturating_sub(1);
        // Each of the others has an eighth for copies, of what all its others own.
        demand.step(now, hot_lease, || (leases.len(now, hot_lease), capacity_bytes / HOT_SHARE));
        for (question, found) in questions.iter().zip(found) {
            let PeerQuestion { asker: Some(asker), key, asked_as: AskedAs::Owner, .. } = question else { continue };
            let asked = demand.asked(key.as_bytes());
            if let Some(PeerAnswer::Found { value, meta: Some(meta), lease }) = found
                && demand.is_hot(asked, others)
            {
                *lease = self.grant(
                    asker,
                    &key.clone().detached(),
                    value.as_ref().map_or(0, |value| value.len()),
                    meta,
                    now,
                );
            }
        }
    }

    /// Grants a lease on what is about to be answered, if that is still what there is.
    fn grant(&self, asker: &Arc<str>, key: &Key, value_len: usize, meta: &PeerMeta, now: Moment) -> Option<Duration> {
        let Inner { node, settings, leases, store, loads, stats, .. } = &*self.0;
        let hot_lease = settings.get().hot_lease;
        let lease = meta.ttl_left.map_or(hot_lease, |left| left.min(hot_lease));
        if lease.is_zero() {
            return None;
        }
        let slot = Slot::of(self.name(), key.as_bytes());
        let is_granted = loads.unless_guarded(key, || {
            // A write may have been done since this was looked up.
            let is_present = store.peek(key.as_bytes(), now).is_some_and(|hit| hit.meta().version == meta.version);
            // Either this sees that the slot was claimed, or who claims it is told of the lease.
            let acts = || node.phase(slot, key.as_bytes()) == Phase::Acts;
            let len = (key.as_bytes().len() + value_len) as u64;
            is_present && leases.grant(key, asker, (now, now + lease), node.departures(), len, acts)
        });
        if is_granted != Some(true) {
            return None;
        }
        stats.leases.add(1);
        Some(lease)
    }

    /// Begins to answer a question that the store had no answer for. A load that is to be led goes into `batch`.
    fn begin_serving(&self, mut question: PeerQuestion, over: Protocol, batch: &mut Vec<Led>) -> Reply {
        // What waits must not keep the whole message that the key came in.
        question.key = question.key.detached();
        let PeerQuestion { key, deadline, .. } = &question;
        let slot = Slot::of(self.name(), key.as_bytes());
        if let AskedAs::Before(term) = question.asked_as {
            return Reply::Now(Ok(self.held_before(key, slot, term)));
        }
        if question.asked_as == AskedAs::Another {
            return Reply::Now(Ok(PeerAnswer::NotHeld));
        }
        let first = match self.part(&question, slot, over) {
            Part::Redirects(members) => return Reply::Now(Ok(self.not_owner(members, slot, key))),
            Part::Loads(_) if self.has_all(slot) => return Reply::Now(Ok(self.nothing_for_peer())),
            Part::Loads(Role::Owner) => match boarded(self.0.loads.board(key, *deadline)) {
                Err(error) => return Reply::Now(Err(error)),
                Ok((leader, boarded)) => {
                    batch.extend(leader.map(|leader| Led { leader, key: key.clone(), slot }));
                    Some(boarded)
                }
            },
            Part::Loads(_) | Part::HandsOn(_) => None,
        };
        Reply::Later(Box::pin(self.clone().serve_miss(question, slot, over, first)))
    }

    async fn serve_miss(
        self,
        question: PeerQuestion,
        slot: Slot,
        over: Protocol,
        mut first: Option<Boarded>,
    ) -> Result<PeerAnswer, Error> {
        let PeerQuestion { key, deadline, .. } = &question;
        for attempt in 0..ROUTE_TRIES_MAX {
            let boarded = match first.take() {
                Some(boarded) => boarded,
                None => {
                    let role = match self.part(&question, slot, over) {
                        Part::Redirects(members) => return Ok(self.not_owner(members, slot, key)),
                        Part::Loads(role) => role,
                        Part::HandsOn(owner) => match self.hand_on(&owner, key, *deadline).await? {
                            Some(answer) => return Ok(answer),
                            None => Role::StandIn,
                        },
                    };
                    if self.has_all(slot) || (role != Role::Owner && !self.has_origin()) {
                        return Ok(self.nothing_for_peer());
                    }
                    self.board_load(key, slot, role, *deadline)?
                }
            };
            if let Some(answer) = self.settle(key.as_bytes(), boarded, *deadline).await? {
                return Ok(answer.for_peer(self.0.node.clock().wall_ms()));
            }
            self.pause_before_rerouting(attempt, *deadline).await?;
        }
        Err(unsettled())
    }

    /// What is this node's to do about a question, as the view is now.
    fn part(&self, question: &PeerQuestion, slot: Slot, over: Protocol) -> Part {
        let node = &self.0.node;
        match (self.owner_place(slot, question.key.as_bytes()), question.asked_as) {
            (Place::Mine, _) => Part::Loads(Role::Owner),
            _ if self.is_strong() => Part::Redirects(node.peek_view().members().clone()),
            (Place::At(owner), AskedAs::StandIn) => Part::HandsOn(owner),
            (Place::Nobody, AskedAs::StandIn) => Part::Loads(Role::StandIn),
            _ if over.can_redirect() => Part::Redirects(node.peek_view().members().clone()),
            _ => Part::Loads(Role::Other),
        }
    }

    fn not_owner(&self, members: Members, slot: Slot, key: &Key) -> PeerAnswer {
        PeerAnswer::NotOwner { members, to: self.elsewhere(slot, key.as_bytes()) }
    }

    fn nothing_for_peer(&self) -> PeerAnswer {
        self.nothing().for_peer(self.0.node.clock().wall_ms())
    }

    /// Asks the owner on behalf of a node that can't reach it. `None`: this node can't either.
    async fn hand_on(&self, owner: &Arc<Peer>, key: &Key, deadline: Instant) -> Result<Option<PeerAnswer>, Error> {
        let question = self.question(key, AskedAs::OwnerByStandIn, deadline);
        match owner.get_if_alive(question).await {
            Ok(PeerAnswer::Found { value, meta, lease: _ }) => Ok(Some(PeerAnswer::Found { value, meta, lease: None })),
            Ok(PeerAnswer::NotOwner { .. } | PeerAnswer::NotHeld) | Err(PeerError::Unreachable { .. }) => Ok(None),
            Err(PeerError::TimedOut) => Err(Error::timed_out("the owner was asked for a node that can't reach it")),
            Err(PeerError::Answered(error)) => Err(error),
        }
    }
}

/// What a node does about another's question.
enum Part {
    /// Loads the key, in this role.
    Loads(Role),
    /// Asks the owner first, whom the asker could not reach.
    HandsOn(Arc<Peer>),
    /// Says that it isn't the owner, and who the members are.
    Redirects(Members),
}
