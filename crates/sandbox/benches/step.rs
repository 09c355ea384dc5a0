//! The fixed cost of a step: assemble an overlay, start a static program in a container, reap it, take everything away.
//! Needs root and `/bin/busybox` (static).

use cooper_mount::{Mount, OverlayUpper};
use cooper_sandbox::{ContainerSpec, Namespaces, Network, ProcessIo, ProcessSpec, Sandbox};
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

fn main() {
    divan::main();
}

struct Bench {
    dir: tempfile::TempDir,
    sandbox: Namespaces,
    runtime: tokio::runtime::Runtime,
    next: AtomicUsize,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let base = dir.path().join("base");
        fs::create_dir_all(base.join("etc")).expect("a tree");
        for name in ["etc/hosts", "etc/resolv.conf"] {
            fs::write(base.join(name), "").expect("a file");
        }
        fs::copy("/bin/busybox", base.join("true")).expect("busybox");
        let sandbox = Namespaces::open(&dir.path().join("state")).expect("a sandbox");
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        Self { dir, sandbox, runtime, next: AtomicUsize::new(0) }
    }

    fn spec(&self) -> ContainerSpec {
        let id = format!("bench-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let work = self.dir.path().join(&id);
        let upper = OverlayUpper { dir: work.join("upper"), work: work.join("work") };
        fs::create_dir_all(&upper.dir).expect("a directory");
        fs::create_dir_all(&upper.work).expect("a directory");
        let lower = vec![self.dir.path().join("base")];
        ContainerSpec::new(id, Mount::Overlay { lower, upper: Some(upper), userxattr: false })
    }

    fn run(&self, spec: ContainerSpec) {
        self.runtime.block_on(async {
            let process = ProcessSpec::new(["/true"]);
            let container = self.sandbox.start(spec, process, ProcessIo::default()).await.expect("a start");
            assert!(container.wait().await.expect("an end").success());
        });
    }
}

#[divan::bench(sample_count = 200)]
fn true_in_an_overlay(bencher: divan::Bencher) {
    let bench = Bench::new();
    bencher.with_inputs(|| bench.spec()).bench_values(|spec| bench.run(spec));
}

#[divan::bench(sample_count = 100)]
fn true_without_network(bencher: divan::Bencher) {
    let bench = Bench::new();
    let spec = || ContainerSpec { network: Network::None, ..bench.spec() };
    bencher.with_inputs(spec).bench_values(|spec| bench.run(spec));
}

/// A builder with a gigabyte in memory pays no more.
#[divan::bench(sample_count = 100)]
fn true_with_much_memory(bencher: divan::Bencher) {
    let bench = Bench::new();
    let ballast = vec![1u8; 1 << 30];
    bencher.with_inputs(|| bench.spec()).bench_values(|spec| bench.run(spec));
    divan::black_box(ballast);
}
