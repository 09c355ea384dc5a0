//! `/proc` and `/sys` for processes below a changed root, where nothing can be mounted.
//!
//! A filter has the system calls that ask about a path wait for an answer. A thread of the builder reads the path from the
//! caller's memory. For one in `/proc` or `/sys` it does what was asked, as the caller's user, and hands the result over, an
//! open file by its descriptor; for any other it lets the kernel answer. What is given:
//!
//! - of the caller and of other processes of its step: all, but nothing that lies beyond the doors in there
//!   (`/proc/self/root/…`); lists of mounts are made up, since none of the builder's is the step's;
//! - of other processes: nothing;
//! - what belongs to all (`/proc/cpuinfo`, `/sys/…`): to be read.
//!
//! This is for programs that look there for themselves, for processors or for memory. It is no wall: a caller can change the
//! path after it was read, and then gets what the kernel gives it anyway. Nothing is ever done with more rights than the
//! caller's user has. Names are not entered by it: `cd /proc/self`, or a program started as `/proc/self/exe`, finds what the
//! tree has there.
//!
//! Without it a step simply has no `/proc`: kernels before 5.9, and a builder that is itself below such a filter.

mod notify;
mod path;
mod request;

pub(crate) use notify::install;

use crate::child::Step;
use notify::{Answer, Call, FileUser};
use path::{Wanted, Who, is_beyond, may_be_lent, may_open, seen_from_within};
use request::Request;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, AtFlags, CWD, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// Stack of an answering thread; only what is touched takes memory.
const THREAD_STACK: usize = 128 * 1024;
const PAGE: usize = 4096;

/// Starts a thread that answers for a process and all that come of it; returns what the process has to do for that. It ends
/// with the last of them.
pub(crate) fn lend(root: &Arc<OwnedFd>) -> io::Result<Step> {
    let lender = Lender::new(root.clone())?;
    let (here, there) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    std::thread::Builder::new().name("sandbox-files".into()).stack_size(THREAD_STACK).spawn(move || {
        if let Some(listener) = accept(&here) {
            drop(here);
            lender.serve(&listener);
        }
    })?;
    Ok(Step::Lend { filter: request::filter(), to: Arc::new(there) })
}

/// The descriptor that the process sends. None: it can do without.
fn accept(from: &OwnedFd) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut ancillary, mut byte) = (RecvAncillaryBuffer::new(&mut space), [0]);
    recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).ok()?;
    ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    })
}

/// Answers for the processes of one root.
struct Lender {
    root: Arc<OwnedFd>,
    /// Where the root is for the builder.
    base: Vec<u8>,
    device: (u64, u64),
}

/// Who asks, by `/proc/<thread>/status`.
struct Caller {
    thread: u32,
    process: u32,
    /// Of its files.
    user: (u32, u32),
}

impl Lender {
    fn new(root: Arc<OwnedFd>) -> io::Result<Self> {
        let base = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))?.into_os_string().into_vec();
        let stat = rustix::fs::fstat(&root)?;
        Ok(Self { root, base, device: (stat.st_dev, stat.st_ino) })
    }

    fn serve(&self, listener: &OwnedFd) {
        loop {
            let mut polled = [PollFd::new(listener, PollFlags::IN)];
            match poll(&mut polled, None) {
                Err(Errno::INTR) => continue,
                Ok(_) if polled[0].revents().contains(PollFlags::IN) => {}
                _ => return, // nobody is left who could ask
            }
            match notify::receive(listener.as_fd()) {
                Ok(call) => {
                    let answer = self.answer(listener, &call).unwrap_or(Answer::Usual);
                    notify::answer(listener.as_fd(), call.id, &answer);
                }
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => {}
                Err(error) => return tracing::warn!(%error, "a step loses its /proc"),
            }
        }
    }

    /// None: the kernel's own answer is right, or nothing is known of the caller.
    fn answer(&self, listener: &OwnedFd, call: &Call) -> Option<Answer> {
        let (request, path) = Request::of(call)?;
        let memory = Memory::of(call.thread)?;
        if !notify::waits(listener.as_fd(), call.id) {
            return None;
        }
        let wanted = Wanted::of(&memory.text(path)?, request.follows())?;
        let caller = Caller::of(call.thread)?;
        let _user = caller.lends_its_user();
        Some(self.lent(request, &wanted, &caller, &memory).unwrap_or_else(Answer::Error))
    }

    fn lent(&self, request: Request, wanted: &Wanted, caller: &Caller, memory: &Memory) -> Result<Answer, Errno> {
        let place = self.place(wanted, caller)?;
        let failed = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        let text = || CString::new(place.as_os_str().as_bytes()).map_err(|_| Errno::INVAL);
        match request {
            Request::Open(flags) => {
                may_open(wanted, flags)?;
                let file = match self.mounts(wanted) {
                    Some(list) => made_up(&list).map_err(failed)?,
                    None => open(&place, flags)?,
                };
                return Ok(Answer::Descriptor { file, close_on_exec: flags.contains(OFlags::CLOEXEC) });
            }
            Request::Stat { follow, to } => memory.put(to, &notify::stat(&text()?, follow).map_err(failed)?)?,
            Request::StatX { flags, mask, to } => {
                memory.put(to, &notify::statx(&text()?, flags, mask).map_err(failed)?)?;
            }
            Request::FileSystem { to } => memory.put(to, &notify::statfs(&text()?).map_err(failed)?)?,
            Request::Access(mode) if mode.contains(Access::WRITE_OK) && matches!(wanted, Wanted::Common(_)) => {
                return Err(Errno::ACCESS);
            }
            Request::Attributes { .. } => return Err(Errno::OPNOTSUPP),
            Request::Access(mode) => rustix::fs::accessat(CWD, &place, mode, AtFlags::EACCESS)?,
            Request::ReadLink { to, size } => {
                let target = match place.to_str() {
                    Some("/proc/self") => caller.process.to_string().into_bytes(),
                    Some("/proc/thread-self") => format!("{}/task/{}", caller.process, caller.thread).into_bytes(),
                    _ => rustix::fs::readlink(&place, Vec::new())?.into_bytes(),
                };
                let seen = seen_from_within(&target, &self.base);
                let seen = &seen[..seen.len().min(size)];
                memory.put(to, seen)?;
                return Ok(Answer::Value(seen.len()));
            }
        }
        Ok(Answer::Value(0))
    }

    /// The builder's path of what is wanted.
    fn place(&self, wanted: &Wanted, caller: &Caller) -> Result<PathBuf, Errno> {
        let (who, below) = match wanted {
            Wanted::Common(path) => return Ok(path.clone()),
            Wanted::Process { below, .. } if is_beyond(below) => return Err(Errno::NOENT),
            Wanted::Process { who, below } => (who, below),
        };
        let directory = match who {
            Who::Caller => format!("/proc/{}", caller.process),
            Who::Thread => format!("/proc/{}/task/{}", caller.process, caller.thread),
            Who::Number(number) if self.is_ours(*number) => format!("/proc/{number}"),
            Who::Number(_) => return Err(Errno::NOENT),
        };
        Ok(if below.is_empty() { directory.into() } else { [directory.as_str(), below].iter().collect() })
    }

    /// Whether a process is of this step.
    fn is_ours(&self, process: u32) -> bool {
        rustix::fs::stat(format!("/proc/{process}/root")).is_ok_and(|root| (root.st_dev, root.st_ino) == self.device)
    }

    /// The mounts that a step sees, when these are wanted.
    fn mounts(&self, wanted: &Wanted) -> Option<String> {
        let Wanted::Process { below, .. } = wanted else { return None };
        let kind = below.rsplit('/').next().filter(|kind| matches!(*kind, "mounts" | "mountinfo"))?;
        let lines = (1..).zip([
            ("/", "none", "rootfs", "rw,relatime"),
            ("/proc", "proc", "proc", "rw,nosuid,nodev,noexec,relatime"),
            ("/sys", "sysfs", "sysfs", "ro,nosuid,nodev,noexec,relatime"),
        ]);
        let line = |(number, (point, source, system, options)): (u32, (&str, &str, &str, &str))| {
            let stat = if number == 1 { rustix::fs::fstat(&self.root) } else { rustix::fs::stat(point) }.ok()?;
            let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
            Some(match kind {
                "mounts" => format!("{source} {point} {system} {options} 0 0\n"),
                _ => format!("{number} 1 {major}:{minor} / {point} {options} - {system} {source} rw\n"),
            })
        };
        Some(lines.filter_map(line).collect())
    }
}

impl Caller {
    fn of(thread: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let field = |name: &str, column: usize| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().nth(column)?.parse().ok()
        };
        // The fourth of the four identities is that of files (proc_pid_status(5)).
        Some(Self { thread, process: field("Tgid:", 0)?, user: (field("Uid:", 3)?, field("Gid:", 3)?) })
    }

    /// Until dropped, this thread sees files as the caller does.
    fn lends_its_user(&self) -> Option<FileUser> {
        (self.user.0 != rustix::process::geteuid().as_raw()).then(|| FileUser::new(self.user.0, self.user.1))
    }
}

/// The memory of a process.
struct Memory(File);

impl Memory {
    /// None where it is closed to the builder, or the process has ended.
    fn of(thread: u32) -> Option<Self> {
        let open = || File::options().read(true).write(true).open(format!("/proc/{thread}/mem"));
        match open() {
            Ok(memory) => Some(Self(memory)),
            // Another user's is closed to all but that user.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let _user = Caller::of(thread)?.lends_its_user()?;
                open().ok().map(Self)
            }
            Err(_) => None,
        }
    }

    /// A path that may be one that is lent.
    fn text(&self, mut at: u64) -> Option<Vec<u8>> {
        let (mut text, mut piece) = (Vec::new(), [0; PAGE]);
        while text.len() < libc::PATH_MAX as usize {
            // Not over the end of a page: nothing may be behind it.
            let count = self.0.read_at(&mut piece[..PAGE - (at % PAGE as u64) as usize], at).ok()?;
            let end = piece[..count].iter().position(|byte| *byte == 0);
            text.extend_from_slice(&piece[..end.unwrap_or(count)]);
            if count == 0 || (text.len() >= 5 || end.is_some()) && !may_be_lent(&text) {
                return None;
            }
            if end.is_some() {
                return Some(text);
            }
            at += count as u64;
        }
        None
    }

    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.0.write_all_at(bytes, at).map_err(|_| Errno::FAULT)
    }
}

/// Opens without waiting for whoever is at the other end of a pipe.
fn open(place: &PathBuf, flags: OFlags) -> Result<OwnedFd, Errno> {
    let asked = flags.difference(OFlags::CREATE | OFlags::EXCL) | OFlags::CLOEXEC | OFlags::NOCTTY;
    if asked.contains(OFlags::PATH) || asked.contains(OFlags::NONBLOCK) {
        return rustix::fs::open(place, asked, Mode::empty());
    }
    let file = rustix::fs::open(place, asked | OFlags::NONBLOCK, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// A file of this text, at its beginning.
fn made_up(text: &str) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(c"mounts", MemfdFlags::CLOEXEC)?;
    File::from(file.try_clone()?).write_all(text.as_bytes())?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}
