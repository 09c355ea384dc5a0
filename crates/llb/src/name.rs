//! The name that progress shows for a vertex whose client gave none.

use crate::pb::{self, file_action::Action, op::Op};

/// Inputs of a merge, and actions on files, that a name lists.
const LISTED: usize = 32;

/// The custom name, else a description of what the op does. `input` names the vertex behind an input index.
pub(crate) fn of(op: &pb::Op, metadata: &pb::OpMetadata, input: impl Fn(i64) -> String) -> String {
    if let Some(name) = metadata.description.get(crate::attrs::CUSTOM_NAME).filter(|name| !name.is_empty()) {
        return name.clone();
    }
    let side = |index: i64| if index < 0 { "scratch".to_owned() } else { format!("({})", input(index)) };
    match &op.op {
        Some(Op::Source(source)) => source.identifier.clone(),
        Some(Op::Exec(exec)) => exec.meta.as_ref().map(|meta| meta.args.join(" ")).unwrap_or_default(),
        Some(Op::File(file)) => {
            let mut names: Vec<_> = file.actions.iter().take(LISTED).map(action).collect();
            if file.actions.len() > LISTED {
                names.push("…".to_owned());
            }
            names.join(", ")
        }
        Some(Op::Build(_)) => "build".to_owned(),
        Some(Op::Merge(_)) => {
            let mut names: Vec<_> = (0..op.inputs.len().min(LISTED)).map(|i| input(i as i64)).collect();
            if op.inputs.len() > LISTED {
                names.push("…".to_owned());
            }
            format!("merge ({})", names.join(", "))
        }
        Some(Op::Diff(diff)) => format!(
            "diff {} -> {}",
            side(diff.lower.as_ref().map_or(-1, |lower| lower.input)),
            side(diff.upper.as_ref().map_or(-1, |upper| upper.input)),
        ),
        Some(Op::Passthrough(group)) => format!("passthrough {}", group.id),
        None => "unknown".to_owned(),
    }
}

fn action(action: &pb::FileAction) -> String {
    match &action.action {
        Some(Action::Mkdir(a)) => format!("mkdir {}", a.path),
        Some(Action::Mkfile(a)) => format!("mkfile {}", a.path),
        Some(Action::Symlink(a)) => format!("symlink {} -> {}", a.newpath, a.oldpath),
        Some(Action::Rm(a)) => format!("rm {}", a.path),
        Some(Action::Copy(a)) => format!("copy {} {}", a.src, a.dest),
        None => String::new(),
    }
}
