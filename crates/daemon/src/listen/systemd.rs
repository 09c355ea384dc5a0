//! The service manager's side of sockets: inherited descriptors, and news about readiness.

use std::io::{self, ErrorKind};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{AddressFamily, sockopt};
use tokio::net::{TcpListener, UnixListener};

use super::Socket;

/// Descriptors start here, by the service manager's convention.
const FIRST_DESCRIPTOR: RawFd = 3;

/// Takes the first socket handed over through `LISTEN_PID` and `LISTEN_FDS`.
pub(super) fn inherited() -> io::Result<Socket> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let ours = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
    if !ours || number("LISTEN_FDS").unwrap_or(0) == 0 {
        return Err(io::Error::new(
            ErrorKind::NotFound,
            "no sockets found via socket activation: make sure the service was started by systemd",
        ));
    }
    take(FIRST_DESCRIPTOR)
}

fn take(descriptor: RawFd) -> io::Result<Socket> {
    // SAFETY: the service manager opened this descriptor for this process (checked through LISTEN_PID and
    // LISTEN_FDS), nothing else here refers to it, and `fd://` is taken once per daemon.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    match sockopt::socket_domain(&descriptor)? {
        AddressFamily::UNIX => {
            let listener = std::os::unix::net::UnixListener::from(descriptor);
            listener.set_nonblocking(true)?;
            Ok(Socket::Unix(UnixListener::from_std(listener)?))
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = std::net::TcpListener::from(descriptor);
            listener.set_nonblocking(true)?;
            Ok(Socket::Tcp(TcpListener::from_std(listener)?))
        }
        family => Err(io::Error::new(ErrorKind::Unsupported, format!("inherited socket of {family:?}"))),
    }
}

/// What the service manager may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyState {
    /// All sockets are being served.
    Ready,
    /// Running builds are being finished, no new ones are taken.
    Stopping,
}

/// Tells the service manager, if there is one (`NOTIFY_SOCKET`). Returns whether somebody was told.
pub fn notify(state: NotifyState) -> io::Result<bool> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return Ok(false) };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(&path)?,
    };
    let message: &[u8] = match state {
        NotifyState::Ready => b"READY=1",
        NotifyState::Stopping => b"STOPPING=1",
    };
    UnixDatagram::unbound()?.send_to_addr(message, &address)?;
    Ok(true)
}
