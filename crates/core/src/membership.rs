//! [`Membership`]: the seam to whatever knows who is in the cluster.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use crate::{Error, ErrorKind};

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

/// A list of members: sorted by name, no name twice.
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
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members(Arc<[Member]>);

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
        Ok(Self(members.into()))
    }

    /// The place of the member of this name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.binary_search_by(|member| (*member.name).cmp(name)).ok()
    }
}

impl std::ops::Deref for Members {
    type Target = [Member];

    fn deref(&self) -> &[Member] {
        &self.0
    }
}

/// Whatever knows who is in the cluster.
pub trait Membership: Send + Sync + 'static {
    /// The list as it is now and each later one.
    fn members(&self) -> watch::Receiver<Members>;
}
