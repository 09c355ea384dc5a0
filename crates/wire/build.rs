//! Compiles `proto/*.proto` without an external `protoc`.
use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        fs::read_dir("proto")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let descriptors = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .btree_map(".") // one encoding for one value: digests depend on it
        .bytes(".fsutil.types.Packet.data")
        .bytes(".moby.filesync.v1.BytesMessage.data")
        .bytes(".moby.buildkit.v1.BytesMessage.data")
        .bytes(".moby.sshforward.v1.BytesMessage.data")
        .bytes(".moby.upload.v1.BytesMessage.data")
        .include_file("packages.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
