//! The `.proto` files, as descriptors that tests look into.

use protox::prost_reflect::prost_types::FileDescriptorSet;

/// What this file declares, and all that it imports. It is looked for among the project's own and in the folders of tests.
pub(crate) fn compile(file: &str) -> FileDescriptorSet {
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz");
    protox::compile([file], [protos, tests]).unwrap()
}
