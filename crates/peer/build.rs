//! Makes the messages and the services of the peer protocol and of the API for clients, and the descriptors that reflection
//! tells. Needs no protoc.

use std::{env, error::Error, fs, path::Path};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = "../../proto";
    println!("cargo::rerun-if-changed={protos}");
    let files = protox::compile(["larder/peer/v1/peer.proto", "larder/v1/cache.proto"], [protos])?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("descriptors.bin"), files.encode_to_vec())?;
    for (file, codec) in [("larder/peer/v1/peer.proto", "FrameCodec"), ("larder/v1/cache.proto", "CountedCodec")] {
        let codec = format!("crate::grpc::codec::{codec}");
        let services = tonic_prost_build::configure().bytes(".").build_transport(false).codec_path(&codec);
        services.compile_fds(protox::compile([file], [protos])?)?;
    }
    Ok(())
}
