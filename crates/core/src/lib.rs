//! The heart of Larder, without sockets, files or a clock of its own.

pub mod clock;
mod error;
pub mod health;
mod key;
pub mod loader;
pub mod membership;
pub mod peer;
pub mod placement;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod value;
pub mod version;

pub use clock::{Clock, Moment};
pub use error::{Error, ErrorKind};
pub use key::{KEY_LEN_MAX, Key};
pub use loader::{Found, LoadError, LoadRequest, Loaded, Loader};
pub use membership::{Member, MemberState, Members, Membership};
pub use peer::{PeerClient, PeerService, Transport};
pub use value::Value;
pub use version::{HybridClock, Version};
