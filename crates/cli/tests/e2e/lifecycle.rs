//! Ends of daemons and clients, wished for and not.

use std::time::Duration;

use cooper_testkit::leftovers::processes_with;
use cooper_testkit::process::{signal, until};
use cooper_testkit::{Running, Workshop, outcome};

use crate::{local, read, workshop};

const PATIENCE: Duration = Duration::from_secs(60);

/// A context whose last step sleeps for as long as the marker says, which finds its process.
fn sleeper(shop: &Workshop, marker: &str) -> std::path::PathBuf {
    shop.dockerfile(&format!("RUN sleep {marker} & sleep {marker}\n"))
}

#[track_caller]
fn runs(marker: &str) {
    assert!(until(PATIENCE, || processes_with(marker).len() >= 2), "the step does not run");
}

#[track_caller]
fn ended(marker: &str) {
    assert!(until(PATIENCE, || processes_with(marker).is_empty()), "the step still runs: {:?}", processes_with(marker));
}

/// The next build is fine.
#[track_caller]
fn works(shop: &Workshop, daemon: &cooper_testkit::Daemon) {
    let out = shop.path("works");
    let context = shop.dockerfile("RUN echo fine > /fine\nFROM scratch\nCOPY --from=base /fine /\n");
    outcome(shop.build_with(daemon, &context).arg("-o").arg(local(&out))).ok();
    assert_eq!(read(out.join("fine")), "fine\n");
}

#[test]
fn sigterm_drains() {
    let shop = workshop();
    let mut daemon = shop.daemon();
    let marker = shop.marker();
    let slow =
        shop.dockerfile(&format!("RUN sleep {marker}; echo done > /slow\nFROM scratch\nCOPY --from=base /slow /\n"));
    let build = Running::start(shop.build_with(&daemon, &slow).arg("-o").arg(local(&shop.path("out"))));
    assert!(until(PATIENCE, || !processes_with(&marker).is_empty()), "the step does not run");
    daemon.ask_to_stop();
    let other = shop.dockerfile("");
    let refused = until(PATIENCE, || !outcome(&mut shop.build_with(&daemon, &other)).status.success());
    assert!(refused, "a daemon that is to stop takes builds");
    outcome(&mut shop.build_with(&daemon, &other)).refused(&["shutting down"]);
    let [sleep] = processes_with(&marker)[..] else { panic!("the step has ended") };
    signal(sleep, "TERM");
    build.wait().ok();
    assert_eq!(read(shop.path("out/slow")), "done\n");
    assert!(daemon.wait().success(), "{}", daemon.log());
    works(&shop, &shop.daemon());
}

#[test]
fn cancelled_and_killed_clients_take_their_steps_along() {
    let shop = workshop();
    let daemon = shop.daemon();
    for name in ["INT", "TERM", "KILL"] {
        let marker = shop.marker();
        let build = Running::start(&mut shop.build_with(&daemon, &sleeper(&shop, &marker)));
        runs(&marker);
        signal(build.id(), name);
        assert!(!build.wait().status.success());
        ended(&marker);
        daemon.becomes_idle();
        works(&shop, &daemon);
    }
}

#[test]
fn a_step_stops_with_the_last_build_that_wants_it() {
    let shop = workshop();
    let daemon = shop.daemon();
    let marker = shop.marker();
    let context = sleeper(&shop, &marker);
    let builds = [(); 2].map(|()| Running::start(&mut shop.build_with(&daemon, &context)));
    runs(&marker);
    // Both must have joined the step before one leaves.
    let joined = |build: &Running| build.has_said(&format!("RUN sleep {marker}"));
    assert!(until(PATIENCE, || builds.iter().all(joined)), "one does not take part");
    let [first, second] = builds;
    signal(first.id(), "INT");
    first.wait();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(processes_with(&marker).len(), 2, "the other build still wants the step");
    signal(second.id(), "INT");
    second.wait();
    ended(&marker);
}

#[test]
fn a_killed_daemon_leaves_a_usable_state() {
    let shop = workshop();
    let daemon = shop.daemon();
    works(&shop, &daemon);
    let marker = shop.marker();
    let build = Running::start(&mut shop.build_with(&daemon, &sleeper(&shop, &marker)));
    runs(&marker);
    daemon.kill();
    let lost = build.wait();
    assert_eq!(lost.status.code(), Some(1), "{lost}");
    ended(&marker);
    let daemon = shop.daemon();
    works(&shop, &daemon);
    let du = outcome(&mut shop.buildctl(&daemon, &["du"])).ok().text();
    assert!(du.contains("Total:"), "{du}");
}

#[test]
fn kills_at_any_moment() {
    let shop = workshop();
    for round in 0..8 {
        let daemon = shop.daemon();
        let context = shop.dockerfile(&format!("RUN dd if=/dev/urandom of=/r bs=1M count=8\nRUN echo {round}\n"));
        let mut build = shop.build_with(&daemon, &context);
        let build = Running::start(build.arg("-o").arg(format!("type=oci,dest={}", shop.path("k.tar").display())));
        std::thread::sleep(Duration::from_millis(20 + 60 * round));
        daemon.kill();
        build.wait();
    }
    works(&shop, &shop.daemon());
}

#[test]
fn an_interrupted_build_without_a_daemon() {
    let shop = workshop();
    for name in ["INT", "TERM", "KILL"] {
        let marker = shop.marker();
        let build = Running::start(&mut shop.build(&sleeper(&shop, &marker)));
        runs(&marker);
        signal(build.id(), name);
        assert!(!build.wait().status.success());
        ended(&marker);
    }
    outcome(&mut shop.build(&shop.dockerfile("RUN true\n"))).ok();
}
