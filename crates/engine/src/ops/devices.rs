//! Gives devices of the machine to a step.

use crate::{domain::StepError, worker::Worker};
use cooper_sandbox::{ContainerMount, ContainerSpec, Hook, HookPoint, MountKind, ProcessSpec};
use std::time::Duration;

/// Changes a container and its process so that devices, given by their full names, can be used.
pub(crate) fn add_devices(
    worker: &Worker,
    names: &[String],
    spec: &mut ContainerSpec,
    process: &mut ProcessSpec,
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
        let Some(point) = HookPoint::ALL.into_iter().find(|point| point.as_str() == hook.hook_name) else {
            return Err(StepError::refused(format!("a device has a hook of an unknown kind: {}", hook.hook_name)));
        };
        spec.hooks.push(Hook {
            point,
            path: hook.path.into(),
            args: hook.args,
            env: hook.env,
            timeout: hook.timeout.map(Duration::from_secs),
        });
    }
    Ok(())
}
