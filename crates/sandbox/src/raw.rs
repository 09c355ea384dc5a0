//! The system calls that no library offers safely. With the child's entry this is all that is `unsafe` in this crate.

use std::arch::asm;
use std::ffi::{CStr, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

/// `struct clone_args` of `linux/sched.h`, as of Linux 5.7.
#[repr(C)]
#[derive(Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_CLEAR_SIGHAND` of `linux/sched.h`.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// `CLONE_INTO_CGROUP` of `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What the child needs between its birth and `execve`. Deep enough for the interpreter in a build without optimisation.
const STACK: usize = 256 * 1024;

/// Starts a child that shares this process's memory, and stops the calling thread until the child has executed a
/// program or ended. The cost doesn't depend on how much memory this process has.
///
/// `namespaces` are `CLONE_NEW*` flags; `cgroup` is a directory of a cgroup2 file system to be born in.
///
/// # Safety
/// `entry` runs in another process, on a stack of its own, with this process's memory and a copy of its descriptors,
/// while the other threads of this process go on. It must not allocate, lock, panic, return or touch anything that another
/// thread might hold; `context` must be valid for it.
pub(crate) unsafe fn spawn_sharing_memory(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    entry: extern "C" fn(*mut c_void) -> !,
    context: *mut c_void,
) -> io::Result<OwnedFd> {
    let mut stack: Vec<MaybeUninit<u8>> = Vec::with_capacity(STACK);
    let base = stack.as_mut_ptr();
    let misaligned = base as usize % 16;
    let mut pidfd: RawFd = -1;
    let shared = (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64;
    let args = CloneArgs {
        flags: namespaces | shared | CLONE_CLEAR_SIGHAND | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: base as u64 + (16 - misaligned) as u64,
        stack_size: (STACK - 32) as u64,
        cgroup: cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    let blocked = BlockedSignals::new();
    // SAFETY: `args` describes a stack inside `stack`, aligned to 16, which outlives the child's use of it because
    // CLONE_VFORK keeps this thread stopped; the caller vouches for `entry` and `context`.
    let mut result = unsafe { clone3(&args, entry, context) };
    // System call filters of containers answer so, since they can't look into the structure.
    if result == -(libc::ENOSYS as isize) && cgroup.is_none() {
        let flags = namespaces | shared | libc::SIGCHLD as u64;
        // SAFETY: as above. The child resets its signal handlers itself.
        result = unsafe { clone(flags, args.stack + args.stack_size, &raw mut pidfd, entry, context) };
    }
    drop(blocked);
    drop(stack);
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result as i32));
    }
    // SAFETY: the kernel stored a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(pidfd) })
}

/// # Safety
/// As [`spawn_sharing_memory`]; `args` must describe a valid stack.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &CloneArgs, entry: extern "C" fn(*mut c_void) -> !, context: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the parent sees an ordinary system call that clobbers rcx and r11. The child, told apart by its result of
    // 0, never comes back from `entry`; its stack is its own and aligned as the call instruction wants it.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") context,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// # Safety
/// As [`spawn_sharing_memory`]; `args` must describe a valid stack.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3(args: &CloneArgs, entry: extern "C" fn(*mut c_void) -> !, context: *mut c_void) -> isize {
    let result: isize;
    // SAFETY: the parent sees an ordinary system call. The child, told apart by its result of 0, never comes back
    // from `entry`; its stack is its own and aligned.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            inlateout("x0") ptr::from_ref(args) as isize => result,
            in("x1") size_of::<CloneArgs>(),
            in("x8") libc::SYS_clone3,
            in("x20") context,
            in("x21") entry,
            lateout("x30") _,
        );
    }
    result
}

/// The older call. `stack` is the end of the child's stack, aligned to 16.
///
/// # Safety
/// As [`spawn_sharing_memory`]; `stack` must end a valid stack, `pidfd` be valid for writing.
#[cfg(target_arch = "x86_64")]
unsafe fn clone(
    flags: u64,
    stack: u64,
    pidfd: *mut RawFd,
    entry: extern "C" fn(*mut c_void) -> !,
    context: *mut c_void,
) -> isize {
    let result: isize;
    // SAFETY: as for `clone3`.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone as isize => result,
            in("rdi") flags,
            in("rsi") stack,
            in("rdx") pidfd,
            in("r10") 0,
            in("r8") 0,
            in("r12") context,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// The older call. `stack` is the end of the child's stack, aligned to 16.
///
/// # Safety
/// As [`spawn_sharing_memory`]; `stack` must end a valid stack, `pidfd` be valid for writing.
#[cfg(target_arch = "aarch64")]
unsafe fn clone(
    flags: u64,
    stack: u64,
    pidfd: *mut RawFd,
    entry: extern "C" fn(*mut c_void) -> !,
    context: *mut c_void,
) -> isize {
    let result: isize;
    // SAFETY: as for `clone3`.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk 1",
            "2:",
            inlateout("x0") flags as isize => result,
            in("x1") stack,
            in("x2") pidfd,
            in("x3") 0,
            in("x4") 0,
            in("x8") libc::SYS_clone,
            in("x20") context,
            in("x21") entry,
            lateout("x30") _,
        );
    }
    result
}

/// Keeps signals from this thread, and so from a child that shares its memory, until dropped.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: both point to sets; sigfillset initialises the first before it is read, pthread_sigmask the second.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set was filled in by the kernel.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}

/// Gives every signal its default effect and lets all through. For the child alone: async-signal-safe.
pub(crate) fn reset_signals() {
    // `struct sigaction` of the kernel: handler, flags, restorer, mask. All zero is the default effect. The raw call, because
    // the C library keeps two signals to itself.
    let default = [0u64; 4];
    // SAFETY: plain system calls; the structures live on this frame and have the kernel's size, the mask's is 8 bytes. Signals
    // whose disposition can't be changed answer with an error, which changes nothing.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<c_void>(), 8usize);
        }
        let none = 0u64;
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, ptr::null_mut::<c_void>(), 8usize);
    }
}

/// A descriptor number that is known to be open.
///
/// # Safety
/// It must stay open for as long as the result is used.
pub(crate) unsafe fn borrowed<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the caller's promise.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Sets and clears `MOUNT_ATTR_*` on a detached or attached mount (and on those below it) and makes it private: what is
/// mounted below it is seen nowhere else.
pub(crate) fn set_mount(mount: BorrowedFd<'_>, set: u64, clear: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: clear, propagation: libc::MS_PRIVATE, userns_fd: 0 };
    // SAFETY: the descriptor is open, the path is a NUL-terminated literal, and the size is that of the structure.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Installs a system call filter. Needs `CAP_SYS_ADMIN`, because new privileges stay possible. Async-signal-safe.
pub(crate) fn install_filter(code: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel reads `len` instructions behind a pointer that is valid for the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the process a session keyring of its own. Async-signal-safe.
pub(crate) fn new_session_keyring() {
    // SAFETY: no memory is passed. A kernel without keyrings answers with an error, which changes nothing.
    unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_void>()) };
}

/// Enters namespaces of the process behind a pidfd, or the one behind a namespace file. Async-signal-safe.
pub(crate) fn setns(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::setns(fd.as_raw_fd(), kinds) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Leaves the shared namespaces for new ones. Async-signal-safe.
pub(crate) fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    if unsafe { libc::unshare(kinds) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the loopback interface up. Async-signal-safe.
pub(crate) fn loopback_up() -> io::Result<()> {
    // SAFETY: the request is a zeroed structure on this frame, with a name shorter than its field; the socket is ours.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let result = libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request);
        let error = io::Error::last_os_error();
        libc::close(socket);
        if result == 0 { Ok(()) } else { Err(error) }
    }
}

/// Takes a bridge down and removes it.
pub(crate) fn remove_bridge(name: &str) -> io::Result<()> {
    // Of `linux/sockios.h`.
    const SIOCBRDELBR: u64 = 0x89a1;
    let text = interface_name(name)?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: the request is a zeroed structure on this frame; its name, and the other call's argument, end with a NUL
    // because the text is shorter than the field. The socket is open.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name = text;
        request.ifr_ifru.ifru_flags = 0;
        let down = libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request);
        if down != 0 || libc::ioctl(socket.as_raw_fd(), SIOCBRDELBR as _, text.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Makes a bridge, down and without ports.
pub(crate) fn add_bridge(name: &str) -> io::Result<()> {
    // Of `linux/sockios.h`.
    const SIOCBRADDBR: u64 = 0x89a0;
    let text = interface_name(name)?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: the argument ends with a NUL because the text is shorter than the field. The socket is open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCBRADDBR as _, text.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives an interface an address; for version 4 the only one.
pub(crate) fn set_address(name: &str, address: std::net::IpAddr, prefix: u32) -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketType};
    /// `struct in6_ifreq` of `linux/ipv6.h`.
    #[repr(C)]
    struct Request6 {
        address: [u8; 16],
        prefix: u32,
        index: i32,
    }
    /// `struct ifreq` with an address of version 4.
    #[repr(C)]
    struct Request4 {
        name: [libc::c_char; libc::IFNAMSIZ],
        address: libc::sockaddr_in,
        rest: [u8; 8],
    }
    let text = interface_name(name)?;
    match address {
        std::net::IpAddr::V4(address) => {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            for (call, value) in [(libc::SIOCSIFADDR, address.to_bits()), (libc::SIOCSIFNETMASK, mask)] {
                let mut request = Request4 {
                    name: text,
                    address: libc::sockaddr_in {
                        sin_family: libc::AF_INET as libc::sa_family_t,
                        sin_port: 0,
                        sin_addr: libc::in_addr { s_addr: value.to_be() },
                        sin_zero: [0; 8],
                    },
                    rest: [0; 8],
                };
                // SAFETY: the request is as large as the structure that the call reads, and its name ends with a NUL. The
                // socket is open.
                let result = unsafe { libc::ioctl(socket.as_raw_fd(), call as _, &raw mut request) };
                if result != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        }
        std::net::IpAddr::V6(address) => {
            let socket = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
            let index = rustix::net::netdevice::name_to_index(&socket, name)?;
            let request = Request6 { address: address.octets(), prefix, index: index as i32 };
            // SAFETY: the request is the structure that the call reads. The socket is open.
            let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR as _, &raw const request) };
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        }
    }
}

/// A name as the kernel's structures hold it.
fn interface_name(name: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut text = [0 as libc::c_char; libc::IFNAMSIZ];
    if name.len() >= text.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in text.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(text)
}

/// Marks every descriptor from `first` on to be closed by `execve`. Async-signal-safe.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the number of `to` mean what `from` means, and keeps it over `execve`. Async-signal-safe.
pub(crate) fn duplicate_onto(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let result = unsafe { libc::dup2(from.as_raw_fd(), to.as_raw_fd()) };
    if result >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the terminal behind a descriptor the controlling one. Async-signal-safe.
pub(crate) fn make_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the request takes a number, no memory.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// NUL-terminated strings and the array of pointers to them that `execve` takes.
#[derive(Debug)]
pub(crate) struct StringArray {
    _strings: Vec<std::ffi::CString>,
    pointers: Vec<*const libc::c_char>,
}

// SAFETY: the pointers point into `_strings`, which never changes and moves along.
unsafe impl Send for StringArray {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for StringArray {}

impl StringArray {
    pub(crate) fn new(strings: Vec<std::ffi::CString>) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// Executes a program; returns only on failure. Async-signal-safe.
pub(crate) fn execve(path: &CStr, args: &StringArray, env: &StringArray) -> io::Error {
    // SAFETY: all three are NUL-terminated, and the arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends the child at once. Async-signal-safe.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit runs no handlers.
    unsafe { libc::_exit(code) }
}

/// How a child ended, and what it and the children that it waited for have used.
pub(crate) struct Reaped {
    /// `CLD_EXITED`, `CLD_KILLED` or `CLD_DUMPED`.
    pub(crate) code: i32,
    /// Exit code or signal.
    pub(crate) status: i32,
    pub(crate) usage: libc::rusage,
}

/// Waits for the child behind a pidfd and removes it from the process table.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<Reaped> {
    loop {
        // SAFETY: zeroed plain structures, filled in by the kernel; the raw call, unlike the C library's, has the usage as its
        // fifth argument. The fields read belong to the variant for SIGCHLD, which waitid always fills in.
        let reaped = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let mut usage: libc::rusage = std::mem::zeroed();
            let result = libc::syscall(
                libc::SYS_waitid,
                libc::P_PIDFD,
                pidfd.as_raw_fd(),
                &raw mut info,
                libc::WEXITED,
                &raw mut usage,
            );
            (result == 0).then(|| Reaped { code: info.si_code, status: info.si_status(), usage })
        };
        if let Some(reaped) = reaped {
            return Ok(reaped);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Sends a signal to the process behind a pidfd. One that is gone already is not an error.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is passed; a null siginfo means an ordinary kill.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, ptr::null::<c_void>(), 0) };
    let error = io::Error::last_os_error();
    if result == 0 || error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) }
}
