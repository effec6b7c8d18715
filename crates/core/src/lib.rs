//! The heart of Larder, without sockets, files or a clock of its own.
//!
//! A tour, in the order in which a key meets things:
//!
//! - [`Group::get`] is the read path, and [`group`] the place to start reading.
//! - [`store`] keeps what was loaded, bounded in bytes.
//! - [`flight`] makes one piece of work of however many callers miss a key at once.
//! - [`placement`] says which slot a key falls into and who owns that; [`view`] which members there are, as of now.
//! - [`Node`] holds what groups share.
//!
//! Everything outside is behind a seam: the origin ([`Loader`], [`Store`]), other nodes ([`PeerClient`], [`Transport`],
//! [`PeerService`]), who is in the cluster ([`Membership`]), who keeps locks ([`LockService`]), time ([`Clock`]). The feature
//! `testing` has a fake and a contract suite for each.
//!
//! [`store`], [`placement`] and [`flight`] know nothing of the rest and can be used alone.

mod authority;
pub mod behind;
pub mod claim;
pub mod clock;
mod error;
pub mod flight;
pub mod group;
pub mod health;
mod heard_views;
mod key;
mod link;
pub mod loader;
pub mod lock;
pub mod membership;
mod node;
pub mod peer;
pub mod placement;
pub mod reserve;
mod rules;
mod serving;
pub mod standing;
pub mod stats;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod update;
mod value;
pub mod version;
pub mod view;

pub use clock::{Clock, Moment};
pub use error::{Error, ErrorKind};
pub use group::{Answer, Group, GroupConfig, Outcome};
pub use key::{KEY_LEN_MAX, Key};
pub use link::{Peer, PeerStats};
pub use loader::{Found, LoadError, LoadRequest, Loaded, Loader};
pub use lock::{LockGuard, LockService, Locks};
pub use membership::{Member, MemberState, Members, Membership, Proof};
pub use node::{GROUPS_MAX, KeyPlace, Node, NodeConfig, check_group_name};
pub use peer::{PeerClient, PeerService, Transport};
pub use standing::Standing;
pub use update::{Change, Store, Update, UpdateError};
pub use value::Value;
pub use version::{HybridClock, Version};
pub use view::{Ring, View};
