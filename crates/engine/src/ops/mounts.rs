//! The mounts of an exec op: from trees, caches and secrets to what a sandbox takes, and back to trees.

use super::exec::{input_of, output_of};
use crate::{
    cache_mounts::{CacheKey, CacheLease, CacheMounts, Sharing, Wanted},
    domain::{Build, StepError},
    layers::tree::Tree,
    progress::log_mask::LogMask,
    worker::{ReadTree, Worker, WriteTree},
};
use cooper_llb::pb;
use cooper_mount::Mount;
use cooper_rooted::Root;
use cooper_sandbox::{ContainerMount, MountKind};
use cooper_solver::OpContext;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

/// The mounts of one step, held until it has ended.
pub struct Prepared {
    worker: Arc<Worker>,
    slots: Vec<Slot>,
    root: Option<usize>,
    mounts: Vec<ContainerMount>,
    /// Secrets that are passed as variables.
    pub secret_env: Vec<(String, String)>,
    /// Every secret that the process can see.
    secrets: Vec<Vec<u8>>,
    /// Where the first agent socket is.
    pub ssh_socket: Option<String>,
    /// Size of `/dev/shm` when a mount asks for one.
    pub shm_size: Option<u64>,
    agents: Vec<super::ssh::AgentSocket>,
}

/// What stands behind one mount.
enum Slot {
    /// A tree that cannot be written.
    Read(Tree, ReadTree),
    /// A tree whose changes are kept or discarded.
    Write(WriteTree),
    /// A cache directory.
    Cache(Arc<CacheLease>),
    /// Nothing that outlives the process.
    None,
}

impl Prepared {
    /// Brings every input here and puts the mounts together.
    pub async fn new(
        worker: &Arc<Worker>,
        mounts: &[pb::Mount],
        inputs: &[Tree],
        cx: &OpContext<Build>,
    ) -> Result<Self, StepError> {
        let mut prepared = Self {
            worker: worker.clone(),
            slots: Vec::with_capacity(mounts.len()),
            root: None,
            mounts: Vec::new(),
            secret_env: Vec::new(),
            secrets: Vec::new(),
            ssh_socket: None,
            shm_size: None,
            agents: Vec::new(),
        };
        let used = mounts.iter().filter_map(|m| inputs.get(input_of(m.input)?));
        futures::future::try_join_all(used.map(|tree| worker.bring(tree, cx))).await?;
        let caches = mounts.iter().filter(|m| m.mount_type() == pb::MountType::Cache);
        let caches = caches.map(|m| wanted_cache(m, input_tree(m, inputs)?)).collect::<Result<_, StepError>>()?;
        let caches = CacheMounts::acquire(worker, caches, cx).await?;
        for mount in mounts {
            prepared.add(mount, inputs, &caches, cx).await?;
        }
        // The root comes first, and parents come before what lies below them.
        prepared.mounts.sort_by_key(|m| m.dest.components().count());
        Ok(prepared)
    }

    async fn add(
        &mut self,
        mount: &pb::Mount,
        inputs: &[Tree],
        caches: &Caches,
        cx: &OpContext<Build>,
    ) -> Result<(), StepError> {
        let tree = input_tree(mount, inputs)?;
        let slot = match mount.mount_type() {
            pb::MountType::Bind => self.bind(mount, tree)?,
            pb::MountType::Cache => self.cache(mount, tree, caches)?,
            pb::MountType::Tmpfs => {
                let size = mount.tmpfs_opt.as_ref().map(|o| o.size).filter(|s| *s > 0).map(|s| s as u64);
                if mount.dest == "/dev/shm" {
                    self.shm_size = size;
                } else {
                    self.push(mount, MountKind::Tmpfs { size });
                }
                Slot::None
            }
            pb::MountType::Secret => {
                self.secret(mount, cx).await?;
                Slot::None
            }
            pb::MountType::Ssh => {
                self.ssh(mount, cx).await?;
                Slot::None
            }
        };
        self.slots.push(slot);
        Ok(())
    }

    fn push(&mut self, mount: &pb::Mount, kind: MountKind) {
        self.mounts.push(ContainerMount { dest: PathBuf::from(&mount.dest), kind, readonly: mount.readonly });
    }

    fn bind(&mut self, mount: &pb::Mount, tree: Tree) -> Result<Slot, StepError> {
        let (slot, source) = if mount.readonly {
            let read = self.worker.read(&tree)?;
            let source = read.mount().clone();
            (Slot::Read(tree, read), source)
        } else {
            let write = self.worker.write(&tree)?;
            let source = write.mount().clone();
            (Slot::Write(write), source)
        };
        if mount.dest == "/" {
            self.root.get_or_insert(self.slots.len());
        } else {
            let subpath = PathBuf::from(&mount.selector);
            self.push(mount, MountKind::Tree { mount: source, subpath, shared: false });
        }
        Ok(slot)
    }

    fn cache(&mut self, mount: &pb::Mount, seed: Tree, caches: &Caches) -> Result<Slot, StepError> {
        let key = wanted_cache(mount, seed)?.key();
        let lease = caches.get(&key).cloned().ok_or_else(|| {
            StepError::refused(format!("the directory of cache mount {} was not asked for", mount.dest))
        })?;
        let source = Mount::Bind { source: lease.dir().to_owned(), readonly: false };
        let subpath = PathBuf::from(&mount.selector);
        self.push(mount, MountKind::Tree { mount: source, subpath, shared: true });
        Ok(Slot::Cache(lease))
    }

    async fn secret(&mut self, mount: &pb::Mount, cx: &OpContext<Build>) -> Result<(), StepError> {
        let options = mount.secret_opt.clone().unwrap_or_default();
        let Some(content) = self.worker.secret(&options.id, options.optional, cx).await? else { return Ok(()) };
        self.secrets.push(content.clone());
        let kind = MountKind::Memory { content, mode: options.mode, uid: options.uid, gid: options.gid };
        self.push(mount, kind);
        Ok(())
    }

    async fn ssh(&mut self, mount: &pb::Mount, cx: &OpContext<Build>) -> Result<(), StepError> {
        let options = mount.ssh_opt.clone().unwrap_or_default();
        let Some(agent) = super::ssh::forward(&self.worker, &options, cx).await? else { return Ok(()) };
        self.push(mount, MountKind::Host { source: agent.path().to_owned() });
        self.ssh_socket.get_or_insert_with(|| mount.dest.clone());
        self.agents.push(agent);
        Ok(())
    }

    /// Adds the secrets that the process gets as variables.
    pub async fn add_secret_env(&mut self, secrets: &[pb::SecretEnv], cx: &OpContext<Build>) -> Result<(), StepError> {
        for secret in secrets {
            if let Some(content) = self.worker.secret(&secret.id, secret.optional, cx).await? {
                self.secrets.push(content.clone());
                self.secret_env.push((secret.name.clone(), String::from_utf8_lossy(&content).into_owned()));
            }
        }
        Ok(())
    }

    /// What must not show in the log.
    pub fn log_mask(&self) -> LogMask {
        LogMask::new(self.secrets.iter().map(Vec::as_slice))
    }

    /// The root file system, and whether it refuses writes.
    pub fn rootfs(&self) -> Result<(Mount, bool), StepError> {
        match self.root.map(|i| &self.slots[i]) {
            Some(Slot::Read(_, read)) => Ok((read.mount().clone(), true)),
            Some(Slot::Write(write)) => Ok((write.mount().clone(), false)),
            _ => {
                Err(StepError::refused("the step has no root file system: one bind mount must have the destination /"))
            }
        }
    }

    /// The files behind a mount, as they are now, to be read.
    pub fn files(&self, mount: usize) -> Result<Root, StepError> {
        let source = match self.slots.get(mount) {
            Some(Slot::Read(_, read)) => return read.root(),
            Some(Slot::Write(write)) => write.mount().clone().into_readonly(),
            Some(Slot::Cache(lease)) => Mount::Bind { source: lease.dir().to_owned(), readonly: true },
            Some(Slot::None) => return Err(StepError::refused(format!("mount {mount} holds no files to look at"))),
            None => {
                let count = self.slots.len();
                return Err(StepError::refused(format!("mount index {mount} is out of bounds ({count} available)")));
            }
        };
        let fd = cooper_rooted::mount::detached(&source)
            .map_err(StepError::while_doing("cannot open the files of a container"))?;
        Ok(Root::from_fd(fd))
    }

    /// The mounts below the root, for the sandbox.
    pub fn take_mounts(&mut self) -> Vec<ContainerMount> {
        std::mem::take(&mut self.mounts)
    }

    /// Makes the outputs of a step that succeeded.
    pub fn commit(self, exec: &pb::ExecOp, description: &str) -> Result<Vec<Option<Tree>>, StepError> {
        let count = exec.mounts.iter().filter_map(output_of).max().map_or(0, |max| max + 1);
        let mut outputs = vec![None; count];
        for (mount, slot) in exec.mounts.iter().zip(self.slots) {
            let Some(output) = output_of(mount) else { continue };
            outputs[output] = match slot {
                Slot::Read(tree, _) => Some(tree),
                Slot::Write(write) => {
                    write.drop_untouched(&touched(exec, mount))?;
                    let what = if mount.dest == "/" {
                        format!("mount / from exec {description}")
                    } else {
                        format!("mount {} from exec {description}", mount.dest)
                    };
                    Some(write.commit(&what)?)
                }
                Slot::Cache(_) | Slot::None => None,
            };
        }
        Ok(outputs)
    }

    /// Keeps what a failed step left, when some build wants to look at it. One entry per mount.
    pub fn commit_remains(self, exec: &pb::ExecOp, cx: &OpContext<Build>) -> Vec<Option<Tree>> {
        if !cx.jobs().iter().any(|job| job.keep_failed.load(Ordering::Relaxed)) {
            return vec![None; exec.mounts.len()];
        }
        let remains = self.slots.into_iter().map(|slot| match slot {
            Slot::Read(tree, _) => Some(tree),
            Slot::Write(write) => write.commit("file system of a failed step").ok(),
            Slot::Cache(_) | Slot::None => None,
        });
        remains.collect()
    }
}

/// Cache directories of one step.
type Caches = HashMap<CacheKey, Arc<CacheLease>>;

/// The tree that a mount shows at first.
fn input_tree(mount: &pb::Mount, inputs: &[Tree]) -> Result<Tree, StepError> {
    let Some(i) = input_of(mount.input) else { return Ok(Tree::default()) };
    inputs.get(i).cloned().ok_or_else(|| {
        StepError::refused(format!("mount {} reads input {i}, but the step has {}", mount.dest, inputs.len()))
    })
}

/// The cache directory that a mount asks for.
fn wanted_cache(mount: &pb::Mount, seed: Tree) -> Result<Wanted, StepError> {
    let options = mount.cache_opt.clone().unwrap_or_default();
    let sharing = match options.sharing() {
        pb::CacheSharingOpt::Shared => Sharing::Shared,
        pb::CacheSharingOpt::Private => Sharing::Private,
        pb::CacheSharingOpt::Locked => Sharing::Locked,
    };
    if options.id.is_empty() {
        return Err(StepError::refused(format!("cache mount {} has no id", mount.dest)));
    }
    Ok(Wanted { id: options.id, seed, sharing })
}

/// Directories of a mount in which the sandbox made places for other mounts, relative to the mount.
fn touched<'m>(exec: &'m pb::ExecOp, mount: &'m pb::Mount) -> Vec<&'m Path> {
    let below = exec.mounts.iter().filter(|m| m.dest != mount.dest).map(|m| Path::new(m.dest.as_str()));
    let own = ["/etc/hosts", "/dev/x", "/proc/x", "/sys/x"].map(Path::new);
    let all = below.chain(own).filter_map(|place| place.strip_prefix(&mount.dest).ok()?.parent());
    all.filter(|dir| !dir.as_os_str().is_empty()).collect()
}
