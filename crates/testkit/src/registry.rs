//! Debian's docker-registry: the reference implementation, on a port of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::image;
use crate::ports::serve;
use crate::process::outcome;

/// Who may use a registry, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Plain HTTP, anybody.
    Open,
    /// Plain HTTP, `user` with the password `secret`.
    Basic,
    /// HTTPS by an authority of its own ([`Registry::ca`]).
    Tls,
}

/// A registry that runs, and ends when dropped.
#[derive(Debug)]
pub struct Registry {
    dir: TempDir,
    child: Child,
    access: Access,
    port: u16,
}

impl Registry {
    /// Starts an empty one.
    #[track_caller]
    pub fn start(access: Access) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = dir.path().display();
        let extra = match access {
            Access::Open => String::new(),
            Access::Basic => {
                let users = outcome(Command::new("htpasswd").args(["-Bbn", "user", "secret"])).ok().stdout;
                fs::write(dir.path().join("htpasswd"), users).expect("registry");
                format!("auth: {{htpasswd: {{realm: test, path: {place}/htpasswd}}}}\n")
            }
            Access::Tls => {
                let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
                let made = rcgen::generate_simple_self_signed(names).expect("certificate");
                fs::write(dir.path().join("ca.crt"), made.cert.pem()).expect("registry");
                fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).expect("registry");
                format!("  tls: {{certificate: {place}/ca.crt, key: {place}/key.pem}}\n")
            }
        };
        let config = |port: u16| {
            format!(
                "version: 0.1\nlog: {{level: error}}\n\
                 storage: {{filesystem: {{rootdirectory: {place}/data}}, delete: {{enabled: true}}}}\n\
                 http:\n  addr: 127.0.0.1:{port}\n  secret: test\n{extra}"
            )
        };
        let log = fs::File::create(dir.path().join("log")).expect("registry");
        let (child, port) = serve(|port| {
            fs::write(dir.path().join("config.yaml"), config(port)).expect("registry");
            Command::new("docker-registry")
                .arg("serve")
                .arg(dir.path().join("config.yaml"))
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("registry"))
                .stderr(log.try_clone().expect("registry"))
                .spawn()
                .expect("docker-registry is installed")
        });
        Self { dir, child, access, port }
    }

    /// Starts an open one that holds `library/busybox:latest`.
    #[track_caller]
    pub fn with_busybox() -> Self {
        let registry = Self::start(Access::Open);
        registry.add_busybox();
        registry
    }

    /// Puts `library/busybox:latest` into it; returns the manifest's digest.
    #[track_caller]
    pub fn add_busybox(&self) -> String {
        let dir = tempfile::tempdir().expect("temporary directory");
        let layout = image::busybox(dir.path().join("busybox"));
        self.receive(&layout, "latest", "library/busybox:latest");
        self.digest("library/busybox:latest")
    }

    /// Copies an image of a layout into it.
    #[track_caller]
    pub fn receive(&self, layout: &image::Layout, tag: &str, name: &str) {
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--dest-tls-verify=false"]);
        if self.access == Access::Basic {
            copy.args(["--dest-creds", "user:secret"]);
        }
        copy.arg(format!("oci:{}:{tag}", layout.path().display())).arg(self.url(name));
        outcome(&mut copy).ok();
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate of its authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// The section of a configuration file that clients of this registry need.
    pub fn section(&self) -> String {
        match self.access {
            Access::Open | Access::Basic => format!("[registry.\"{}\"]\nhttp = true\n", self.host()),
            Access::Tls => {
                format!("[registry.\"{}\"]\nhttp = false\nca = [\"{}\"]\n", self.host(), self.ca().display())
            }
        }
    }

    /// The section with which names without a host come from this registry.
    pub fn mirror_section(&self) -> String {
        format!("[registry.\"docker.io\"]\nmirrors = [\"{}\"]\n{}", self.host(), self.section())
    }

    /// skopeo's view of an image: its digest, layers, labels. Insists that it is there.
    #[track_caller]
    pub fn inspect(&self, name: &str) -> serde_json::Value {
        let text = outcome(self.skopeo("inspect").arg(self.url(name))).ok().stdout;
        serde_json::from_slice(&text).expect("skopeo's JSON")
    }

    /// The bytes of a manifest. Insists that it is there.
    #[track_caller]
    pub fn manifest(&self, name: &str) -> Vec<u8> {
        outcome(self.skopeo("inspect").arg("--raw").arg(self.url(name))).ok().stdout
    }

    /// The digest of an image. Insists that it is there.
    #[track_caller]
    pub fn digest(&self, name: &str) -> String {
        self.inspect(name)["Digest"].as_str().expect("a digest").to_owned()
    }

    /// Writes `bytes` over a stored blob, which keeps its name and loses its meaning.
    #[track_caller]
    pub fn corrupt(&self, digest: &str) {
        let name = digest.strip_prefix("sha256:").expect("a sha256 digest");
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        let file = blobs.join(&name[..2]).join(name).join("data");
        let mut bytes = fs::read(&file).expect("blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(file, bytes).expect("blob");
    }

    fn skopeo(&self, verb: &str) -> Command {
        let mut command = Command::new("skopeo");
        command.args([verb, "--tls-verify=false"]);
        if self.access == Access::Basic {
            command.args(["--creds", "user:secret"]);
        }
        command
    }

    fn url(&self, name: &str) -> String {
        format!("docker://{}/{name}", self.host())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for `DOCKER_CONFIG` with the credentials of registries that want some.
pub fn docker_config(dir: &Path, registry: &Registry) -> PathBuf {
    let config = serde_json::json!({"auths": {registry.host(): {"auth": "dXNlcjpzZWNyZXQ="}}});
    fs::create_dir_all(dir).expect("directory");
    fs::write(dir.join("config.json"), config.to_string()).expect("docker's configuration");
    dir.to_owned()
}
