//! Larder is a distributed read-through cache. Every key has one owner among the nodes; whatever the number of nodes and
//! callers, a key is loaded from its origin once.
//!
//! # A cache in a program
//!
//! A [`Node`] has [groups](Group), a group has a loader, and [`Group::get`] is all that most programs need:
//!
//! ```
//! use std::time::Duration;
//! use larder::{ByteSize, Key, Node, loader_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), larder::Error> {
//! let node = Node::builder().name("a").start().await?;
//! let loader = loader_fn(|key: Key| async move {
//!     // Ask a database or a service here.
//!     Ok::<_, std::io::Error>(Some(format!("the value of {}", key.as_bytes().escape_ascii())))
//! });
//! let users = node.group("users", loader).capacity(ByteSize::mib(64)).ttl(Duration::from_secs(300)).open()?;
//! let value = users.get("42").await?.expect("this loader always finds something");
//! assert_eq!(&value[..], b"the value of 42");
//! # Ok(()) }
//! ```
//!
//! However many tasks ask for `"42"` at the same moment, the loader runs once. One that gives up takes nobody along, and a
//! loader that panics is an error for those who waited and for nobody else.
//!
//! # More nodes
//!
//! Give each node a name and a [membership](cluster): the list of all nodes and where they are. A key that belongs to
//! another node is then asked of that node, so that each key is kept once and loaded once. `cluster::Static` is a list
//! that the program gives and may replace while it runs.
//!
//! # Where to read on
//!
//! [`typed_loader_fn`] and [`Group::typed`] for values of one's own type. [`Group::lookup`] for version, age and how an
//! answer was come by. `larder::origin` (feature `origins`; `postgres` and `redis` add one each) for ready-made loaders. [`GroupBuilder`] for what a group can be told: ttl, stale
//! windows, limits. [`Error`] for what can go wrong. The core's [tour](larder_core) for how it works.

#![forbid(unsafe_code)]

mod clock;
mod group;
mod loader;
mod node;
#[cfg(feature = "journal")]
mod reserve;
mod store;
mod typed;

pub use bytesize::ByteSize;
pub use clock::SystemClock;
pub use group::{Group, GroupBuilder};
pub use larder_cluster as cluster;
pub use larder_core as core;
pub use larder_core::{
    Answer, Change, Clock, Error, ErrorKind, GroupConfig, Key, LoadError, LoadRequest, Loaded, Loader, LockGuard,
    LockService, Locks, Member, Members, Membership, Outcome, Ring, Store, Transport, Update, UpdateError, Value,
    Version,
    store::{Policy, Tag, Tags},
};
#[cfg(feature = "origins")]
pub use larder_origin as origin;
pub use larder_peer as peer;
pub use loader::{LoaderFn, loader_fn};
pub use node::{Node, NodeBuilder};
pub use store::{StoreFn, store_fn, typed_store_fn};
pub use typed::{TypedGroup, typed_loader_fn};
