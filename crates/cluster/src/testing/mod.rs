//! Real registries and lock services, as processes that tests start, stop, kill and pause.
//!
//! Behind the feature `testing`; no part of a running node. Whether their programs are there is for
//! [`needs`](larder_core::testing::needs::needs) to say.

#![allow(
    clippy::allow_attributes,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "what tests start has to work, and without one of the features some of it is not used"
)]

mod clock;
#[cfg(feature = "consul")]
mod consul;
#[cfg(feature = "etcd")]
mod etcd;
mod process;
#[cfg(feature = "registry")]
mod proxy;
#[cfg(feature = "redis")]
mod redis;

pub use clock::BootClock;
#[cfg(feature = "consul")]
pub use consul::ConsulServer;
#[cfg(feature = "etcd")]
pub use etcd::EtcdServer;
pub use process::Server;
#[cfg(feature = "registry")]
pub use proxy::Proxy;
#[cfg(feature = "redis")]
pub use redis::RedisServer;
