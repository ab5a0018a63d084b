//! Lets the worker find its shared libraries beside itself, wherever the folder is put. The old kind of
//! entry (RPATH) is needed: the libraries depend on each other and carry no entry of their own.
#![allow(clippy::disallowed_methods, reason = "a build script reads what cargo tells it")]

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-arg-bins=-Wl,--disable-new-dtags,-rpath,$ORIGIN");
    }
}
