//! A shell in the file system of a failed step, with the step's environment, user, mounts and directory.
//!
//! The shell is the image's own, or, where it has none, one that needs nothing of the image: a static busybox of this
//! machine, or that of a small image.

use std::io::IsTerminal as _;
use std::path::Path;

use cooper_wire::gateway::{
    ExecMessage, FdMessage, InitMessage, NewContainerRequest, ReleaseContainerRequest, ResizeMessage, SolveRequest,
    StatFileRequest, exec_message::Input, llb_bridge_client::LlbBridgeClient, result,
};
use cooper_wire::pb;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::gateway::tagged;
use crate::error::Failure;

/// Names of the container and its process, which only this build sees. Some daemons allow no punctuation.
const CONTAINER: &str = "onerror";
const PROCESS: &str = "shell";
/// Shells that images have, the likeliest first.
const SHELLS: [&str; 6] = ["/bin/sh", "/bin/bash", "/bin/ash", "/usr/bin/sh", "/usr/bin/bash", "/busybox/sh"];
/// Where a shell from elsewhere is mounted.
const FOREIGN: &str = "/.cooper-shell";
/// An image whose shell is static.
const SHELL_IMAGE: &str = "docker-image://docker.io/library/busybox:musl";
/// A shell larger than this does not fit into a message.
const LARGEST_SHELL: u64 = 12 << 20;
/// Messages of input on their way.
const QUEUE: usize = 32;

const STDIN: u32 = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;

type Bridge = LlbBridgeClient<Channel>;
type Id = MetadataValue<Ascii>;

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
pub enum NoShell {
    /// The build did not fail in a step that runs a program.
    #[error("the build did not fail in a RUN step, there is no file system to look into")]
    NoStep,
    /// The image has no shell, and no other could be had.
    #[error(
        "the image has no shell, this machine has no static busybox in PATH, and the image docker.io/library/busybox \
         cannot be had ({0}); install busybox-static, or name a static shell in COOPER_SHELL"
    )]
    NoProgram(String),
    /// `COOPER_SHELL` does not name a shell that runs anywhere.
    #[error("COOPER_SHELL={path}: {reason}")]
    Unusable {
        /// As given.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The daemon refused.
    #[error("{}", .0.message())]
    Refused(#[from] Status),
}

/// Runs a shell if `failure` is that of a step. Returns when the user is done.
pub async fn look_into(bridge: &Bridge, id: &Id, failure: &Status) -> Result<(), NoShell> {
    let failure = Failure::from(failure.clone());
    let step = failure.step.as_ref().ok_or(NoShell::NoStep)?;
    let op = cooper_llb::json::parse_op(&step.op).ok().and_then(|op| op.op);
    let Some(pb::op::Op::Exec(mut exec)) = op else { return Err(NoShell::NoStep) };
    if step.mounts.len() < exec.mounts.len() {
        return Err(NoShell::NoStep);
    }
    for (mount, id) in exec.mounts.iter_mut().zip(&step.mounts) {
        mount.result_id.clone_from(id);
    }
    let program = match own_shell(bridge, id, &exec).await? {
        Some(program) => program,
        None => foreign_shell(bridge, id, &mut exec).await?,
    };
    eprintln!("\n{failure}\nThis is the file system of the failed step; `exit` ends the build.");
    open(bridge, id, &exec).await?;
    let outcome = converse(bridge, id, &exec, program).await;
    close(bridge, id).await;
    outcome
}

async fn open(bridge: &Bridge, id: &Id, exec: &pb::ExecOp) -> Result<(), Status> {
    let meta = exec.meta.clone().unwrap_or_default();
    let request = NewContainerRequest {
        container_id: CONTAINER.into(),
        mounts: exec.mounts.clone(),
        network: exec.network,
        extra_hosts: meta.extra_hosts,
        hostname: meta.hostname,
        ..NewContainerRequest::default()
    };
    bridge.clone().new_container(tagged(request, id)).await.map(drop)
}

async fn close(bridge: &Bridge, id: &Id) {
    let request = ReleaseContainerRequest { container_id: CONTAINER.into() };
    // The end of the build releases it, too.
    bridge.clone().release_container(tagged(request, id)).await.ok();
}

/// The first shell that the image has.
async fn own_shell(bridge: &Bridge, id: &Id, exec: &pb::ExecOp) -> Result<Option<Vec<String>>, Status> {
    open(bridge, id, exec).await?;
    let mut found = Ok(None);
    for path in SHELLS {
        let request = StatFileRequest { r#ref: CONTAINER.into(), path: path.into(), mount_index: 0 };
        match bridge.clone().stat_file_container(tagged(request, id)).await {
            Ok(_) => {
                found = Ok(Some(vec![path.to_owned()]));
                break;
            }
            Err(status) if status.code() == Code::Unimplemented => {
                found = Err(status);
                break;
            }
            Err(_) => {}
        }
    }
    close(bridge, id).await;
    found
}

/// Mounts a shell that runs anywhere, and says how it is called.
async fn foreign_shell(bridge: &Bridge, id: &Id, exec: &mut pb::ExecOp) -> Result<Vec<String>, NoShell> {
    let (definition, words): (_, &[&str]) = match host_shell()? {
        Some(program) => (shell_file(program), &["/.cooper-shell/busybox", "sh"]),
        None => (shell_image(), &["/.cooper-shell/bin/busybox", "sh"]),
    };
    let request = SolveRequest {
        definition: Some(definition.map_err(|e| NoShell::NoProgram(e.to_string()))?),
        allow_result_return: true,
        evaluate: true,
        ..SolveRequest::default()
    };
    let solved = bridge.clone().solve(tagged(request, id)).await.map_err(|s| NoShell::NoProgram(s.message().into()))?;
    let result_id = match solved.into_inner().result.and_then(|r| r.result) {
        Some(result::Result::Ref(found)) => found.id,
        Some(result::Result::RefDeprecated(found)) => found,
        _ => return Err(NoShell::NoProgram("the answer has no file system".into())),
    };
    exec.mounts.push(pb::Mount { dest: FOREIGN.into(), readonly: true, result_id, output: -1, ..pb::Mount::default() });
    let meta = exec.meta.get_or_insert_default();
    let path = format!("{FOREIGN}:{FOREIGN}/bin");
    match meta.env.iter_mut().find(|pair| pair.starts_with("PATH=")) {
        Some(pair) => *pair = format!("{pair}:{path}"),
        None => meta.env.push(format!("PATH={}:{path}", cooper_llb::DEFAULT_PATH_UNIX)),
    }
    Ok(words.iter().map(|&word| word.to_owned()).collect())
}

/// The bytes of a static busybox of this machine.
fn host_shell() -> Result<Option<Vec<u8>>, NoShell> {
    if let Ok(path) = std::env::var("COOPER_SHELL")
        && !path.is_empty()
    {
        let unusable = |reason: String| NoShell::Unusable { path: path.clone(), reason };
        let program = std::fs::read(&path).map_err(|error| unusable(error.to_string()))?;
        if program.len() as u64 > LARGEST_SHELL || !is_static(&program) {
            return Err(unusable("it must be a static program of at most 12 MiB that is called as busybox is".into()));
        }
        return Ok(Some(program));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let small = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.len() <= LARGEST_SHELL);
    let found = std::env::split_paths(&path).map(|dir| dir.join("busybox")).filter(|path| small(path));
    Ok(found.filter_map(|path| std::fs::read(path).ok()).find(|program| is_static(program)))
}

/// Whether it is a program for this architecture that asks for no loader.
fn is_static(program: &[u8]) -> bool {
    /// Type of the program header that names a loader.
    const INTERPRETER: u32 = 3;
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(*program.get(at..)?.first_chunk()?)));
    let word = |at: usize| Some(u32::from_le_bytes(*program.get(at..)?.first_chunk()?));
    let machine = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let check = || {
        // 64 bits, lowest byte first, as all machines that this runs on are.
        if !program.starts_with(b"\x7fELF\x02\x01") || half(18)? != machine {
            return Some(false);
        }
        let table = usize::try_from(u64::from_le_bytes(*program.get(32..)?.first_chunk()?)).ok()?;
        let (size, count) = (half(54)?, half(56)?);
        let kinds: Option<Vec<u32>> = (0..count).map(|i| word(table.checked_add(i * size)?)).collect();
        Some(!kinds?.contains(&INTERPRETER))
    };
    check().unwrap_or(false)
}

fn shell_file(program: Vec<u8>) -> Result<pb::Definition, cooper_llb::Error> {
    use cooper_llb::{Action, Meta, Mkfile, Output};
    let make = Mkfile { path: "/busybox".into(), mode: 0o755, data: program, timestamp: Some(0), ..Mkfile::default() };
    cooper_llb::file(
        &Output::scratch(),
        vec![Action::Mkfile(make)],
        Meta::named("[internal] shell for the failed step"),
    )
    .marshal()
}

fn shell_image() -> Result<pb::Definition, cooper_llb::Error> {
    use cooper_llb::{Image, Meta};
    let name = SHELL_IMAGE.trim_start_matches("docker-image://");
    let reference = name.parse().map_err(|_| cooper_llb::Error::Json { what: "shell image", reason: name.into() })?;
    Image::default().output(&reference, Meta::named("[internal] shell for the failed step")).marshal()
}

/// Runs the shell between this process's streams and the container.
async fn converse(bridge: &Bridge, id: &Id, exec: &pb::ExecOp, program: Vec<String>) -> Result<(), NoShell> {
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut meta = exec.meta.clone().unwrap_or_default();
    meta.args = program;
    if tty && !meta.env.iter().any(|pair| pair.starts_with("TERM=")) {
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
        meta.env.push(format!("TERM={term}"));
    }
    let init = InitMessage {
        container_id: CONTAINER.into(),
        meta: Some(meta),
        fds: if tty { vec![STDIN, STDOUT] } else { vec![STDIN, STDOUT, STDERR] },
        tty,
        security: exec.security,
        secretenv: exec.secretenv.clone(),
    };
    let (send, receive) = mpsc::channel(QUEUE);
    send.send(message(Input::Init(init))).await.ok();
    let mut answers = bridge.clone().exec_process(tagged(ReceiverStream::new(receive), id)).await?.into_inner();
    let _raw = tty.then(RawTerminal::enter);
    let input = tokio::spawn(feed(send.clone()));
    let sizes = tokio::spawn(follow_size(send, tty));
    let outcome = show(&mut answers).await;
    input.abort();
    sizes.abort();
    outcome
}

fn message(input: Input) -> ExecMessage {
    ExecMessage { process_id: PROCESS.into(), input: Some(input) }
}

/// Writes what the shell prints, until it is done.
async fn show(answers: &mut tonic::Streaming<ExecMessage>) -> Result<(), NoShell> {
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(answer) = answers.message().await? {
        match answer.input {
            Some(Input::File(file)) if file.fd == STDERR => {
                err.write_all(&file.data).await.ok();
                err.flush().await.ok();
            }
            Some(Input::File(file)) => {
                out.write_all(&file.data).await.ok();
                out.flush().await.ok();
            }
            Some(Input::Exit(exit)) if exit.code == 255 => {
                if let Some(error) = exit.error.filter(|error| !error.message.starts_with("exit code")) {
                    return Err(NoShell::Refused(Status::unknown(error.message)));
                }
            }
            Some(Input::Done(_)) => return Ok(()),
            _ => {}
        }
    }
    Ok(())
}

async fn feed(send: mpsc::Sender<ExecMessage>) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 8 << 10];
    loop {
        let count = stdin.read(&mut buffer).await.unwrap_or(0);
        let file = FdMessage { fd: STDIN, eof: count == 0, data: buffer[..count].to_vec() };
        if send.send(message(Input::File(file))).await.is_err() || count == 0 {
            return;
        }
    }
}

/// Tells the shell how large the terminal is, now and when that changes.
async fn follow_size(send: mpsc::Sender<ExecMessage>, tty: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    // Without a terminal the queue must stay open all the same: its end would end the input.
    loop {
        if tty && let Ok(size) = tcgetwinsize(std::io::stdout()) {
            let resize = ResizeMessage { rows: size.ws_row.into(), cols: size.ws_col.into() };
            if send.send(message(Input::Resize(resize))).await.is_err() {
                return;
            }
        }
        if changes.recv().await.is_none() {
            return;
        }
    }
}

/// A terminal that passes everything on as it is typed, until this is dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> Self {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw).ok();
        }
        Self(before)
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            tcsetattr(std::io::stdin(), OptionalActions::Now, before).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_that_need_a_loader_are_told_from_those_that_do_not() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        let dynamic = own.windows(11).any(|text| text == b"/ld-linux-x") || own.windows(10).any(|t| t == b"/ld-linux-");
        assert_eq!(is_static(&own), !dynamic);
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(&own[..40]));
        assert!(!is_static(b""));
    }
}
