//! `debug dump-llb`: a definition, one op per line as JSON, or as a graph for Graphviz.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::PathBuf;

use clap::Args;
use cooper_llb::pb::op::Op as Kind;
use cooper_llb::{OpDigest, pb};
use prost::Message as _;

use crate::error::{CliError, Result, print};

/// Flags.
#[derive(Debug, Args)]
pub struct DumpFlags {
    /// Output dot format
    #[arg(long)]
    dot: bool,
    /// File with the definition; standard input when absent or `-`
    file: Option<PathBuf>,
}

/// Reads a definition from standard input.
pub fn read_stdin(what: &str) -> Result<pb::Definition> {
    // A terminal, or nothing at all.
    let kind = std::fs::metadata("/dev/stdin").map(|metadata| metadata.file_type().is_char_device());
    if std::io::stdin().is_terminal() || kind.unwrap_or(false) {
        return Err(CliError::Usage(what.to_owned()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes).map_err(CliError::io("cannot read standard input"))?;
    decode(&bytes)
}

fn decode(bytes: &[u8]) -> Result<pb::Definition> {
    pb::Definition::decode(bytes).map_err(|error| CliError::Usage(format!("failed to parse input: {error}")))
}

/// Runs it.
pub fn run(flags: &DumpFlags) -> Result<()> {
    let definition = match flags.file.as_deref().filter(|path| path.as_os_str() != "-") {
        Some(path) => decode(&std::fs::read(path).map_err(CliError::file("cannot read", path))?)?,
        None => read_stdin("name a file with a definition, or pipe one to standard input")?,
    };
    if flags.dot {
        return print(&dot(&definition)?);
    }
    let entries = cooper_llb::json::dump_llb(&definition)
        .map_err(|error| CliError::Usage(format!("failed to parse op: {error}")))?;
    entries.iter().try_for_each(|entry| print(&format!("{entry}\n")))
}

fn dot(definition: &pb::Definition) -> Result<String> {
    let ops = definition.def.iter().map(|raw| {
        let op =
            pb::Op::decode(raw.as_slice()).map_err(|error| CliError::Usage(format!("failed to parse op: {error}")))?;
        Ok((OpDigest::of(raw).to_string(), op))
    });
    let ops: Vec<_> = ops.collect::<Result<_>>()?;
    let mut out = String::from("digraph {\n");
    for (digest, op) in &ops {
        let (label, shape) = appearance(digest, op);
        let _ = writeln!(out, "  {digest:?} [label={label:?} shape={shape:?}];");
    }
    for (digest, op) in &ops {
        for (index, input) in op.inputs.iter().enumerate() {
            let _ = writeln!(out, "  {:?} -> {digest:?} [label={:?}];", input.digest, mount_of(op, index));
        }
    }
    out.push_str("}\n");
    Ok(out)
}

/// Where an exec op mounts an input; empty for its root.
fn mount_of(op: &pb::Op, index: usize) -> &str {
    let Some(Kind::Exec(exec)) = &op.op else { return "" };
    let mut mounts = exec.mounts.iter().filter(|mount| usize::try_from(mount.input) == Ok(index) && mount.dest != "/");
    mounts.next_back().map_or("", |mount| &mount.dest)
}

fn appearance(digest: &str, op: &pb::Op) -> (String, &'static str) {
    match &op.op {
        Some(Kind::Source(source)) => (source.identifier.clone(), "ellipse"),
        Some(Kind::Exec(exec)) => (exec.meta.as_ref().map(|meta| meta.args.join(" ")).unwrap_or_default(), "box"),
        Some(Kind::Build(_)) => ("build".into(), "box3d"),
        Some(Kind::Merge(_)) => ("merge".into(), "invtriangle"),
        Some(Kind::Diff(_)) => ("diff".into(), "doublecircle"),
        Some(Kind::File(file)) => {
            let actions: Vec<_> = file.actions.iter().filter_map(|action| action.action.as_ref()).map(action).collect();
            (actions.join(","), "note")
        }
        _ => (digest.to_owned(), "plaintext"),
    }
}

fn action(action: &pb::file_action::Action) -> String {
    use pb::file_action::Action;
    match action {
        Action::Copy(copy) => format!("copy{{src={}, dest={}}}", copy.src, copy.dest),
        Action::Mkfile(file) => format!("mkfile{{path={}}}", file.path),
        Action::Mkdir(dir) => format!("mkdir{{path={}}}", dir.path),
        Action::Rm(rm) => format!("rm{{path={}}}", rm.path),
        Action::Symlink(link) => format!("symlink{{oldpath={}, newpath={}}}", link.oldpath, link.newpath),
    }
}
