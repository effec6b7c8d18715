//! [`Membership`]: the seam to whatever knows who is in the cluster.

use std::{fmt, future::ready, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::{Error, ErrorKind, Moment};

/// The most members a view may have.
pub const MEMBERS_MAX: usize = 4096;

/// What a member does for the cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum MemberState {
    /// It owns nothing yet.
    Joining,
    /// It owns its share of the slots.
    #[default]
    Serving,
    /// It is leaving and owns nothing any more.
    Draining,
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Serving => "serving",
            Self::Draining => "draining",
        })
    }
}

/// A node as the other nodes know it.
///
/// ```
/// use larder_core::{Member, MemberState};
///
/// let big = Member { weight: 4, zone: "west".into(), ..Member::new("a", "10.0.0.1:5274") };
/// assert_eq!((big.state, &*big.address), (MemberState::Serving, "10.0.0.1:5274"));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Member {
    /// Unique in the cluster.
    pub name: Arc<str>,
    /// Tells this run of it from its earlier ones; 0 where the list doesn't know.
    pub incarnation: u32,
    /// Where the node-to-node transport reaches it: `host:port`, or a URL where the transport is HTTP.
    pub address: Arc<str>,
    /// Where clients reach its HTTP API, `host:port`; empty if that is not known.
    pub http: Arc<str>,
    /// Its share of the keys, in relation to the others' weights; 0 owns nothing.
    pub weight: u32,
    /// Where it stands, for people to read.
    pub zone: Arc<str>,
    /// What it does.
    pub state: MemberState,
}

impl Member {
    /// A serving member of weight 1.
    pub fn new(name: impl Into<Arc<str>>, address: impl Into<Arc<str>>) -> Self {
        let empty: Arc<str> = Arc::from("");
        Self {
            name: name.into(),
            incarnation: 0,
            address: address.into(),
            http: empty.clone(),
            weight: 1,
            zone: empty,
            state: MemberState::Serving,
        }
    }

    /// Whether it owns slots.
    #[must_use]
    pub fn takes_keys(&self) -> bool {
        self.state == MemberState::Serving && self.weight > 0
    }
}

/// A list of members: sorted by name, no name twice. Lists of the same members are equal, whatever their rank.
///
/// # Examples
///
/// ```
/// use larder_core::{Member, Members};
///
/// let one = Members::new([Member::new("a", "10.0.0.1:5274"), Member::new("b", "10.0.0.2:5274")])?;
/// let other = Members::new([Member::new("b", "10.0.0.2:5274"), Member::new("a", "10.0.0.1:5274")])?;
/// assert_eq!(one, other);
/// assert!(Members::new([Member::new("a", "x:1"), Member::new("a", "y:1")]).is_err());
/// # Ok::<(), larder_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Members {
    list: Arc<[Member]>,
    rank: u64,
}

impl PartialEq for Members {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for Members {}

impl Members {
    /// Sorts and checks the list.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if a name is empty or stands twice, or if there are more than [`MEMBERS_MAX`].
    pub fn new(members: impl IntoIterator<Item = Member>) -> Result<Self, Error> {
        let mut members: Vec<Member> = members.into_iter().collect();
        members.sort();
        if members.len() > MEMBERS_MAX {
            let len = members.len();
            return Err(Error::new(ErrorKind::Invalid, format!("{len} members: {MEMBERS_MAX} is the most")));
        }
        if members.iter().any(|member| member.name.is_empty()) {
            return Err(Error::new(ErrorKind::Invalid, "a member has no name: give it one"));
        }
        if let Some(pair) = members.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let name = &pair[0].name;
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("two members are named {name:?}: names must be unique"),
            ));
        }
        Ok(Self { list: members.into(), rank: 0 })
    }

    /// The same list, as of this revision or index of the registry that keeps it.
    #[must_use]
    pub fn ranked(self, rank: u64) -> Self {
        Self { rank, ..self }
    }

    /// The revision or index that the list is as of: a greater one is later (rule W1). 0 where lists have none.
    #[must_use]
    pub fn rank(&self) -> u64 {
        self.rank
    }

    /// The place of the member of this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.list.binary_search_by(|member| (*member.name).cmp(name)).ok()
    }
}

impl std::ops::Deref for Members {
    type Target = [Member];

    fn deref(&self) -> &[Member] {
        &self.list
    }
}

/// That a node may act as owner by a list, for strong groups (rule A2): a read of all members that no failure of the
/// registry can have made stale, and how long it counts.
///
/// Who was without a proof for a moment may have been off the list meanwhile and another in its place, also where the list
/// is the same as before: it holds no slot any more, and claims its slots anew.
///
/// ```
/// use std::time::Duration;
/// use larder_core::{Members, Moment, Proof};
///
/// let sent = Moment::from_nanos(0);
/// let proof = Proof { members: Members::default(), sent, until: sent + Duration::from_millis(4_500) };
/// assert!(proof.holds_at(sent + Duration::from_secs(4)) && !proof.holds_at(sent + Duration::from_secs(5)));
/// ```
#[derive(Clone, Debug)]
pub struct Proof {
    /// What the read showed.
    pub members: Members,
    /// When the read was sent.
    pub sent: Moment,
    /// From then on it counts no more: 0.9 times the registry's lease after it was sent.
    pub until: Moment,
}

impl Proof {
    /// Whether it counts at this moment.
    #[must_use]
    pub fn holds_at(&self, now: Moment) -> bool {
        now < self.until
    }
}

/// Whatever knows who is in the cluster.
///
/// Where nodes register themselves, the implementation knows which member is this node and tells the others of it; where
/// somebody writes the list, a node has no say, and the calls that would have one do nothing.
pub trait Membership: Send + Sync + 'static {
    /// The list as it is now and each later one.
    fn members(&self) -> watch::Receiver<Members>;

    /// Tells the others what this node does from now on. It may take as long as the registry is away; the state stays what
    /// was announced last, whatever fails on the way.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the registry refuses this node for good, such as for a name that another live one has.
    fn announce(&self, _state: MemberState) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(ready(Ok(())))
    }

    /// Takes this node off the list, as far as the registry can be reached; it ends by itself within some seconds, and a
    /// node that could not take itself off is off when its lease or its silence has run out.
    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// Looks at once whether there is a later list, because another node seems to know one (rule W1). It ends within
    /// [`LOOK_TIME_MAX`]; what was found is then in [`members`](Self::members).
    fn look(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    /// The latest proof of authority, and each later one; `None`: this membership proves nothing, and groups with strong
    /// consistency can't be had with it.
    fn authority(&self) -> Option<watch::Receiver<Option<Proof>>> {
        None
    }

    /// Whether nobody joins or leaves but by somebody's writing it into a list: a node that is away keeps what is its own (rule B6).
    fn is_fixed(&self) -> bool {
        false
    }
}

impl<M: Membership + ?Sized> Membership for Arc<M> {
    fn members(&self) -> watch::Receiver<Members> {
        (**self).members()
    }

    fn announce(&self, state: MemberState) -> BoxFuture<'_, Result<(), Error>> {
        (**self).announce(state)
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        (**self).leave()
    }

    fn look(&self) -> BoxFuture<'_, ()> {
        (**self).look()
    }

    fn authority(&self) -> Option<watch::Receiver<Option<Proof>>> {
        (**self).authority()
    }

    fn is_fixed(&self) -> bool {
        (**self).is_fixed()
    }
}

/// The longest that [`Membership::look`] takes: a registry that is well answers in milliseconds, and a question waits.
pub const LOOK_TIME_MAX: Duration = Duration::from_millis(250);
