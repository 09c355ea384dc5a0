//! Gives devices of the machine to a step.

use crate::{
    domain::{Build, StepError},
    worker::Worker,
};
use cooper_sandbox::{ContainerMount, ContainerSpec, MountKind, ProcessSpec};
use cooper_solver::OpContext;

/// Changes a container and its process so that devices, given by their full names, can be used.
pub(crate) fn add_devices(
    worker: &Worker,
    names: &[String],
    spec: &mut ContainerSpec,
    process: &mut ProcessSpec,
    cx: &OpContext<Build>,
) -> Result<(), StepError> {
    let Some(registry) = &worker.devices else { return Err(StepError::refused("devices are switched off")) };
    let edits = registry.edits(names).map_err(StepError::while_doing("cannot give the step its devices"))?;
    for node in &edits.device_nodes {
        let kind = MountKind::Device {
            source: node.source().into(),
            mode: node.file_mode.map(|mode| mode & 0o777),
            uid: node.uid,
            gid: node.gid,
        };
        spec.mounts.push(ContainerMount { dest: node.path.clone().into(), kind, readonly: false });
    }
    for mount in &edits.mounts {
        let kind = match mount.kind.as_str() {
            "tmpfs" => MountKind::Tmpfs { size: None },
            _ => MountKind::Host { source: mount.host_path.clone().into() },
        };
        spec.mounts.push(ContainerMount {
            dest: mount.container_path.clone().into(),
            kind,
            readonly: mount.readonly(),
        });
    }
    for env in edits.env {
        let name = env.split_inclusive('=').next().unwrap_or_default().to_owned();
        process.env.retain(|other| !other.starts_with(&name));
        process.env.push(env);
    }
    process.extra_groups.extend(edits.additional_gids);
    for hook in edits.hooks {
        cx.log(
            2,
            format!(
                "warning: the {} hook {} of a device is not run: steps have no runtime that calls hooks\n",
                hook.hook_name, hook.path
            ),
        );
    }
    Ok(())
}
