//! Where things are when nobody says: paths of root, and paths of an ordinary user.

use std::path::PathBuf;

/// Default places. Every field is absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Paths come from the user's XDG directories.
    pub rootless: bool,
    /// State directory.
    pub root: PathBuf,
    /// Listening address.
    pub address: String,
    /// Directory of the configuration file.
    pub config_dir: PathBuf,
    /// Trace collector's socket.
    pub otel_socket: PathBuf,
}

impl Defaults {
    /// The defaults of this process: a user's when an ordinary user has made itself root in a user namespace, or it
    /// runs in one as somebody whose `USER` is not root; else the system's.
    pub fn of_process() -> Self {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let rootless = cooper_sandbox::userns::entered().is_some_and(|uid| uid != 0)
            || (in_user_namespace() && env("USER").is_some_and(|user| user != "root"));
        Self::new(rootless, env)
    }

    /// [`Defaults::of_process`] with the decision and the environment given.
    pub fn new(rootless: bool, env: impl Fn(&str) -> Option<String>) -> Self {
        let system = Self {
            rootless,
            root: "/var/lib/buildkit".into(),
            address: "unix:///run/buildkit/buildkitd.sock".into(),
            config_dir: "/etc/buildkit".into(),
            otel_socket: "/run/buildkit/otel-grpc.sock".into(),
        };
        if !rootless {
            return system;
        }
        // XDG variables are colon-separated lists in some installations; the first entry is the writable one.
        let xdg = |name: &str| env(name).and_then(|list| list.split(':').next().map(PathBuf::from));
        let home = env("HOME").map(PathBuf::from);
        let runtime = xdg("XDG_RUNTIME_DIR").map(|dir| dir.join("buildkit"));
        let data = xdg("XDG_DATA_HOME").or_else(|| home.as_ref().map(|home| home.join(".local/share")));
        let config = xdg("XDG_CONFIG_HOME").or_else(|| home.map(|home| home.join(".config")));
        Self {
            rootless,
            root: data.map_or(system.root, |dir| dir.join("buildkit")),
            address: runtime
                .as_ref()
                .map_or(system.address, |dir| format!("unix://{}", dir.join("buildkitd.sock").display())),
            config_dir: config.map_or(system.config_dir, |dir| dir.join("buildkit")),
            otel_socket: runtime.map_or(system.otel_socket, |dir| dir.join("otel-grpc.sock")),
        }
    }

    /// The configuration file that is read when none is named.
    pub fn config_file(&self) -> PathBuf {
        self.config_dir.join("buildkitd.toml")
    }
}

/// Whether this process lives in a user namespace other than the initial one.
pub fn in_user_namespace() -> bool {
    cooper_sandbox::userns::inside()
}
