//! Network namespaces without a name.

use crate::error::{Error, Result};
use crate::raw;
use rustix::fs::{CWD, Mode, OFlags};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// A network namespace, held by a descriptor. It ends with the last clone and the last process in it.
#[derive(Debug, Clone)]
pub struct NetworkNamespace(Arc<OwnedFd>);

impl PartialEq for NetworkNamespace {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for NetworkNamespace {}

impl NetworkNamespace {
    /// A new one with nothing but a loopback interface, which is up. Blocking.
    ///
    /// # Errors
    /// The privilege to make namespaces is missing.
    pub fn new() -> Result<Self> {
        on_thread(|| {
            raw::unshare(libc::CLONE_NEWNET)?;
            raw::loopback_up()?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(CWD, c"/proc/thread-self/ns/net", flags, Mode::empty())?)
        })
        .map(|fd| Self(Arc::new(fd)))
        .map_err(Error::setup("make a network namespace"))
    }

    /// Does something inside. Blocking; on a thread of its own, since a thread is in one namespace at a time.
    ///
    /// # Errors
    /// Those of `work`, and when the namespace can't be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            raw::setns(self.0.as_fd(), libc::CLONE_NEWNET)?;
            work()
        })
    }

    /// A socket of the builder's that takes connections made inside, to a loopback address. Blocking.
    ///
    /// # Errors
    /// The namespace can't be entered, or has no loopback interface.
    pub fn listen(&self) -> io::Result<TcpListener> {
        self.within(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
    }

    /// A path by which other programs of this machine can enter it, as long as `self` lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    pub(crate) fn fd(&self) -> Arc<OwnedFd> {
        self.0.clone()
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("network-namespace".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread in a network namespace ended abnormally")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    #[test]
    fn a_namespace_is_apart_and_reachable_through_a_socket() {
        let (one, other) = (NetworkNamespace::new().unwrap(), NetworkNamespace::new().unwrap());
        let listener = one.listen().unwrap();
        let address = listener.local_addr().unwrap();
        assert!(other.within(|| TcpStream::connect(address)).is_err());
        assert!(TcpStream::connect(address).is_err(), "not the host's loopback");
        let mut inside = one.within(|| TcpStream::connect(address)).unwrap();
        inside.write_all(b"x").unwrap();
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        let names = one.within(|| std::fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
        assert_eq!(names.lines().skip(2).count(), 1, "{names}");
    }
}
