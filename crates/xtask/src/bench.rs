//! `cargo xtask bench`: times whole builds with the release binary against a daemon of its own.
//!
//! Needs no registry and no base image: steps run the static program of examples/hello.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::demo::greeter;
use crate::run::{Result, release_binary, repository, target_dir};

/// Builds per figure; the median is told.
const RUNS: usize = 5;
/// `RUN` instructions of the workload `steps`.
const STEPS: u32 = 50;
/// Directories of the workload `context`, and files in each.
const CONTEXT: (usize, usize) = (400, 50);
/// Stages of the workload `graph`.
const STAGES: usize = 300;
/// Builds over which the growth of the daemon's memory is told, after as many to warm up.
const GROWTH_BUILDS: u32 = 100;

/// A Dockerfile with its context, and where the result goes.
struct Workload {
    name: &'static str,
    write: fn(&Path) -> std::io::Result<()>,
    output: Output,
}

#[derive(Clone, Copy)]
enum Output {
    /// Nowhere.
    None,
    /// An image archive.
    Archive,
    /// A cache of every step, in a directory of the client; the second build begins with that alone.
    Cache,
}

const WORKLOADS: &[Workload] = &[
    Workload { name: "steps", write: steps, output: Output::None },
    Workload { name: "context", write: context, output: Output::Archive },
    Workload { name: "copied", write: copied, output: Output::Archive },
    Workload { name: "cache", write: context, output: Output::Cache },
    Workload { name: "graph", write: graph, output: Output::None },
];

/// What tells how the daemon's memory grows.
const GROWTH: &str = "growth";

/// Times all workloads, or those that are named: from nothing, and when everything is cached.
pub fn run(names: &[String]) -> Result {
    if let Some(unknown) = names.iter().find(|name| **name != GROWTH && WORKLOADS.iter().all(|w| w.name != **name)) {
        return Err(format!("no workload is called {unknown:?}"));
    }
    let cooper = release_binary()?;
    let example = repository().join("examples/hello");
    greeter(&example)?;
    let place = target_dir().join("bench");
    fs::remove_dir_all(&place).or_else(absent).map_err(|error| format!("{}: {error}", place.display()))?;
    let daemon = Daemon::start(cooper, &place)?;
    println!("ready in {:.0} ms, idle at {} MB", millis(daemon.ready), daemon.memory("VmRSS") / 1024);
    println!("{:10} {:>10} {:>10}   medians of {RUNS} builds, in ms", "workload", "cold", "cached");
    for workload in WORKLOADS.iter().filter(|one| names.is_empty() || names.iter().any(|name| name == one.name)) {
        let dir = place.join(workload.name);
        fs::create_dir_all(&dir)
            .and_then(|()| fs::copy(example.join("greet"), dir.join("greet")))
            .and_then(|_| (workload.write)(&dir))
            .map_err(|error| format!("{}: {error}", dir.display()))?;
        let (mut cold, mut cached) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            daemon.prune()?;
            cold.push(daemon.build(&dir, workload.output, false)?);
            if matches!(workload.output, Output::Cache) {
                daemon.prune()?;
            }
            cached.push(daemon.build(&dir, workload.output, true)?);
        }
        let (cold, cached) = (median(cold), median(cached));
        let step = match workload.name {
            "steps" => format!("   {:.1} ms per step", millis(cold / STEPS)),
            _ => String::new(),
        };
        println!("{:10} {:10.0} {:10.0}{step}", workload.name, millis(cold), millis(cached));
    }
    println!("peak memory of the daemon: {} MB", daemon.memory("VmHWM") / 1024);
    if names.is_empty() || names.iter().any(|name| name == GROWTH) {
        growth(&daemon, &example)?;
    }
    Ok(())
}

/// How much memory a build leaves behind: with a new step each, and with none.
#[expect(clippy::cast_precision_loss, reason = "KiB of one process")]
fn growth(daemon: &Daemon, example: &Path) -> Result {
    let dir = daemon.place.join(GROWTH);
    let fault = |error: std::io::Error| format!("{}: {error}", dir.display());
    fs::create_dir_all(&dir).and_then(|()| fs::copy(example.join("greet"), dir.join("greet"))).map_err(fault)?;
    let build = |number: u32| {
        let text = format!("FROM scratch\nCOPY greet /greet\nRUN [\"/greet\", \"{number}\"]\n");
        fs::write(dir.join("Dockerfile"), text).map_err(fault)?;
        daemon.build(&dir, Output::None, false).map(drop)
    };
    let slope = |number: fn(u32) -> u32| {
        (0..GROWTH_BUILDS).try_for_each(|n| build(number(n)))?;
        let before = daemon.memory("RssAnon");
        (0..GROWTH_BUILDS).try_for_each(|n| build(number(GROWTH_BUILDS + n)))?;
        Ok::<_, String>((daemon.memory("RssAnon") as f64 - before as f64) / f64::from(GROWTH_BUILDS))
    };
    let (fresh, cached) = (slope(|n| n)?, slope(|_| 0)?);
    println!("memory left behind by a build: {fresh:.1} KiB with a new step, {cached:.1} KiB cached");
    Ok(())
}

fn steps(dir: &Path) -> std::io::Result<()> {
    let mut text = String::from("FROM scratch\nCOPY greet /greet\n");
    for step in 0..STEPS {
        let _ = writeln!(text, "RUN [\"/greet\", \"{step}\"]");
    }
    fs::write(dir.join("Dockerfile"), text)
}

fn context(dir: &Path) -> std::io::Result<()> {
    let mut size = 1;
    for package in 0..CONTEXT.0 {
        let lib = dir.join(format!("node_modules/pkg{package}/lib"));
        fs::create_dir_all(&lib)?;
        for file in 0..CONTEXT.1 {
            // Sizes between 200 and 6,200 bytes, the same in every run.
            size = (size * 7919 + 104_729) % 6000;
            fs::write(lib.join(format!("m{file}.js")), format!("{package} {file} ").repeat(20 + size / 10))?;
        }
    }
    fs::write(dir.join("Dockerfile"), "FROM scratch\nWORKDIR /app\nCOPY . .\nRUN [\"/app/greet\", \"all\"]\n")
}

/// A stage that copies what another has copied.
fn copied(dir: &Path) -> std::io::Result<()> {
    context(dir)?;
    fs::write(dir.join("Dockerfile"), "FROM scratch AS a\nCOPY . /src\nFROM scratch\nCOPY --from=a /src /dst\n")
}

fn graph(dir: &Path) -> std::io::Result<()> {
    let mut text = String::from("FROM scratch AS s0\nCOPY Dockerfile /f\n");
    for stage in 1..STAGES {
        let _ = writeln!(text, "FROM scratch AS s{stage}\nCOPY --from=s{} /f /f", stage - 1);
    }
    fs::write(dir.join("Dockerfile"), text)
}

/// A daemon that ends with this value.
struct Daemon {
    process: Child,
    cooper: PathBuf,
    place: PathBuf,
    ready: Duration,
}

impl Daemon {
    fn start(cooper: PathBuf, place: &Path) -> Result<Self> {
        let fault = |error: std::io::Error| format!("cannot start the daemon: {error}");
        fs::create_dir_all(place).map_err(fault)?;
        let log = fs::File::create(place.join("daemon.log")).map_err(fault)?;
        let started = Instant::now();
        let process = Command::new(&cooper)
            .args(["daemon", "--oci-worker-gc=false", "--root"])
            .arg(place.join("state"))
            .arg("--addr")
            .arg(address(place))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(fault)?;
        let mut daemon = Self { process, cooper, place: place.to_owned(), ready: Duration::ZERO };
        let socket = place.join("d.sock");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            let ended = daemon.process.try_wait().map_err(fault)?;
            if let Some(status) = ended {
                return Err(format!("the daemon ended: {status}; see {}", place.join("daemon.log").display()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        daemon.ready = started.elapsed();
        Ok(daemon)
    }

    fn client(&self) -> Command {
        let mut command = Command::new(&self.cooper);
        command.arg("--addr").arg(address(&self.place)).stdin(Stdio::null());
        command
    }

    fn prune(&self) -> Result {
        self.quietly(self.client().args(["prune", "--all"]))
    }

    /// Builds; `again` when the result, or the cache of it, is there from an earlier build.
    fn build(&self, dir: &Path, output: Output, again: bool) -> Result<Duration> {
        let mut command = self.client();
        command.arg("build").arg(dir).args(["--progress", "plain", "--output"]);
        match output {
            Output::Archive => command.arg(format!("type=oci,dest={}", self.place.join("out.tar").display())),
            Output::None | Output::Cache => command.arg("type=cacheonly"),
        };
        if let Output::Cache = output {
            let cache = self.place.join("cache");
            let (flag, value) = if again {
                ("--cache-from", format!("type=local,src={}", cache.display()))
            } else {
                fs::remove_dir_all(&cache).or_else(absent).map_err(|error| format!("{}: {error}", cache.display()))?;
                ("--cache-to", format!("type=local,mode=max,dest={}", cache.display()))
            };
            command.args([flag, &value]);
        }
        let started = Instant::now();
        self.quietly(&mut command)?;
        Ok(started.elapsed())
    }

    fn quietly(&self, command: &mut Command) -> Result {
        let log = self.place.join("client.log");
        let file = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let status = command.stdout(Stdio::null()).stderr(file).status().map_err(|error| error.to_string())?;
        if status.success() {
            return Ok(());
        }
        Err(format!("{}: {status}\n{}", crate::run::shown(command), fs::read_to_string(&log).unwrap_or_default()))
    }

    /// A size of the daemon's process, in KiB.
    fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = self.process.id().to_string();
        // By SIGTERM, so that it takes down what it mounted.
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

fn address(place: &Path) -> String {
    format!("unix://{}", place.join("d.sock").display())
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
