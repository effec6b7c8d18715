//! [`PeerClient`]: the seam to another node.
//!
//! What a node asks of another is the same over every transport; how it gets there is the transport's affair. The core
//! knows neither sockets nor wire formats.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::{Error, Key, Member, Members, Standing, Value, Version};

/// In which part the receiver is asked (rules G3 and S1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AskedAs {
    /// As the key's owner.
    Owner,
    /// As the stand-in: the asker could not reach the owner.
    StandIn,
    /// As the owner, by a stand-in that was asked and reaches it. Not to be passed on, and gets no lease.
    OwnerByStandIn,
}

/// A question for a key's value.
///
/// Callers may join the flight that asks it for as long as it has not left: the transport must call
/// [`leaving`](Self::leaving) just before it writes the request, and at the latest when it has no more say in when that
/// happens (rule G2).
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
    leaving: Option<Box<dyn FnOnce() + Send>>,
}

impl PeerGet {
    /// A question that nobody may join.
    pub fn new(
        group: impl Into<Arc<str>>,
        key: Key,
        asked_as: AskedAs,
        value_len_max: usize,
        deadline: Instant,
    ) -> Self {
        Self { group: group.into(), key, asked_as, value_len_max, deadline, leaving: None }
    }

    /// Has `leaving` called when the request leaves.
    #[must_use]
    pub fn on_leaving(mut self, leaving: impl FnOnce() + Send + 'static) -> Self {
        self.leaving = Some(Box::new(leaving));
        self
    }

    /// Says that the request is about to be written. Calling it again does nothing.
    pub fn leaving(&mut self) {
        if let Some(leaving) = self.leaving.take() {
            leaving();
        }
    }
}

impl fmt::Debug for PeerGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerGet")
            .field("group", &self.group)
            .field("key", &self.key)
            .field("as", &self.asked_as)
            .finish()
    }
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
    /// That it is not the owner, with the members as it sees them (rule W2).
    NotOwner(Members),
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
    /// When the work is bounded to end.
    pub deadline: Instant,
}

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
    },
    /// The deadline passed before it answered.
    TimedOut,
    /// It answered, with this error: that is the answer (rule G4).
    Answered(Error),
}

impl PeerError {
    /// Not reached, and nothing was sent.
    pub fn not_sent(message: impl Into<Box<str>>) -> Self {
        Self::Unreachable { message: message.into(), sent: false }
    }

    /// Broke off after the request may have been sent.
    pub fn broke_off(message: impl Into<Box<str>>) -> Self {
        Self::Unreachable { message: message.into(), sent: true }
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
    /// The group's name.
    pub group: Arc<str>,
    /// The key.
    pub key: Key,
    /// In which part this node is asked.
    pub asked_as: AskedAs,
    /// When the answer is of no more use.
    pub deadline: Instant,
}

/// This node, as the server side of a transport sees it.
pub trait PeerService: Send + Sync + 'static {
    /// The answer, if it is at hand. `None`, and nothing done, if the question takes [`answer`](Self::answer).
    fn answer_now(&self, _question: &PeerQuestion) -> Option<PeerAnswer> {
        None
    }

    /// Answers another node's question.
    fn answer(&self, question: PeerQuestion) -> BoxFuture<'_, Result<PeerAnswer, Error>>;

    /// Carries out a write that another node passed on, as [`PeerClient::write`] tells it.
    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, Error>>;
}

/// What is done with the answer to a question. It must be short and must not wait: other answers come after it.
pub type Answered = Box<dyn FnOnce(Result<PeerAnswer, PeerError>) + Send>;

/// A link to one other node. Every call ends by its deadline.
pub trait PeerClient: Send + Sync + 'static {
    /// Asks for a key.
    fn get(&self, request: PeerGet) -> BoxFuture<'_, Result<PeerAnswer, PeerError>>;

    /// Asks for a key, and has the answer handed to `answered`: at the latest when its deadline has passed. A transport that
    /// serves many at once needs no task of its own for each.
    fn ask(self: Arc<Self>, request: PeerGet, answered: Answered) {
        tokio::spawn(async move { answered(self.get(request).await) });
    }

    /// Has a key written; answers with the new version (of a delete: its own), or `None` if the transport doesn't tell.
    fn write(&self, request: PeerWrite) -> BoxFuture<'_, Result<Option<Version>, PeerError>>;

    /// Asks whether it is there at all. Any sign of life will do.
    fn probe(&self, deadline: Instant) -> BoxFuture<'_, Result<(), PeerError>>;
}

/// Makes links to members.
pub trait Transport: Send + Sync + 'static {
    /// The name that metrics use: `http`, `grpc`.
    fn name(&self) -> &'static str;

    /// Whose links these are. A node says so before it asks for any.
    fn introduce(&self, _node: Arc<Standing>) {}

    /// A link to this member. Connects when it is first used.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) if the member's address can't be one.
    fn link(&self, member: &Member) -> Result<Arc<dyn PeerClient>, Error>;
}
