//! Generates the messages and services from `proto/`, without needing `protoc`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    let files = [
        "cairn/map/v1/map.proto",
        "cairn/kv/v1/kv.proto",
        "cairn/peer/v1/peer.proto",
        "cairn/coordinator/v1/coordinator.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(files, [root])?;
    // Payloads are `Bytes`: a decoded value is a slice of the frame that it came in.
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
