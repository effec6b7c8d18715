//! Makes the messages and the service of the peer protocol. Needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let protos = "../../proto";
    println!("cargo::rerun-if-changed={protos}");
    let files = protox::compile(["larder/peer/v1/peer.proto"], [protos])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(files)?;
    Ok(())
}
