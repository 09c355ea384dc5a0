//! What the child does between its birth and `execve`.
//!
//! The child shares the builder's memory while the builder's other threads run, so it may not allocate, lock or panic.
//! Everything is therefore decided beforehand: the builder writes a list of [`Step`]s, and the child works through it. A
//! step that fails is reported by its position, and the builder, which has the list, says in words what went wrong.

use crate::raw::{self, StringArray};
use rustix::fs::{CWD, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::CapabilitySet;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_void};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One thing that the child does.
#[derive(Debug)]
pub(crate) enum Step {
    /// Be killed when the thread that started it ends. Changing identity clears it, so it is done twice.
    DieWithStarter,
    /// Move into the cgroup whose `cgroup.procs` this is.
    JoinCgroup(OwnedFd),
    /// Make the own cgroup the root of what is seen of the hierarchy.
    NewCgroupNamespace,
    /// Enter namespaces: a pidfd with `CLONE_NEW*` flags.
    Enter(Arc<OwnedFd>, i32),
    /// Bring the loopback interface up.
    LoopbackUp,
    /// Set the host name.
    Hostname(CString),
    /// Nothing mounted here is seen elsewhere, and the other way round.
    PrivateMounts,
    /// Attach a tree at a place that only serves to have it inside this namespace.
    Stage(Arc<OwnedFd>, CString),
    /// Clone what a path inside a staged tree names into a slot. Links are resolved inside the tree.
    Take { tree: Arc<OwnedFd>, subpath: CString, slot: usize, attributes: u64 },
    /// Make the tree, or what was taken, the root: attach it, go there, let go of the old one.
    EnterRoot(Source, CString),
    /// Attach the tree, or what was taken, and go there; what is put in place from now on is put into it.
    AttachRoot(Source, CString),
    /// Make that the root, and let go of the old one.
    EnterHere,
    /// Say how far this has come, and wait for word to go on.
    Meet(Arc<OwnedFd>, u8),
    /// Make a directory the root, without mounting anything.
    ChangeRoot(Arc<OwnedFd>),
    /// Put a detached tree in place.
    Attach(Arc<OwnedFd>, CString),
    /// Put what was taken in place.
    AttachSlot { slot: usize, target: CString },
    /// Mount a file system that belongs to the new namespaces.
    NewMount { kind: &'static CStr, attributes: u64, target: &'static CStr },
    /// Make a file system that belongs to the new namespaces, and keep it in a slot. In a user namespace the kernel only permits
    /// some of them while the surrounding one is still in view, so before the root is entered.
    MakeMount { kind: &'static CStr, attributes: u64, slot: usize },
    /// Hide a path, if it exists: a directory behind an empty one, anything else behind the null device.
    Mask(&'static CStr),
    /// Refuse writes below a path, if it exists.
    ReadOnly(&'static CStr),
    /// Set a resource limit.
    Limit(Resource, Rlimit),
    /// A new session, with these as standard streams, the first as its terminal when it is one.
    Session { streams: [Arc<OwnedFd>; 3], terminal: bool },
    /// Leave the builder's signal settings, umask, keyring behind.
    Cleanse,
    /// Be confined by a profile of AppArmor from the next program on: what is to be written there.
    Confine(CString),
    /// Let only these system calls through from now on.
    Filter(&'static [libc::sock_filter]),
    /// Have somebody else answer the system calls that a filter picks, and send word of where; go on without if that can't be.
    Lend { filter: &'static [libc::sock_filter], to: Arc<OwnedFd> },
    /// Hold and be able to gain only these capabilities.
    Capabilities { keep: CapabilitySet, last: u32 },
    /// Become this user. No groups: this process may not choose them.
    Identity { uid: u32, gid: u32, groups: Option<Vec<Gid>> },
    /// Go to the working directory.
    WorkingDirectory(CString),
    /// Replace itself by the first of these programs that exists and can be executed.
    Execute { candidates: Vec<CString>, args: StringArray, env: StringArray },
}

/// Where a step finds a tree.
#[derive(Debug)]
pub(crate) enum Source {
    Tree(Arc<OwnedFd>),
    Slot(usize),
}

/// A list of steps, and where the child reports.
#[derive(Debug, Default)]
pub(crate) struct Program {
    steps: Vec<Step>,
    /// Descriptors that the child opens in one step and uses in a later one, by number in the child.
    slots: Vec<Cell<RawFd>>,
    /// 0, or `FAILED | step << 32 | errno`.
    failure: AtomicU64,
}

const FAILED: u64 = 1 << 63;

impl Program {
    pub(crate) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(crate) fn extend(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.steps.extend(steps);
    }

    /// Appends a program and takes its slots over; this one must have none yet.
    pub(crate) fn append(&mut self, other: Self) {
        debug_assert!(self.slots.is_empty(), "slot numbers would collide");
        self.steps.extend(other.steps);
        self.slots = other.slots;
    }

    /// A slot for [`Step::Take`].
    pub(crate) fn slot(&mut self) -> usize {
        self.slots.push(Cell::new(-1));
        self.slots.len() - 1
    }

    /// Runs the program in a new child and returns its pidfd once it executes the program's last step.
    pub(crate) fn start(&self, namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Failure<'_>> {
        let context = std::ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: `child` keeps the rules of `spawn_sharing_memory`: it only walks this program, which outlives the
        // call, and calls what is async-signal-safe. The slots are touched by the child alone while this thread is stopped.
        let started = unsafe { raw::spawn_sharing_memory(namespaces, cgroup, child, context) };
        let pidfd = started.map_err(Failure::Clone)?;
        let failure = self.failure.load(Ordering::Acquire);
        if failure & FAILED == 0 {
            return Ok(pidfd);
        }
        // The child has ended already; it only remains to be taken from the process table.
        let _ = raw::reap(pidfd.as_fd());
        let step = &self.steps[(failure >> 32 & 0xffff) as usize];
        Err(Failure::Step(step, io::Error::from_raw_os_error(failure as u32 as i32)))
    }
}

/// Why a child didn't come to execute its program.
#[derive(Debug)]
pub(crate) enum Failure<'a> {
    Clone(io::Error),
    Step(&'a Step, io::Error),
}

extern "C" fn child(context: *mut c_void) -> ! {
    // SAFETY: `start` passed a pointer to a program that outlives the child's use of it.
    let program = unsafe { &*context.cast_const().cast::<Program>() };
    for (index, step) in program.steps.iter().enumerate() {
        if let Err(errno) = run(step, &program.slots) {
            let report = FAILED | (index as u64) << 32 | errno.raw_os_error() as u64;
            program.failure.store(report, Ordering::Release);
            break;
        }
    }
    raw::exit_now(127)
}

/// The error of a raw call as a number; reading it doesn't allocate.
fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::INVAL)
}

fn run(step: &Step, slots: &[Cell<RawFd>]) -> rustix::io::Result<()> {
    match step {
        Step::DieWithStarter => rustix::process::set_parent_process_death_signal(Some(Signal::KILL)),
        Step::JoinCgroup(procs) => rustix::io::write(procs, b"0").map(drop),
        Step::NewCgroupNamespace => raw::unshare(libc::CLONE_NEWCGROUP).map_err(errno),
        Step::Enter(fd, kinds) => raw::setns(fd.as_fd(), *kinds).map_err(errno),
        Step::LoopbackUp => raw::loopback_up().map_err(errno),
        Step::Hostname(name) => rustix::system::sethostname(name.to_bytes()),
        Step::PrivateMounts => {
            rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        }
        Step::Stage(tree, at) => attach(tree.as_fd(), at),
        Step::Take { tree, subpath, slot, attributes } => take(tree.as_fd(), subpath, *attributes, &slots[*slot]),
        Step::EnterRoot(Source::Tree(tree), at) => enter_root(tree.as_fd(), at),
        Step::EnterRoot(Source::Slot(slot), at) => enter_root(taken(&slots[*slot]), at),
        Step::AttachRoot(Source::Tree(tree), at) => attach_root(tree.as_fd(), at),
        Step::AttachRoot(Source::Slot(slot), at) => attach_root(taken(&slots[*slot]), at),
        Step::EnterHere => enter_here(),
        Step::Meet(socket, place) => meet(socket, *place),
        Step::ChangeRoot(root) => {
            rustix::process::fchdir(root)?;
            rustix::process::chroot(c".")?;
            rustix::process::chdir(c"/")
        }
        Step::Attach(tree, target) => place(tree.as_fd(), target),
        Step::AttachSlot { slot, target } => place(taken(&slots[*slot]), target),
        Step::NewMount { kind, attributes, target } => new_mount(kind, *attributes, target),
        Step::MakeMount { kind, attributes, slot } => {
            slots[*slot].set(make_mount(kind, *attributes)?.into_raw_fd());
            Ok(())
        }
        Step::Mask(path) => mask(path),
        Step::ReadOnly(path) => read_only(path),
        Step::Limit(resource, limit) => rustix::process::setrlimit(*resource, *limit),
        Step::Session { streams, terminal } => session(streams, *terminal),
        Step::Cleanse => {
            raw::reset_signals();
            rustix::process::umask(Mode::from_raw_mode(0o022));
            raw::new_session_keyring();
            Ok(())
        }
        Step::Confine(order) => confine(order),
        Step::Filter(code) => raw::install_filter(code).map_err(errno),
        Step::Lend { filter, to } => {
            if let Ok(listener) = crate::lent::install(filter) {
                send(to.as_fd(), listener.as_fd())?;
            }
            Ok(())
        }
        Step::Capabilities { keep, last } => limit_capabilities(*keep, *last),
        Step::Identity { uid, gid, groups } => {
            let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
            if let Some(groups) = groups {
                rustix::thread::set_thread_groups(groups)?;
            }
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)
        }
        Step::WorkingDirectory(path) => rustix::process::chdir(path.as_c_str()),
        Step::Execute { candidates, args, env } => Err(execute(candidates, args, env)),
    }
}

/// What an earlier [`Step::Take`] of this child has left in a slot.
fn taken(slot: &Cell<RawFd>) -> BorrowedFd<'_> {
    // SAFETY: `take` stored an open descriptor of this process here, and nothing closes it before `execve`.
    unsafe { raw::borrowed(slot.get()) }
}

fn attach(tree: BorrowedFd<'_>, at: &CStr) -> rustix::io::Result<()> {
    rustix::mount::move_mount(tree, c"", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Attaches inside the new root. The path was resolved before; a link in it now was put there since, and is refused.
fn place(tree: BorrowedFd<'_>, target: &CStr) -> rustix::io::Result<()> {
    let target = open_target(target)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", target, c"", flags)
}

fn open_target(path: &CStr) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT;
    rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn take(tree: BorrowedFd<'_>, subpath: &CStr, attributes: u64, slot: &Cell<RawFd>) -> rustix::io::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let source = rustix::fs::openat2(tree, subpath, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let part = rustix::mount::open_tree(source, c"", flags)?;
    raw::set_mount(part.as_fd(), attributes, 0).map_err(errno)?;
    slot.set(part.into_raw_fd());
    Ok(())
}

/// After pivot_root(2) with both arguments the same, the old root lies on top of the new one, and `.` is below both.
fn enter_root(tree: BorrowedFd<'_>, at: &CStr) -> rustix::io::Result<()> {
    attach_root(tree, at)?;
    enter_here()
}

fn attach_root(tree: BorrowedFd<'_>, at: &CStr) -> rustix::io::Result<()> {
    attach(tree, at)?;
    rustix::process::fchdir(tree)
}

fn enter_here() -> rustix::io::Result<()> {
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")
}

fn meet(socket: &OwnedFd, place: u8) -> rustix::io::Result<()> {
    rustix::io::write(socket, &[place])?;
    let mut word = [1];
    loop {
        match rustix::io::read(socket, &mut word) {
            Err(Errno::INTR) => {}
            Ok(1) if word == [0] => return Ok(()),
            Ok(_) => return Err(Errno::CANCELED),
            Err(e) => return Err(e),
        }
    }
}

fn new_mount(kind: &CStr, attributes: u64, target: &CStr) -> rustix::io::Result<()> {
    place(make_mount(kind, attributes)?.as_fd(), target)
}

fn make_mount(kind: &CStr, attributes: u64) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

const CLONE_HERE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);

fn mask(path: &CStr) -> rustix::io::Result<()> {
    let target = match open_target(path) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(e),
    };
    let stat = rustix::fs::fstat(&target)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let cover = if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
        rustix::mount::fsconfig_set_string(context.as_fd(), c"mode", c"0755")?;
        rustix::mount::fsconfig_create(context.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?
    } else {
        rustix::mount::open_tree(CWD, c"/dev/null", CLONE_HERE)?
    };
    rustix::mount::move_mount(cover, c"", target, c"", flags)
}

fn read_only(path: &CStr) -> rustix::io::Result<()> {
    let target = match open_target(path) {
        Ok(target) => target,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(e) => return Err(e),
    };
    // With what is mounted below, which in a user namespace can't be left out.
    let flags = CLONE_HERE | OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE;
    let cover = rustix::mount::open_tree(&target, c"", flags)?;
    raw::set_mount(cover.as_fd(), libc::MOUNT_ATTR_RDONLY, 0).map_err(errno)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(cover, c"", target, c"", flags)
}

/// Sends a descriptor over a socket, beside one byte.
fn send(to: BorrowedFd<'_>, what: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let files = [what];
    ancillary.push(SendAncillaryMessage::ScmRights(&files));
    rustix::net::sendmsg(to, &[IoSlice::new(b"f")], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// The streams are copied to high numbers first, lest one of them is overwritten before its turn.
fn session(streams: &[Arc<OwnedFd>; 3], terminal: bool) -> rustix::io::Result<()> {
    rustix::process::setsid()?;
    if terminal {
        raw::make_controlling_terminal(streams[0].as_fd()).map_err(errno)?;
    }
    let mut high = [-1; 3];
    for (stream, slot) in streams.iter().zip(&mut high) {
        *slot = rustix::io::fcntl_dupfd_cloexec(stream, 3)?.into_raw_fd();
    }
    for (number, fd) in high.into_iter().enumerate() {
        // SAFETY: `fd` was opened above. The target is one of the child's own standard streams, which nothing owns.
        let (from, to) = unsafe { (raw::borrowed(fd), raw::borrowed(number as RawFd)) };
        raw::duplicate_onto(from, to).map_err(errno)?;
    }
    raw::close_on_exec_from(3).map_err(errno)
}

/// Newer kernels keep a file for AppArmor alone; the other belongs to whichever security module comes first.
fn confine(order: &CStr) -> rustix::io::Result<()> {
    let open = |path: &CStr| rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let file = match open(c"/proc/thread-self/attr/apparmor/exec") {
        Err(Errno::NOENT) => open(c"/proc/thread-self/attr/exec")?,
        other => other?,
    };
    rustix::io::write(file, order.to_bytes()).map(drop)
}

fn limit_capabilities(keep: CapabilitySet, last: u32) -> rustix::io::Result<()> {
    for number in 0..=last {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if !keep.contains(capability) {
            rustix::thread::remove_capability_from_bounding_set(capability)?;
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let sets = rustix::thread::CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)
}

/// Tries each candidate; the answer tells what to say when none works.
fn execute(candidates: &[CString], args: &StringArray, env: &StringArray) -> Errno {
    let mut worst = Errno::NOENT;
    for path in candidates {
        match executable(path) {
            Ok(()) => return errno(raw::execve(path, args, env)),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(e) => worst = e,
        }
    }
    // A missing interpreter also answers NOENT, so a missing program is told by a number that execve never gives.
    if worst == Errno::NOENT { NO_SUCH_PROGRAM } else { worst }
}

/// Stands for "no candidate exists" in the report of [`Step::Execute`].
pub(crate) const NO_SUCH_PROGRAM: Errno = Errno::NODATA;

fn executable(path: &CStr) -> rustix::io::Result<()> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err(Errno::ISDIR);
    }
    if stat.st_mode & 0o111 == 0 { Err(Errno::ACCESS) } else { Ok(()) }
}
