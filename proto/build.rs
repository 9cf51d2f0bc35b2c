//! Compiles every `.proto` file beside this one, messages only. protox is the compiler: there is no
//! protoc to install.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = proto_files(folder)?;
    files.sort();
    // The folder itself, so that a new file is seen.
    println!("cargo::rerun-if-changed={}", folder.display());
    let descriptors = protox::compile(&files, [folder])?;
    prost_build::Config::new()
        // Payloads are slices of the message they came in, not copies.
        .bytes(["."])
        // Iteration in one order makes what we write reproducible.
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

fn proto_files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(files)
}
