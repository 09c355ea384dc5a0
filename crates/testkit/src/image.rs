//! Images made on the spot: OCI layouts, written without any code of the product.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::process::outcome;

/// The architecture of this machine, as images name it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// An OCI layout directory that images are added to.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    manifests: Vec<Value>,
}

impl Layout {
    /// Makes an empty one.
    pub fn create(dir: PathBuf) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).expect("layout");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("layout");
        Self { dir, manifests: Vec::new() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Adds an image whose layers are the contents of directories, with these settings in its config; returns its
    /// digest.
    pub fn add(&mut self, tag: &str, layers: &[&Path], settings: Value) -> String {
        let mut diff_ids = Vec::new();
        let mut descriptors = Vec::new();
        for dir in layers {
            let tar = self.dir.join("layer.tar");
            pack(dir, &tar);
            diff_ids.push(sha256(&fs::read(&tar).expect("layer")));
            outcome(Command::new("gzip").arg("--no-name").arg("--fast").arg(&tar)).ok();
            let packed = self.dir.join("layer.tar.gz");
            let bytes = fs::read(&packed).expect("layer");
            fs::remove_file(packed).expect("layer");
            descriptors.push(self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &bytes));
        }
        let config = json!({
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": "2020-01-01T00:00:00Z",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|_| json!({"created_by": "testkit"})).collect::<Vec<_>>(),
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors});
        let mut descriptor = self.blob(media_type, manifest.to_string().as_bytes());
        let digest = descriptor["digest"].as_str().expect("own value").to_owned();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        self.manifests.push(descriptor);
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        fs::write(self.dir.join("index.json"), index.to_string()).expect("layout");
        digest
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = sha256(bytes);
        let name = digest.strip_prefix("sha256:").expect("own value");
        fs::write(self.dir.join("blobs/sha256").join(name), bytes).expect("blob");
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }
}

/// A layout with one image tagged `latest`: a static busybox with links for its commands, two users, and /tmp.
pub fn busybox(dir: PathBuf) -> Layout {
    let root = tempfile::tempdir().expect("temporary directory");
    busybox_tree(root.path());
    let mut layout = Layout::create(dir);
    let settings = json!({"Env": ["PATH=/usr/local/bin:/bin"], "Cmd": ["sh"]});
    layout.add("latest", &[root.path()], settings);
    layout
}

/// The files of the busybox image.
pub fn busybox_tree(root: &Path) {
    for dir in ["bin", "etc", "root", "home", "usr/local/bin", "var"] {
        fs::create_dir_all(root.join(dir)).expect("tree");
    }
    fs::create_dir(root.join("tmp")).expect("tree");
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("tree");
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
        .expect("tree");
    fs::write(root.join("etc/group"), "root:x:0:\nuser:x:1000:\nstaff:x:50:user\n").expect("tree");
    fs::copy(busybox_binary(), root.join("bin/busybox")).expect("tree");
    for command in outcome(Command::new(busybox_binary()).arg("--list")).ok().text().lines() {
        if command != "busybox" {
            symlink("busybox", root.join("bin").join(command)).expect("tree");
        }
    }
}

/// The machine's static busybox.
pub fn busybox_binary() -> PathBuf {
    let known = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from);
    known.into_iter().find(|path| path.is_file()).expect("busybox is installed (Debian: busybox-static)")
}

/// `sha256:…` of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn pack(dir: &Path, tar: &Path) {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@1577836800", "--numeric-owner", "--owner=0", "--group=0", "-cf"]);
    outcome(command.arg(tar).arg("-C").arg(dir).arg(".")).ok();
}

/// skopeo's view of an image, by a reference like `oci-archive:FILE`.
#[track_caller]
pub fn inspect(reference: &str) -> Value {
    let seen = outcome(Command::new("skopeo").args(["inspect", reference])).ok();
    serde_json::from_slice(&seen.stdout).expect("skopeo's JSON")
}

/// Unpacks an image into a new directory, by skopeo and umoci; returns the root of its files.
#[track_caller]
pub fn unpack(reference: &str, into: &Path) -> PathBuf {
    fs::create_dir_all(into).expect("directory");
    let layout = into.join("layout");
    let mut copy = Command::new("skopeo");
    copy.args(["copy", "--quiet", reference]).arg(format!("oci:{}:it", layout.display()));
    // umoci of Debian 12 knows gzip alone.
    outcome(copy.args(["--dest-compress-format", "gzip", "--dest-compress"])).ok();
    let rootfs = into.join("rootfs");
    let mut unpack = Command::new("umoci");
    outcome(unpack.args(["raw", "unpack", "--image"]).arg(format!("{}:it", layout.display())).arg(&rootfs)).ok();
    rootfs
}
