//! [`PeerClient`]: the seam to another node.
//!
//! What a node asks of another is the same over every transport; how it gets there is the transport's affair. The core
//! knows neither sockets nor wire formats.

use std::{
    fmt,
    future::{Future, ready},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    Error, ErrorKind, Key, Member, Members, Standing, Value, Version,
    claim::{SlotReply, SlotRequest},
    stats::Sizes,
};

/// In which part the receiver is asked (rules G3 and S1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AskedAs {
    /// As the key's owner.
    Owner,
    /// As the stand-in: the asker could not reach the owner.
    StandIn,
    /// As the owner, by a stand-in that was asked and reaches it. Not to be passed on, and gets no lease.
    OwnerByStandIn,
    /// As the owner before, from whom the asker claimed the key's slot under this term: for what it holds, without a load
    /// (rule H1).
    Before(Version),
    /// As another node that may have loaded the key under another view: for what it holds, without a load.
    Another,
}

/// A question for a key's value.
#[derive(Clone, Debug)]
pub struct PeerGet {
    /// The group's name.
    pub group: Arc<str>,
    /// The key.
    pub key: Key,
    /// In which part the receiver is asked.
    pub asked_as: AskedAs,
    /// A value longer than this, in bytes, is refused; best before it is read.
    pub value_len_max: usize,
    /// When the answer is of no more use.
    pub deadline: Instant,
}

/// A question and who asks it, as the transport that carries it sees them.
///
/// Dropped unanswered, it knows that there will be no answer.
pub trait Asker: Send + 'static {
    /// What is asked.
    fn question(&self) -> &PeerGet;

    /// The question is about to be written. The transport calls this just before it writes it, and at the latest when it
    /// has no more say in when that happens: callers may join the flight that asks for as long as it has not left (rule
    /// G2).
    fn leaves(&mut self) -> Leave;

    /// Takes the answer; there is one. It must be short and must not wait: other answers come after it.
    fn answered(&mut self, answer: Result<PeerAnswer, PeerError>);
}

/// Whether a question is to leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// It is, and the answer is waited for until then. That may be later than [`PeerGet::deadline`] had it.
    Until(Instant),
    /// It is not, and the asker may be dropped: nobody waits for the answer any more.
    Not,
}

/// What the answering node knows of the value beside its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerMeta {
    /// The value's version.
    pub version: Version,
    /// Time since its load began.
    pub age: Duration,
    /// What is left of its ttl; `None` if it has none. Zero if it is served stale.
    pub ttl_left: Option<Duration>,
}

/// What another node says of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerAnswer {
    /// Its value; `None`: the origin has no such key.
    Found {
        /// The value.
        value: Option<Value>,
        /// What is known of it; golang/groupcache knows nothing.
        meta: Option<PeerMeta>,
        /// How long a copy may be kept, counted from when the question was sent; `None`: not at all.
        lease: Option<Duration>,
    },
    /// That it is not the owner (rule W2).
    NotOwner {
        /// The members as it sees them.
        members: Members,
        /// Who may answer, as far as it knows.
        to: Option<Arc<str>>,
    },
    /// That it holds nothing of the key: to who asks for no more ([`AskedAs::Before`]).
    NotHeld,
}

/// A condition of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Condition {
    /// None.
    #[default]
    Always,
    /// Only while the key has this version.
    IfVersion(Version),
    /// Only where a get would find nothing.
    IfAbsent,
}

/// What is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteOp {
    /// A value.
    Put {
        /// The value.
        value: Value,
        /// Its ttl: `None` as the group has it.
        ttl: Option<Duration>,
    },
    /// That there is none any more.
    Delete,
    /// Nothing: what is cached of it is dropped, and its origin is left alone.
    Invalidate {
        /// The writer was this key's owner when it wrote it to the origin, and claims made another node the owner meanwhile, which
        /// guards the key until it is told of the end: this is that (rules C2 and W3).
        ends_guard: bool,
    },
}

/// A write, for the key's owner.
#[derive(Clone, Debug)]
pub struct PeerWrite {
    /// The group's name.
    pub group: Arc<str>,
    /// The key.
    pub key: Key,
    /// What is written.
    pub op: WriteOp,
    /// On which condition.
    pub condition: Condition,
    /// A repetition of a write under the same one is answered as the first was.
    pub idempotency_key: Option<Arc<str>>,
    /// When the work is bounded to end.
    pub deadline: Instant,
}

/// The longest `Idempotency-Key`, in bytes: four times a UUID's text and some.
pub const IDEMPOTENCY_KEY_LEN_MAX: usize = 256;

/// Why another node gave no answer of its own.
#[derive(Clone, Debug)]
pub enum PeerError {
    /// It could not be reached, or the connection broke, or it sent something that can't be read. Whether a request was
    /// already written then matters to writes.
    Unreachable {
        /// What happened, in one sentence.
        message: Box<str>,
        /// Whether the request may have been written.
        sent: bool,
        /// Whether it gave no sign of life when it was asked for one. That says as much as several failures.
        silent: bool,
    },
    /// The deadline passed before it answered.
    TimedOut,
    /// It answered, with this error: that is the answer (rule G4).
    Answered(Error),
}

impl PeerError {
    /// Not reached, and nothing was sent.
    pub fn not_sent(message: impl Into<Box<str>>) -> Self {
        Self::Unreachable { message: message.into(), sent: false, silent: false }
    }

    /// Broke off after the request may have been sent.
    pub fn broke_off(message: impl Into<Box<str>>) -> Self {
        Self::Unreachable { message: message.into(), sent: true, silent: false }
    }

    /// Gave no sign of life for [`SILENCE_MAX`], with a request that may have been sent.
    pub fn fell_silent(message: impl Into<Box<str>>) -> Self {
        Self::Unreachable { message: message.into(), sent: true, silent: true }
    }
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { message, .. } => f.write_str(message),
            Self::TimedOut => f.write_str("it did not answer before the deadline"),
            Self::Answered(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PeerError {}

/// A [`PeerGet`] as the node that is asked gets it.
#[derive(Clone, Debug)]
pub struct PeerQuestion {
    /// The name of who asks, which may be granted a lease; `None` where the transport doesn't tell.
    pub asker: Option<Arc<str>>,
    /// The group's name.
    pub group: Arc<str>,
    /// The key.
    pub key: Key,
    /// In which part this node is asked.
    pub asked_as: AskedAs,
    /// When the answer is of no more use.
    pub deadline: Instant,
}

/// What a node says to a question.
pub enum Reply {
    /// This.
    Now(Result<PeerAnswer, Error>),
    /// It has to be waited for.
    Later(BoxFuture<'static, Result<PeerAnswer, Error>>),
}

/// This node, as the server side of a transport sees it.
pub trait PeerService: Send + Sync + 'static {
    /// Answers another node's question.
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>>;

    /// Answers questions that came together, each in its place. What is at hand is answered at once; what has to be loaded may
    /// share requests to the origin.
    fn answer_all(self: Arc<Self>, questions: Vec<PeerQuestion>) -> Vec<Reply> {
        let later = |question| {
            let this = self.clone();
            Reply::Later(Box::pin(async move { this.answer(question).await }))
        };
        questions.into_iter().map(later).collect()
    }

    /// Carries out a write that another node passed on, as [`PeerClient::write`] tells it.
    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>>;

    /// Takes what another node says about slots. The reply is of the request's kind.
    fn slots(&self, _request: SlotRequest) -> BoxFuture<'_, Result<SlotReply, Error>> {
        Box::pin(ready(Err(no_claims())))
    }
}

/// How long the other node may give no sign of life before a link gives it up: whatever waits for it ends then.
pub const SILENCE_MAX: Duration = Duration::from_millis(1_500);

/// A link to one other node.
///
/// Every call ends by its deadline, and sooner if the other node gives no sign of life for about [`SILENCE_MAX`]: the link
/// asks for one where an answer takes long. A slow answer is waited for as long as it shows any.
pub trait PeerClient: Send + Sync + 'static {
    /// Asks for a key, and hands the answer to `asker`.
    fn ask(self: Arc<Self>, asker: Box<dyn Asker>);

    /// Has a key written; answers with the new version (of a delete: its own), or `None` if the transport doesn't tell.
    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, PeerError>>;

    /// Says something about slots, for an answer of its kind. Only where [`Transport::carries_claims`].
    fn slots(&self, _request: SlotRequest, _deadline: Instant) -> BoxFuture<'_, Result<SlotReply, PeerError>> {
        Box::pin(ready(Err(PeerError::Answered(no_claims()))))
    }

    /// Asks whether it is there at all. Any sign of life will do.
    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Result<(), PeerError>>;

    /// How many requests it has sent at a time. `None` for a transport on which each goes by itself.
    fn batch_sizes(&self) -> Option<&Sizes> {
        None
    }
}

impl dyn PeerClient {
    /// Asks for a key and waits for the answer. Dropped, it is not asked any more if it has not left.
    ///
    /// # Errors
    ///
    /// [`PeerError`].
    pub async fn get(self: &Arc<Self>, question: PeerGet) -> Result<PeerAnswer, PeerError> {
        let deadline = question.deadline;
        let (asker, answer) = waiting(question, move || Leave::Until(deadline));
        self.clone().ask(Box::new(asker));
        answer.await
    }
}

/// An asker for one who waits, and what it waits for. While it does, `leaves` decides whether the question leaves.
pub(crate) fn waiting(
    question: PeerGet,
    leaves: impl FnMut() -> Leave + Send + 'static,
) -> (impl Asker, impl Future<Output = Result<PeerAnswer, PeerError>>) {
    let (tell, told) = oneshot::channel();
    let answer = async { told.await.unwrap_or_else(|_| Err(PeerError::broke_off("the link was closed"))) };
    (Waiting { question, tell: Some(tell), leaves }, answer)
}

struct Waiting<L> {
    question: PeerGet,
    /// `None` once it is told.
    tell: Option<oneshot::Sender<Result<PeerAnswer, PeerError>>>,
    leaves: L,
}

impl<L: FnMut() -> Leave + Send + 'static> Asker for Waiting<L> {
    fn question(&self) -> &PeerGet {
        &self.question
    }

    fn leaves(&mut self) -> Leave {
        match &self.tell {
            Some(tell) if !tell.is_closed() => (self.leaves)(),
            _ => Leave::Not,
        }
    }

    fn answered(&mut self, answer: Result<PeerAnswer, PeerError>) {
        // Who does not wait any more needs none.
        drop(self.tell.take().map(|tell| tell.send(answer)));
    }
}

fn no_claims() -> Error {
    Error::new(ErrorKind::Invalid, "slots are not passed on over this transport")
}

/// Makes links to members.
pub trait Transport: Send + Sync + 'static {
    /// The name that metrics use: `http`, `grpc`.
    fn name(&self) -> &'static str;

    /// Whether nodes can pass slots on over it, by [`PeerClient::slots`]. Over one that can't, a slot is whoever's the view
    /// says, at once and cold.
    fn carries_claims(&self) -> bool {
        false
    }

    /// Whose links these are. A node says so before it asks for any.
    fn introduce(&self, _node: Arc<Standing>) {}

    /// Has this member say who it is, to the [`Standing`] that was introduced, on a connection that is made for that and
    /// has no bearing on the links. Nothing, for a transport on which nodes say nothing of themselves.
    fn greet(&self, _member: &Member) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// A link to this member. Connects when it is first used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the member's address can't be one.
    fn link(&self, member: &Member) -> Result<Arc<dyn PeerClient>, Error>;
}
