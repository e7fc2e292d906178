//! Rebuilds the crate when the embedded web application was built anew.

use std::path::Path;

fn main() {
    let built = "../web/dist";
    if Path::new(built).exists() {
        println!("cargo:rerun-if-changed={built}");
    } else if Path::new("../web").exists() {
        // Its modification time changes when `dist` appears in it.
        println!("cargo:rerun-if-changed=../web");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
