//! Makes the messages and the services of the peer protocol and of the API for clients, and the descriptors that reflection
//! tells. Needs no protoc.

use std::{env, error::Error, fs, path::Path};

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let protos = "../../proto";
    println!("cargo::rerun-if-changed={protos}");
    let (between_nodes, of_clients) =
        (["larder/peer/v1/peer.proto"], ["larder/v1/cache.proto", "larder/v1/lock.proto"]);
    let files = protox::compile(between_nodes.iter().chain(&of_clients), [protos])?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("descriptors.bin"), files.encode_to_vec())?;
    // What is of one package is made at once, because it comes into one file.
    for (files, codec) in [(&between_nodes[..], "FrameCodec"), (&of_clients, "CountedCodec")] {
        let codec = format!("crate::grpc::codec::{codec}");
        let services = tonic_prost_build::configure().bytes(".").build_transport(false).codec_path(&codec);
        services.compile_fds(protox::compile(files, [protos])?)?;
    }
    Ok(())
}
