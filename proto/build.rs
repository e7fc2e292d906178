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
        // Shared, not copied: the control plane hands them on as they are.
        let shared = [
            ".antipode.control.v1.ParticipantReport.info",
            ".antipode.control.v1.Departure.info",
        ];
        let mut services = tonic_prost_build::configure();
        for field in shared {
            services = services.bytes(field);
        }
        services.compile_fds(control)?;
    }
    Ok(())
}

/// The descriptor set as bytes, for gRPC reflection.
fn prost_encode(set: &impl prost::Message) -> Vec<u8> {
    set.encode_to_vec()
}
