//! The one system call that `rustix` lacks. Nothing else in this crate is `unsafe`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets mount attributes (`MOUNT_ATTR_*`) on the mount behind a descriptor and, with `recursive`, on those below it.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, set: u64, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open for the call, the path is a NUL-terminated literal, and the kernel reads
    // `size_of::<mount_attr>()` bytes of a structure that lives on this stack frame.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
