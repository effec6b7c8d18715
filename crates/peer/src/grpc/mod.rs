//! Requests and answers in the frames of a gRPC stream, as `proto/larder/peer/v1/peer.proto` has it.
//!
//! A call of its own for each request costs a stream, its headers and some wake-ups. Here one stream stays open between
//! two nodes, and whatever has queued while the last frame was written travels in the next: the busier the link, the
//! cheaper a request. Nobody waits for a frame to fill.
//!
//! - [`GrpcTransport`] makes links to other nodes. A link has one to four *lanes*, by load; a lane has one connection,
//!   the requests that wait to be sent on it or answered, and one task.
//! - [`serve()`] answers other nodes.
//! - [`proto`] has the messages.
//!
//! Not here: what a question means, retries elsewhere, and when a node is left alone. Those are the core's.

mod client;
mod convert;
mod dial;
mod exchange;
mod lane;
pub mod limits;
mod outbox;
mod pending;
mod pieces;
mod serve;

pub use client::GrpcTransport;
pub use serve::serve;

/// The messages and the service of the peer protocol, as the `.proto` file describes them.
#[allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::default_trait_access,
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    missing_docs,
    reason = "it is generated"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/larder.peer.v1.rs"));
}
