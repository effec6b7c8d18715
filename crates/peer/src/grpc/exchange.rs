//! [`Exchange`]: one asker's questions, and the answers to them.
//!
//! It is the stream that HTTP/2 draws the answers' frames from, and reads the questions when it is drawn from: whoever
//! does not read the answers is not read from either. What the node can answer at once goes back in the same turn; what it
//! has to load is a task of its own.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, future::BoxFuture};
use larder_core::{
    Error, ErrorKind, Key, PeerService, Standing, Version,
    claim::{SlotCall, SlotRequest},
    peer::{Condition, PeerAnswer, PeerQuestion, PeerWrite, Reply, WriteOp},
    store::Tags,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tonic::{Status, Streaming};

use super::{
    convert, limits,
    pieces::{Incoming, Outgoing},
    proto::{Answer, Chunk, Frame, Put, Request, answer::Outcome, request::Op},
    slots,
    streams::Open,
};

/// How many groups' names are kept, so that not every frame makes them anew. Most askers ask for a few.
const NAMES_MAX: usize = 16;

/// The bytes that an answer takes in a frame beside its value, about.
const ANSWER_LEN: usize = 64;

/// The answers to one asker.
pub(super) struct Exchange {
    service: Arc<dyn PeerService>,
    standing: Arc<Standing>,
    /// The name and the incarnation of who asks.
    asker: (Arc<str>, u32),
    frames: Streaming<Frame>,
    /// A frame of a view that this node looks for, and when it came. What comes after it waits as well.
    held_up: Option<(Frame, Instant, BoxFuture<'static, ()>)>,
    hello: Option<Frame>,
    names: Vec<Arc<str>>,
    tasks: JoinSet<Done>,
    /// The bytes of the answers that tasks have brought and nobody has taken: while the asker does not read, nobody does.
    made_len: Arc<AtomicUsize>,
    /// Writes whose values are still to come.
    partial: HashMap<u64, (PeerWrite, About, Incoming)>,
    partial_len: usize,
    /// Answers, each with the value that follows in pieces.
    ready: VecDeque<(Answer, Option<Bytes>)>,
    ready_len: usize,
    pieces: Outgoing,
    /// This node goes: what was asked is answered, and nothing more is read.
    ending: BoxFuture<'static, ()>,
    is_ending: bool,
    is_over: bool,
    _open: Open,
}

/// The questions of a frame, and for each its place.
#[derive(Default)]
struct Asked {
    places: Vec<Place>,
    questions: Vec<PeerQuestion>,
}

/// Where an answer goes.
struct Place {
    id: u64,
    /// The longest value that the asker takes.
    value_len_max: usize,
    deadline: Instant,
}

/// What is known of a value that is still to come.
struct About {
    content_type: String,
    tags: Tags,
}

/// What a task brings.
struct Done {
    id: u64,
    /// `None`: nobody waits for it any more.
    came_to: Option<CameTo>,
}

enum CameTo {
    Answer(Result<PeerAnswer, Error>, usize),
    Written(Result<Option<Version>, Error>),
    /// To what was said about slots.
    Said(Result<Outcome, Error>),
}

impl Exchange {
    pub(super) fn new(
        service: Arc<dyn PeerService>,
        standing: Arc<Standing>,
        asker: (Arc<str>, u32),
        frames: Streaming<Frame>,
        ending: BoxFuture<'static, ()>,
        open: Open,
    ) -> Self {
        Self {
            hello: Some(convert::hello(&standing)),
            service,
            standing,
            asker,
            frames,
            held_up: None,
            names: Vec::new(),
            tasks: JoinSet::new(),
            made_len: Arc::default(),
            partial: HashMap::new(),
            partial_len: 0,
            ready: VecDeque::new(),
            ready_len: 0,
            pieces: Outgoing::default(),
            ending,
            is_ending: false,
            is_over: false,
            _open: open,
        }
    }

    /// Takes a frame, unless its sender's view is to be looked for first (rule W1). What it says about slots does not wait for
    /// that.
    fn judge(&mut self, mut frame: Frame) -> Result<(), Status> {
        if frame.hello.is_some() || !frame.answers.is_empty() {
            return Err(wrong("a frame carries what only the first one, or who answers, may send"));
        }
        let (can_judge, now) = (convert::check_frame(&self.standing, &frame), Instant::now());
        if can_judge.map_err(|error| wrong(error.message()))? {
            return self.take(frame, now);
        }
        let is_about_slots = |request: &Request| slots::are_asked_for(request.op.as_ref());
        if frame.requests.iter().any(is_about_slots) {
            let (requests, others) = frame.requests.into_iter().partition(is_about_slots);
            self.take(Frame { groups: frame.groups.clone(), requests, ..Frame::default() }, now)?;
            frame.requests = others;
            if frame.requests.is_empty() && frame.chunks.is_empty() {
                return Ok(());
            }
        }
        let (standing, view) = (self.standing.clone(), frame.view);
        self.held_up = Some((frame, now, Box::pin(async move { standing.meet_view(view).await })));
        Ok(())
    }

    /// Takes one frame's questions together.
    fn take(&mut self, frame: Frame, now: Instant) -> Result<(), Status> {
        let groups =
            frame.groups.iter().map(|name| self.group_name(name)).collect::<Result<Vec<Arc<str>>, Status>>()?;
        let mut asked = Asked::default();
        for request in frame.requests {
            self.request(request, &groups, now, &mut asked)?;
        }
        self.answer_all(asked);
        for chunk in frame.chunks {
            self.chunk(&chunk)?;
        }
        Ok(())
    }

    fn group_name(&mut self, name: &str) -> Result<Arc<str>, Status> {
        if let Some(known) = self.names.iter().find(|known| &***known == name) {
            return Ok(known.clone());
        }
        if name.len() > limits::GROUP_LEN_MAX {
            return Err(wrong("a group's name is too long"));
        }
        let name: Arc<str> = name.into();
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.push(name.clone());
        Ok(name)
    }

    /// Does what is asked, but for the questions of the frame: those are answered together.
    fn request(
        &mut self,
        request: Request,
        groups: &[Arc<str>],
        now: Instant,
        asked: &mut Asked,
    ) -> Result<(), Status> {
        let Request { id, group, key, left_ms, op, idempotency_key } = request;
        let op = match op {
            Some(Op::Ping(ping)) => {
                self.push(id, Outcome::Pong(ping));
                return Ok(());
            }
            Some(op) => op,
            None => {
                self.refuse(id, ErrorKind::Invalid, "this node does not know the operation: it is older");
                return Ok(());
            }
        };
        if left_ms == 0 {
            self.refuse(id, ErrorKind::TimedOut, "the deadline had passed when the request arrived");
            return Ok(());
        }
        let deadline = now + Duration::from_millis(left_ms).min(limits::DEADLINE_MAX);
        let group = groups.get(group as usize);
        if slots::are_asked_for(Some(&op)) || slots::are_locks_asked_for(Some(&op)) {
            match slots::parse_op(op, group, &key) {
                Ok(call) => self.slots(id, call, deadline),
                Err(error) => self.push(id, convert::failed(&error)),
            }
            return Ok(());
        }
        let Some(group) = group else {
            return Err(wrong("a request is of a group that its frame does not name"));
        };
        // A write waits, and must not keep the whole frame that it came in.
        let key = match op {
            Op::Get(_) => Key::new(key),
            _ => Key::copy_from(&key),
        };
        let key = match key {
            Ok(key) => key,
            Err(error) => {
                self.push(id, convert::failed(&error));
                return Ok(());
            }
        };
        let idempotency_key = (!idempotency_key.is_empty()).then(|| Arc::from(idempotency_key));
        let write = |key, op, condition| {
            let (group, idempotency_key) = (group.clone(), idempotency_key.clone());
            PeerWrite { group, key, op, condition, idempotency_key, deadline }
        };
        match op {
            Op::Get(get) => {
                let Some(asked_as) = convert::parse_asked_as(&get) else {
                    let message = "this node does not know what it is asked as: it is older, or the term is missing";
                    self.refuse(id, ErrorKind::Invalid, message);
                    return Ok(());
                };
                let value_len_max = usize::try_from(get.value_len_max).unwrap_or(usize::MAX);
                asked.places.push(Place { id, value_len_max, deadline });
                let (asker, group) = (Some(self.asker.0.clone()), group.clone());
                asked.questions.push(PeerQuestion { asker, group, key, asked_as, deadline });
            }
            Op::Put(mut put) => {
                let ttl = put.ttl_ms.map(Duration::from_millis);
                let Some(condition) = convert::parse_condition(put.condition.take()) else {
                    self.refuse(id, ErrorKind::Invalid, "this node does not know the write's condition: it is older");
                    return Ok(());
                };
                let op = WriteOp::Put { value: Bytes::new().into(), ttl };
                return self.put(id, write(key, op, condition), put);
            }
            Op::Delete(delete) => match convert::parse_condition(delete.condition) {
                Some(condition) => self.write(id, write(key, WriteOp::Delete, condition)),
                None => {
                    self.refuse(id, ErrorKind::Invalid, "this node does not know the write's condition: it is older");
                }
            },
            Op::Invalidate(invalidate) => {
                let op = WriteOp::Invalidate { ends_guard: invalidate.ends_guard };
                self.write(id, write(key, op, Condition::Always));
            }
            // All others were answered above.
            _ => self.refuse(id, ErrorKind::Invalid, "this node does not know what to do with the operation"),
        }
        Ok(())
    }

    /// Answers a frame's questions: at once, as far as that can be.
    fn answer_all(&mut self, asked: Asked) {
        let Asked { places, questions } = asked;
        if questions.is_empty() {
            return;
        }
        let replies = self.service.clone().answer_all(questions);
        for (Place { id, value_len_max, deadline }, reply) in places.into_iter().zip(replies) {
            match reply {
                Reply::Now(answer) => self.answer(id, answer, value_len_max),
                Reply::Later(answer) => {
                    if !self.has_room_for_task(id) {
                        continue;
                    }
                    let made_len = self.made_len.clone();
                    self.tasks.spawn(async move {
                        let answer = timeout_at(deadline + limits::DEADLINE_GRACE, answer).await;
                        let kept = answer.ok().map(|answer| keep(answer, answer_len, &made_len));
                        Done { id, came_to: kept.map(|answer| CameTo::Answer(answer, value_len_max)) }
                    });
                }
            }
        }
    }

    fn put(&mut self, id: u64, mut write: PeerWrite, put: Put) -> Result<(), Status> {
        let WriteOp::Put { value, .. } = &mut write.op else { return Ok(()) };
        if put.chunked_len == 0 {
            let bytes = Bytes::copy_from_slice(&put.value);
            *value = convert::value(bytes, put.content_type).with_tags(convert::parse_tags(&put.tags));
            self.write(id, write);
            return Ok(());
        }
        if !put.value.is_empty() || self.partial.contains_key(&id) {
            return Err(wrong("a value comes both whole and in chunks, or twice"));
        }
        match usize::try_from(put.chunked_len).ok().filter(|len| *len <= limits::PARTIAL_LEN_MAX) {
            None => self.refuse(id, ErrorKind::TooLarge, "the value is longer than any that this node takes"),
            Some(len) if !self.has_room_for_partial(len) => self.overloaded(id),
            Some(len) => {
                self.partial_len += len;
                let about = About { content_type: put.content_type, tags: convert::parse_tags(&put.tags) };
                self.partial.insert(id, (write, about, Incoming::new(len)));
            }
        }
        Ok(())
    }

    fn has_room_for_partial(&mut self, len: usize) -> bool {
        let has_room = |this: &Self| {
            this.partial.len() < limits::PARTIAL_COUNT_MAX && this.partial_len + len <= limits::PARTIAL_LEN_MAX
        };
        if !has_room(self) {
            self.drop_late_writes();
        }
        has_room(self)
    }

    /// Takes a piece of a value that is written.
    fn chunk(&mut self, chunk: &Chunk) -> Result<(), Status> {
        // The write may have been refused meanwhile.
        let Some((_, _, incoming)) = self.partial.get_mut(&chunk.id) else { return Ok(()) };
        let Some(whole) = incoming.add(&chunk.data).map_err(wrong)? else { return Ok(()) };
        if let Some((mut write, About { content_type, tags }, incoming)) = self.partial.remove(&chunk.id) {
            self.partial_len -= incoming.len();
            if let WriteOp::Put { value, .. } = &mut write.op {
                *value = convert::value(whole, content_type).with_tags(tags);
            }
            self.write(chunk.id, write);
        }
        Ok(())
    }

    /// Forgets the writes whose askers stopped sending.
    fn drop_late_writes(&mut self) {
        let now = Instant::now();
        let left = &mut self.partial_len;
        self.partial.retain(|_, (write, _, incoming)| {
            let stays = write.deadline > now;
            *left -= if stays { 0 } else { incoming.len() };
            stays
        });
    }

    fn write(&mut self, id: u64, write: PeerWrite) {
        if !self.has_room_for_task(id) {
            return;
        }
        let (service, deadline) = (self.service.clone(), write.deadline);
        let mut writing = Box::pin(async move { service.write(write).await });
        // Most writes wait for nothing, and are spared a task and a timer.
        if let Some(written) = writing.as_mut().now_or_never() {
            return self.done(Done { id, came_to: Some(CameTo::Written(written)) });
        }
        self.tasks.spawn(async move {
            let outcome = timeout_at(deadline + limits::DEADLINE_GRACE, writing).await;
            Done { id, came_to: outcome.ok().map(CameTo::Written) }
        });
    }

    fn slots(&mut self, id: u64, call: SlotCall, deadline: Instant) {
        if !self.has_room_for_task(id) {
            return;
        }
        let (from, incarnation) = self.asker.clone();
        let (service, made_len) = (self.service.clone(), self.made_len.clone());
        self.tasks.spawn(async move {
            let reply = service.slots(SlotRequest { from, incarnation, call });
            let reply = timeout_at(deadline + limits::DEADLINE_GRACE, reply).await;
            let kept = reply.ok().map(|reply| keep(reply.map(slots::outcome), value_len, &made_len));
            Done { id, came_to: kept.map(CameTo::Said) }
        });
    }

    fn has_room_for_task(&mut self, id: u64) -> bool {
        let has_room = self.tasks.len() < limits::TASKS_MAX;
        if !has_room {
            self.overloaded(id);
        }
        has_room
    }

    fn done(&mut self, done: Done) {
        match done.came_to {
            Some(CameTo::Answer(answer, value_len_max)) => {
                self.made_len.fetch_sub(answer.as_ref().map_or(0, answer_len), Ordering::Relaxed);
                self.answer(done.id, answer, value_len_max);
            }
            Some(CameTo::Said(Ok(outcome))) => {
                self.made_len.fetch_sub(value_len(&outcome), Ordering::Relaxed);
                self.send(done.id, outcome, None);
            }
            Some(CameTo::Said(Err(error))) => self.push(done.id, convert::failed(&error)),
            Some(CameTo::Written(Ok(version))) => self.push(done.id, convert::written(version)),
            Some(CameTo::Written(Err(error))) => self.push(done.id, convert::failed(&error)),
            None => {}
        }
    }

    fn answer(&mut self, id: u64, answer: Result<PeerAnswer, Error>, value_len_max: usize) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return self.push(id, convert::failed(&error)),
        };
        let (outcome, follows) = convert::outcome(answer, value_len_max);
        self.send(id, outcome, follows);
    }

    /// Has an answer sent, if there is room for it.
    fn send(&mut self, id: u64, outcome: Outcome, follows: Option<Bytes>) {
        let len = value_len(&outcome) + follows.as_ref().map_or(0, Bytes::len);
        if self.ready_len + len > limits::READY_LEN_MAX {
            return self.overloaded(id);
        }
        self.ready_len += len;
        self.ready.push_back((Answer { id, outcome: Some(outcome) }, follows));
    }

    fn push(&mut self, id: u64, outcome: Outcome) {
        self.ready.push_back((Answer { id, outcome: Some(outcome) }, None));
    }

    fn refuse(&mut self, id: u64, kind: ErrorKind, message: &str) {
        self.push(id, convert::failed(&Error::new(kind, message)));
    }

    fn overloaded(&mut self, id: u64) {
        self.push(id, convert::failed(&overloaded()));
    }

    /// Reads what has come, as far as there is room for the answers.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Read, Status> {
        for _ in 0..limits::FRAMES_A_TURN {
            if self.is_ending || self.ready.len() >= limits::READY_COUNT || self.ready_len >= limits::READY_LEN {
                return Ok(Read::Paused);
            }
            if let Some((_, _, met)) = &mut self.held_up {
                if met.as_mut().poll(cx).is_pending() {
                    return Ok(Read::Paused);
                }
                if let Some((frame, came, _)) = self.held_up.take() {
                    self.take(frame, came)?;
                }
            }
            match Pin::new(&mut self.frames).poll_next(cx) {
                Poll::Pending => return Ok(Read::All),
                Poll::Ready(None) => return Ok(Read::End),
                Poll::Ready(Some(frame)) => self.judge(frame?)?,
            }
        }
        cx.waker().wake_by_ref();
        Ok(Read::Paused)
    }

    /// The next frame, if there is something to send.
    fn frame(&mut self) -> Option<Frame> {
        let mut frame = convert::frame(&self.standing);
        let (mut len, count) = (0, self.ready.len().min(limits::FRAME_COUNT_MAX));
        frame.answers.reserve(count);
        while len < limits::FRAME_LEN && frame.answers.len() < count {
            let Some((answer, follows)) = self.ready.pop_front() else { break };
            let value_len = answer.outcome.as_ref().map_or(0, value_len);
            self.ready_len -= value_len;
            len += value_len + ANSWER_LEN;
            if let Some(value) = follows {
                self.pieces.send(answer.id, value);
            }
            frame.answers.push(answer);
        }
        // After the answers: one of them may be the chunk's.
        if let Some(chunk) = self.pieces.next(|_| true) {
            self.ready_len -= chunk.data.len();
            frame.chunks.push(chunk);
        }
        let is_empty = frame.answers.is_empty() && frame.chunks.is_empty();
        (!is_empty).then_some(frame)
    }
}

/// How much of what has come was read.
enum Read {
    All,
    Paused,
    /// And no more comes.
    End,
}

impl Stream for Exchange {
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(Ok(hello)));
        }
        this.is_ending = this.is_ending || this.ending.as_mut().poll(cx).is_ready();
        match this.read(cx) {
            Ok(Read::All | Read::Paused) => {}
            Ok(Read::End) => {
                this.is_over = true;
                return Poll::Ready(None);
            }
            Err(status) => {
                tracing::debug!(reason = status.message(), "an exchange with another node is ended");
                this.is_over = true;
                return Poll::Ready(Some(Err(status)));
            }
        }
        while this.ready_len < limits::READY_LEN
            && let Poll::Ready(Some(done)) = this.tasks.poll_join_next(cx)
        {
            match done {
                Ok(done) => this.done(done),
                Err(error) => tracing::error!(%error, "answering another node's question failed"),
            }
        }
        if let Some(frame) = this.frame() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if this.is_ending && this.tasks.is_empty() {
            this.is_over = true;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

/// Counts an answer that is kept until somebody takes it, or lets go of it.
fn keep<T>(answer: Result<T, Error>, len: impl Fn(&T) -> usize, made_len: &AtomicUsize) -> Result<T, Error> {
    let len = answer.as_ref().map_or(0, len);
    if made_len.fetch_add(len, Ordering::Relaxed) + len <= limits::READY_LEN_MAX {
        return answer;
    }
    made_len.fetch_sub(len, Ordering::Relaxed);
    Err(overloaded())
}

fn answer_len(answer: &PeerAnswer) -> usize {
    match answer {
        PeerAnswer::Found { value: Some(value), .. } => value.len(),
        _ => 0,
    }
}

fn overloaded() -> Error {
    let error = Error::new(ErrorKind::Overloaded, "the node has too much to do for the one that asks");
    error.with_retry_after(Duration::from_secs(1))
}

fn value_len(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Found(found) => found.value.as_ref().map_or(0, Bytes::len),
        Outcome::Claimed(claimed) => claimed.answers.len(),
        Outcome::Recalled(recalled) => recalled.slots.len(),
        Outcome::Copies(copies) => copies.slots.len(),
        Outcome::RecordsTold(told) => told.records.len(),
        Outcome::RecordPiece(piece) => piece.data.len(),
        _ => 0,
    }
}

fn wrong(message: &str) -> Status {
    Status::invalid_argument(message)
}
