//! What the kernel lets this process mount in namespaces of its own, found out by trying.
//!
//! Root may mount everything. In a user namespace the kernel refuses file systems that would show more than what is visible
//! already, such as a `/proc` without the covers that a surrounding container has put on it.

use crate::cgroup::Hierarchies;
use crate::child::{Program, Step};
use crate::error::Result;
use crate::{raw, userns};
use std::ffi::CStr;
use std::os::fd::AsFd as _;

/// Which file systems can be mounted new. Where one can't, the surrounding one is shown.
#[derive(Debug, Clone)]
pub(crate) struct Abilities {
    pub(crate) user_namespace: bool,
    /// Only one user and one group exist.
    pub(crate) single_id: bool,
    pub(crate) proc: bool,
    /// With the host's network.
    pub(crate) sys: bool,
    /// With a network of the step's own.
    pub(crate) sys_with_network: bool,
    pub(crate) cgroup: bool,
    pub(crate) mqueue: bool,
}

impl Abilities {
    /// Those of root.
    fn all(hierarchies: &Hierarchies) -> Self {
        Self {
            user_namespace: false,
            single_id: false,
            proc: true,
            sys: true,
            sys_with_network: true,
            cgroup: hierarchies.unified(),
            mqueue: true,
        }
    }

    /// Tries, when this process is in a user namespace.
    ///
    /// # Errors
    /// Namespaces can't be made at all.
    pub(crate) fn probe(hierarchies: &Hierarchies) -> Result<Self> {
        if !userns::inside() {
            return Ok(Self::all(hierarchies));
        }
        Ok(Self {
            user_namespace: true,
            single_id: userns::single_id(),
            proc: mounts(c"proc", c"/proc", 0)?,
            sys: mounts(c"sysfs", c"/sys", 0)?,
            sys_with_network: mounts(c"sysfs", c"/sys", libc::CLONE_NEWNET)?,
            cgroup: hierarchies.unified() && mounts(c"cgroup2", c"/sys/fs/cgroup", 0)?,
            mqueue: mounts(c"mqueue", c"/proc", 0)?,
        })
    }

    pub(crate) fn shortcomings(&self) -> Vec<String> {
        let mut list = Vec::new();
        let mut add = |lacks: bool, text: &str| {
            if lacks {
                list.push(text.to_owned());
            }
        };
        add(
            self.single_id,
            "only one user exists in steps (nothing is set aside in /etc/subuid and /etc/subgid, or newuidmap and \
             newgidmap are missing): files of images all belong to root, and steps cannot become another user",
        );
        add(
            !self.proc,
            "steps see the /proc of the surroundings (a container covers parts of it): numbers of processes in it differ from \
             the step's own, whose processes are still separate",
        );
        list
    }
}

/// Whether a file system can be mounted on a directory in new namespaces.
fn mounts(kind: &'static CStr, target: &'static CStr, more: i32) -> Result<bool> {
    let mut program = Program::default();
    program.push(Step::NewCgroupNamespace);
    program.push(Step::PrivateMounts);
    // Targets are looked up below it.
    program.push(Step::WorkingDirectory(c"/".to_owned()));
    program.push(Step::NewMount { kind, attributes: libc::MOUNT_ATTR_RDONLY, target });
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | more;
    match program.start(namespaces as u64, None) {
        Ok(child) => {
            let _ = raw::reap(child.as_fd()); // it has nothing to tell
            Ok(true)
        }
        Err(crate::child::Failure::Step(Step::NewMount { .. }, _)) => Ok(false),
        Err(other) => Err(crate::process::explain(other, &crate::ProcessSpec::new(["probe"]))),
    }
}
