//! Remote caches beyond import and export: behind builds, with cache mounts, several writers, requests that fail.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cooper_testkit::{Access, Daemon, Fault, Proxy, Registry, Running, When, Workshop, outcome};
use serde_json::Value;

use crate::{local, read, workshop};

/// A way to a server that is closed at first: connections wait.
struct Gate {
    port: u16,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let open = Arc::new(AtomicBool::new(false));
        let state = Arc::clone(&open);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                thread::spawn(move || {
                    while !state.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(10));
                    }
                    let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                    let there = thread::spawn(move || io::copy(&mut up, &mut down));
                    io::copy(&mut &server, &mut &client).ok();
                    client.shutdown(std::net::Shutdown::Both).ok();
                    drop(there.join());
                });
            }
        });
        Self { port: own, open }
    }

    fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }
}

fn port(registry: &Registry) -> u16 {
    registry.host().rsplit(':').next().unwrap().parse().unwrap()
}

/// What `cooper cache status` says, the newest first.
#[track_caller]
fn status(shop: &Workshop, daemon: &Daemon) -> Vec<Value> {
    let mut command = shop.cooper();
    command.args(["--addr", &daemon.address(), "cache", "status", "--format", "{{json .}}"]);
    let text = outcome(&mut command).ok().text();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[track_caller]
fn wait_for_end(shop: &Workshop, daemon: &Daemon) -> Value {
    let until = Instant::now() + Duration::from_secs(90);
    loop {
        let newest = status(shop, daemon).remove(0);
        if newest["state"] != "running" {
            return newest;
        }
        assert!(Instant::now() < until, "{newest}");
        thread::sleep(Duration::from_millis(50));
    }
}

const STEP: &str = "RUN head -c 300000 /dev/urandom > /made\n";

#[test]
fn an_export_goes_on_behind_its_build() {
    let registry = Registry::start(Access::Open);
    let gate = Gate::to(port(&registry));
    let shop = workshop();
    let context = shop.dockerfile(STEP);
    let mut daemon = shop.daemon();
    let to = |name: &str| format!("type=registry,ref={},mode=max,async=true", gate.reference(name));
    // The gate is closed: were the build to wait for its cache, it would not end.
    outcome(shop.build_with(&daemon, &context).args(["--cache-to", &to("app:one")])).ok();
    let running = status(&shop, &daemon).remove(0);
    assert_eq!((running["state"].as_str(), running["ended"].as_str()), (Some("running"), None), "{running}");
    gate.open();
    let done = wait_for_end(&shop, &daemon);
    assert_eq!(done["state"], "done", "{done}");
    assert!(done["sentBytes"].as_u64().unwrap() > 300_000, "{done}");
    registry.manifest("app:one");

    // One that fails says why, and what is remembered outlives the daemon.
    let nowhere = format!("type=registry,ref=127.0.0.1:{}/app:x,async=true", cooper_testkit::ports::free_port());
    outcome(shop.build_with(&daemon, &context).args(["--cache-to", &nowhere])).ok();
    let failed = wait_for_end(&shop, &daemon);
    assert_eq!(failed["state"], "failed", "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("refused"), "{failed}");
    daemon.ask_to_stop();
    daemon.wait();
    let daemon = shop.daemon();
    let states: Vec<String> = status(&shop, &daemon).iter().map(|e| e["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["failed", "done"]);
}

#[test]
fn a_daemon_that_is_told_to_stop_finishes_exports() {
    let registry = Registry::start(Access::Open);
    let gate = Gate::to(port(&registry));
    let shop = workshop();
    let context = shop.dockerfile(STEP);
    let mut daemon = shop.daemon();
    let to = format!("type=registry,ref={},async=true", gate.reference("app:two"));
    outcome(shop.build_with(&daemon, &context).args(["--cache-to", &to])).ok();
    daemon.ask_to_stop();
    thread::sleep(Duration::from_millis(300));
    gate.open();
    daemon.wait();
    registry.manifest("app:two");
}

#[test]
fn without_a_daemon_the_command_finishes_the_export() {
    let registry = Registry::start(Access::Open);
    let gate = Gate::to(port(&registry));
    let shop = workshop();
    let context = shop.dockerfile(STEP);
    let to = format!("type=registry,ref={},async=true", gate.reference("app:three"));
    let build = Running::start(shop.build(&context).args(["--cache-to", &to]));
    thread::sleep(Duration::from_millis(500));
    gate.open();
    let said = build.wait().ok();
    registry.manifest("app:three");
    assert!(!said.stderr.contains("WARNING"), "{said}");
}

/// Sizes of what a cache manifest names, by digest.
fn sizes(registry: &Registry, name: &str) -> BTreeMap<String, u64> {
    let manifest: Value = serde_json::from_slice(&registry.manifest(name)).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|l| (l["digest"].as_str().unwrap().to_owned(), l["size"].as_u64().unwrap())).collect()
}

#[test]
fn cache_mounts_travel_by_what_changed() {
    let registry = Registry::start(Access::Open);
    let (one, two) = (workshop(), workshop());
    let context = one.dockerfile(
        "ARG N\nRUN --mount=type=cache,target=/c \
         [ -e /c/big ] || head -c 24000000 /dev/urandom > /c/big; echo $N >> /c/log; chmod 640 /c/log; cp /c/log /log; \
         wc -c < /c/big > /size\nFROM scratch\nCOPY --from=base /log /size /\n",
    );
    let cache = format!("{}/app:cache", registry.host());
    let to = format!("type=registry,ref={cache},cache-mounts=true");
    let from = format!("type=registry,ref={cache},cache-mounts=true");
    let build = |shop: &Workshop, number: &str, out: &Path| {
        let mut command = shop.build(&context);
        command.args(["--build-arg", &format!("N={number}"), "--cache-to", &to, "--cache-from", &from]);
        outcome(command.arg("-o").arg(local(out))).ok();
    };
    build(&one, "1", &one.path("out1"));
    let first = sizes(&registry, "app:cache");
    assert!(first.values().sum::<u64>() > 24_000_000, "{first:?}");
    build(&one, "2", &one.path("out2"));
    let second = sizes(&registry, "app:cache");
    let new: u64 = second.iter().filter(|(digest, _)| !first.contains_key(*digest)).map(|(_, size)| size).sum();
    assert!(new < 6_000_000, "{new} bytes were new for a changed line");
    println!("a mount of 24 MB: {new} bytes sent for a changed line");

    // Another machine goes on where this one was.
    build(&two, "3", &two.path("out"));
    assert_eq!(read(two.path("out").join("log")), "1\n2\n3\n");
    assert_eq!(read(two.path("out").join("size")).trim(), "24000000");
    // A mount whose chunks are damaged begins empty.
    let third = sizes(&registry, "app:cache");
    let largest = third.iter().max_by_key(|(_, size)| **size).unwrap().0;
    registry.corrupt(largest);
    let three = workshop();
    build(&three, "4", &three.path("out"));
    assert_eq!(read(three.path("out").join("log")), "4\n");
}

/// Builds without daemons, each with a step of its own, that write one cache at the same time: all of it is there.
fn check_writers(to: &str, from: &str, machines: &[Workshop], reader: &Workshop) {
    let contexts: Vec<_> =
        machines.iter().enumerate().map(|(n, shop)| shop.dockerfile(&format!("RUN echo {n}\n"))).collect();
    let builds: Vec<_> = machines
        .iter()
        .zip(&contexts)
        .map(|(shop, context)| Running::start(shop.build(context).args(["--cache-to", to])))
        .collect();
    for build in builds {
        build.wait().ok();
    }
    for context in &contexts {
        let said = outcome(reader.build(context).args(["--cache-from", from])).ok();
        let cached = said.stderr.lines().filter(|line| line.ends_with(" CACHED")).count();
        assert_eq!(cached, 3, "{said}");
    }
}

#[test]
fn writers_of_one_registry_cache_at_the_same_time() {
    let registry = Registry::start(Access::Open);
    let machines: Vec<Workshop> = (0..6).map(|_| workshop()).collect();
    let cache = format!("{}/app:cache", registry.host());
    let to = format!("type=registry,ref={cache},mode=max");
    check_writers(&to, &cache, &machines, &workshop());
}

#[test]
fn writers_of_one_directory_at_the_same_time() {
    let machines: Vec<Workshop> = (0..6).map(|_| workshop()).collect();
    let reader = workshop();
    let dir = reader.path("cache").display().to_string();
    check_writers(&format!("type=local,dest={dir},mode=max"), &format!("type=local,src={dir}"), &machines, &reader);
}

/// A build that imports and exports, with one request of it failing: the build succeeds, and the next mends the cache.
#[test]
fn no_request_of_a_cache_fails_a_build() {
    let registry = Registry::start(Access::Open);
    let proxy = Proxy::start(port(&registry));
    let shop = workshop();
    let context = shop.dockerfile("RUN echo x > /x\n");
    let cache = |n: usize| format!("{}/app:cache{n}", proxy.host());
    let build = |n: usize| -> Command {
        let mut command = shop.build(&context);
        command.args(["--no-cache", "--cache-from", &cache(n)]);
        command.args(["--cache-to", &format!("type=registry,ref={},mode=max,ignore-error=true", cache(n))]);
        command
    };
    proxy.plan(When::Never);
    outcome(&mut build(0)).ok();
    let requests = proxy.seen().len();
    assert!(requests >= 8, "{:?}", proxy.seen());
    for number in 0..requests {
        for fault in [Fault::ALL[number % Fault::ALL.len()], Fault::ALL[(number + 3) % Fault::ALL.len()]] {
            proxy.plan(When::Once(number, fault));
            outcome(&mut build(number)).ok();
        }
        proxy.plan(When::Never);
        outcome(&mut build(number)).ok();
        registry.manifest(&format!("app:cache{number}"));
    }
}

#[test]
fn a_full_disk_fails_the_export_and_says_so() {
    let shop = workshop();
    let context = shop.dockerfile(STEP);
    let dir = shop.path("small");
    fs::create_dir(&dir).unwrap();
    outcome(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(&dir)).ok();
    let to = format!("type=local,dest={},mode=max", dir.join("cache").display());
    let failed = outcome(shop.build(&context).args(["--cache-to", &to]));
    let ignored = outcome(shop.build(&context).args(["--cache-to", &format!("{to},ignore-error=true")]));
    outcome(Command::new("umount").arg(&dir)).ok();
    ignored.ok();
    failed.refused(&["No space left on device"]);
}

#[test]
fn what_cannot_be_collected_is_said() {
    let shop = workshop();
    let mut gc = shop.cooper();
    let token = cooper_testkit::Actions::token(&["refs/heads/main"]);
    gc.args(["cache", "gc", &format!("type=gha,url=http://127.0.0.1:1/,token={token}")]);
    outcome(&mut gc).refused(&["GitHub itself removes entries that nobody used for 7 days"]);

    // Nothing has expired: nothing goes.
    let context = shop.dockerfile("RUN echo x\n");
    let dir = shop.path("cache").display().to_string();
    outcome(shop.build(&context).args(["--cache-to", &format!("type=local,dest={dir},mode=max,ttl=1h")])).ok();
    let mut gc = shop.cooper();
    let said = outcome(gc.args(["cache", "gc", &format!("type=local,src={dir}")])).ok();
    assert_eq!(said.text(), format!("local cache {dir}: deleted 0 expired results and 0 blobs (0B)\n"));
}
