//! What a path of a step means where `/proc` and `/sys` are those of the surrounding container.

use rustix::io::Errno;
use std::path::PathBuf;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Something of a process: `below` its directory in `/proc`.
    Process { who: Who, below: String },
    /// The path as it is, which belongs to no process.
    Common(PathBuf),
}

/// Whose directory in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// `self`
    Caller,
    /// `thread-self`
    Thread,
    Number(u32),
}

/// Links of `/proc` that say where they lead by who reads them.
const LINKS: [&str; 4] = ["self", "thread-self", "mounts", "net"];

/// Entries of a process's directory that lead to where its files are. What lies beyond them is the step's own affair: it has
/// paths of its own for that, and links there are to be followed below its root.
const DOORS: [&str; 5] = ["root", "cwd", "exe", "fd", "map_files"];

/// Whether a path may be one that is lent, by its beginning.
pub(super) fn may_be_lent(path: &[u8]) -> bool {
    [&b"/proc"[..], b"/sys", b"/dev/"].iter().any(|start| path.starts_with(start)) || path.starts_with(b"//")
}

impl Wanted {
    /// None: the path is of the step's own files. `follow`: whether a link in the end is followed.
    pub(super) fn of(path: &[u8], follow: bool) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?.strip_prefix('/')?;
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") {
            return None;
        }
        let process = |who, below: &[&str]| Some(Self::Process { who, below: below.join("/") });
        match parts.as_slice() {
            ["proc", link] if LINKS.contains(link) && !follow => Some(Self::Common(["/proc", link].iter().collect())),
            ["proc", "self", below @ ..] => process(Who::Caller, below),
            ["proc", "thread-self", below @ ..] => process(Who::Thread, below),
            ["proc", link @ ("mounts" | "net"), below @ ..] => process(Who::Caller, &[&[*link], below].concat()),
            ["proc", number, below @ ..] if number.bytes().all(|b| b.is_ascii_digit()) => {
                process(Who::Number(number.parse().ok()?), below)
            }
            ["proc" | "sys", ..] => Some(Self::Common(["/"].iter().chain(&parts).collect())),
            ["dev", "fd", below @ ..] if follow || !below.is_empty() => {
                process(Who::Caller, &[&["fd"], below].concat())
            }
            ["dev", "stdin"] if follow => process(Who::Caller, &["fd/0"]),
            ["dev", "stdout"] if follow => process(Who::Caller, &["fd/1"]),
            ["dev", "stderr"] if follow => process(Who::Caller, &["fd/2"]),
            _ => None,
        }
    }
}

/// Whether what is below a process's directory lies behind one of its [doors](DOORS).
pub(super) fn is_beyond(below: &str) -> bool {
    let mut parts = below.split('/');
    let first = match parts.next() {
        Some("task") => parts.nth(1),
        first => first,
    };
    let Some(door) = first.filter(|part| DOORS.contains(part)) else { return false };
    parts.count() > usize::from(matches!(door, "fd" | "map_files"))
}

/// A path that a link of `/proc` gives, as the step knows it: `root` is where its own root is for the builder.
pub(super) fn seen_from_within<'a>(target: &'a [u8], root: &[u8]) -> &'a [u8] {
    match target.strip_prefix(root) {
        Some([]) => b"/",
        Some(below) if below[0] == b'/' => below,
        _ => target,
    }
}

/// Refuses to open for writing what belongs to all.
pub(super) fn may_open(wanted: &Wanted, flags: rustix::fs::OFlags) -> Result<(), Errno> {
    let writes = flags.intersects(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::TRUNC);
    if writes && matches!(wanted, Wanted::Common(_)) { Err(Errno::ACCESS) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_what_is_wanted() {
        let text = |path: &str, follow| match Wanted::of(path.as_bytes(), follow) {
            None => "-".to_owned(),
            Some(Wanted::Common(path)) => path.display().to_string(),
            Some(Wanted::Process { who, below }) => format!("{who:?} {below}"),
        };
        for (path, followed, itself) in [
            ("/proc", "/proc", "/proc"),
            ("//proc/./", "/proc", "/proc"),
            ("/proc/cpuinfo", "/proc/cpuinfo", "/proc/cpuinfo"),
            ("/proc/sys/vm/overcommit_memory", "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/overcommit_memory"),
            ("/proc/self", "Caller ", "/proc/self"),
            ("/proc/self/exe", "Caller exe", "Caller exe"),
            ("/proc/thread-self/comm", "Thread comm", "Thread comm"),
            ("/proc/mounts", "Caller mounts", "/proc/mounts"),
            ("/proc/net/tcp", "Caller net/tcp", "Caller net/tcp"),
            ("/proc/17/stat", "Number(17) stat", "Number(17) stat"),
            ("/proc/self/../1", "-", "-"),
            ("/procedure", "-", "-"),
            ("/sys/devices/system/cpu/online", "/sys/devices/system/cpu/online", "/sys/devices/system/cpu/online"),
            ("/dev/fd", "Caller fd", "-"),
            ("/dev/fd/63", "Caller fd/63", "Caller fd/63"),
            ("/dev/stdout", "Caller fd/1", "-"),
            ("/dev/null", "-", "-"),
            ("/etc/passwd", "-", "-"),
            ("proc/self", "-", "-"),
        ] {
            assert_eq!((text(path, true).as_str(), text(path, false).as_str()), (followed, itself), "{path}");
            assert!(followed == "-" || may_be_lent(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn doors_lead_no_further_than_their_threshold() {
        for (below, beyond) in [
            ("", false),
            ("exe", false),
            ("root", false),
            ("root/etc/passwd", true),
            ("cwd/x", true),
            ("fd", false),
            ("fd/3", false),
            ("fd/3/x", true),
            ("task/7/root", false),
            ("task/7/root/x", true),
            ("task/7/comm", false),
            ("net/tcp", false),
        ] {
            assert_eq!(is_beyond(below), beyond, "{below}");
        }
    }

    #[test]
    fn links_are_told_as_the_step_knows_them() {
        for (target, seen) in
            [("/r/oot", "/"), ("/r/oot/bin/sh", "/bin/sh"), ("/r/ootlet", "/r/ootlet"), ("pipe:[1]", "pipe:[1]")]
        {
            assert_eq!(seen_from_within(target.as_bytes(), b"/r/oot"), seen.as_bytes());
        }
    }
}
