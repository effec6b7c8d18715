//! gRPC: between nodes, and for clients.
//!
//! Nodes put requests and answers into the frames of a stream, as `proto/larder/peer/v1/peer.proto` has it. A call of its own for each request costs a stream, its headers and some wake-ups. Here one stream stays open between
//! two nodes, and whatever has queued while the last frame was written travels in the next: the busier the link, the
//! cheaper a request. Nobody waits for a frame to fill.
//!
//! - [`GrpcTransport`] makes links to other nodes. A link has one to four *lanes*, by load; a lane has one connection,
//!   the requests that wait to be sent on it or answered, and one task.
//! - [`serve()`] answers other nodes, [`serve_node()`] clients too: `larder.v1.Cache` and `larder.v1.Lock` (`proto/larder/v1`), server
//!   reflection and `grpc.health.v1`, on the same listener. Those are ordinary calls, so that any language has a typed client.
//! - [`proto`] has the messages between nodes, [`api`] those of clients, [`status`] how clients are told errors.
//!
//! Not here: what a question means, retries elsewhere, and when a node is left alone. Those are the core's.

mod cache;
mod call;
mod client;
mod clients;
mod codec;
mod convert;
mod dial;
mod exchange;
mod health;
mod lane;
pub mod limits;
mod lock;
mod locks;
mod outbox;
mod pending;
mod pieces;
mod records;
#[cfg(test)]
mod reference;
mod serve;
mod slots;
pub mod status;
mod streams;
mod wire;

pub use client::GrpcTransport;
pub use serve::{serve, serve_node};

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

/// The messages and the services for clients, as the files in `proto/larder/v1` describe them. `cache_client` and `lock_client` call
/// them over any connection that tonic takes.
#[allow(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::default_trait_access,
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    missing_docs,
    reason = "it is generated"
)]
pub mod api {
    include!(concat!(env!("OUT_DIR"), "/larder.v1.rs"));
}
