//! The `.proto` files, as descriptors that tests look into.

use protox::prost_reflect::prost_types::FileDescriptorSet;

/// What the peer protocol is compiled from.
pub(crate) fn compile() -> FileDescriptorSet {
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    protox::compile(["larder/peer/v1/peer.proto"], [protos]).unwrap()
}
