//! What the kernel knows of this process.
#![expect(clippy::cast_precision_loss, reason = "seconds since the epoch and of use, far below 2^53")]

use std::fs;

/// Figures of this process. What cannot be read is absent.
#[derive(Debug, Default)]
pub struct ProcessFigures {
    /// User and system time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Memory in use, in bytes.
    pub resident_bytes: Option<u64>,
    /// Address space, in bytes.
    pub virtual_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
    /// How many there may be.
    pub max_files: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// When it began, in seconds since the epoch.
    pub start: Option<f64>,
}

impl ProcessFigures {
    /// Reads them. Blocks on the kernel alone.
    pub fn read() -> Self {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name, the second field, may hold anything; what follows it does not.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok());
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let boot: Option<f64> = boot.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok());
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) as f64 / ticks),
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as u64),
            virtual_bytes: field(23),
            open_files: fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as u64),
            max_files: limit,
            threads: field(20),
            start: boot.zip(field(22)).map(|(boot, since)| boot + since as f64 / ticks),
        }
    }
}

/// One line per thread: id, name, state, user and system ticks, the kernel function it waits in.
pub fn threads() -> String {
    let mut out = String::from("# tid\tname\tstate\tuser\tsystem\twaits in\n");
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return out };
    for task in tasks.flatten() {
        let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        let Some((head, rest)) = stat.rsplit_once(')') else { continue };
        let (id, name) = head.split_once(" (").unwrap_or((head, ""));
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
        let wait = read("wchan");
        out.extend([id, "\t", name, "\t", field(3), "\t", field(14), "\t", field(15), "\t", &wait, "\n"]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_living_process_make_sense() {
        let figures = ProcessFigures::read();
        assert!(figures.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{figures:?}");
        assert!(figures.open_files.is_some_and(|n| n >= 3) && figures.threads.is_some_and(|n| n >= 1), "{figures:?}");
        assert!(figures.start.is_some_and(|s| s > 1.0e9) && figures.cpu_seconds.is_some(), "{figures:?}");
        assert!(threads().lines().count() >= 2);
    }
}
