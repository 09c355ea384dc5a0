//! Becoming root in a user namespace: how an ordinary user, or a root without privileges, gets at namespaces.
//!
//! The kernel lets a process without threads move into a new user namespace. Which users and groups exist in there is
//! written by somebody outside, by a copy of this program that stays there. It writes that every user is who it was before
//! when it may: a root without privileges, as in most containers. For others it calls `newuidmap` and `newgidmap`,
//! programs that know what an administrator has set aside for a user in `/etc/subuid` and `/etc/subgid`.

use crate::error::{Error, Result};
use crate::{Level, raw};
use rustix::thread::CapabilitySet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Called by this name, the program writes the maps of another; see [`map_ids_from_outside`].
pub const MAPPER: &str = "cooper-idmap";

/// The inode of the machine's first user namespace (`PROC_USER_INIT_INO` of the kernel).
const FIRST: u64 = 0xEFFF_FFFD;
/// What it takes to write a map that has root in it (user_namespaces(7)).
const MAPPING: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::SETFCAP);

static ENTERED: OnceLock<u32> = OnceLock::new();
static REFUSAL: Mutex<Option<String>> = Mutex::new(None);

/// Whether this process is in a user namespace other than the machine's first.
pub fn inside() -> bool {
    fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() != FIRST)
}

/// Who this process was before [`enter`] moved it; `None` when it didn't.
pub fn entered() -> Option<u32> {
    ENTERED.get().copied()
}

/// Why [`enter`] couldn't.
pub(crate) fn refusal() -> Option<String> {
    REFUSAL.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// How many users this process can tell apart: one when nothing was set aside for it.
pub fn single_id() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let count = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
        count.sum::<u64>() == 1
    })
}

/// Whether the kernel lets this process choose groups.
pub(crate) fn may_set_groups() -> bool {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    let look = || !fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
    *ALLOWED.get_or_init(look)
}

/// Moves this process into a user namespace (and a mount namespace) of its own when it lacks the privilege to make other
/// namespaces and can get it that way, or when that is `wanted`. Must be called before any thread is started. What stands
/// in the way is told by the report of the [probe](crate::probe).
pub fn enter(wanted: Option<Level>) {
    let move_in = match wanted {
        Some(wanted) => wanted == Level::UserNamespace,
        None => !effective().contains(CapabilitySet::SYS_ADMIN),
    };
    if !move_in {
        return;
    }
    let uid = rustix::process::geteuid().as_raw();
    match try_enter(uid) {
        Ok(()) => drop(ENTERED.set(uid)),
        Err(error) => *REFUSAL.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string()),
    }
}

fn effective() -> CapabilitySet {
    rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |own| own.effective)
}

fn try_enter(uid: u32) -> Result<()> {
    let gid = rustix::process::getegid().as_raw();
    // Started now: once inside, nobody is left outside.
    let mapper = Command::new("/proc/self/exe")
        .arg0(MAPPER)
        .args([std::process::id(), uid, gid].map(|n| n.to_string()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut mapper = mapper.map_err(Error::setup("start the program that maps users"))?;
    let moved = raw::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS);
    if let Err(error) = moved {
        drop(mapper.stdin.take());
        let _ = mapper.wait();
        let advice = match error.raw_os_error() {
            Some(libc::EPERM) => {
                "make a user namespace (forbidden by a system call filter, by AppArmor or by the kernel's settings)"
            }
            Some(libc::ENOSPC) => "make a user namespace (user.max_user_namespaces is used up)",
            _ => "make a user namespace",
        };
        return Err(Error::setup(advice)(error));
    }
    if let Some(mut stdin) = mapper.stdin.take() {
        let _ = stdin.write_all(b"\n"); // one that has ended says why below
    }
    let mut said = String::new();
    if let Some(mut stdout) = mapper.stdout.take() {
        let _ = stdout.read_to_string(&mut said);
    }
    let mapped = mapper.wait().is_ok_and(|status| status.success());
    if !mapped {
        // Only the user itself exists then; steps that need another fail.
        map_oneself(uid, gid).map_err(Error::setup(format!("map users ({})", said.trim())))?;
    }
    // Nothing mounted from now on is seen outside.
    rustix::mount::mount_change(
        c"/",
        rustix::mount::MountPropagationFlags::DOWNSTREAM | rustix::mount::MountPropagationFlags::REC,
    )
    .map_err(|e| Error::setup("separate the mounts")(e.into()))
}

fn map_oneself(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// The other side of [`enter`]: waits for a line on standard input, then maps the users and groups of a process, or lets
/// `newuidmap` and `newgidmap` do so. `args` are its id, its user and its group.
///
/// # Errors
/// This process may not map users itself, and nothing is set aside for the user, or a program is missing or refuses.
pub fn map_ids_from_outside(args: &[String]) -> Result<()> {
    let number = |n: usize| args.get(n).and_then(|arg| arg.parse::<u32>().ok());
    let (Some(pid), Some(uid), Some(gid)) = (number(0), number(1), number(2)) else {
        return Err(Error::Invalid(format!("{MAPPER} wants a process, a user and a group")));
    };
    let mut line = [0];
    if io::stdin().read(&mut line).unwrap_or(0) == 0 {
        return Err(Error::Lost("it was not moved".into()));
    }
    if effective().contains(MAPPING) && keep_ids(pid).is_ok() {
        return Ok(());
    }
    let name = user_name(uid);
    for (program, file, own) in [("newuidmap", "/etc/subuid", uid), ("newgidmap", "/etc/subgid", gid)] {
        let text = fs::read_to_string(file).map_err(Error::setup(format!("read {file}")))?;
        let ranges = ranges(&text, uid, name.as_deref());
        if ranges.is_empty() {
            return Err(Error::Invalid(format!("{file} sets nothing aside for user {uid}")));
        }
        let mut command = Command::new(program);
        command.arg(pid.to_string());
        for (inside, outside, count) in map(own, &ranges) {
            command.args([inside, outside, count].map(|n| n.to_string()));
        }
        let output = command.output().map_err(Error::setup(format!("run {program}")))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::setup(format!("run {program}"))(io::Error::other(said)));
        }
    }
    Ok(())
}

/// Gives everybody who exists here the same number in the namespace of a process.
fn keep_ids(pid: u32) -> io::Result<()> {
    for file in ["uid_map", "gid_map"] {
        let map = identity(&fs::read_to_string(format!("/proc/self/{file}"))?);
        // The kernel takes a map in one piece only.
        fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/{file}"))?.write_all(map.as_bytes())?;
    }
    Ok(())
}

/// The map of a namespace within one that has the map `own`, in which nobody changes.
fn identity(own: &str) -> String {
    let ranges = own.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.nth(1)?))
    });
    ranges.map(|(first, count)| format!("{first} {first} {count}\n")).collect()
}

fn user_name(uid: u32) -> Option<String> {
    let text = fs::read_to_string("/etc/passwd").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// First id and count of what is set aside for a user, who stands there by name or number.
fn ranges(text: &str, uid: u32, name: Option<&str>) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let who = fields.next()?;
        if who != number && Some(who) != name {
            return None;
        }
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0).then_some((first, count))
    };
    text.lines().filter_map(line).collect()
}

/// Oneself as 0, and what is set aside from 1 on.
fn map(own: u32, ranges: &[(u32, u32)]) -> Vec<(u32, u32, u32)> {
    let mut next = 1;
    let mut map = vec![(0, own, 1)];
    for (first, count) in ranges {
        map.push((next, *first, *count));
        next += count;
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside() {
        let text = "root:100000:65536\nann:200000:1000\n1001:300000:10\nann:400000:5\nbad\nann:x:1\n";
        let cases = [
            (0, Some("root"), vec![(100_000, 65_536)]),
            (1000, Some("ann"), vec![(200_000, 1000), (400_000, 5)]),
            (1001, None, vec![(300_000, 10)]),
            (7, Some("bob"), vec![]),
        ];
        for (uid, name, expected) in cases {
            assert_eq!(ranges(text, uid, name), expected, "{uid} {name:?}");
        }
        assert_eq!(identity("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(identity("0 100000 1000\n1000 500000 5\n"), "0 0 1000\n1000 1000 5\n");
        assert_eq!(map(1000, &[(200_000, 1000), (400_000, 5)]), [(0, 1000, 1), (1, 200_000, 1000), (1001, 400_000, 5)]);
    }
}
