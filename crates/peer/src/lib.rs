//! How Larder nodes talk to each other: the transports behind [`larder_core::peer`].
//!
//! [`http`] speaks golang/groupcache's protocol, among Larder nodes and with Go programs. What a node asks and answers
//! is the core's affair; here is only how it travels.

pub mod http;
