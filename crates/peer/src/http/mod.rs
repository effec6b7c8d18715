//! golang/groupcache's peer protocol, as client and server.
//!
//! A get is `GET /_groupcache/{group}/{key}` and a protobuf message, so that a Larder node can stand in a fleet of Go
//! nodes and the other way round. Between two Larder nodes [`headers`] carry what that message can't: the version and
//! age of the value, that the origin has no such key, which kind of error it was, how much time is left. A write goes to
//! the owner's ordinary client API.
//!
//! Not here: leases, claims and handoff (the protocol has no place for them, so nobody keeps what it got this way), and
//! sockets that listen: [`groupcache::serve`] is mounted by whoever has one.
//!
//! - [`HttpTransport`] makes links to other nodes; each has a small pool of connections.
//! - [`groupcache`] answers other nodes.
//! - [`path`] has keys in URLs.

mod client;
pub mod groupcache;
pub mod headers;
mod message;
pub mod path;
mod pool;
mod watch;

pub use client::HttpTransport;
