//! Generates the Rust types of `schema/*.proto` without needing protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=schema");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);

    let link = protox::compile(["schema/link.proto"], ["schema"])?;
    prost_build::Config::new().compile_fds(link)?;

    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        let control = protox::compile(["schema/control.proto"], ["schema"])?;
        let descriptors = out.join("control.bin");
        std::fs::write(&descriptors, prost_encode(&control))?;
        tonic_prost_build::configure().compile_fds(control)?;
    }
    Ok(())
}

/// The descriptor set as bytes, for gRPC reflection.
fn prost_encode(set: &impl prost::Message) -> Vec<u8> {
    set.encode_to_vec()
}
