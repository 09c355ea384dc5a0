//! The rules that one op must keep whatever its neighbours are.

use crate::{
    Error, OpDigest,
    pb::{self, file_action::Action, op::Op, user_opt::User},
};
use std::collections::HashSet;

/// How many outputs an op has; an edge's index must be below.
pub(crate) fn outputs(op: &pb::Op) -> usize {
    let highest = |indices: &mut dyn Iterator<Item = i64>| indices.max().map_or(0, |i| (i + 1).max(0) as usize);
    match &op.op {
        Some(Op::Exec(exec)) => highest(&mut exec.mounts.iter().filter(|m| has_output(m)).map(|m| m.output)),
        Some(Op::File(file)) => highest(&mut file.actions.iter().map(|a| a.output)),
        Some(Op::Passthrough(group)) => group.outputs.len(),
        Some(_) => 1,
        None => 0,
    }
}

/// Secret and socket mounts leave the output index at zero; it means nothing for them.
fn has_output(mount: &pb::Mount) -> bool {
    !matches!(mount.mount_type(), pb::MountType::Secret | pb::MountType::Ssh)
}

/// The kind of an op, for messages.
pub(crate) fn kind(op: &pb::Op) -> &'static str {
    match &op.op {
        Some(Op::Exec(_)) => "exec",
        Some(Op::Source(_)) => "source",
        Some(Op::File(_)) => "file",
        Some(Op::Build(_)) => "build",
        Some(Op::Merge(_)) => "merge",
        Some(Op::Diff(_)) => "diff",
        Some(Op::Passthrough(_)) => "passthrough",
        None => "unknown",
    }
}

pub(crate) fn check(digest: &OpDigest, op: &pb::Op) -> Result<(), Error> {
    let Some(body) = &op.op else { return Err(Error::UnknownOp(digest.clone())) };
    let inputs = op.inputs.len() as i64;
    // -1 stands for an empty file system wherever an input is named.
    let input = |index: i64, limit: i64| {
        if (-1..limit).contains(&index) { Ok(()) } else { Err(format!("input index {index} is out of range")) }
    };
    let checked = match body {
        Op::Source(source) if source.identifier.is_empty() => Err("the identifier is empty".to_owned()),
        Op::Source(_) => Ok(()),
        Op::Exec(exec) => check_exec(exec, |i| input(i, inputs)),
        Op::File(file) => check_file(file, inputs, input),
        Op::Build(build) => build.inputs.values().try_for_each(|i| input(i.input, inputs)),
        Op::Merge(merge) if merge.inputs.len() < 2 => Err("it needs at least two inputs".to_owned()),
        Op::Merge(merge) => merge.inputs.iter().try_for_each(|i| input(i.input, inputs)),
        Op::Diff(diff) => match (&diff.lower, &diff.upper) {
            (Some(lower), Some(upper)) => input(lower.input, inputs).and_then(|()| input(upper.input, inputs)),
            _ => Err("the lower or the upper input is missing".to_owned()),
        },
        Op::Passthrough(group) => {
            if group.id.is_empty() {
                Err("it has no id".to_owned())
            } else if group.outputs.is_empty() {
                Err("it has no outputs".to_owned())
            } else {
                group.outputs.iter().try_for_each(|&i| {
                    if (0..inputs).contains(&i) {
                        Ok(())
                    } else {
                        Err(format!("output names input {i}, which is out of range"))
                    }
                })
            }
        }
    };
    checked.map_err(|reason| Error::InvalidOp { kind: kind(op), vertex: digest.clone(), reason })
}

fn check_exec(exec: &pb::ExecOp, input: impl Fn(i64) -> Result<(), String>) -> Result<(), String> {
    let meta = exec.meta.as_ref().ok_or("it has no meta")?;
    if meta.args.is_empty() {
        return Err("it has no args".to_owned());
    }
    if exec.mounts.is_empty() {
        return Err("it has no mounts".to_owned());
    }
    if !exec.mounts.iter().any(|m| m.dest == "/") {
        return Err("it has no rootfs".to_owned());
    }
    if pb::NetMode::try_from(exec.network).is_err() {
        return Err(format!("network mode {} is unknown", exec.network));
    }
    if pb::SecurityMode::try_from(exec.security).is_err() {
        return Err(format!("invalid security mode {}", exec.security));
    }
    let mut taken = HashSet::with_capacity(exec.mounts.len());
    for mount in &exec.mounts {
        let at = |reason: String| format!("mount {:?}: {reason}", mount.dest);
        input(mount.input).map_err(at)?;
        if pb::MountType::try_from(mount.mount_type).is_err() {
            return Err(at(format!("type {} is unknown", mount.mount_type)));
        }
        if !has_output(mount) {
            continue;
        }
        if mount.output < -1 || mount.output >= exec.mounts.len() as i64 {
            return Err(at(format!("output index {} is out of range", mount.output)));
        }
        if mount.output >= 0 && !taken.insert(mount.output) {
            return Err(at(format!("output index {} is taken by another mount", mount.output)));
        }
    }
    Ok(())
}

fn check_file(file: &pb::FileOp, inputs: i64, input: impl Fn(i64, i64) -> Result<(), String>) -> Result<(), String> {
    if file.actions.is_empty() {
        return Err("it has no actions".to_owned());
    }
    for (position, action) in file.actions.iter().enumerate() {
        let at = |reason: String| format!("action {position}: {reason}");
        // Indices from `inputs` upwards name the results of earlier actions.
        let limit = inputs + position as i64;
        input(action.input, limit).map_err(at)?;
        if action.output < -1 || action.output >= file.actions.len() as i64 {
            return Err(at(format!("output index {} is out of range", action.output)));
        }
        let owner = match &action.action {
            Some(Action::Copy(copy)) => {
                input(action.secondary_input, limit).map_err(at)?;
                &copy.owner
            }
            Some(Action::Mkfile(a)) => &a.owner,
            Some(Action::Mkdir(a)) => &a.owner,
            Some(Action::Symlink(a)) => &a.owner,
            Some(Action::Rm(_)) => &None,
            None => return Err(at("it is of an unknown kind".to_owned())),
        };
        for user in owner.iter().flat_map(|o| [&o.user, &o.group]).flatten() {
            if let Some(User::ByName(name)) = &user.user {
                input(name.input, limit).map_err(at)?;
            }
        }
    }
    Ok(())
}
