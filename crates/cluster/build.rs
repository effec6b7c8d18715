//! Makes the messages and the clients of etcd's API. Needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "etcd")]
    {
        let protos = "../../proto/etcd";
        println!("cargo::rerun-if-changed={protos}");
        let files = protox::compile(["etcd.proto"], [protos])?;
        tonic_prost_build::configure().build_server(false).build_transport(false).compile_fds(files)?;
    }
    Ok(())
}
