//! Compiles the `.proto` files without an installed `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "tierway/v1/upstream.proto",
        "tierway/v1/admin.proto",
        "tierway/v1/policies.proto",
        "tierway/v1/packages.proto",
        "tierway/v1/local.proto",
    ];
    println!("cargo::rerun-if-changed=tierway");
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure()
        .bytes(".tierway.v1.BlobChunk.data")
        .bytes(".tierway.v1.PackagePiece.data")
        .bytes(".tierway.v1.SubmitReportsRequest.envelopes")
        // `tierctl -o json` prints messages as they are.
        .message_attribute(".", "#[derive(serde::Serialize)]")
        .enum_attribute("tierway.v1.Notice.kind", "#[derive(serde::Serialize)]")
        .enum_attribute("tierway.v1.LocalWishRequest.wish", "#[derive(serde::Serialize)]")
        .compile_fds(descriptors)?;
    Ok(())
}
