//! Generates the messages and services from `proto/`, without needing `protoc`.

use std::error::Error;
use std::path::Path;

use prost::Message;
use protox::prost_reflect::prost_types::FileDescriptorSet;

/// What collectors of traces speak.
const TRACES: &str = "opentelemetry/trace.proto";

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new("proto");
    let files = [
        "cairn/map/v1/map.proto",
        "cairn/kv/v1/kv.proto",
        "cairn/kv/v1/keyspace.proto",
        "cairn/peer/v1/peer.proto",
        "cairn/peer/v1/counters.proto",
        "cairn/coordinator/v1/coordinator.proto",
        "cairn/diagnosis/v1/diagnosis.proto",
        "cairn/hot/v1/hot.proto",
        "cairn/near/v1/near.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let descriptors = protox::compile(files, [root])?;
    write_for_reflection(&descriptors)?;
    // Payloads are `Bytes`: a decoded value is a slice of the frame that it came in.
    tonic_prost_build::configure()
        .bytes(".")
        .compile_fds(descriptors)?;
    // No service of a node: it is not among those that reflection tells of.
    println!("cargo:rerun-if-changed=proto/{TRACES}");
    tonic_prost_build::configure().compile_fds(protox::compile([TRACES], [root])?)?;
    Ok(())
}

/// The descriptors as server reflection gives them away, without their comments.
fn write_for_reflection(descriptors: &FileDescriptorSet) -> Result<(), Box<dyn Error>> {
    let mut descriptors = descriptors.clone();
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    let to = Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    Ok(std::fs::write(to, descriptors.encode_to_vec())?)
}
