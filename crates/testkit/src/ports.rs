//! Ports of 127.0.0.1 for programs that must be told one, and knowledge of who listens there.
//!
//! Ports that the kernel gives for the asking are those of every connection on the machine, too: one that was just free
//! may be somebody else's a moment later. These come from below that range, and whoever starts a server looks whether it
//! is that server which listens.

use std::fs;
use std::net::TcpListener;
use std::process::Child;
use std::time::Duration;

use crate::process::until;

/// The lowest port that is given.
const LOWEST: u16 = 10_000;
/// Ports that are tried for one server.
const ATTEMPTS: usize = 20;
/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(120);

/// A port that nobody listens on, and that nobody gets by chance.
#[track_caller]
pub fn free_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_of_all = range.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(32_768);
    let below = first_of_all.max(LOWEST + 1000);
    for _ in 0..1000 {
        let port = LOWEST + random() % (below - LOWEST);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {LOWEST} to {below} is free");
}

/// Random enough to keep tests apart.
fn random() -> u16 {
    use std::hash::{BuildHasher as _, RandomState};
    (RandomState::new().hash_one(0) >> 16) as u16
}

/// Starts a server that is told its port, again with another one when somebody else was faster. `start` is given the port.
#[track_caller]
pub fn serve(mut start: impl FnMut(u16) -> Child) -> (Child, u16) {
    for _ in 0..ATTEMPTS {
        let port = free_port();
        let mut child = start(port);
        let mut ended = false;
        let listens = until(PATIENCE, || {
            ended = child.try_wait().expect("own child").is_some();
            ended || listens(child.id(), port)
        });
        if listens && !ended {
            return (child, port);
        }
        let _ = child.kill();
        let _ = child.wait();
        assert!(ended, "the server does not listen at port {port}");
    }
    panic!("the server ends as soon as it is started");
}

/// Whether this very process listens at the port.
pub fn listens(pid: u32, port: u16) -> bool {
    /// The state of a socket that listens, in the kernel's tables.
    const LISTENS: &str = "0A";
    let end = format!(":{port:04X}");
    let tables = ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines()).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = lines.filter(|words| words.len() > 9 && words[3] == LISTENS && words[1].ends_with(&end));
    let sockets: Vec<String> = listening.map(|words| format!("socket:[{}]", words[9])).collect();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = open.filter_map(|fd| fd.path().read_link().ok());
    targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_known_by_its_process() {
        let port = free_port();
        assert!(!listens(std::process::id(), port));
        let _listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(listens(std::process::id(), port));
        assert!(!listens(1, port));
    }
}
