//! Runs the hooks of a container at the points of its life that they are for (OCI runtime specification, `runtime`, Lifecycle).
//!
//! The child that becomes the first process stops at two places, before it changes its root and before it becomes the program,
//! and goes on when it is told to. A container without hooks has no such places.

use crate::child::{Program, Step};
use crate::error::{Error, Result};
use crate::process::{self, Shield, c_string};
use crate::raw::{self, StringArray};
use crate::remains::{Scratch, scratch_dir};
use crate::running::status;
use crate::spec::{ContainerSpec, Hook, HookPoint, ProcessSpec};
use cooper_rooted::passwd::ExecUser;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use serde_json::json;
use std::fs;
use std::io::{self, IoSliceMut, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the child says at its two places.
const BEFORE_ROOT: u8 = 0;
const BEFORE_PROGRAM: u8 = 1;

/// How often a hook that takes its time is asked for in vain before somebody looks whether the step is still wanted.
const PATIENCE: Duration = Duration::from_millis(200);

/// Longest part of what a hook says that is repeated.
const QUOTED: usize = 2000;

/// The hooks of one container.
#[derive(Debug)]
pub(crate) struct Hooks {
    list: Vec<Hook>,
    id: String,
    bundle: Scratch,
    /// Where the child stops; its end goes with the program.
    meeting: Option<Meeting>,
    apparmor: Option<String>,
    security: crate::Security,
}

#[derive(Debug)]
struct Meeting {
    ours: OwnedFd,
    childs: Arc<OwnedFd>,
}

impl Hooks {
    /// None without hooks. `place` is where the child attaches the root before it enters it.
    pub(crate) fn prepare(
        state: &Path,
        place: &Path,
        spec: &ContainerSpec,
        apparmor: Option<&str>,
    ) -> Result<Option<Self>> {
        if spec.hooks.is_empty() {
            return Ok(None);
        }
        let dir = scratch_dir(state).join(format!("{}-hooks", spec.id));
        let failed = |step: &'static str| Error::setup(format!("{step} {}", dir.display()));
        fs::create_dir_all(&dir).map_err(failed("create directory"))?;
        let bundle = Scratch::new(dir.clone());
        // What hooks look for: where the root is. Nothing that could be a secret.
        let config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": place.to_string_lossy(), "readonly": spec.readonly_rootfs},
            "hostname": spec.hostname,
        });
        fs::write(dir.join("config.json"), config.to_string()).map_err(failed("write the configuration in"))?;
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let pair = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)
            .and_then(|pair| rustix::net::sockopt::set_socket_passcred(&pair.0, true).map(|()| pair));
        let (ours, childs) = pair.map_err(|e| Error::setup("make a pair of sockets")(e.into()))?;
        Ok(Some(Self {
            list: spec.hooks.clone(),
            id: spec.id.clone(),
            bundle,
            meeting: Some(Meeting { ours, childs: Arc::new(childs) }),
            apparmor: apparmor.map(str::to_owned),
            security: spec.security,
        }))
    }

    /// The child's steps at its two places.
    pub(crate) fn stops(&self) -> Option<(Step, Step)> {
        let childs = &self.meeting.as_ref()?.childs;
        Some((Step::Meet(childs.clone(), BEFORE_ROOT), Step::Meet(childs.clone(), BEFORE_PROGRAM)))
    }

    /// Starts the child of `program`, and runs what is to be run until it executes its own. `wanted` tells whether somebody
    /// still waits for that. The child's pidfd.
    pub(crate) fn accompany(
        &mut self,
        program: Program,
        start: impl FnOnce(&Program) -> Result<OwnedFd>,
        wanted: impl Fn() -> bool + Sync,
    ) -> Result<OwnedFd> {
        let Some(Meeting { ours, childs }) = self.meeting.take() else { return start(&program) };
        // The program has the other ones: with it the last is closed.
        drop(childs);
        let here = &*self;
        let (started, hooks) = std::thread::scope(|scope| {
            let hooks = scope.spawn(|| here.attend(&ours, &wanted));
            let started = start(&program);
            drop(program);
            (started, hooks.join())
        });
        let hooks = hooks.unwrap_or_else(|_| Err(Error::Lost("whoever runs hooks has panicked".into())));
        match hooks {
            Ok(pid) => {
                let pidfd = started?;
                self.run(HookPoint::Poststart, pid, None, &wanted).inspect_err(|_| end(&pidfd))?;
                Ok(pidfd)
            }
            Err(e) => {
                started.iter().for_each(end);
                Err(e)
            }
        }
    }

    /// The other side of the child's two stops; its number.
    fn attend(&self, socket: &OwnedFd, wanted: &(dyn Fn() -> bool + Sync)) -> Result<Option<Pid>> {
        let mut last = None;
        while let Some((place, pid)) = hear(socket).map_err(Error::setup("hear from the process"))? {
            last = Some(pid);
            let points: &[HookPoint] = match place {
                BEFORE_ROOT => &[HookPoint::Prestart, HookPoint::CreateRuntime, HookPoint::CreateContainer],
                _ => &[HookPoint::StartContainer],
            };
            let child = rustix::process::pidfd_open(pid, PidfdFlags::empty())
                .map_err(|e| Error::setup("open the process")(e.into()))?;
            let child = Arc::new(child);
            let outcome = points.iter().try_for_each(|point| self.run(*point, last, Some(&child), wanted));
            // One that is gone hears nothing, and `start` knows.
            let _ = rustix::io::write(socket, &[u8::from(outcome.is_err())]);
            outcome?;
        }
        Ok(last)
    }

    /// Runs the hooks of a point, one after the other.
    fn run(
        &self,
        point: HookPoint,
        pid: Option<Pid>,
        child: Option<&Arc<OwnedFd>>,
        wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<()> {
        for hook in self.list.iter().filter(|hook| hook.point == point) {
            let named = || format!("run the {} hook {}", point.as_str(), hook.path.display());
            let prepared = self.program(hook, pid, child)?;
            let run = || -> Result<()> {
                let Prepared { program, mut said } = prepared;
                if let (HookPoint::StartContainer, Some(child)) = (point, child) {
                    // This thread has this one child.
                    raw::setns(child.as_fd(), libc::CLONE_NEWPID).map_err(Error::setup("enter the container"))?;
                }
                let spec = ProcessSpec::new([hook.path.to_string_lossy()]);
                let pidfd = program.start(0, None).map_err(|e| process::explain(e, &spec))?;
                drop(program);
                let code = wait(&pidfd, hook.timeout, wanted).map_err(Error::setup(named()))?;
                if code == 0 {
                    return Ok(());
                }
                let mut text = String::new();
                let read = said.rewind().and_then(|()| (&mut said).take(QUOTED as u64).read_to_string(&mut text));
                let said = if read.is_ok() { text.trim() } else { "" };
                let colon = if said.is_empty() { "" } else { ": " };
                Err(Error::setup(named())(io::Error::other(format!("it ended with code {code}{colon}{said}"))))
            };
            // A thread that has entered a process namespace stays there.
            let outcome = std::thread::scope(|scope| scope.spawn(run).join());
            outcome.unwrap_or_else(|_| Err(Error::Lost("a hook's thread has panicked".into()))).map_err(
                |e| match e {
                    Error::Exec(why) => Error::setup(named())(io::Error::other(why)),
                    other => other,
                },
            )?;
        }
        Ok(())
    }

    /// The program of a hook's process, in the namespaces that it is for.
    fn program(&self, hook: &Hook, pid: Option<Pid>, child: Option<&Arc<OwnedFd>>) -> Result<Prepared> {
        let (state, said) = (self.state(hook.point, pid)?, memory_file("hook")?);
        let output = said.try_clone().map_err(Error::setup("duplicate a descriptor"))?;
        let streams = process::Streams::given([state.into(), output.into(), clone(&said)?.into()]);
        let mut program = Program::default();
        program.push(Step::DieWithStarter);
        let namespaces =
            libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        let inside = matches!(hook.point, HookPoint::CreateContainer | HookPoint::StartContainer);
        if let Some(child) = child.filter(|_| inside) {
            program.push(Step::Enter(child.clone(), namespaces));
        }
        if hook.point == HookPoint::StartContainer {
            // As any process of the container.
            let user = ExecUser { uid: 0, gid: 0, groups: vec![0], home: None, name: None };
            let shield = Shield::of(self.security, self.apparmor.as_deref());
            let spec = ProcessSpec::new(hook.args.clone());
            process::shielded(&mut program, &spec, &user, &streams, Path::new("/"), shield)?;
        } else {
            program.push(Step::Cleanse);
            program.push(streams.session());
            program.push(Step::WorkingDirectory(c"/".to_owned()));
        }
        let list = |texts: &[String]| -> Result<StringArray> {
            let texts = texts.iter().map(|text| c_string("hook", text.as_bytes()));
            Ok(StringArray::new(texts.collect::<Result<_>>()?))
        };
        let args =
            if hook.args.is_empty() { list(&[hook.path.to_string_lossy().into_owned()])? } else { list(&hook.args)? };
        let candidates = vec![c_string("hook", hook.path.as_os_str().as_bytes())?];
        program.push(Step::Execute { candidates, args, env: list(&hook.env)? });
        Ok(Prepared { program, said })
    }

    /// What hooks read.
    fn state(&self, point: HookPoint, pid: Option<Pid>) -> Result<fs::File> {
        let status = match point {
            HookPoint::Prestart | HookPoint::CreateRuntime | HookPoint::CreateContainer => "creating",
            HookPoint::StartContainer => "created",
            HookPoint::Poststart => "running",
            HookPoint::Poststop => "stopped",
        };
        let bundle = self.bundle.path().to_string_lossy();
        let mut state = json!({"ociVersion": "1.0.2", "id": self.id, "status": status, "bundle": bundle});
        match point {
            HookPoint::Poststop => {}
            HookPoint::StartContainer => state["pid"] = 1.into(),
            _ => state["pid"] = pid.map_or(0, |pid| pid.as_raw_nonzero().get()).into(),
        }
        let mut file = memory_file("state")?;
        let written = file.write_all(state.to_string().as_bytes()).and_then(|()| file.rewind());
        written.map_err(Error::setup("write a container's state"))?;
        Ok(file)
    }
}

/// The container is gone: its last hooks run.
impl Drop for Hooks {
    fn drop(&mut self) {
        for hook in std::mem::take(&mut self.list) {
            if hook.point != HookPoint::Poststop {
                continue;
            }
            self.list = vec![hook];
            if let Err(error) = self.run(HookPoint::Poststop, None, None, &|| true) {
                tracing::warn!(%error, "a hook of a container that has ended failed");
            }
        }
    }
}

struct Prepared {
    program: Program,
    /// What the hook prints.
    said: fs::File,
}

fn clone(file: &fs::File) -> Result<fs::File> {
    file.try_clone().map_err(Error::setup("duplicate a descriptor"))
}

fn memory_file(name: &str) -> Result<fs::File> {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC);
    fd.map(fs::File::from).map_err(|e| Error::setup("make a file in memory")(e.into()))
}

/// Ends a process and takes it from the process table.
fn end(pidfd: &OwnedFd) {
    let _ = raw::signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = raw::reap(pidfd.as_fd());
}

/// Waits for a hook's end; its exit code.
fn wait(pidfd: &OwnedFd, timeout: Option<Duration>, wanted: &(dyn Fn() -> bool + Sync)) -> io::Result<i32> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let pause = left.map_or(PATIENCE, |left| left.min(PATIENCE));
        let pause = Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos()) };
        let mut ended = [PollFd::new(pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut ended, Some(&pause)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(status(&raw::reap(pidfd.as_fd())?, false).code()),
            Err(e) => return Err(e.into()),
        }
        let late = left.is_some_and(|left| left.is_zero());
        if late || !wanted() {
            end(pidfd);
            let why = if late { "it did not end in time" } else { "nobody waits for it any more" };
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
    }
}

/// What the child says, and its number as the kernel tells it; none once it has become the program, or is gone.
fn hear(socket: &OwnedFd) -> io::Result<Option<(u8, Pid)>> {
    let mut place = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut place)], &mut ancillary, flags) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let pid = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
        _ => None,
    });
    pid.map(|pid| Some((place[0], pid))).ok_or_else(|| io::Error::other("the process has no number"))
}
