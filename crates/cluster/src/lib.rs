//! Who is in the cluster, and who holds which lock, as other software knows it.
//!
//! A node learns of the others through [`larder_core::Membership`], as a list of members and each later one. Here is what
//! knows such lists:
//!
//! - [`Static`]: one that a person or a program writes. [`parse_member`] reads its entries as configurations have them.
//! - `dns`, with the feature of this name: the members are what a name server has for a name.
//! - `gossip`, with the feature of this name: nodes tell each other of those they know, with no other software.
//! - `Etcd` and `Consul`, with the features of these names: nodes register themselves there, under a lease.
//!
//! Locks are kept by whoever is a [`larder_core::LockService`]: in `locks` are `EtcdLocks`, `ConsulLocks` and `RedisLocks`, with the
//! features of these names.
//!
//! Nothing here reaches a member, or knows whether it lives.

#![forbid(unsafe_code)]

#[cfg(any(feature = "registry", feature = "redis"))]
mod backoff;
#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "dns")]
pub mod dns;
mod entry;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "gossip")]
pub mod gossip;
#[cfg(any(feature = "consul", feature = "etcd", feature = "redis"))]
pub mod locks;
#[cfg(feature = "registry")]
mod registry;
mod static_list;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

#[cfg(feature = "consul")]
pub use consul::{Consul, ConsulConfig};
pub use entry::parse_member;
#[cfg(feature = "etcd")]
pub use etcd::{ENDPOINTS_MAX as ETCD_ENDPOINTS_MAX, Etcd, EtcdConfig};
#[cfg(feature = "registry")]
pub use registry::{LEASE_TTL_MAX, LEASE_TTL_MIN, Registrant, TlsFiles};
pub use static_list::Static;
