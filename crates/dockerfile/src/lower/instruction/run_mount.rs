//! `RUN --mount`

use super::{Error, StageRun};
use crate::instruction::{BindMount, CacheMount, CacheSharing, Mount, Run, SecretMount, SshMount, TmpfsMount};
use crate::lower::Cause;
use cooper_llb::{self as llb, Action, Meta, Mkdir, MountKind, Output, Owner, Secret, Ssh, file, path, pb};

/// What the mounts of a step come to.
#[derive(Default)]
pub(super) struct Mounts {
    pub(super) files: Vec<llb::Mount>,
    pub(super) secrets: Vec<Secret>,
    pub(super) ssh: Vec<Ssh>,
}

impl Mounts {
    /// Variables that hold secrets.
    pub(super) fn secret_variables(&self) -> Vec<String> {
        self.secrets.iter().filter_map(|secret| secret.env.clone()).collect()
    }
}

pub(super) fn lower(run: &mut StageRun<'_>, command: &Run, sources: &[Option<usize>]) -> Result<Mounts, Error> {
    let mut out = Mounts::default();
    for (position, spec) in command.mounts.iter().enumerate() {
        let source = sources.get(position).copied().flatten();
        let mut undefined = Vec::new();
        let resolved = {
            let (rules, env) = (run.shared.rules, &run.state.env);
            spec.resolve(&mut |word| {
                let done = rules.process_word_with_matches(word, env)?;
                undefined.extend(done.unmatched);
                Ok(done.text)
            })
        };
        for name in undefined {
            run.undefined(name);
        }
        match resolved.map_err(|wrong| Cause::Mount(Box::new(wrong)))? {
            Mount::Bind(mount) => out.files.push(bind(run, &mount, source)?),
            Mount::Cache(mount) => out.files.push(cache(run, &mount, source)?),
            Mount::Tmpfs(mount) => out.files.push(tmpfs(run, &mount)?),
            Mount::Secret(mount) => out.secrets.push(secret(run, mount)?),
            Mount::Ssh(mount) => out.ssh.push(ssh(run, mount)),
        }
    }
    Ok(out)
}

fn bind(run: &mut StageRun<'_>, mount: &BindMount, source: Option<usize>) -> Result<llb::Mount, Error> {
    let files = if let (Some(from), Some(id)) = (&mount.from, source) {
        files_of(run, from, &mount.target, id, &mount.source)?
    } else {
        run.context_paths.insert(path::join("/", &mount.source));
        run.shared.context.clone()
    };
    Ok(llb::Mount {
        target: target(run, &mount.target)?,
        source: files,
        selector: selector(&mount.source),
        readonly: mount.read_only,
        kind: if mount.read_only { MountKind::Bind } else { MountKind::Discard },
        ..llb::Mount::default()
    })
}

fn cache(run: &mut StageRun<'_>, mount: &CacheMount, source: Option<usize>) -> Result<llb::Mount, Error> {
    let mut files = match (&mount.from, source) {
        (Some(from), Some(id)) => files_of(run, from, &mount.target, id, &mount.source)?,
        _ => Output::scratch(),
    };
    let mut selector = selector(&mount.source);
    let access = mount.access;
    if selector.is_empty() && (access.uid.is_some() || access.gid.is_some() || access.mode.is_some()) {
        // A directory of its own carries the permissions.
        selector.push_str("/cache");
        let mkdir = Mkdir {
            path: selector.clone(),
            mode: access.mode.unwrap_or(0o755),
            owner: Some(Owner::ids(access.uid.unwrap_or(0), access.gid.unwrap_or(0))),
            ..Mkdir::default()
        };
        let meta = Meta::named("[internal] setting cache mount permissions");
        files = file(&files, vec![Action::Mkdir(mkdir)], meta);
    }
    let id = mount.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| path::clean(&mount.target));
    let ranges = run.ranges.clone();
    run.capture.caches.entry(id.clone()).or_insert(ranges);
    let sharing = match mount.sharing {
        CacheSharing::Shared => pb::CacheSharingOpt::Shared,
        CacheSharing::Private => pb::CacheSharingOpt::Private,
        CacheSharing::Locked => pb::CacheSharingOpt::Locked,
    };
    Ok(llb::Mount {
        target: target(run, &mount.target)?,
        source: files,
        selector,
        readonly: mount.read_only,
        kind: MountKind::Cache { id: format!("{}/{id}", run.shared.options.cache_namespace), sharing },
        ..llb::Mount::default()
    })
}

fn tmpfs(run: &StageRun<'_>, mount: &TmpfsMount) -> Result<llb::Mount, Error> {
    Ok(llb::Mount {
        target: target(run, &mount.target)?,
        readonly: mount.read_only,
        kind: MountKind::Tmpfs { size: mount.size },
        ..llb::Mount::default()
    })
}

/// Permissions of a secret's file unless others are asked for.
const SECRET_MODE: u32 = 0o400;
/// Permissions of an agent's socket unless others are asked for.
const SOCKET_MODE: u32 = 0o600;

fn secret(run: &mut StageRun<'_>, mount: SecretMount) -> Result<Secret, Error> {
    let SecretMount { id, source, target, env, required, access } = mount;
    let id = [Some(source), id].into_iter().flatten().find(|id| !id.is_empty());
    let id = match id {
        Some(id) => id,
        None if target.is_empty() => return Err(Error::new(Cause::SecretUnnamed)),
        None => path::base(&target).to_owned(),
    };
    let target = match (target.is_empty(), &env) {
        (false, _) => Some(target),
        (true, Some(_)) => None,
        (true, None) => Some(format!("/run/secrets/{}", path::base(&id))),
    };
    let ranges = run.ranges.clone();
    run.capture.secrets.entry(id.clone()).or_insert((required, ranges));
    Ok(Secret {
        id,
        target,
        env,
        uid: access.uid.unwrap_or(0),
        gid: access.gid.unwrap_or(0),
        mode: access.mode.unwrap_or(SECRET_MODE),
        optional: !required,
    })
}

fn ssh(run: &mut StageRun<'_>, mount: SshMount) -> Ssh {
    let SshMount { id, target, required, access } = mount;
    let id = id.unwrap_or_default();
    let shown = if id.is_empty() { "default".to_owned() } else { id.clone() };
    let ranges = run.ranges.clone();
    run.capture.ssh.entry(shown).or_insert((required, ranges));
    Ssh {
        id,
        target: (!target.is_empty()).then_some(target),
        uid: access.uid.unwrap_or(0),
        gid: access.gid.unwrap_or(0),
        mode: access.mode.unwrap_or(SOCKET_MODE),
        optional: !required,
    }
}

/// The files of another stage, which must be done.
fn files_of(run: &mut StageRun<'_>, from: &str, target: &str, id: usize, used: &str) -> Result<Output, Cause> {
    let node = &run.stages.nodes[id];
    match &node.state {
        Some(state) if node.done => {
            run.stage_paths.push((id, path::join("/", used)));
            Ok(state.output.clone())
        }
        _ => Err(Cause::MountFromLater { from: from.to_owned(), target: target.to_owned() }),
    }
}

/// The path within a source; empty for all of it.
fn selector(source: &str) -> String {
    match path::join("/", source).as_str() {
        "/" => String::new(),
        path => path.to_owned(),
    }
}

/// The absolute path of a mount. One that is absolute already stays as it is written: it is part of the step's key.
fn target(run: &StageRun<'_>, target: &str) -> Result<String, Cause> {
    let path = if target.starts_with('/') { target.to_owned() } else { path::join(&run.state.dir, target) };
    if path::clean(&path) == "/" { Err(Cause::MountTarget(path)) } else { Ok(path) }
}
