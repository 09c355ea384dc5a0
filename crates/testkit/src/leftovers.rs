//! Proof that builds leave nothing running, mounted or grouped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Mounts of this machine's name space below a directory.
pub fn mounts_below(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let dir = dir.to_str().expect("a path of ours");
    let at = |line: &&str| line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(dir));
    table.lines().filter(at).map(str::to_owned).collect()
}

/// Every living process whose ancestor is `pid`, with its command line.
pub fn descendants(pid: u32) -> BTreeMap<u32, String> {
    let parents: Vec<(u32, u32)> = processes().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = BTreeMap::new();
    let mut wanted = vec![pid];
    while let Some(next) = wanted.pop() {
        for (child, _) in parents.iter().filter(|(_, parent)| *parent == next) {
            found.insert(*child, command_line(*child));
            wanted.push(*child);
        }
    }
    found
}

/// Processes whose command line has a word, wherever they hang.
pub fn processes_with(word: &str) -> Vec<u32> {
    processes().into_iter().filter(|pid| command_line(*pid).split(' ').any(|one| one == word)).collect()
}

/// Control groups of this name that have others below, in any hierarchy.
pub fn groups_below(name: &str) -> Vec<PathBuf> {
    let below = |dir: &PathBuf| {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.path()).collect::<Vec<_>>()
    };
    groups(name).iter().flat_map(below).collect()
}

/// What a process holds, as the kernel counts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// Open file descriptors.
    pub files: usize,
    /// Mounts in its mount namespace.
    pub mounts: usize,
    /// Processes below it.
    pub processes: usize,
}

impl Holdings {
    /// Those of a process that the test started.
    pub fn of(pid: u32) -> Self {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_or(0, |table| table.lines().count());
        Self { files, mounts, processes: descendants(pid).len() }
    }
}

/// The memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    stat.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default()
        * rustix::param::page_size() as u64
}

/// Takes empty groups of this name away.
pub fn remove_groups(name: &str) {
    for dir in groups(name) {
        let _ = fs::remove_dir(dir);
    }
}

fn groups(name: &str) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let cgroup = |line: &&str| line.split(" - ").nth(1).is_some_and(|right| right.starts_with("cgroup"));
    let roots = table.lines().filter(cgroup).filter_map(|line| line.split(' ').nth(4));
    roots.map(|root| Path::new(root).join(name)).filter(|dir| dir.is_dir()).collect()
}

fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The parent of a process that is not a zombie.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    fields.next()?.parse().ok().filter(|_| state != "Z")
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
