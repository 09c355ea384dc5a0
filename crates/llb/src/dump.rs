//! A definition as text: stable, with short numbers in place of digests. For snapshot tests and for people.

use crate::{
    OpDigest, attrs,
    pb::{self, file_action::Action, op::Op, user_opt::User},
    platform_from_pb,
};
use prost::Message as _;
use std::{collections::HashMap, fmt::Write as _};

/// Prints the ops in the definition's order. `#2.1` is the second output of the op that is printed as `#2`.
///
/// Capabilities are left out: they follow from what is printed.
pub fn dump(definition: &pb::Definition) -> String {
    let mut out = String::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let last = definition.def.len().saturating_sub(1);
    for (position, raw) in definition.def.iter().enumerate() {
        let digest = OpDigest::of(raw).to_string();
        let Ok(op) = pb::Op::decode(raw.as_slice()) else {
            let _ = writeln!(out, "#{position} undecodable");
            continue;
        };
        let inputs: Vec<_> = op.inputs.iter().map(|input| edge(&numbers, input)).collect();
        if position == last && op.op.is_none() {
            let _ = writeln!(out, "=> {}", inputs.join(" "));
            continue;
        }
        numbers.insert(digest.clone(), position);
        let mut lines = Lines { inputs: &inputs, lines: Vec::new() };
        lines.op(&op);
        if let Some(meta) = definition.metadata.get(&digest) {
            lines.metadata(meta);
        }
        lines.locations(definition, &digest);
        let mut head = format!("#{position} ");
        for line in lines.lines {
            let _ = writeln!(out, "{head}{line}");
            "   ".clone_into(&mut head);
        }
    }
    if definition.def.is_empty() {
        out.push_str("=> scratch\n");
    }
    out
}

fn edge(numbers: &HashMap<String, usize>, input: &pb::Input) -> String {
    match numbers.get(&input.digest) {
        Some(number) if input.index == 0 => format!("#{number}"),
        Some(number) => format!("#{number}.{}", input.index),
        None => format!("{}.{}", input.digest, input.index),
    }
}

struct Lines<'a> {
    inputs: &'a [String],
    lines: Vec<String>,
}

impl Lines<'_> {
    fn push(&mut self, line: String) {
        self.lines.push(line);
    }

    /// An input index; those above the inputs are results of earlier actions.
    fn input(&self, index: i64) -> String {
        match usize::try_from(index) {
            Err(_) => "scratch".to_owned(),
            Ok(index) => match self.inputs.get(index) {
                Some(name) => name.clone(),
                None => format!("@{}", index - self.inputs.len()),
            },
        }
    }

    fn op(&mut self, op: &pb::Op) {
        let platform = op.platform.as_ref().map(|p| format!(" ({})", platform_from_pb(p))).unwrap_or_default();
        match &op.op {
            Some(Op::Source(source)) => {
                self.push(format!("source {}{platform}", source.identifier));
                for (name, value) in &source.attrs {
                    self.push(format!("{name}={value}"));
                }
            }
            Some(Op::Exec(exec)) => self.exec(exec, &platform),
            Some(Op::File(file)) => self.file(file),
            Some(Op::Merge(merge)) => {
                let names: Vec<_> = merge.inputs.iter().map(|i| self.input(i.input)).collect();
                self.push(format!("merge {}", names.join(" ")));
            }
            Some(Op::Diff(diff)) => {
                let side = |index: Option<i64>| self.input(index.unwrap_or(-1));
                let (lower, upper) =
                    (side(diff.lower.as_ref().map(|l| l.input)), side(diff.upper.as_ref().map(|u| u.input)));
                self.push(format!("diff {lower} {upper}"));
            }
            Some(Op::Build(build)) => {
                let builder = if build.builder < 0 { "llb".to_owned() } else { self.input(build.builder) };
                self.push(format!("build {builder}{platform}"));
                for (name, input) in &build.inputs {
                    let line = format!("input {name} {}", self.input(input.input));
                    self.push(line);
                }
                for (name, value) in &build.attrs {
                    self.push(format!("{name}={value}"));
                }
            }
            Some(Op::Passthrough(group)) => {
                let outputs: Vec<_> = group.outputs.iter().map(|i| self.input(*i)).collect();
                self.push(format!("passthrough {} {} -> {}", group.id, self.inputs.join(" "), outputs.join(" ")));
            }
            None => self.push("unknown".to_owned()),
        }
        if let Some(constraints) = op.constraints.as_ref().filter(|c| !c.filter.is_empty()) {
            self.push(format!("workers {:?}", constraints.filter));
        }
    }

    fn exec(&mut self, exec: &pb::ExecOp, platform: &str) {
        let meta = exec.meta.clone().unwrap_or_default();
        self.push(format!("exec {:?}{platform}", meta.args));
        self.push(format!("env {:?} cwd {}", meta.env, meta.cwd));
        let mut facts = Vec::new();
        let mut fact = |wanted: bool, text: String| {
            if wanted {
                facts.push(text);
            }
        };
        fact(!meta.user.is_empty(), format!("user {}", meta.user));
        fact(!meta.hostname.is_empty(), format!("hostname {}", meta.hostname));
        fact(!meta.cgroup_parent.is_empty(), format!("cgroup {}", meta.cgroup_parent));
        fact(exec.network != 0, format!("network {}", exec.network().as_str_name()));
        fact(exec.security != 0, format!("security {}", exec.security().as_str_name()));
        fact(!meta.valid_exit_codes.is_empty(), format!("exit codes {:?}", meta.valid_exit_codes));
        for host in &meta.extra_hosts {
            fact(true, format!("host {}={}", host.host, host.ip));
        }
        for limit in &meta.ulimit {
            fact(true, format!("ulimit {}={}:{}", limit.name, limit.soft, limit.hard));
        }
        for device in &exec.cdi_devices {
            fact(true, format!("device {}{}", device.name, if device.optional { " optional" } else { "" }));
        }
        if let Some(p) = &meta.proxy_env {
            for (name, value) in [
                ("http", &p.http_proxy),
                ("https", &p.https_proxy),
                ("ftp", &p.ftp_proxy),
                ("no", &p.no_proxy),
                ("all", &p.all_proxy),
            ] {
                fact(!value.is_empty(), format!("{name}_proxy {value}"));
            }
        }
        if !facts.is_empty() {
            self.push(facts.join(", "));
        }
        for secret in &exec.secretenv {
            let optional = if secret.optional { " optional" } else { "" };
            self.push(format!("secret {} as ${}{optional}", secret.id, secret.name));
        }
        for mount in &exec.mounts {
            let line = self.mount(mount);
            self.push(line);
        }
    }

    fn mount(&self, mount: &pb::Mount) -> String {
        let kind = pb::MountType::try_from(mount.mount_type).map_or("UNKNOWN", |kind| kind.as_str_name());
        let mut line = format!("mount {} {}", mount.dest, kind.to_lowercase());
        let owner = |id: &str, uid, gid, mode, optional| {
            let optional = if optional { " optional" } else { "" };
            format!(" {id:?} {uid}:{gid} {mode:04o}{optional}")
        };
        if let Some(s) = &mount.secret_opt {
            line.push_str(&owner(&s.id, s.uid, s.gid, s.mode, s.optional));
        } else if let Some(s) = &mount.ssh_opt {
            line.push_str(&owner(&s.id, s.uid, s.gid, s.mode, s.optional));
        } else {
            let _ = write!(line, " {}", self.input(mount.input));
            if !mount.selector.is_empty() {
                let _ = write!(line, "[{}]", mount.selector);
            }
        }
        if let Some(cache) = &mount.cache_opt {
            let _ = write!(line, " id={} {}", cache.id, cache.sharing().as_str_name().to_lowercase());
        }
        if let Some(size) = mount.tmpfs_opt.as_ref().map(|opt| opt.size).filter(|size| *size > 0) {
            let _ = write!(line, " size={size}");
        }
        if mount.readonly {
            line.push_str(" ro");
        }
        if mount.content_cache != 0 {
            let _ = write!(line, " content-cache={}", mount.content_cache().as_str_name());
        }
        if mount.output >= 0 && mount.secret_opt.is_none() && mount.ssh_opt.is_none() {
            let _ = write!(line, " -> {}", mount.output);
        }
        line
    }

    fn file(&mut self, file: &pb::FileOp) {
        for (position, action) in file.actions.iter().enumerate() {
            let mut line = format!("file {}", self.input(action.input));
            let owner = |owner: &Option<pb::ChownOpt>| owner.as_ref().map(|o| self.owner(o)).unwrap_or_default();
            let time = |time: i64| if time >= 0 { format!(" time={time}") } else { String::new() };
            let text = match &action.action {
                Some(Action::Copy(copy)) => format!(
                    "copy {}[{}] {}{}{}{}",
                    self.input(action.secondary_input),
                    copy.src,
                    copy.dest,
                    owner(&copy.owner),
                    copy_flags(copy),
                    time(copy.timestamp)
                ),
                Some(Action::Mkfile(a)) => format!(
                    "mkfile {} {:04o} {:?}{}{}",
                    a.path,
                    a.mode,
                    String::from_utf8_lossy(&a.data),
                    owner(&a.owner),
                    time(a.timestamp)
                ),
                Some(Action::Mkdir(a)) => format!(
                    "mkdir {} {:04o}{}{}{}",
                    a.path,
                    a.mode,
                    if a.make_parents { " parents" } else { "" },
                    owner(&a.owner),
                    time(a.timestamp)
                ),
                Some(Action::Rm(a)) => format!(
                    "rm {}{}{}",
                    a.path,
                    if a.allow_not_found { " not-found-ok" } else { "" },
                    if a.allow_wildcard { " wildcard" } else { "" }
                ),
                Some(Action::Symlink(a)) => {
                    format!("symlink {} -> {}{}{}", a.newpath, a.oldpath, owner(&a.owner), time(a.timestamp))
                }
                None => "unknown".to_owned(),
            };
            let _ = write!(line, " {text}");
            if action.output > 0 || action.output == 0 && position + 1 != file.actions.len() {
                let _ = write!(line, " -> {}", action.output);
            }
            self.push(line);
        }
    }

    fn owner(&self, owner: &pb::ChownOpt) -> String {
        let id = |user: &Option<pb::UserOpt>| match user.as_ref().and_then(|u| u.user.as_ref()) {
            Some(User::ById(id)) => id.to_string(),
            Some(User::ByName(name)) => format!("{}@{}", name.name, self.input(name.input)),
            None => String::new(),
        };
        let group = if owner.group.is_some() { format!(":{}", id(&owner.group)) } else { String::new() };
        format!(" owner={}{group}", id(&owner.user))
    }

    fn metadata(&mut self, meta: &pb::OpMetadata) {
        if let Some(name) = meta.description.get(attrs::CUSTOM_NAME) {
            self.push(format!("name {name:?}"));
        }
        for (key, value) in meta.description.iter().filter(|(key, _)| *key != attrs::CUSTOM_NAME) {
            let key = if key == attrs::DOCKERFILE_COMMAND { "command" } else { key };
            self.push(format!("{key} {value:?}"));
        }
        if meta.ignore_cache {
            self.push("ignore cache".to_owned());
        }
        if let Some(export) = &meta.export_cache {
            self.push(format!("export cache {}", export.value));
        }
        if let Some(group) = &meta.progress_group {
            self.push(format!("group {:?}{}", group.name, if group.weak { " weak" } else { "" }));
        }
        if let Some(limits) = &meta.linux_resources {
            self.push(format!(
                "limits memory={} swap={} shares={} period={} quota={} cpus={} mems={}",
                limits.memory,
                limits.memory_swap,
                limits.cpu_shares,
                limits.cpu_period,
                limits.cpu_quota,
                limits.cpuset_cpus,
                limits.cpuset_mems
            ));
        }
    }

    fn locations(&mut self, definition: &pb::Definition, digest: &str) {
        let Some(source) = &definition.source else { return };
        let Some(locations) = source.locations.get(digest) else { return };
        let mut places = Vec::new();
        for location in &locations.locations {
            let name = usize::try_from(location.source_index).ok().and_then(|i| source.infos.get(i));
            let name = name.map_or("?", |info| info.filename.as_str());
            for range in &location.ranges {
                let line = |p: &Option<pb::Position>| p.as_ref().map_or(0, |p| p.line);
                places.push(match (line(&range.start), line(&range.end)) {
                    (start, end) if start == end => format!("{name}:{start}"),
                    (start, end) => format!("{name}:{start}-{end}"),
                });
            }
        }
        if !places.is_empty() {
            self.push(format!("at {}", places.join(" ")));
        }
    }
}

fn copy_flags(copy: &pb::FileActionCopy) -> String {
    let mut out = String::new();
    if !copy.mode_str.is_empty() {
        let _ = write!(out, " mode={}", copy.mode_str);
    } else if copy.mode >= 0 {
        let _ = write!(out, " mode={:04o}", copy.mode);
    }
    for (on, name) in [
        (copy.follow_symlink, "follow"),
        (copy.dir_copy_contents, "contents"),
        (copy.attempt_unpack_docker_compatibility, "unpack"),
        (copy.create_dest_path, "create-dest"),
        (copy.allow_wildcard, "wildcard"),
        (copy.allow_empty_wildcard, "empty-ok"),
        (copy.always_replace_existing_dest_paths, "replace"),
    ] {
        if on {
            let _ = write!(out, " {name}");
        }
    }
    for (list, name) in
        [(&copy.include_patterns, "include"), (&copy.exclude_patterns, "exclude"), (&copy.required_paths, "required")]
    {
        if !list.is_empty() {
            let _ = write!(out, " {name}={list:?}");
        }
    }
    out
}
