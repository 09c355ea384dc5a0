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
    /// The terminal of this number; none: a new one.
    Terminal(Option<u32>),
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

/// Entries of a process's directory that lead to where its files are. Beyond them is what the step has by paths of its own,
/// too: links there lead below its root.
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
            ["dev", "ptmx"] | ["dev", "pts", "ptmx"] => Some(Self::Terminal(None)),
            ["dev", "pts", number] => Some(Self::Terminal(Some(number.parse().ok()?))),
            ["dev", "stdin"] if follow => process(Who::Caller, &["fd/0"]),
            ["dev", "stdout"] if follow => process(Who::Caller, &["fd/1"]),
            ["dev", "stderr"] if follow => process(Who::Caller, &["fd/2"]),
            _ => None,
        }
    }
}

/// The [door](DOORS) in what is below a process's directory, and what lies beyond it.
pub(super) fn door(below: &str) -> Option<(&str, &str)> {
    let first = |text: &str, from: usize| text[from..].find('/').map_or(text.len(), |end| from + end);
    let begin = match below.strip_prefix("task/") {
        Some(_) => first(below, "task/".len()) + 1,
        None => 0,
    };
    let mut end = first(below, begin.min(below.len()));
    let name = below.get(begin..end).filter(|name| DOORS.contains(name))?;
    if matches!(name, "fd" | "map_files") {
        // Each of these is a directory of doors.
        below.get(end + 1..).filter(|rest| !rest.is_empty())?;
        end = first(below, end + 1);
    }
    Some((&below[..end], below[end..].trim_start_matches('/')))
}

/// A path that a link of `/proc` gives, as the step knows it: `root` is where its own root is for the builder. None: it has no
/// path below that.
pub(super) fn seen_from_within<'a>(target: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    match target.strip_prefix(root) {
        Some([]) => Some(b"/"),
        Some(below) if below[0] == b'/' => Some(below),
        _ => None,
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
            Some(Wanted::Terminal(number)) => format!("{number:?}"),
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
            ("/dev/ptmx", "None", "None"),
            ("/dev/pts/ptmx", "None", "None"),
            ("/dev/pts/3", "Some(3)", "Some(3)"),
            ("/dev/pts", "-", "-"),
            ("/dev/null", "-", "-"),
            ("/etc/passwd", "-", "-"),
            ("proc/self", "-", "-"),
        ] {
            assert_eq!((text(path, true).as_str(), text(path, false).as_str()), (followed, itself), "{path}");
            assert!(followed == "-" || may_be_lent(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn doors_are_told_from_what_lies_beyond() {
        for (below, parts) in [
            ("", None),
            ("comm", None),
            ("exe", Some(("exe", ""))),
            ("root", Some(("root", ""))),
            ("root/etc/passwd", Some(("root", "etc/passwd"))),
            ("cwd/x", Some(("cwd", "x"))),
            ("fd", None),
            ("fd/", None),
            ("fd/3", Some(("fd/3", ""))),
            ("fd/3/x/y", Some(("fd/3", "x/y"))),
            ("task", None),
            ("task/7", None),
            ("task/7/root", Some(("task/7/root", ""))),
            ("task/7/fd/3/x", Some(("task/7/fd/3", "x"))),
            ("task/7/comm", None),
            ("net/tcp", None),
        ] {
            assert_eq!(door(below), parts, "{below}");
        }
    }

    #[test]
    fn links_are_told_as_the_step_knows_them() {
        for (target, seen) in
            [("/r/oot", Some("/")), ("/r/oot/bin/sh", Some("/bin/sh")), ("/r/ootlet", None), ("pipe:[1]", None)]
        {
            assert_eq!(seen_from_within(target.as_bytes(), b"/r/oot"), seen.map(str::as_bytes));
        }
    }
}
