//! What other nodes ask of this one.

use tokio::time::Instant;

use super::{Answer, Group, ROUTE_TRIES_MAX, load::Role, unsettled};
use crate::{
    Error, Key,
    link::Peer,
    peer::{AskedAs, PeerAnswer, PeerError, PeerGet, PeerQuestion},
    placement::Slot,
    stats::Protocol,
    view::Place,
};

impl Group {
    /// What the store answers to another node's question. `None`, and nothing counted: it takes [`serve`](Self::serve).
    #[must_use]
    pub fn serve_now(&self, key: &[u8], over: Protocol) -> Option<PeerAnswer> {
        let answer = self.look(key)?;
        self.0.stats.server_requests.of(over).add(1);
        Some(answer.for_peer(self.0.node.clock()))
    }

    /// Answers another node's question. Asks no third node (rule G3), except that a stand-in hands a question on to an owner that
    /// it can reach.
    ///
    /// # Errors
    ///
    /// [`Error`] as for [`get`](Self::get); it is the asker's answer.
    pub async fn serve(&self, question: PeerQuestion, over: Protocol) -> Result<PeerAnswer, Error> {
        if let Some(answer) = self.serve_now(question.key.as_bytes(), over) {
            return Ok(answer);
        }
        self.0.stats.server_requests.of(over).add(1);
        match self.serve_miss(&question, over).await? {
            Served::Answer(answer) => Ok(answer.for_peer(self.0.node.clock())),
            Served::HandedOn(answer) => Ok(answer),
        }
    }

    async fn serve_miss(&self, question: &PeerQuestion, over: Protocol) -> Result<Served, Error> {
        let PeerQuestion { key, asked_as, deadline, .. } = question;
        let slot = Slot::of(self.name(), key.as_bytes());
        for _ in 0..ROUTE_TRIES_MAX {
            let view = self.0.node.view();
            let role = match (view.owner_place(slot, key.as_bytes()), *asked_as) {
                (Place::Mine, _) => Role::Owner,
                (Place::At(owner), AskedAs::StandIn) => {
                    if let Some(answer) = self.hand_on(&owner, key, *deadline).await? {
                        return Ok(Served::HandedOn(answer));
                    }
                    Role::StandIn
                }
                (Place::Nobody, AskedAs::StandIn) => Role::StandIn,
                _ if over.can_redirect() => return Ok(Served::HandedOn(PeerAnswer::NotOwner(view.members().clone()))),
                _ => Role::Other,
            };
            if !self.has_origin() {
                return Ok(Served::Answer(self.nothing()));
            }
            let boarded = self.board_load(key, slot, role, *deadline)?;
            if let Some(answer) = self.settle(key, boarded, *deadline).await? {
                return Ok(Served::Answer(answer));
            }
        }
        Err(unsettled())
    }

    /// Asks the owner on behalf of a node that can't reach it. `None`: this node can't either.
    async fn hand_on(&self, owner: &Peer, key: &Key, deadline: Instant) -> Result<Option<PeerAnswer>, Error> {
        let max = self.0.config.value_len_max;
        let question = PeerGet::new(self.name().clone(), key.clone(), AskedAs::OwnerByStandIn, max, deadline);
        match owner.get_if_alive(question).await {
            Ok(PeerAnswer::Found { value, meta, lease: _ }) => Ok(Some(PeerAnswer::Found { value, meta, lease: None })),
            Ok(PeerAnswer::NotOwner(_)) | Err(PeerError::Unreachable { .. }) => Ok(None),
            Err(PeerError::TimedOut) => Err(Error::timed_out("the owner was asked for a node that can't reach it")),
            Err(PeerError::Answered(error)) => Err(error),
        }
    }
}

/// How a question was answered that the store had no answer for.
enum Served {
    Answer(Answer),
    HandedOn(PeerAnswer),
}
