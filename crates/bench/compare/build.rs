//! Makes the messages and the service of the unary gRPC call that Larder's is compared with.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = "src/peer";
    println!("cargo::rerun-if-changed={folder}/unary.proto");
    let files = protox::compile(["unary.proto"], [folder])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
