//! The raw calls of seccomp's user notifications (seccomp_unotify(2)), and what only they need.

use rustix::io::Errno;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` of `linux/seccomp.h`, since Linux 5.19: signals wait for the answer.
const WAIT_KILLABLE: libc::c_ulong = 1 << 5;

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub id: u64,
    /// The thread, in this process's numbers.
    pub thread: u32,
    pub number: i64,
    pub args: [u64; 6],
}

/// What a call returns.
#[derive(Debug)]
pub(super) enum Answer {
    /// The kernel's own answer.
    Usual,
    Value(usize),
    Error(Errno),
    /// A new descriptor of the caller.
    Descriptor {
        file: OwnedFd,
        close_on_exec: bool,
    },
}

/// Has the calls that a filter picks wait for answers, from this process and what comes of it; returns where they are asked
/// for. No program gets more rights by being executed from now on. Async-signal-safe.
pub(crate) fn install(code: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    let mut flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE;
    loop {
        // SAFETY: the kernel reads `len` instructions behind a pointer that is valid for the call; prctl takes numbers alone.
        let result = unsafe {
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        if result >= 0 {
            // SAFETY: the kernel made this descriptor, and nothing else owns it.
            return Ok(unsafe { OwnedFd::from_raw_fd(result as i32) });
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || flags & WAIT_KILLABLE == 0 {
            return Err(error);
        }
        flags &= !WAIT_KILLABLE;
    }
}

/// The next call. `Interrupted` and `NotFound` mean that there is none after all.
pub(super) fn receive(listener: BorrowedFd<'_>) -> io::Result<Call> {
    // SAFETY: plain numbers, of which zero is a value; the kernel demands zeros and fills the structure in.
    let call = unsafe {
        let mut call: libc::seccomp_notif = std::mem::zeroed();
        if libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) != 0 {
            return Err(io::Error::last_os_error());
        }
        call
    };
    Ok(Call { id: call.id, thread: call.pid, number: i64::from(call.data.nr), args: call.data.args })
}

/// Has the kernel run whoever is woken by a call, or by its answer, on the same processor at once, for the other side waits
/// anyway. Before Linux 6.6 it does not, and everything takes a little longer.
pub(super) fn hurry(listener: BorrowedFd<'_>) {
    const SYNC_WAKE_UP: libc::c_ulong = 1;
    // SAFETY: this takes numbers alone.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
}

/// Reads a thread's memory; how much of it was there.
pub(super) fn read_memory(thread: u32, to: &mut [u8], at: u64) -> Result<usize, Errno> {
    let here = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let there = libc::iovec { iov_base: at as *mut libc::c_void, iov_len: to.len() };
    // SAFETY: the kernel writes at most so many bytes to the slice, which is borrowed for the call; the other address is not
    // one of this process's.
    let count = unsafe { libc::process_vm_readv(thread as libc::pid_t, &raw const here, 1, &raw const there, 1, 0) };
    usize::try_from(count).map_err(|_| Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::FAULT))
}

/// Whether a call still waits: what was opened by its thread's number before is that thread's then.
pub(super) fn waits(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the kernel reads one number.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
}

/// Answers a call. One whose caller is gone by now needs none.
pub(super) fn answer(listener: BorrowedFd<'_>, id: u64, answer: &Answer) {
    let (value, error, flags) = match answer {
        Answer::Usual => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Value(value) => (*value as i64, 0, 0),
        Answer::Error(errno) => (0, -errno.raw_os_error(), 0),
        Answer::Descriptor { file, close_on_exec } => match give(listener, id, file.as_fd(), *close_on_exec) {
            Ok(None) => return,
            Ok(Some(number)) => (i64::from(number), 0, 0),
            // A kernel before 5.9.
            Err(_) => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        },
    };
    let response = libc::seccomp_notif_resp { id, val: value, error, flags };
    // SAFETY: the kernel reads the structure.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
}

/// Gives the caller a descriptor. None: that was the answer (since Linux 5.14); else the number is still to be said.
fn give(listener: BorrowedFd<'_>, id: u64, file: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<Option<i32>> {
    let mut order = libc::seccomp_notif_addfd {
        id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the kernel reads the structure.
    let add = |order: &libc::seccomp_notif_addfd| unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, std::ptr::from_ref(order))
    };
    if add(&order) >= 0 {
        return Ok(None);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None), // the caller is gone
        e if e.raw_os_error() != Some(libc::EINVAL) => return Err(e),
        _ => order.flags = 0,
    }
    let number = add(&order);
    if number >= 0 { Ok(Some(number)) } else { Err(io::Error::last_os_error()) }
}

/// This thread looks at files, and at processes by their files, as another user does, until dropped.
pub(crate) struct FileUser {
    own: (u32, u32),
}

impl FileUser {
    pub(super) fn new(uid: u32, gid: u32) -> Self {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // SAFETY: both take a number, and change this thread alone.
        unsafe {
            libc::setfsgid(gid);
            libc::setfsuid(uid);
        }
        Self { own }
    }
}

impl Drop for FileUser {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            libc::setfsuid(self.own.0);
            libc::setfsgid(self.own.1);
        }
    }
}

/// What `stat` says of a path, in the bytes of its structure.
pub(super) fn stat(path: &CStr, follow: bool) -> io::Result<Vec<u8>> {
    let flags = if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
    // SAFETY: the path ends with a NUL; the structure is the kernel's on these 64-bit machines.
    filled::<libc::stat>(|to| unsafe { libc::fstatat(libc::AT_FDCWD, path.as_ptr(), to, flags) })
}

/// The same for `statx`.
pub(super) fn statx(path: &CStr, flags: i32, mask: u32) -> io::Result<Vec<u8>> {
    // SAFETY: the path ends with a NUL.
    filled::<libc::statx>(|to| unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, to) })
}

/// The same for `statfs`.
pub(super) fn statfs(path: &CStr) -> io::Result<Vec<u8>> {
    // SAFETY: the path ends with a NUL.
    filled::<libc::statfs>(|to| unsafe { libc::statfs(path.as_ptr(), to) })
}

fn filled<T>(call: impl FnOnce(*mut T) -> i32) -> io::Result<Vec<u8>> {
    let mut space = MaybeUninit::<T>::zeroed();
    if call(space.as_mut_ptr()) != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every byte of it was set, by zero or by the kernel.
    Ok(unsafe { std::slice::from_raw_parts(space.as_ptr().cast::<u8>(), size_of::<T>()) }.to_vec())
}
