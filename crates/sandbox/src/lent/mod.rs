//! `/proc`, `/sys` and terminals for processes below a changed root, where nothing can be mounted.
//!
//! A filter has the system calls that ask about a path wait for an answer. A thread of the builder reads the path from the
//! caller's memory. For one in `/proc` or `/sys` it does what was asked, as the caller's user, and hands the result over, an
//! open file by its descriptor; for any other it lets the kernel answer. What is given:
//!
//! - of the caller and of other processes of its step: all; what lies beyond the doors in there (`/proc/self/root/…`) is
//!   looked for below the step's root; lists of mounts are made up, since none of the builder's is the step's;
//! - of other processes: that they are there;
//! - what belongs to all (`/proc/cpuinfo`, `/sys/…`): to be read;
//! - new terminals: those that a step has opened, it can also open by their numbers.
//!
//! Where the kernel itself has to find something (a directory to go to, a program to execute), it finds a [stand-in](stand_in).
//!
//! This is for programs that look there for themselves, for processors or for memory. It is no wall: a caller can change the
//! path after it was read, and then gets what the kernel gives it anyway. Nothing is ever done with more rights than the
//! caller's user has. A program without a path below the root (one in memory) cannot be executed by a path of `/proc`, and
//! relative paths are answered where the working directory is in `/proc` or `/sys`, unless `..` is in them.
//!
//! Without it a step simply has no `/proc`: kernels before 5.9, and a builder that is itself below such a filter. The same holds
//! for a process that has closed its memory, or for which the kernel has, because it changed its user and executed nothing
//! since (apt while it runs dpkg, which complains of a missing terminal for its log).

mod caller;
mod notify;
mod path;
mod place;
mod request;
mod stand_in;

pub(crate) use notify::install;

use crate::child::Step;
use caller::{Caller, Reader};
use cooper_rooted::Root;
use notify::{Answer, Call};
use path::{Wanted, door, may_be_lent, may_open, seen_from_within};
use place::Place;
use request::Request;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Access, AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use stand_in::{StandIn, StandIns, working_directory};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// Stack of an answering thread; only what is touched takes memory.
const THREAD_STACK: usize = 128 * 1024;

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

/// Until dropped, this thread sees files, and processes by their files, as another user does; none for its own.
pub(crate) fn seen_as(uid: u32, gid: u32) -> Option<notify::FileUser> {
    (uid != rustix::process::geteuid().as_raw()).then(|| notify::FileUser::new(uid, gid))
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
    reader: Reader,
    stand_ins: StandIns,
    /// The numbers of terminals that were opened here. Others are never the step's.
    terminals: RefCell<BTreeSet<u32>>,
}

/// What is asked, and by whom.
struct Question<'a> {
    listener: &'a OwnedFd,
    call: u64,
    wanted: &'a Wanted,
    caller: &'a Caller,
}

impl Lender {
    fn new(root: Arc<OwnedFd>) -> io::Result<Self> {
        let base = fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd()))?.into_os_string().into_vec();
        let stat = rustix::fs::fstat(&root)?;
        let stand_ins = StandIns::new(&Root::from_fd(root.try_clone()?)).map_err(io::Error::other)?;
        let device = (stat.st_dev, stat.st_ino);
        Ok(Self { root, base, device, reader: Reader::default(), stand_ins, terminals: RefCell::default() })
    }

    fn serve(&self, listener: &OwnedFd) {
        notify::hurry(listener.as_fd());
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
        let (request, at) = Request::of(call)?;
        let is_relative = |text: &[u8]| self.stand_ins.entered() && !text.is_empty() && text[0] != b'/';
        let text = self.reader.text(call.thread, at, &|text| may_be_lent(text) || is_relative(text))?;
        let from_root = |text: &[u8]| Wanted::of(text, request.follows());
        let (wanted, caller) = if text.first() == Some(&b'/') {
            (from_root(&text)?, Caller::of(call.thread)?)
        } else {
            let caller = Caller::of(call.thread)?;
            let _user = caller.lends_its_user();
            let here = fs::read_link(working_directory(call.thread)).ok()?.into_os_string().into_vec();
            let here = seen_from_within(&here, &self.base).filter(|here| may_be_lent(here))?;
            (from_root(&[here, b"/", &text].concat())?, caller)
        };
        // All of that was this caller's, for it still waits.
        if !notify::waits(listener.as_fd(), call.id) {
            return None;
        }
        let question = Question { listener, call: call.id, wanted: &wanted, caller: &caller };
        let lent = match request {
            Request::Enter => self.lead(&question, None),
            Request::Execute { path } => self.lead(&question, Some((path, &text))),
            _ => {
                let _user = caller.lends_its_user();
                self.lent(request, &question)
            }
        };
        Some(lent.unwrap_or_else(Answer::Error))
    }

    fn lent(&self, request: Request, question: &Question<'_>) -> Result<Answer, Errno> {
        let Question { wanted, caller, .. } = question;
        let place = self.place(wanted, caller, request.follows())?;
        let failed = |e: io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
        let text = || CString::new(place.path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL);
        let is_held = place.held.is_some();
        match request {
            Request::Open(flags) => {
                may_open(wanted, flags)?;
                let file = match self.mounts(wanted) {
                    Some(list) => made_up(&list).map_err(failed)?,
                    None => open(&place, flags)?,
                };
                if matches!(wanted, Wanted::Terminal(None)) {
                    self.terminals.borrow_mut().extend(number_of(&file));
                }
                return Ok(Answer::Descriptor { file, close_on_exec: flags.contains(OFlags::CLOEXEC) });
            }
            Request::Stat { follow, to } => {
                question.put(to, &notify::stat(&text()?, follow || is_held).map_err(failed)?)?;
            }
            Request::StatX { flags, mask, to } => {
                let flags = if is_held { flags & !libc::AT_SYMLINK_NOFOLLOW } else { flags };
                question.put(to, &notify::statx(&text()?, flags, mask).map_err(failed)?)?;
            }
            Request::FileSystem { to } => question.put(to, &notify::statfs(&text()?).map_err(failed)?)?,
            Request::Access(mode) if mode.contains(Access::WRITE_OK) && matches!(wanted, Wanted::Common(_)) => {
                return Err(Errno::ACCESS);
            }
            Request::Attributes { .. } => return Err(Errno::OPNOTSUPP),
            Request::Access(mode) => rustix::fs::accessat(CWD, &place.path, mode, AtFlags::EACCESS)?,
            Request::Mode(_) if matches!(wanted, Wanted::Common(_)) => return Err(Errno::PERM),
            Request::Mode(mode) => rustix::fs::chmod(&place.path, mode)?,
            Request::ReadLink { to, size } => {
                let target = match (&place.held, place.path.to_str()) {
                    (Some(held), _) => rustix::fs::readlinkat(held, c"", Vec::new())?.into_bytes(),
                    (_, Some("/proc/self")) => caller.process.to_string().into_bytes(),
                    (_, Some("/proc/thread-self")) => format!("{}/task/{}", caller.process, caller.thread).into_bytes(),
                    _ => rustix::fs::readlink(&place.path, Vec::new())?.into_bytes(),
                };
                let seen = if is_held { None } else { seen_from_within(&target, &self.base) }.unwrap_or(&target);
                let seen = &seen[..seen.len().min(size)];
                question.put(to, seen)?;
                return Ok(Answer::Value(seen.len()));
            }
            Request::Enter | Request::Execute { .. } => return Ok(Answer::Usual),
        }
        Ok(Answer::Value(0))
    }

    /// Has the kernel find what it is to go to, or to execute.
    fn lead(&self, question: &Question<'_>, executed: Option<(u64, &[u8])>) -> Result<Answer, Errno> {
        let Question { wanted, caller, .. } = question;
        let user = caller.lends_its_user();
        let at = match wanted {
            Wanted::Process { below, .. } => door(below),
            Wanted::Common(_) => None,
            Wanted::Terminal(_) => return Ok(Answer::Usual),
        };
        let target = match at {
            Some((door, _)) => Some(self.behind(&self.directory(wanted, caller)?.join(door))?),
            None if executed.is_some() => return Ok(Answer::Usual),
            None => {
                let stat = rustix::fs::stat(&self.place(wanted, caller, true)?.path)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    return Err(Errno::NOTDIR);
                }
                None
            }
        };
        drop(user);
        let what = match (at, &target) {
            (Some((at, _)), Some(target)) => StandIn::Door { at, target },
            _ => StandIn::Directory,
        };
        if let Err(error) = self.stand_ins.put(wanted, caller, &self.reader, &what, executed) {
            tracing::debug!(%error, "nothing stands in for a path of a step's /proc");
        }
        Ok(Answer::Usual)
    }
}

impl Question<'_> {
    /// Writes to the caller's memory.
    fn put(&self, at: u64, bytes: &[u8]) -> Result<(), Errno> {
        let memory = self.caller.memory()?;
        if !notify::waits(self.listener.as_fd(), self.call) {
            return Err(Errno::INTR);
        }
        memory.write_all_at(bytes, at).map_err(|_| Errno::FAULT)
    }
}

/// Opens without waiting for whoever is at the other end of a pipe.
fn open(Place { path, held }: &Place, flags: OFlags) -> Result<OwnedFd, Errno> {
    let kept = if held.is_some() { flags.difference(OFlags::NOFOLLOW) } else { flags };
    let asked = kept.difference(OFlags::CREATE | OFlags::EXCL) | OFlags::CLOEXEC | OFlags::NOCTTY;
    if asked.contains(OFlags::PATH) || asked.contains(OFlags::NONBLOCK) {
        return rustix::fs::open(path, asked, Mode::empty());
    }
    let file = rustix::fs::open(path, asked | OFlags::NONBLOCK, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
    Ok(file)
}

/// The number of a terminal, by its controlling side.
fn number_of(terminal: &OwnedFd) -> Option<u32> {
    let path = rustix::pty::ptsname(terminal, Vec::new()).ok()?;
    path.to_str().ok()?.strip_prefix("/dev/pts/")?.parse().ok()
}

/// A file of this text, at its beginning.
fn made_up(text: &str) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(c"mounts", MemfdFlags::CLOEXEC)?;
    File::from(file.try_clone()?).write_all(text.as_bytes())?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}
