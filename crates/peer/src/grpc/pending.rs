//! [`Pending`]: the requests of a lane that wait to be sent or answered, by id.
//!
//! An id is a place in the table and the number of its use, so that a late answer to a request that was given up never
//! meets the one that has its place now.

use std::{collections::VecDeque, sync::Arc};

use larder_core::{
    Error, ErrorKind, Key, Version,
    claim::SlotReply,
    peer::{Asker, Leave, PeerAnswer, PeerError, PeerWrite},
};
use slab::Slab;
use tokio::{sync::oneshot, time::Instant};

use super::{
    convert, limits,
    outbox::Outbox,
    pieces::Incoming,
    proto::{self, answer::Outcome, request::Op},
    slots,
};

/// What is asked, and who waits for the answer.
pub(super) enum Ask {
    Get(Box<dyn Asker>),
    /// `None` once it is sent: it never is again.
    Write(Option<Box<PeerWrite>>, oneshot::Sender<Result<Option<Version>, PeerError>>),
    /// `None` once it is sent: it never is again.
    Slots(Option<Box<Said>>, oneshot::Sender<Result<SlotReply, PeerError>>),
    /// Nobody waits for the link's own.
    Ping(Option<oneshot::Sender<Result<(), PeerError>>>),
}

/// What is said about slots, and of which group it is.
pub(super) struct Said {
    pub(super) group: Option<Arc<str>>,
    pub(super) key: Option<Key>,
    pub(super) op: Op,
}

/// A request that waits.
pub(super) struct Waiting {
    id: u64,
    ask: Ask,
    sent: bool,
    /// Whether it was on a connection that broke.
    repeated: bool,
    deadline: Instant,
    /// The value of its answer, as far as that has come.
    partial: Option<Box<(proto::Found, Incoming)>>,
}

/// Why requests are not answered.
#[derive(Clone)]
pub(super) struct Unanswered {
    pub(super) reason: String,
    /// Whether the other node gives no sign of life.
    pub(super) silent: bool,
}

impl Unanswered {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), silent: false }
    }
}

/// A request that has waited long enough: who is to be told, and what.
pub(super) enum Settled {
    Get(Box<dyn Asker>, Result<PeerAnswer, PeerError>),
    Write(oneshot::Sender<Result<Option<Version>, PeerError>>, Result<Option<Version>, PeerError>),
    Slots(oneshot::Sender<Result<SlotReply, PeerError>>, Result<SlotReply, PeerError>),
    Ping(Option<oneshot::Sender<Result<(), PeerError>>>, Result<(), PeerError>),
}

#[derive(Default)]
pub(super) struct Pending {
    waiting: Slab<Waiting>,
    /// The unsent ones, oldest first, among ids of such as were given up.
    queue: VecDeque<u64>,
    in_flight: usize,
    uses: u32,
    /// The lengths of the values of which pieces are to come.
    announced_len: usize,
}

impl Ask {
    pub(super) fn settled(self, outcome: Result<Outcome, PeerError>) -> Settled {
        match self {
            Self::Get(asker) => Settled::Get(asker, outcome.and_then(get_answer)),
            Self::Write(_, tell) => Settled::Write(tell, outcome.and_then(write_answer)),
            Self::Slots(_, tell) => Settled::Slots(tell, outcome.and_then(slots_answer)),
            Self::Ping(tell) => Settled::Ping(tell, outcome.map(drop)),
        }
    }
}

impl Settled {
    /// Tells who waits. Those who gave up need no answer.
    pub(super) fn tell(self) {
        match self {
            Self::Get(mut asker, answer) => asker.answered(answer),
            Self::Write(tell, outcome) => drop(tell.send(outcome)),
            Self::Slots(tell, outcome) => drop(tell.send(outcome)),
            Self::Ping(tell, outcome) => drop(tell.map(|tell| tell.send(outcome))),
        }
    }
}

fn get_answer(outcome: Outcome) -> Result<PeerAnswer, PeerError> {
    match outcome {
        Outcome::Found(found) => Ok(convert::parse_found(found)),
        Outcome::NotHeld(_) => Ok(PeerAnswer::NotHeld),
        Outcome::NotOwner(members) => convert::parse_not_owner(members)
            .map_err(|error| PeerError::broke_off(format!("it sent a view that can't be one: {error}"))),
        other => Err(not_an_answer(other)),
    }
}

fn write_answer(outcome: Outcome) -> Result<Option<Version>, PeerError> {
    match outcome {
        Outcome::Written(written) => Ok(convert::parse_written(written)),
        other => Err(not_an_answer(other)),
    }
}

fn slots_answer(outcome: Outcome) -> Result<SlotReply, PeerError> {
    if let Outcome::Failed(_) = outcome {
        return Err(not_an_answer(outcome));
    }
    slots::parse_outcome(outcome)
        .map_err(|error| PeerError::broke_off(format!("it answered what can't be said about slots: {error}")))
}

fn not_an_answer(outcome: Outcome) -> PeerError {
    match outcome {
        Outcome::Failed(failed) => PeerError::Answered(convert::parse_failed(failed)),
        _ => PeerError::broke_off("it answered something else than it was asked"),
    }
}

impl Waiting {
    fn settled(self, outcome: Result<Outcome, PeerError>) -> Settled {
        self.ask.settled(outcome)
    }

    /// The length of the value of which pieces are to come.
    fn announced_len(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.1.len())
    }

    /// What a request comes to that is not answered.
    fn unanswered(&self, why: &Unanswered) -> PeerError {
        let Unanswered { reason, silent } = why;
        PeerError::Unreachable { message: reason.as_str().into(), sent: self.sent, silent: *silent }
    }

    /// What a request comes to whose deadline has passed.
    fn late(&self) -> PeerError {
        match &self.ask {
            Ask::Write(..) | Ask::Slots(..) if !self.sent => {
                PeerError::not_sent("the deadline passed before it could be sent")
            }
            _ => PeerError::TimedOut,
        }
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether another request may be queued.
    pub(super) fn has_room(&mut self) -> bool {
        if self.queue.len() >= limits::PENDING_MAX {
            let waiting = &self.waiting;
            self.queue.retain(|id| waiting.get(place(*id)).is_some_and(|waiting| waiting.id == *id));
        }
        self.waiting.len() < limits::PENDING_MAX
    }

    /// Queues a request.
    pub(super) fn push(&mut self, ask: Ask, deadline: Instant) -> u64 {
        let id = self.insert(ask, deadline);
        self.queue.push_back(id);
        id
    }

    /// Queues the lane's own ping before all others. There is one at a time.
    pub(super) fn push_ping(&mut self, deadline: Instant) {
        let id = self.insert(Ask::Ping(None), deadline);
        self.queue.push_front(id);
    }

    fn insert(&mut self, ask: Ask, deadline: Instant) -> u64 {
        self.uses = self.uses.wrapping_add(1);
        let entry = self.waiting.vacant_entry();
        let id = (u64::from(self.uses) << 32) | entry.key() as u64;
        entry.insert(Waiting { id, ask, sent: false, repeated: false, deadline, partial: None });
        id
    }

    pub(super) fn is_pending(&self, id: u64) -> bool {
        self.waiting.get(place(id)).is_some_and(|waiting| waiting.id == id)
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Waiting> {
        self.waiting.get_mut(place(id)).filter(|waiting| waiting.id == id)
    }

    /// Takes a request out. Says also whether the queue, which had to wait, can go on.
    pub(super) fn remove(&mut self, id: u64) -> Option<(Waiting, bool)> {
        self.get_mut(id)?;
        let waiting = self.waiting.remove(place(id));
        self.announced_len -= waiting.announced_len();
        let was_full = self.in_flight >= limits::IN_FLIGHT_MAX;
        self.in_flight -= usize::from(waiting.sent);
        let goes_on = was_full && waiting.sent && !self.queue.is_empty();
        Some((waiting, goes_on))
    }

    /// Puts the next request into `frame`, where it counts as sent. `None`: there is none that may be sent. Those that nobody
    /// waits for any more go into `abandoned`.
    pub(super) fn send(&mut self, frame: &mut Outbox, abandoned: &mut Vec<Waiting>) -> Option<()> {
        while self.in_flight < limits::IN_FLIGHT_MAX || self.is_ping_first() {
            let id = self.queue.pop_front()?;
            let Some(waiting) = self.get_mut(id) else { continue };
            match &mut waiting.ask {
                Ask::Get(asker) => match asker.leaves() {
                    Leave::Until(deadline) => {
                        waiting.deadline = deadline;
                        frame.get(id, asker.question(), deadline);
                    }
                    Leave::Not => {
                        abandoned.push(self.waiting.remove(place(id)));
                        continue;
                    }
                },
                Ask::Write(write, _) => match write.take() {
                    Some(write) => frame.write(id, *write),
                    None => continue,
                },
                Ask::Slots(said, _) => match said.take() {
                    Some(said) => frame.slots(id, *said, waiting.deadline),
                    None => continue,
                },
                Ask::Ping(_) => frame.ping(id, waiting.deadline),
            }
            waiting.sent = true;
            self.in_flight += 1;
            return Some(());
        }
        None
    }

    /// A ping goes out even where nothing else may: it says whether there will be answers.
    fn is_ping_first(&self) -> bool {
        let first = self.queue.front().and_then(|id| self.waiting.get(place(*id)));
        first.is_some_and(|waiting| matches!(waiting.ask, Ask::Ping(_)))
    }

    /// Takes an answer. `None`: nobody waits for it, or its value is still to come.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn answer(&mut self, answer: proto::Answer) -> Result<Option<(Settled, bool)>, &'static str> {
        let proto::Answer { id, outcome } = answer;
        let announced_len = self.announced_len;
        let Some(waiting) = self.get_mut(id) else { return Ok(None) };
        if !waiting.sent || waiting.partial.is_some() {
            return Err("it answered a request that was not sent, or twice");
        }
        let result = match (outcome, &waiting.ask) {
            (Some(Outcome::Found(found)), Ask::Get(asker)) => {
                let value_len_max = asker.question().value_len_max;
                let inline_len = found.value.as_ref().map_or(0, |value| value.len());
                let len = usize::try_from(found.chunked_len).unwrap_or(usize::MAX);
                if len.max(inline_len) > value_len_max {
                    Ok(convert::failed(&convert::too_large(value_len_max)))
                } else if len == 0 {
                    Ok(Outcome::Found(found))
                } else if announced_len + len > limits::ANNOUNCED_LEN_MAX {
                    Err(overloaded())
                } else {
                    waiting.partial = Some(Box::new((found, Incoming::new(len))));
                    self.announced_len += len;
                    return Ok(None);
                }
            }
            (Some(outcome), _) => Ok(outcome),
            (None, _) => Err(PeerError::broke_off("it answered something that only a newer node knows")),
        };
        Ok(self.remove(id).map(|(waiting, goes_on)| (waiting.settled(result), goes_on)))
    }

    /// Takes a piece of an answer's value. `None`: nobody waits for it, or more is to come.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn chunk(&mut self, chunk: &proto::Chunk) -> Result<Option<(Settled, bool)>, &'static str> {
        let Some(waiting) = self.get_mut(chunk.id) else { return Ok(None) };
        let Some(partial) = &mut waiting.partial else { return Err("a chunk came before its answer") };
        let Some(value) = partial.1.add(&chunk.data)? else { return Ok(None) };
        let found = proto::Found { value: Some(value), ..std::mem::take(&mut partial.0) };
        Ok(self.remove(chunk.id).map(|(waiting, goes_on)| (waiting.settled(Ok(Outcome::Found(found))), goes_on)))
    }

    /// Takes out those whose deadline has passed, and says when the next one passes.
    pub(super) fn expire(&mut self, now: Instant, settled: &mut Vec<Settled>) -> Option<Instant> {
        let late: Vec<u64> = self.waiting.iter().filter(|(_, it)| it.deadline <= now).map(|(_, it)| it.id).collect();
        for id in late {
            if let Some((waiting, _)) = self.remove(id) {
                let late = waiting.late();
                settled.push(waiting.settled(Err(late)));
            }
        }
        self.waiting.iter().map(|(_, waiting)| waiting.deadline).min()
    }

    /// Takes out all, for this reason.
    pub(super) fn fail_all(&mut self, why: &Unanswered, settled: &mut Vec<Settled>) {
        self.queue.clear();
        (self.in_flight, self.announced_len) = (0, 0);
        settled.extend(self.waiting.drain().map(|waiting| {
            let error = waiting.unanswered(why);
            waiting.settled(Err(error))
        }));
    }

    /// The connection broke, for this reason. Questions go back to the head of the queue, once each; all else that was sent is
    /// taken out.
    pub(super) fn requeue(&mut self, why: &Unanswered, settled: &mut Vec<Settled>) {
        let sent: Vec<u64> = self.waiting.iter().filter(|(_, it)| it.sent).map(|(_, it)| it.id).collect();
        for id in sent.into_iter().rev() {
            let Some(waiting) = self.get_mut(id) else { continue };
            if matches!(waiting.ask, Ask::Get(_)) && !waiting.repeated {
                waiting.sent = false;
                waiting.repeated = true;
                let announced_len = waiting.announced_len();
                waiting.partial = None;
                self.announced_len -= announced_len;
                self.in_flight -= 1;
                self.queue.push_front(id);
            } else if let Some((waiting, _)) = self.remove(id) {
                let error = waiting.unanswered(why);
                settled.push(waiting.settled(Err(error)));
            }
        }
    }
}

fn place(id: u64) -> usize {
    (id & u64::from(u32::MAX)) as usize
}

/// The refusal of a request that finds [`limits::PENDING_MAX`] others.
pub(super) fn overloaded() -> PeerError {
    PeerError::Answered(Error::new(ErrorKind::Overloaded, "too many requests to the key's owner are under way"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_late_answer_does_not_meet_the_request_that_has_its_place_now() {
        let mut pending = Pending::default();
        let deadline = Instant::now();
        let given_up = pending.push(Ask::Ping(None), deadline);
        assert!(pending.send(&mut Outbox::default(), &mut Vec::new()).is_some());
        assert!(pending.remove(given_up).is_some());
        let next = pending.push(Ask::Ping(None), deadline);
        assert!(pending.send(&mut Outbox::default(), &mut Vec::new()).is_some());
        assert_eq!(place(given_up), place(next));
        let pong = |id| proto::Answer { id, outcome: Some(Outcome::Pong(proto::Ping {})) };
        assert!(matches!(pending.answer(pong(given_up)), Ok(None)));
        assert!(matches!(pending.answer(pong(next)), Ok(Some(_))));
        assert!(pending.is_empty());
    }
}
