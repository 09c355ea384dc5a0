//! Unix sockets: parent directory, leftovers of a dead daemon, owner and mode.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::os::unix::net;
use std::path::Path;

use tokio::net::UnixListener;

/// Owner and group may use the socket, nobody else.
const SOCKET_MODE: u32 = 0o660;
const PARENT_MODE: u32 = 0o770;

/// Binds the path; a socket that nobody listens on any more is replaced, a living one is not.
pub(super) fn bind(path: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<UnixListener> {
    let uid = uid.or_else(|| Some(rustix::process::getuid().as_raw()));
    let gid = gid.or_else(|| Some(rustix::process::getgid().as_raw()));
    if let Some(parent) = path.parent().filter(|dir| !dir.as_os_str().is_empty() && !dir.exists()) {
        fs::create_dir_all(parent)?;
        fs::set_permissions(parent, fs::Permissions::from_mode(PARENT_MODE))?;
        chown(parent, uid, gid)?;
    }
    remove_stale(path)?;
    let listener = net::UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    chown(path, uid, gid)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "the path exists and is not a socket"));
        }
        Ok(_) => {}
    }
    if net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(ErrorKind::AddrInUse, "another process is listening there"));
    }
    fs::remove_file(path)
}
