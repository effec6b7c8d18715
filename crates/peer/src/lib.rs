//! How Larder nodes talk to each other: the transports behind [`larder_core::peer`].
//!
//! [`grpc`] gathers requests and answers into the frames of one stream, and is the faster by far. [`http`] speaks
//! golang/groupcache's protocol, among Larder nodes and with Go programs. What a node asks and answers is the core's
//! affair; here is only how it travels.

#![forbid(unsafe_code)]

pub mod grpc;
pub mod http;
