//! Disk usage, prune, workers: what users ask about the state.

use cooper_testkit::{Workshop, outcome};

use crate::workshop;

fn total(shop: &Workshop, daemon: &cooper_testkit::Daemon) -> String {
    let text = outcome(&mut shop.buildctl(daemon, &["du"])).ok().text();
    text.lines().find(|line| line.starts_with("Total:")).expect("a total").split_whitespace().nth(1).unwrap().to_owned()
}

#[test]
fn disk_usage_and_prune() {
    let shop = workshop();
    let daemon = shop.daemon();
    let context = shop.dockerfile("RUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/f bs=1M count=3\nRUN dd if=/dev/urandom of=/f bs=1M count=2\n");
    outcome(&mut shop.build_with(&daemon, &context)).ok();
    let du = outcome(&mut shop.buildctl(&daemon, &["du", "--verbose"])).ok().text();
    for word in ["Type:\t\tregular", "exec.cachemount", "source.local", "of=/f"] {
        assert!(du.contains(word), "lacks {word:?}: {du}");
    }
    assert_ne!(total(&shop, &daemon), "0B");

    outcome(&mut shop.buildctl(&daemon, &["prune", "--filter", "type==exec.cachemount"])).ok();
    let du = outcome(&mut shop.buildctl(&daemon, &["du", "--verbose"])).ok().text();
    assert!(!du.contains("exec.cachemount") && du.contains("of=/f"), "{du}");

    outcome(&mut shop.buildctl(&daemon, &["prune", "--all"])).ok();
    assert_eq!(total(&shop, &daemon), "0B");
    outcome(&mut shop.build_with(&daemon, &context)).ok();
}

#[test]
fn state_of_an_engine_without_a_daemon() {
    let shop = workshop();
    outcome(&mut shop.build(&shop.dockerfile(""))).ok();
    let ask = |words: &[&str]| outcome(shop.cooper().args(words).arg("--root").arg(shop.path("state"))).ok().text();
    assert!(ask(&["du"]).contains("Total:"));
    ask(&["prune", "--all"]);
    let du = ask(&["du"]);
    assert!(du.lines().any(|line| line.starts_with("Total:") && line.ends_with("0B")), "{du}");
}

#[test]
fn workers_and_info() {
    let shop = workshop();
    let daemon = shop.daemon();
    let workers = outcome(&mut shop.buildctl(&daemon, &["debug", "workers", "--verbose"])).ok().text();
    assert!(workers.contains("linux/amd64") || workers.contains("linux/arm64"), "{workers}");
    assert!(workers.contains("org.mobyproject.buildkit.worker.snapshotter"), "{workers}");
    let info = outcome(&mut shop.buildctl(&daemon, &["debug", "info"])).ok().text();
    assert!(info.contains("BuildKit:"), "{info}");
}
