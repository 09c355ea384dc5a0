//! A place for one test: state, contexts, the program under its three names.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::image;
use crate::leftovers;
use crate::registry::Registry;

/// Lines that make an image with busybox's commands out of a context's `busybox`, for tests that need no registry.
pub const BUSYBOX: &str = "FROM scratch AS base\nCOPY busybox /bin/busybox\n\
    RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";

/// A directory with everything of one test. When it is dropped, nothing may be mounted or grouped any more.
#[derive(Debug)]
pub struct Workshop {
    dir: TempDir,
    binary: PathBuf,
    group: String,
    made: AtomicU32,
}

impl Workshop {
    /// A new one for the program at `binary`.
    pub fn new(binary: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("cooper-").tempdir().expect("temporary directory");
        let name = dir.path().file_name().and_then(|name| name.to_str()).expect("own name");
        let group = format!("test-{name}");
        let shop = Self { binary: binary.into(), group, made: AtomicU32::new(0), dir };
        shop.configure("");
        shop
    }

    /// One whose docker.io is `registry`.
    pub fn with_registry(binary: &str, registry: &Registry) -> Self {
        let shop = Self::new(binary);
        shop.configure(&registry.mirror_section());
        shop
    }

    /// Writes the configuration file that daemons and embedded builds read.
    pub fn configure(&self, sections: &str) {
        let own = format!("[worker.oci]\ndefaultCgroupParent = \"/{}\"\ngc = false\n", self.group);
        fs::write(self.path("config.toml"), format!("{own}{sections}")).expect("configuration");
    }

    /// A path in the place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a new context of these files, with the static `busybox` beside them.
    pub fn context(&self, files: &[(&str, &str)]) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let dir = self.path(&format!("context{number}"));
        fs::create_dir(&dir).expect("context");
        fs::copy(image::busybox_binary(), dir.join("busybox")).expect("context");
        fs::set_permissions(dir.join("busybox"), fs::Permissions::from_mode(0o755)).expect("context");
        for (name, text) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("below")).expect("context");
            fs::write(path, text).expect("context");
        }
        dir
    }

    /// A context with a Dockerfile whose stage `base` has busybox's commands, followed by `lines`.
    pub fn dockerfile(&self, lines: &str) -> PathBuf {
        self.context(&[("Dockerfile", &format!("{BUSYBOX}{lines}"))])
    }

    /// The program under its own name, without surroundings of the machine that change what it does.
    pub fn cooper(&self) -> Command {
        self.named("cooper")
    }

    /// The program under another name.
    pub fn named(&self, name: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg0(name).env("DOCKER_CONFIG", self.path("docker")).env("NO_COLOR", "1");
        for name in
            ["BUILDKIT_HOST", "COOPER_HOST", "BUILDKIT_PROGRESS", "SOURCE_DATE_EPOCH", "RUST_LOG", "RUST_BACKTRACE"]
        {
            command.env_remove(name);
        }
        command
    }

    /// `cooper build` of a context in its own process.
    pub fn build(&self, context: &Path) -> Command {
        let mut command = self.cooper();
        command.args(["build", "--progress", "plain", "--root"]).arg(self.path("state"));
        command.arg("--config").arg(self.path("config.toml")).arg(context);
        command
    }

    /// `cooper build` of a context with a daemon.
    pub fn build_with(&self, daemon: &Daemon, context: &Path) -> Command {
        let mut command = self.cooper();
        command.args(["--addr", &daemon.address(), "build", "--progress", "plain"]).arg(context);
        command
    }

    /// `buildctl …` with a daemon.
    pub fn buildctl(&self, daemon: &Daemon, arguments: &[&str]) -> Command {
        let mut command = self.named("buildctl");
        command.args(["--addr", &daemon.address()]).args(arguments);
        command
    }

    /// `buildctl build` of a Dockerfile's context with a daemon.
    pub fn buildctl_build(&self, daemon: &Daemon, context: &Path) -> Command {
        let mut command = self.buildctl(daemon, &["build", "--progress", "plain", "--frontend", "dockerfile.v0"]);
        for name in ["context", "dockerfile"] {
            command.arg("--local").arg(format!("{name}={}", context.display()));
        }
        command
    }

    /// The daemon's command line for a state directory.
    pub fn daemon_command(&self, root: &Path, socket: &Path) -> Command {
        let mut command = self.named("buildkitd");
        command.arg("--root").arg(root).arg("--addr").arg(format!("unix://{}", socket.display()));
        command.arg("--config").arg(self.path("config.toml"));
        command.arg("--otel-socket-path").arg(socket.with_extension("spans"));
        command
    }

    /// A daemon on the place's state directory.
    #[track_caller]
    pub fn daemon(&self) -> Daemon {
        self.daemon_at(&self.path("state"))
    }

    /// A daemon on a state directory.
    #[track_caller]
    pub fn daemon_at(&self, root: &Path) -> Daemon {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let socket = self.path(&format!("daemon{number}.sock"));
        Daemon::start(self.daemon_command(root, &socket), socket, self.path("daemon.log"))
    }

    /// Control groups of steps that are there now.
    pub fn groups(&self) -> Vec<PathBuf> {
        leftovers::groups_below(&self.group)
    }

    /// A word that only one process's command line has: for steps that must be found, or must be gone.
    pub fn marker(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Within the seconds that `sleep` takes, and unlike anybody else's.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        format!("{}{:02}", 10_000_000 + u64::from(std::process::id()), number)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        let (mounts, groups) = (leftovers::mounts_below(self.dir.path()), leftovers::groups_below(&self.group));
        leftovers::remove_groups(&self.group);
        if !std::thread::panicking() {
            assert!(mounts.is_empty(), "still mounted: {mounts:#?}");
            assert!(groups.is_empty(), "still grouped: {groups:#?}");
        }
    }
}
