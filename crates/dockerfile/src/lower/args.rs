//! Arguments that exist before the first stage: predefined ones and those declared above `FROM`.

use super::outline::ArgInfo;
use super::{Cause, Error, Options, naming};
use crate::Dockerfile;
use crate::expand::{Env, Expander};
use cooper_llb::pb;
use cooper_oci::Platform;
use std::collections::{BTreeMap, BTreeSet};

/// What is built on what.
#[derive(Debug, Clone)]
pub(super) struct Platforms {
    pub(super) target: Platform,
    /// Never empty.
    pub(super) build: Vec<Platform>,
    /// Nobody asked for the target: it may follow the base image.
    pub(super) implicit: bool,
}

impl Platforms {
    pub(super) fn of(options: &Options) -> Self {
        let mut build = options.build_platforms.clone();
        if build.is_empty() {
            build.push(options.target_platform.clone().unwrap_or_else(Platform::host));
        }
        let target = options.target_platform.clone().unwrap_or_else(|| build[0].clone());
        Self { target, build, implicit: options.target_platform.is_none() }
    }

    /// The platform of an image whose own is `image`, when none was asked for.
    pub(super) fn detect(&self, image: &Platform) -> Platform {
        let fits = |p: &&Platform| p.os == image.os && p.architecture == image.architecture;
        [&self.target].into_iter().chain(&self.build).find(fits).unwrap_or(&self.target).clone()
    }
}

/// `BUILDPLATFORM`, `TARGETPLATFORM` and their parts, `TARGETSTAGE`; build arguments override them.
pub(super) fn predefined(platforms: &Platforms, options: &Options, target: Option<&str>) -> Env {
    let (build, target_platform) = (&platforms.build[0], &platforms.target);
    let list = [
        ("BUILDPLATFORM", naming::short_platform(build)),
        ("BUILDOS", build.os.clone()),
        ("BUILDOSVERSION", build.os_version.clone()),
        ("BUILDARCH", build.architecture.clone()),
        ("BUILDVARIANT", build.variant.clone()),
        ("TARGETPLATFORM", naming::full_platform(target_platform)),
        ("TARGETOS", target_platform.os.clone()),
        ("TARGETOSVERSION", target_platform.os_version.clone()),
        ("TARGETARCH", target_platform.architecture.clone()),
        ("TARGETVARIANT", target_platform.variant.clone()),
        ("TARGETSTAGE", target.filter(|name| !name.is_empty()).unwrap_or("default").to_owned()),
    ];
    let mut env = Env::new();
    for (name, value) in list {
        env.set(name, options.build_args.get(name).cloned().unwrap_or(value));
    }
    env
}

/// Declarations above the first `FROM`.
pub(super) struct Globals {
    /// Predefined arguments and the declared ones that have a value.
    pub(super) env: Env,
    /// Every declared one.
    pub(super) declared: BTreeMap<String, ArgInfo>,
}

impl Globals {
    /// Evaluates the declarations in order; build arguments come before defaults.
    pub(super) fn evaluate(
        mut env: Env,
        dockerfile: &Dockerfile,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let rules = Expander::new(dockerfile.escape);
        let mut declared: BTreeMap<String, ArgInfo> = BTreeMap::new();
        for arg in &dockerfile.meta_args {
            for pair in &arg.pairs {
                let name = pair.name.text.clone();
                let mut deps = BTreeSet::new();
                let value = match (build_args.get(&name), &pair.default) {
                    (Some(value), _) => Some(value.clone()),
                    (None, Some(default)) => {
                        let done = rules
                            .process_word_with_matches(&default.text, &env)
                            .map_err(|e| Error::new(e).at(&arg.head.ranges()))?;
                        deps = done.matched;
                        // A value that extends its own earlier one depends on what that depended on.
                        if deps.remove(&name)
                            && let Some(earlier) = declared.get(&name)
                        {
                            deps.extend(earlier.deps.iter().cloned());
                        }
                        Some(done.text)
                    }
                    (None, None) => None,
                };
                if let Some(value) = &value {
                    env.remove(&name);
                    env.set(name.clone(), value.clone());
                }
                let info = ArgInfo {
                    value: value.unwrap_or_default(),
                    description: pair.description.clone(),
                    deps,
                    ranges: arg.head.ranges(),
                };
                declared.insert(name, info);
            }
        }
        Ok(Self { env, declared })
    }

    /// Names that `FROM` may use.
    pub(super) fn usable(&self) -> BTreeSet<&str> {
        self.env.names().chain(self.declared.keys().map(String::as_str)).collect()
    }
}

/// A build argument, or else a non-empty global one.
pub(super) fn lookup<'a>(options: &'a Options, env: &'a Env, name: &str) -> Option<&'a str> {
    options.build_args.get(name).map(String::as_str).or_else(|| env.get(name).filter(|value| !value.is_empty()))
}

/// Proxy arguments, in whatever case they are given. Where both cases are, the lower one counts.
pub(super) fn proxy(build_args: &BTreeMap<String, String>) -> Option<pb::ProxyEnv> {
    let mut proxy = pb::ProxyEnv::default();
    let mut any = false;
    for (name, value) in build_args {
        let field = match name.to_ascii_lowercase().as_str() {
            "http_proxy" => &mut proxy.http_proxy,
            "https_proxy" => &mut proxy.https_proxy,
            "ftp_proxy" => &mut proxy.ftp_proxy,
            "no_proxy" => &mut proxy.no_proxy,
            "all_proxy" => &mut proxy.all_proxy,
            _ => continue,
        };
        field.clone_from(value);
        any = true;
    }
    any.then_some(proxy)
}

/// Arguments that steer the build and never reach the environment of steps.
pub(super) const NOT_ENV: [&str; 2] = [SBOM_CONTEXT, SBOM_STAGE];
/// Whether the build context is scanned for a bill of materials.
pub(super) const SBOM_CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Which stages besides the target are.
pub(super) const SBOM_STAGE: &str = "BUILDKIT_SBOM_SCAN_STAGE";

/// Whether a boolean, or a list of stages, says yes to a stage.
pub(super) fn enabled_for(stage: &str, value: &str) -> bool {
    crate::value::parse_bool(value).unwrap_or_else(|| value.split(',').any(|name| name == stage))
}

/// The time of `SOURCE_DATE_EPOCH` when it is a number.
pub(super) fn epoch_seconds(text: &str) -> Result<i64, Cause> {
    text.parse().map_err(|_| Cause::Epoch(text.to_owned()))
}
