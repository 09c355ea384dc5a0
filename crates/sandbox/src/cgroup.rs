//! Control groups: limits, statistics and a grip on every process of a container, as far as the machine has them.
//!
//! Whatever is missing (no cgroups, a read-only hierarchy, a controller that isn't delegated) costs the container only
//! what was asked of it, and that is said in a warning.

use crate::{ResourceUsage, Resources};
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Where containers go that name no parent.
const DEFAULT_PARENT: &str = "cooper";

/// Controllers that limits or statistics need.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// Controllers of version 1 that only a step without restrictions gets to see.
const OTHERS: [&str; 10] =
    ["cpuacct", "devices", "freezer", "hugetlb", "misc", "net_cls", "net_prio", "perf_event", "rdma", "name=systemd"];

/// The group in which a runtime program puts what it runs, below the container's own.
pub(crate) const INNER: &str = "step";

/// What is mounted on this machine.
#[derive(Debug, Default)]
pub(crate) struct Hierarchies {
    /// The cgroup2 file system, when it is the one with the controllers.
    unified: Option<PathBuf>,
    /// Mount points of version 1 by controller.
    legacy: BTreeMap<String, PathBuf>,
    /// The same for controllers that nothing here needs.
    others: BTreeMap<String, PathBuf>,
    /// The cgroup2 file system, when version 1 has the controllers.
    beside: Option<PathBuf>,
}

/// How often, and how far apart, the group of an ended builder is tried to be removed at the start.
const STALE_ATTEMPTS: usize = 50;
const STALE_PAUSE: Duration = Duration::from_millis(10);

/// Which groups a container gets where each controller has a hierarchy of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Those that its limits and its parent ask for.
    Needed,
    /// All: the container is to see and change them, or a runtime program makes groups of its own below them.
    All,
}

impl Hierarchies {
    /// Looks at the mounts of this process.
    pub(crate) fn detect() -> Self {
        fs::read_to_string("/proc/self/mountinfo").map_or_else(|_| Self::default(), |text| Self::parse(&text))
    }

    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(at), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
            match right.next() {
                Some("cgroup2") => found.unified = Some(PathBuf::from(at)),
                Some("cgroup") => {
                    for option in right.next_back().unwrap_or_default().split(',') {
                        let name = if option == "blkio" { "io" } else { option };
                        if CONTROLLERS.contains(&name) {
                            found.legacy.insert(name.to_owned(), PathBuf::from(at));
                        } else if OTHERS.contains(&name) {
                            found.others.insert(name.to_owned(), PathBuf::from(at));
                        }
                    }
                }
                _ => {}
            }
        }
        // In a hybrid setup version 1 has the controllers and the other is only there to group processes.
        if !found.legacy.is_empty() {
            found.beside = found.unified.take();
        }
        found
    }

    /// Where the cgroup2 file system is mounted that has no say, because version 1 has the controllers.
    pub(crate) fn beside(&self) -> Option<&Path> {
        self.beside.as_deref()
    }

    /// Whether containers see a cgroup2 hierarchy.
    pub(crate) fn unified(&self) -> bool {
        self.unified.is_some()
    }

    /// Makes the container's group. `parent` is a path from the root of the hierarchy, or `slice:prefix:name`. What is
    /// about to be made is written to `note` first, so that a later builder finds it if this one is killed.
    ///
    /// With version 1, where joining a group is slow, only when something needs it.
    pub(crate) fn create(
        &self,
        parent: Option<&str>,
        id: &str,
        limits: &Resources,
        extent: Extent,
        note: &Path,
    ) -> (Option<Cgroup>, Vec<String>) {
        let path = match relative(parent, id) {
            Ok(path) => path,
            Err(warning) => return (None, vec![warning]),
        };
        let mut warnings = Vec::new();
        let wanted = parent.is_some() || *limits != Resources::default();
        let roots = self.roots(parent.is_some(), limits, extent);
        if !roots.is_empty() {
            let dirs: Vec<_> = roots.iter().map(|(_, root)| root.join(&path).display().to_string()).collect();
            if let Err(error) = fs::write(note, dirs.join("\n")) {
                tracing::warn!(%error, "cannot note a cgroup; it stays if this builder is killed");
            }
        }
        let mut group = Cgroup { path: path.clone(), ..Cgroup::default() };
        for (controller, root) in roots {
            let made = match controller {
                None => make_unified(root, &path).map(|dir| group.unified = Some(dir)),
                Some(name) => make_legacy(root, &path, name == "cpuset").map(|dir| {
                    let hierarchy = root.file_name().unwrap_or_default().to_owned();
                    group.legacy.push(Legacy { controller: name.to_owned(), hierarchy, dir });
                }),
            };
            if let Err(e) = made
                && wanted
            {
                warnings.push(format!("no cgroup for the step: {}: {e}", root.join(&path).display()));
            }
        }
        for setting in settings(limits) {
            if let Err(e) = group.apply(&setting) {
                warnings.push(format!("limit {} is not imposed: {e}", setting.what));
            }
        }
        let none = group.unified.is_none() && group.legacy.is_empty();
        ((!none).then_some(group), warnings)
    }

    /// The hierarchies that a container gets a group in, those of version 1 with their controller.
    fn roots(&self, parent: bool, limits: &Resources, extent: Extent) -> Vec<(Option<&str>, &Path)> {
        if let Some(root) = &self.unified {
            return vec![(None, root)];
        }
        let all = extent == Extent::All;
        let legacy = self.legacy.iter().filter(|(controller, _)| all || parent || needs(limits, controller));
        let legacy = legacy.chain(self.others.iter().filter(|_| all));
        legacy.map(|(controller, root)| (Some(controller.as_str()), root.as_path())).collect()
    }
}

/// Path below the root of a hierarchy. Nothing in it leads upwards.
fn relative(parent: Option<&str>, id: &str) -> Result<PathBuf, String> {
    let parent = parent.filter(|p| !p.is_empty()).unwrap_or(DEFAULT_PARENT);
    let path = match parent.split(':').collect::<Vec<_>>()[..] {
        // As systemd names a scope below a slice: a-b.slice lies in a.slice.
        [slice, prefix, name] => {
            let scope =
                if prefix.is_empty() { format!("{name}-{id}.scope") } else { format!("{prefix}-{name}-{id}.scope") };
            slice_path(slice).join(scope)
        }
        _ => Path::new(parent.trim_start_matches('/')).join(id),
    };
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    if plain { Ok(path) } else { Err(format!("cgroup parent {parent:?} is not a plain path")) }
}

fn slice_path(slice: &str) -> PathBuf {
    let Some(name) = slice.strip_suffix(".slice") else { return PathBuf::from(slice) };
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect()
}

/// Makes the directory with its parents, each handing down every controller that it has and that we use.
fn make_unified(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut dir = root.to_owned();
    for part in path.components() {
        let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
        for controller in CONTROLLERS {
            let has = |list: &str| list.split_whitespace().any(|c| c == controller);
            if has(&available) && !has(&enabled) {
                // Refused where processes live in the directory itself; missing limits are reported later.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
        dir.push(part);
        make_dir(&dir)?;
    }
    Ok(dir)
}

/// Makes the directory with its parents. A new cpuset is empty, and can't be joined until it is filled.
fn make_legacy(root: &Path, path: &Path, cpuset: bool) -> io::Result<PathBuf> {
    let mut dir = root.to_owned();
    for part in path.components() {
        let above = dir.clone();
        dir.push(part);
        make_dir(&dir)?;
        if cpuset {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                    fs::write(dir.join(file), fs::read_to_string(above.join(file))?.trim())?;
                }
            }
        }
    }
    Ok(dir)
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// One limit, as each version writes it.
struct Setting {
    what: &'static str,
    controller: &'static str,
    unified: (&'static str, String),
    legacy: (&'static str, String),
}

fn settings(limits: &Resources) -> Vec<Setting> {
    let mut list = Vec::new();
    let mut add = |what, controller, unified: (&'static str, String), legacy: (&'static str, String)| {
        list.push(Setting { what, controller, unified, legacy });
    };
    if let Some(bytes) = limits.memory {
        add("memory", "memory", ("memory.max", bytes.to_string()), ("memory.limit_in_bytes", bytes.to_string()));
    }
    if let Some(total) = limits.memory_swap {
        // Version 2 counts swap by itself, version 1 together with memory.
        let swap = u64::try_from(total).map(|t| t.saturating_sub(limits.memory.unwrap_or(0)).to_string());
        add(
            "memory-swap",
            "memory",
            ("memory.swap.max", swap.unwrap_or_else(|_| "max".to_owned())),
            ("memory.memsw.limit_in_bytes", total.to_string()),
        );
    }
    if let Some(shares) = limits.cpu_shares {
        // 2..=262144 onto 1..=10000, as runtimes do.
        let weight = 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142;
        add("cpu-shares", "cpu", ("cpu.weight", weight.to_string()), ("cpu.shares", shares.to_string()));
    }
    if limits.cpu_period.is_some() || limits.cpu_quota.is_some() {
        let period = limits.cpu_period.unwrap_or(100_000);
        let quota = limits.cpu_quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
        if limits.cpu_period.is_some() {
            let max = ("cpu.max", format!("{quota} {period}"));
            add("cpu-period", "cpu", max, ("cpu.cfs_period_us", period.to_string()));
        }
        if let Some(raw) = limits.cpu_quota {
            let max = ("cpu.max", format!("{quota} {period}"));
            add("cpu-quota", "cpu", max, ("cpu.cfs_quota_us", raw.to_string()));
        }
    }
    for (what, file, value) in
        [("cpuset-cpus", "cpuset.cpus", &limits.cpuset_cpus), ("cpuset-mems", "cpuset.mems", &limits.cpuset_mems)]
    {
        if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
            add(what, "cpuset", (file, value.clone()), (file, value.clone()));
        }
    }
    if let Some(pids) = limits.pids {
        add("pids", "pids", ("pids.max", pids.to_string()), ("pids.max", pids.to_string()));
    }
    list
}

fn needs(limits: &Resources, controller: &str) -> bool {
    settings(limits).iter().any(|s| s.controller == controller)
}

/// The group of one container.
#[derive(Debug, Default, Clone)]
pub(crate) struct Cgroup {
    /// Below the root of every hierarchy.
    path: PathBuf,
    unified: Option<PathBuf>,
    legacy: Vec<Legacy>,
}

/// Takes notice of the lack of memory (`cgroup.event_control` of version 1). To be asked before the group is removed, which it
/// takes notice of as well.
#[derive(Debug)]
pub(crate) struct OomWatch(OwnedFd);

impl OomWatch {
    /// Whether it happened.
    pub(crate) fn seen(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.0, &mut count).is_ok_and(|read| read == count.len())
    }
}

/// A group of version 1.
#[derive(Debug, Clone)]
pub(crate) struct Legacy {
    controller: String,
    /// The name of the directory where the hierarchy is mounted.
    pub(crate) hierarchy: std::ffi::OsString,
    pub(crate) dir: PathBuf,
}

impl Cgroup {
    fn apply(&self, setting: &Setting) -> io::Result<()> {
        let legacy = self.legacy.iter().find(|group| group.controller == setting.controller);
        let (dir, (file, value)) = match (&self.unified, legacy) {
            (Some(dir), _) => (dir, &setting.unified),
            (None, Some(group)) => (&group.dir, &setting.legacy),
            (None, None) => {
                let why = format!("this machine offers no {} controller", setting.controller);
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
        };
        let path = dir.join(file);
        // Without O_CREAT: a missing file must not become a strange "permission denied".
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| io::Write::write_all(&mut f, value.as_bytes()))
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// Every directory of the group.
    pub(crate) fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.unified.iter().chain(self.legacy.iter().map(|group| &group.dir)).map(PathBuf::as_path)
    }

    /// The group that a runtime program is to make, as a path from the root of each hierarchy.
    pub(crate) fn inner(&self) -> PathBuf {
        Path::new("/").join(&self.path).join(INNER)
    }

    /// From now on takes notice when memory runs out in this group or one below it, where the counts would be gone with the
    /// groups below. None: the counts stay, or nothing can be known.
    pub(crate) fn watch_oom(&self) -> Option<OomWatch> {
        let dir = self.dir_of("memory")?;
        let watch = || -> io::Result<OwnedFd> {
            let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
            let event = rustix::event::eventfd(0, flags)?;
            let control = fs::File::open(dir.join("memory.oom_control"))?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            fs::OpenOptions::new()
                .write(true)
                .open(dir.join("cgroup.event_control"))
                .and_then(|mut file| io::Write::write_all(&mut file, line.as_bytes()))?;
            Ok(event)
        };
        watch()
            .inspect_err(|error| tracing::debug!(%error, "running out of memory will not be noticed"))
            .ok()
            .map(OomWatch)
    }

    /// The groups of version 1.
    pub(crate) fn legacy(&self) -> &[Legacy] {
        &self.legacy
    }

    /// The directory in which a process can be born.
    pub(crate) fn birthplace(&self) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.unified.as_ref().map(|dir| Ok(rustix::fs::open(dir, flags, Mode::empty())?)).transpose()
    }

    /// Files to write `0` to in order to join.
    pub(crate) fn doors(&self) -> io::Result<Vec<OwnedFd>> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        self.legacy
            .iter()
            .map(|group| Ok(rustix::fs::open(group.dir.join("cgroup.procs"), flags, Mode::empty())?))
            .collect()
    }

    /// Whether the kernel has killed one of the processes for lack of memory.
    pub(crate) fn oom(&self) -> bool {
        let file = match (&self.unified, self.dir_of("memory")) {
            (Some(dir), _) => dir.join("memory.events"),
            (None, Some(dir)) => dir.join("memory.oom_control"),
            (None, None) => return false,
        };
        keyed(&file, "oom_kill").is_some_and(|count| count > 0)
    }

    fn dir_of(&self, controller: &str) -> Option<&Path> {
        self.legacy.iter().find(|group| group.controller == controller).map(|group| group.dir.as_path())
    }

    /// What the group has used so far.
    pub(crate) fn usage(&self) -> ResourceUsage {
        let mut usage = ResourceUsage::default();
        if let Some(dir) = &self.unified {
            let cpu = dir.join("cpu.stat");
            usage.cpu_user = keyed(&cpu, "user_usec").map(Duration::from_micros);
            usage.cpu_system = keyed(&cpu, "system_usec").map(Duration::from_micros);
            usage.memory_peak = number(&dir.join("memory.peak"));
            usage.pids_peak = number(&dir.join("pids.peak"));
            let io = fs::read_to_string(dir.join("io.stat")).ok();
            usage.io_read = io.as_deref().map(|text| sum(text, "rbytes="));
            usage.io_write = io.as_deref().map(|text| sum(text, "wbytes="));
        } else if let Some(dir) = self.dir_of("memory") {
            usage.memory_peak = number(&dir.join("memory.max_usage_in_bytes"));
        }
        usage
    }

    /// Ends what still runs in the group, then removes it. What can't be removed now is left for the next start.
    pub(crate) fn remove(&self) {
        for dir in self.dirs() {
            match remove_groups(dir) {
                Ok(()) => {}
                Err(error) => tracing::debug!(dir = %dir.display(), %error, "a cgroup stays until the next start"),
            }
        }
    }
}

/// Ends the processes of a group that an earlier builder left, and removes it. True when it is gone.
pub(crate) fn remove_stale(dir: &Path) -> bool {
    end_processes(dir);
    // Those that were killed, now or with their builder, may still be on their way out.
    for _ in 0..STALE_ATTEMPTS {
        match remove_groups(dir) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(STALE_PAUSE),
            other => return other.is_ok(),
        }
    }
    false
}

/// Ends everything in a group and in those below it.
fn end_processes(dir: &Path) {
    if fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        let Some(pid) = pid.parse().ok().and_then(rustix::process::Pid::from_raw) else { continue };
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            end_processes(&entry.path());
        }
    }
}

/// Removes a group with those that the container made in it. Nothing there is fine.
fn remove_groups(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        // Two controllers may share a hierarchy.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.split_once(' ').filter(|(k, _)| *k == key)?.1.trim().parse().ok())
}

fn sum(text: &str, prefix: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(prefix)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let v2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  33 31 0:30 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio\n";
        let hybrid = format!("{v1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let cases = [(v2, true, 0), (v1, false, 2), (&hybrid, false, 2), ("", false, 0)];
        for (text, unified, legacy) in cases {
            let found = Hierarchies::parse(text);
            assert_eq!((found.unified(), found.legacy.len()), (unified, legacy), "{text}");
        }
    }

    #[test]
    fn parents() {
        let cases = [
            (None, Ok("cooper/x")),
            (Some("a/b"), Ok("a/b/x")),
            (Some("/a"), Ok("a/x")),
            (Some("a-b.slice:p:n"), Ok("a.slice/a-b.slice/p-n-x.scope")),
            (Some("../a"), Err(())),
        ];
        for (parent, expected) in cases {
            let found = relative(parent, "x").map_err(|_| ());
            assert_eq!(found, expected.map(PathBuf::from), "{parent:?}");
        }
    }

    #[test]
    fn limits_in_both_versions() {
        let limits = Resources {
            memory: Some(1000),
            memory_swap: Some(1500),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            ..Resources::default()
        };
        let found: Vec<_> = settings(&limits).into_iter().map(|s| (s.unified, s.legacy)).collect();
        let expected = [
            ("memory.max", "1000", "memory.limit_in_bytes", "1000"),
            ("memory.swap.max", "500", "memory.memsw.limit_in_bytes", "1500"),
            ("cpu.weight", "39", "cpu.shares", "1024"),
            ("cpu.max", "50000 100000", "cpu.cfs_quota_us", "50000"),
        ];
        assert_eq!(found, expected.map(|(a, b, c, d)| ((a, b.to_owned()), (c, d.to_owned()))));
    }
}
