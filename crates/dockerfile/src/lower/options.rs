//! What a build asks of lowering.

use cooper_llb::{Local, Meta, Output, pb};
use cooper_oci::Platform;
use std::collections::BTreeMap;

/// The parameters of a build, for one target platform.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The stage to build, by name; the last when absent.
    pub target: Option<String>,
    /// Values of arguments. Predefined ones (platforms, proxies, `SOURCE_DATE_EPOCH`) are given here as well.
    pub build_args: BTreeMap<String, String>,
    /// Labels added to the image.
    pub labels: BTreeMap<String, String>,
    /// What to build for. When absent it follows the base image, or is the first build platform.
    pub target_platform: Option<Platform>,
    /// What the builder runs, its own first. When empty: the target platform, or else this machine's.
    pub build_platforms: Vec<Platform>,
    /// Whether names of steps tell the platform: several are built at once.
    pub multi_platform: bool,
    /// `image-resolve-mode`: `default`, `pull`, `local`, or empty.
    pub resolve_mode: String,
    /// Which stages run even if their results are known.
    pub no_cache: NoCache,
    /// Network of steps that ask for none.
    pub network: pb::NetMode,
    /// Additions to `/etc/hosts` of steps.
    pub extra_hosts: Vec<pb::HostIp>,
    /// Host name that steps see.
    pub hostname: String,
    /// Size of `/dev/shm` in bytes; 0 is the default.
    pub shm_size: i64,
    /// Resource limits of the processes of steps.
    pub ulimits: Vec<pb::Ulimit>,
    /// Devices of every step.
    pub devices: Vec<pb::CdiDevice>,
    /// Control group of steps.
    pub cgroup_parent: String,
    /// Limits of the control groups of steps.
    pub linux_resources: Option<pb::LinuxResources>,
    /// Prefix of the ids of cache mounts.
    pub cache_namespace: String,
    /// The build context.
    pub context: Files,
    /// Patterns of the build context's ignore file, for lint only: what is not transferred is said in `context`.
    pub ignore_patterns: Vec<String>,
    /// What the engine does not have, by capability id. Features that need it are left out where that is harmless.
    pub missing_caps: Vec<String>,
    /// Where the Dockerfile came from, for source maps.
    pub dockerfile_definition: Option<pb::Definition>,
    /// Lower every stage, needed or not: for lint.
    pub all_stages: bool,
}

/// Which stages ignore known results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// None of them.
    #[default]
    None,
    /// Every stage.
    All,
    /// Those with one of these names, in any case.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether the stage (by its name, empty when it has none) ignores known results.
    pub fn covers(&self, stage: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Stages(names) => names.iter().any(|name| name.eq_ignore_ascii_case(stage)),
        }
    }
}

/// Where the files of a context come from.
#[derive(Debug, Clone)]
pub enum Files {
    /// Somewhere known.
    Output(Output),
    /// A directory of the client. Lowering adds the paths that are used, so that no others are sent.
    Local {
        /// The client's name for it.
        name: String,
        /// How it is transferred; `follow_paths` is overwritten.
        local: Box<Local>,
        /// Name and such.
        meta: Box<Meta>,
    },
}

impl Default for Files {
    /// The client's directory `context`.
    fn default() -> Self {
        let local = Local { shared_key_hint: "context".to_owned(), ..Local::default() };
        Self::Local {
            name: "context".to_owned(),
            local: Box::new(local),
            meta: Box::new(Meta::named("[internal] load build context")),
        }
    }
}

impl Files {
    /// The source, with no other paths than these; `None` is all.
    pub(super) fn output(self, follow_paths: Option<Vec<String>>) -> Output {
        match self {
            Self::Output(output) => output,
            Self::Local { name, mut local, meta } => {
                local.follow_paths = follow_paths.unwrap_or_default();
                local.output(&name, *meta)
            }
        }
    }
}
