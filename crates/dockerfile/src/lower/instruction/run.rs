//! `RUN`: a process whose changes are kept.

use super::run_mount::{self, Mounts};
use super::{Error, StageRun};
use crate::expand::{Expander, Variables};
use crate::instruction::{CommandLine, NetworkMode, Run, SecurityMode};
use crate::lower::{Cause, naming};
use cooper_llb::{Action, Exec, Meta, Mkfile, Mount, MountKind, Output, attrs, file, path, pb};
use std::fmt::Write as _;

pub(in crate::lower) fn lower(run: &mut StageRun<'_>, command: &Run, sources: &[Option<usize>]) -> Result<(), Error> {
    run.reads_all = true;
    let mut text = command.head.text.clone();
    let mut mounts = Vec::new();
    let mut args = words(run, command, &mut text, &mut mounts)?;
    if let (CommandLine::Shell(_), [script]) = (&command.command, args.as_slice()) {
        args = run.in_shell(script);
    }
    let mut asked = run_mount::lower(run, command, sources)?;
    let name = {
        let env = Masked { run, secrets: asked.secret_variables() };
        naming::shown(Expander::for_display(run.shared.rules.escape), &text, &env)
    };
    let name = run.next_step(&name);
    mounts.append(&mut asked.files);
    let options = run.shared.options;
    if options.shm_size > 0 && run.shared.supports("exec.mount.tmpfs.size") {
        let kind = MountKind::Tmpfs { size: options.shm_size };
        mounts.push(Mount { target: "/dev/shm".to_owned(), kind, ..Mount::default() });
    }
    let exec = Exec { mounts, ..exec(run, command, args.clone(), asked) };
    let mut meta = run.meta(name).describe(attrs::DOCKERFILE_COMMAND, command.head.text.clone());
    if run.shared.supports("exec.meta.linux.resources") {
        meta.linux_resources.clone_from(&options.linux_resources);
    }
    let history = format!("RUN {}", with_args(run, &args));
    run.state.output = exec.outputs(meta).map_err(Cause::from)?.root;
    run.commit(history, true, true);
    Ok(())
}

/// The process, without mounts.
fn exec(run: &StageRun<'_>, command: &Run, args: Vec<String>, asked: Mounts) -> Exec {
    let options = run.shared.options;
    let mut devices = Vec::new();
    if run.shared.supports("exec.meta.cdi") {
        devices.clone_from(&options.devices);
        let own = command.devices.iter();
        devices.extend(own.map(|d| pb::CdiDevice { name: d.name.clone(), optional: !d.required }));
    }
    let supported = |cap| run.shared.supports(cap);
    Exec {
        root: run.state.output.clone(),
        args,
        env: run.state.env.to_list(),
        cwd: run.state.dir.clone(),
        user: run.state.user.clone(),
        hostname: options.hostname.clone(),
        proxy: run.shared.proxy.clone(),
        extra_hosts: options.extra_hosts.clone(),
        ulimits: if supported("exec.meta.ulimit") { options.ulimits.clone() } else { Vec::new() },
        cgroup_parent: if supported("exec.meta.cgroup.parent") { options.cgroup_parent.clone() } else { String::new() },
        network: match command.network {
            NetworkMode::Default => options.network,
            NetworkMode::None => pb::NetMode::None,
            NetworkMode::Host => pb::NetMode::Host,
        },
        security: match command.security {
            SecurityMode::Sandbox => pb::SecurityMode::Sandbox,
            SecurityMode::Insecure => pb::SecurityMode::Insecure,
        },
        secrets: asked.secrets,
        ssh: asked.ssh,
        devices,
        ..Exec::default()
    }
}

/// Where scripts of here-documents are put.
const PIPES: &str = "/dev/pipes/";

/// The words to run, before a shell is put in front. A script of its own is mounted.
fn words(run: &StageRun<'_>, command: &Run, text: &mut String, mounts: &mut Vec<Mount>) -> Result<Vec<String>, Cause> {
    let args: Vec<String> = command.command.args().into_iter().map(ToOwned::to_owned).collect();
    let Some(heredoc) = command.heredocs.first() else {
        // The shell runs an empty command, too.
        let empty = args.is_empty() && command.command.needs_shell();
        return Ok(if empty { vec![String::new()] } else { args });
    };
    let ([line], CommandLine::Shell(_)) = (args.as_slice(), &command.command) else {
        return Err(Cause::RunCommand(args));
    };
    if !is_only_heredoc(line) {
        // The shell reads the documents itself.
        let mut script = line.clone();
        for heredoc in &command.heredocs {
            script.push('\n');
            script.push_str(&heredoc.content);
            script.push_str(&heredoc.name);
        }
        return Ok(vec![script]);
    }
    let _ = write!(text, " ({})", naming::summary(&heredoc.content));
    let content = heredoc.text();
    if run.state.image.platform.os == "windows" || !content.starts_with("#!") {
        return Ok(vec![content.into_owned()]);
    }
    let mkfile = Mkfile {
        path: path::join("/", &heredoc.name),
        mode: 0o755,
        data: content.into_owned().into_bytes(),
        ..Mkfile::default()
    };
    let meta = Meta::named("[internal] preparing inline document").on(&run.state.platform);
    mounts.push(Mount {
        target: PIPES.to_owned(),
        source: file(&Output::scratch(), vec![Action::Mkfile(mkfile)], meta),
        selector: "/".to_owned(),
        readonly: true,
        ..Mount::default()
    });
    Ok(vec![path::join(PIPES, &heredoc.name)])
}

/// Whether a command is one here-document and nothing else: `<<EOF`, `3<<-"EOF"`.
fn is_only_heredoc(line: &str) -> bool {
    matches!(crate::parser::is_heredoc(line), Ok(true))
}

/// A command for the history: the declared arguments and their values in front, as `|2 a=1 b=2`.
fn with_args(run: &StageRun<'_>, args: &[String]) -> String {
    let mut declared: Vec<(&str, &str)> = Vec::new();
    for (name, value) in &run.state.args {
        let value = run.state.env.get(name).or(value.as_deref()).unwrap_or_default();
        match declared.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => declared.push((name, value)),
        }
    }
    let mut out = String::new();
    if !declared.is_empty() {
        let _ = write!(out, "|{} ", declared.len());
        for (name, value) in declared {
            let _ = write!(out, "{name}={value} ");
        }
    }
    out + &args.join(" ")
}

/// The environment with the values of secrets hidden, to make clear where they come from.
struct Masked<'r> {
    run: &'r StageRun<'r>,
    secrets: Vec<String>,
}

impl Variables for Masked<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        if self.secrets.iter().any(|secret| secret == name) {
            Some("****")
        } else {
            self.run.state.env.get_as_written(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_only_heredoc;

    #[test]
    fn heredocs_alone() {
        for (line, alone) in [
            ("<<EOF", true),
            ("3<<-'E OF'", true),
            ("<< EOF", true),
            ("<<$EOF", true),
            ("<<EOF bash", false),
            ("cat <<EOF", false),
            ("<<A <<B", false),
            ("<<", false),
            ("", false),
        ] {
            assert_eq!(is_only_heredoc(line), alone, "{line}");
        }
    }
}
