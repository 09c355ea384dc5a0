//! The frontend's options, as clients send them: strings to typed values.

use super::{build::Prepared, limits};
use cooper_dockerfile::lower::{Files, NoCache, Options};
use cooper_engine::{Bridge, BuildError, FailureClass, FrontendRequest};
use cooper_llb::{Local, Meta, git_url::parse_bool, pb};
use cooper_oci::Platform;
use std::collections::BTreeMap;

/// What a client asks of the frontend.
#[derive(Debug, Default)]
pub struct Request {
    /// All options as they came.
    pub opts: BTreeMap<String, String>,
    /// Wanted platforms; none: whatever the base image is for.
    pub platforms: Vec<Platform>,
    /// Whether results are keyed by platform.
    pub multi_platform: bool,
    /// The session that serves the build.
    pub session: Option<String>,
    inputs: BTreeMap<String, pb::Definition>,
    build_platforms: Vec<Platform>,
    network: pb::NetMode,
    extra_hosts: Vec<pb::HostIp>,
    ulimits: Vec<pb::Ulimit>,
    shm_size: i64,
    resources: Option<pb::LinuxResources>,
}

const BUILD_ARG: &str = "build-arg:";

/// A request that makes no sense. Its class is what clients know from other builders: they print any other one.
pub(super) fn invalid(message: String) -> BuildError {
    BuildError::new(FailureClass::Unknown, message)
}

impl Request {
    /// Reads what a client sent.
    pub fn parse(request: FrontendRequest, bridge: &Bridge) -> Result<Self, BuildError> {
        let FrontendRequest { opts, inputs } = request;
        let session = bridge.job().sessions().into_iter().next().filter(|id| !id.is_empty());
        let build_platforms = vec![bridge.platform()];
        Self::read(opts, inputs, build_platforms, session)
    }

    fn read(
        opts: BTreeMap<String, String>,
        inputs: BTreeMap<String, pb::Definition>,
        build_platforms: Vec<Platform>,
        session: Option<String>,
    ) -> Result<Self, BuildError> {
        let mut request = Self { opts, session, inputs, build_platforms, ..Self::default() };
        if !request.opt("override-copy-image").is_empty() {
            return Err(invalid("support for \"override-copy-image\" was removed in BuildKit 0.11".to_owned()));
        }
        if request.build_arg("BUILDKIT_DISABLE_FILEOP").and_then(parse_bool) == Some(true) {
            let message = "support for \"BUILDKIT_DISABLE_FILEOP\" build-arg was removed in BuildKit 0.11";
            return Err(invalid(message.to_owned()));
        }
        request.platforms = platforms(request.opt("platform"))?;
        request.multi_platform = request.wants_keys()?;
        request.network = network(request.opt("force-network-mode"))?;
        let mode = request.opt("image-resolve-mode");
        if !matches!(mode, "" | "default" | "pull" | "local") {
            return Err(invalid(format!("invalid image-resolve-mode: {mode}")));
        }
        request.extra_hosts = limits::extra_hosts(request.opt("add-hosts"))
            .map_err(|e| invalid(format!("failed to parse additional hosts: {e}")))?;
        request.shm_size =
            limits::shm_size(request.opt("shm-size")).map_err(|e| invalid(format!("failed to parse shm size: {e}")))?;
        request.ulimits =
            limits::ulimits(request.opt("ulimit")).map_err(|e| invalid(format!("failed to parse ulimit: {e}")))?;
        request.resources =
            limits::resources(&request.opts).map_err(|e| invalid(format!("failed to parse resource limits: {e}")))?;
        Ok(request)
    }

    /// A request with nothing but these.
    #[cfg(test)]
    pub fn of(opts: BTreeMap<String, String>, inputs: BTreeMap<String, pb::Definition>) -> Self {
        Self { opts, inputs, ..Self::default() }
    }

    fn wants_keys(&self) -> Result<bool, BuildError> {
        let several = self.platforms.len() > 1;
        let said = self.build_arg("BUILDKIT_MULTI_PLATFORM").filter(|v| !v.is_empty());
        match said.unwrap_or_else(|| self.opt("multi-platform")) {
            "" => Ok(several),
            said => match parse_bool(said) {
                None => Err(invalid(format!("invalid boolean value for multi-platform: {said}"))),
                Some(false) if several => {
                    Err(invalid("conflicting config: returning multiple target platforms is not allowed".to_owned()))
                }
                Some(keyed) => Ok(keyed),
            },
        }
    }

    /// The platforms to lower for; one that is open when none is named.
    pub fn targets(&self) -> Vec<Option<Platform>> {
        if self.platforms.is_empty() { vec![None] } else { self.platforms.iter().cloned().map(Some).collect() }
    }

    /// An option's text; empty when it is not given.
    pub fn opt(&self, key: &str) -> &str {
        self.opts.get(key).map_or("", String::as_str)
    }

    /// An option's text, or what stands for it when it is not given or empty.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> &'a str {
        self.opts.get(key).filter(|v| !v.is_empty()).map_or(default, String::as_str)
    }

    /// A build argument.
    pub fn build_arg(&self, name: &str) -> Option<&str> {
        self.opts.get(&format!("{BUILD_ARG}{name}")).map(String::as_str)
    }

    /// The definitions that came with the request. An empty one is a mistake of the client.
    pub fn inputs(&self) -> Result<&BTreeMap<String, pb::Definition>, BuildError> {
        if self.inputs.values().any(|definition| definition.def.is_empty()) {
            return Err(invalid(
                "failed to get frontend inputs: invalid nil input definition to definition op".to_owned(),
            ));
        }
        Ok(&self.inputs)
    }

    /// How a directory of the client is transferred: from the session that is said to have it.
    pub fn local(&self, directory: &str) -> Local {
        let session = self.opts.get(&format!("local-sessionid:{directory}")).or(self.session.as_ref());
        Local { session: session.cloned(), ..Local::default() }
    }

    fn prefixed(&self, prefix: &str) -> BTreeMap<String, String> {
        self.opts.iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?.to_owned(), v.clone()))).collect()
    }

    /// The parameters of lowering for one platform.
    pub fn lower_options(&self, target: Option<Platform>, prepared: &Prepared<'_>) -> Options {
        Options {
            target: Some(self.opt("target").to_owned()).filter(|t| !t.is_empty()),
            build_args: self.prefixed(BUILD_ARG),
            labels: self.prefixed("label:"),
            target_platform: target,
            build_platforms: self.build_platforms.clone(),
            multi_platform: self.multi_platform,
            resolve_mode: self.opt("image-resolve-mode").to_owned(),
            no_cache: self.no_cache(),
            network: self.network,
            extra_hosts: self.extra_hosts.clone(),
            hostname: self.hostname().to_owned(),
            shm_size: self.shm_size,
            ulimits: self.ulimits.clone(),
            devices: Vec::new(),
            cgroup_parent: self.opt("cgroup-parent").to_owned(),
            linux_resources: self.resources.clone(),
            cache_namespace: self.build_arg("BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default().to_owned(),
            context: self.context_files(prepared),
            ignore_patterns: prepared.ignore.clone(),
            missing_caps: Vec::new(),
            dockerfile_definition: Some(prepared.files.definition.clone()),
            all_stages: false,
        }
    }

    fn hostname(&self) -> &str {
        let argument = self.build_arg("BUILDKIT_SANDBOX_HOSTNAME").filter(|v| !v.is_empty());
        argument.unwrap_or_else(|| self.opt("hostname"))
    }

    fn no_cache(&self) -> NoCache {
        match self.opts.get("no-cache").map(String::as_str) {
            None => NoCache::None,
            Some("") => NoCache::All,
            Some(stages) => NoCache::Stages(stages.split(',').map(ToOwned::to_owned).collect()),
        }
    }

    fn context_files(&self, prepared: &Prepared<'_>) -> Files {
        let main = prepared.main;
        if let Some(output) = &main.files {
            return Files::Output(output.clone());
        }
        let local = Local {
            exclude_patterns: prepared.ignore.clone(),
            shared_key_hint: main.local.clone(),
            ..self.local(&main.local)
        };
        let meta = Box::new(Meta::named("[internal] load build context"));
        Files::Local { name: main.local.clone(), local: Box::new(local), meta }
    }
}

fn platforms(list: &str) -> Result<Vec<Platform>, BuildError> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let parse = |text: &str| {
        let parsed = text.parse::<Platform>();
        parsed.map(Platform::normalized).map_err(|e| invalid(format!("failed to parse target platform {text}: {e}")))
    };
    list.split(',').map(str::trim).map(parse).collect()
}

fn network(text: &str) -> Result<pb::NetMode, BuildError> {
    match text {
        "" | "sandbox" => Ok(pb::NetMode::Unset),
        "host" => Ok(pb::NetMode::Host),
        "none" => Ok(pb::NetMode::None),
        other => Err(invalid(format!("invalid netmode {other} (sandbox, host and none are known)"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(opts: &[(&str, &str)]) -> Result<Request, BuildError> {
        let opts = opts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Request::read(opts, BTreeMap::new(), Vec::new(), Some("here".to_owned()))
    }

    #[test]
    fn options_that_make_no_sense_say_which() {
        let error = |opts: &[(&str, &str)]| read(opts).unwrap_err().message;
        insta::assert_snapshot!(
            [
                error(&[("platform", "linux/amd64,")]),
                error(&[("platform", "linux/amd64,linux/arm64"), ("multi-platform", "false")]),
                error(&[("build-arg:BUILDKIT_MULTI_PLATFORM", "maybe")]),
                error(&[("force-network-mode", "all")]),
                error(&[("image-resolve-mode", "often")]),
                error(&[("add-hosts", "a")]),
                error(&[("add-hosts", "a=b")]),
                error(&[("ulimit", "nofile=2:1")]),
                error(&[("ulimit", "files=2")]),
                error(&[("shm-size", "1k")]),
                error(&[("memory", "-1")]),
                error(&[("memswap", "-2")]),
                error(&[("cpusetcpus", "0-a")]),
                error(&[("override-copy-image", "x")]),
            ]
            .join("\n"),
            @r#"
        failed to parse target platform : invalid platform "": expected os/architecture[/variant] of letters, digits, '_', '-' and '.'
        conflicting config: returning multiple target platforms is not allowed
        invalid boolean value for multi-platform: maybe
        invalid netmode all (sandbox, host and none are known)
        invalid image-resolve-mode: often
        failed to parse additional hosts: invalid key-value pair a
        failed to parse additional hosts: failed to parse IP b
        failed to parse ulimit: ulimit soft limit must be less than or equal to hard limit: 2 > 1
        failed to parse ulimit: invalid ulimit type: files
        failed to parse shm size: "1k" is not a number
        failed to parse resource limits: invalid memory value: -1: must be > 0
        failed to parse resource limits: invalid memswap value: -2: must be -1 (unlimited) or > 0
        failed to parse resource limits: invalid cpusetcpus value: 0-a: expected a list such as 0-2,7
        support for "override-copy-image" was removed in BuildKit 0.11
        "#
        );
    }

    #[test]
    fn results_have_keys_when_asked_for() {
        let keyed = |opts: &[(&str, &str)]| read(opts).unwrap().multi_platform;
        assert!(!keyed(&[]));
        assert!(!keyed(&[("platform", "linux/arm64")]));
        assert!(keyed(&[("platform", "linux/arm64,linux/amd64")]));
        assert!(keyed(&[("multi-platform", "true")]));
        assert!(!keyed(&[("multi-platform", "true"), ("build-arg:BUILDKIT_MULTI_PLATFORM", "0")]));
    }

    #[test]
    fn directories_come_from_the_session_that_has_them() {
        let request = read(&[("local-sessionid:context", "there")]).unwrap();
        let session = |name: &str| request.local(name).session;
        assert_eq!(session("context").as_deref(), Some("there"));
        assert_eq!(session("dockerfile").as_deref(), Some("here"));
    }

    #[test]
    fn empty_inputs_are_refused() {
        let inputs = BTreeMap::from([("context".to_owned(), pb::Definition::default())]);
        let request = Request::read(BTreeMap::new(), inputs, Vec::new(), None).unwrap();
        let error = request.inputs().unwrap_err();
        assert!(error.message.ends_with("invalid nil input definition to definition op"), "{error}");
    }
}
