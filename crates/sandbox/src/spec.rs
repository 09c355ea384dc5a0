//! What a container and its processes are made of. Plain values: no I/O here.

use crate::network::NetworkNamespace;
use cooper_mount::Mount;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A container: a root file system and what surrounds the processes in it.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// Unique among running containers and safe as a file name; names the cgroup.
    pub id: String,
    /// What `/` is.
    pub rootfs: Mount,
    /// Refuse writes to the root file system itself; mounts below it keep their own mode.
    pub readonly_rootfs: bool,
    /// Mounts in the order in which they are put in place.
    pub mounts: Vec<ContainerMount>,
    /// Host name inside.
    pub hostname: String,
    /// Which network is seen.
    pub network: Network,
    /// How strictly the processes are held.
    pub security: Security,
    /// Additional lines of `/etc/hosts`.
    pub extra_hosts: Vec<Host>,
    /// Resolver settings in place of the host's.
    pub dns: Option<DnsConfig>,
    /// Whether `/etc/hosts` and `/etc/resolv.conf` are provided. Without, the image's own are seen.
    pub network_files: bool,
    /// The cgroup below which the container's own is made: a path from the hierarchy's root, or `slice:prefix:name`.
    pub cgroup_parent: Option<String>,
    /// Limits.
    pub resources: Resources,
    /// Size of `/dev/shm` in bytes; 64 MiB when none.
    pub shm_size: Option<u64>,
    /// After the end also remove directories above mount points when they were made for them and are empty.
    pub remove_stubs_recursive: bool,
    /// Programs of the host to run at points of the container's life, in order.
    pub hooks: Vec<Hook>,
}

/// The host name of containers that ask for none.
pub const DEFAULT_HOSTNAME: &str = "buildkitsandbox";

impl ContainerSpec {
    /// A container with the field's defaults around `rootfs`.
    pub fn new(id: impl Into<String>, rootfs: Mount) -> Self {
        Self {
            id: id.into(),
            rootfs,
            readonly_rootfs: false,
            mounts: Vec::new(),
            hostname: DEFAULT_HOSTNAME.to_owned(),
            network: Network::Host,
            security: Security::Sandboxed,
            extra_hosts: Vec::new(),
            dns: None,
            network_files: true,
            cgroup_parent: None,
            resources: Resources::default(),
            shm_size: None,
            remove_stubs_recursive: false,
            hooks: Vec::new(),
        }
    }
}

/// The network that processes see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// The builder's own.
    Host,
    /// A new one with nothing but a loopback interface.
    None,
    /// An existing network namespace, by a path such as `/run/netns/x`.
    Namespace(PathBuf),
    /// An existing network namespace.
    Joined(NetworkNamespace),
}

/// How strictly processes are held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Security {
    /// The field's default capabilities, system call filter, masked and read-only paths.
    #[default]
    Sandboxed,
    /// All capabilities, no filter, nothing masked, devices of the host, writable `/sys`.
    Insecure,
}

/// One additional line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub ip: IpAddr,
    /// The name.
    pub name: String,
}

/// Resolver settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Addresses of name servers; the host's when empty.
    pub nameservers: Vec<String>,
    /// Search domains; the host's when empty.
    pub search_domains: Vec<String>,
    /// Options as in resolv.conf(5); the host's when empty.
    pub options: Vec<String>,
}

/// Limits. None: not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together; -1: any amount of swap.
    pub memory_swap: Option<i64>,
    /// Relative weight, 1024 being the usual one (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Microseconds of one accounting period.
    pub cpu_period: Option<u64>,
    /// Microseconds of processor time per period.
    pub cpu_quota: Option<i64>,
    /// Processors, such as `0-2,4`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, such as `0,1`.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

/// Something put in place below the root.
#[derive(Debug, Clone)]
pub struct ContainerMount {
    /// Absolute path inside the container. Symlinks in it are resolved inside the container. What is missing is made
    /// before the start (a directory, or an empty file when a file is mounted) and removed again after the end.
    pub dest: PathBuf,
    /// What is put there.
    pub kind: MountKind,
    /// Refuse writes.
    pub readonly: bool,
}

/// What a [`ContainerMount`] puts in place.
#[derive(Debug, Clone)]
pub enum MountKind {
    /// A tree, or the file or directory at `subpath` of it. The subpath is resolved inside the tree: it can't leave it.
    Tree {
        /// The tree.
        mount: Mount,
        /// Relative to the root of the tree; empty or `/` for all of it.
        subpath: PathBuf,
        /// Other containers may have the tree at the same time: mount points that are made in it stay.
        shared: bool,
    },
    /// An empty tmpfs, mode 1777, without set-user-id programs and devices.
    Tmpfs {
        /// Bytes; half of the memory when none.
        size: Option<u64>,
    },
    /// A file, directory or device of the host, as it is: secrets in memory files, tools of the builder. Symlinks in
    /// `source` are followed.
    Host {
        /// Path on the host.
        source: PathBuf,
    },
    /// A device of the host. The only kind of mount, besides those of `/dev`, on which device files work.
    Device {
        /// Path on the host.
        source: PathBuf,
        /// Permission bits, owner and group inside, where they are not to be the host's.
        mode: Option<u32>,
        /// Owner.
        uid: Option<u32>,
        /// Group.
        gid: Option<u32>,
    },
    /// A file in memory: secrets. Never written to a disk, gone with the container.
    Memory {
        /// What it contains.
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// A program of the host that is run for a container (OCI runtime specification, `config`, POSIX-platform Hooks). It gets the
/// container's state as JSON on its standard input. One that fails before the process runs fails the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub point: HookPoint,
    /// The program, absolute: on the host, or in the container for [`HookPoint::StartContainer`].
    pub path: PathBuf,
    /// Its arguments, the first being its name.
    pub args: Vec<String>,
    /// Its whole environment, as `NAME=value`.
    pub env: Vec<String>,
    /// After which it is ended and counts as failed.
    pub timeout: Option<Duration>,
}

/// When a [`Hook`] runs, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookPoint {
    /// The namespaces are made; outside of them. The old name of the next.
    Prestart,
    /// The namespaces are made; outside of them.
    CreateRuntime,
    /// The mounts are in place, the root is not yet changed; inside the namespaces.
    CreateContainer,
    /// Before the process is executed; inside the container.
    StartContainer,
    /// The process runs; outside.
    Poststart,
    /// The container is gone; outside. A failure is only reported.
    Poststop,
}

impl HookPoint {
    /// All of them, in their order.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

/// A process.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// Program and arguments. A program without `/` is looked up in `PATH` of `env`, inside the container.
    pub args: Vec<String>,
    /// `NAME=value`, in order. `HOME` is added from the container's `/etc/passwd` when missing.
    pub env: Vec<String>,
    /// Working directory, absolute; made when missing (and kept). Empty: `/`.
    pub cwd: PathBuf,
    /// `user`, `uid`, `user:group` and so on; names from the container's own files. Empty: 0:0.
    pub user: String,
    /// Further supplementary groups by id.
    pub extra_groups: Vec<u32>,
    /// Limits of the process.
    pub ulimits: Vec<Ulimit>,
    /// Give it a terminal of this size in place of the standard streams.
    pub tty: Option<WinSize>,
}

impl ProcessSpec {
    /// A process as root in `/`.
    pub fn new<A: Into<String>>(args: impl IntoIterator<Item = A>) -> Self {
        Self {
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: String::new(),
            extra_groups: Vec::new(),
            ulimits: Vec::new(),
            tty: None,
        }
    }
}

/// A resource limit of setrlimit(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ulimit {
    /// Such as `nofile`, as in `docker run --ulimit`.
    pub name: String,
    /// What applies; -1 is unlimited.
    pub soft: i64,
    /// How far the process may raise it; -1 is unlimited.
    pub hard: i64,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WinSize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}
