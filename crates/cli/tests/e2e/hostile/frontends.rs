//! Frontends in containers that crash, return nothing, talk nonsense, or never end.

use std::time::Duration;

use cooper_testkit::leftovers::processes_with;
use cooper_testkit::process::until;
use cooper_testkit::{Registry, Running, outcome};

use super::{PATIENCE, Site};

/// What a frontend does, and what is said about it.
const CASES: &[(&str, &str)] = &[
    ("exit 3", "exit code: 3"),
    ("true", "no result for incomplete build"),
    ("exec >&-", "no result for incomplete build"),
    ("echo this is no HTTP/2; sleep 1", ""),
    ("head -c 300000 /dev/zero", ""),
    ("cat >/dev/null & sleep 1; exit 4", "exit code: 4"),
    ("exec nosuch", "exit code: 127"),
];

/// Frontends that have to be ended, with a marker in place of `@`.
const ENDLESS: &[&str] = &[
    "sleep @",
    "sleep @ & while :; do :; done",
    "yes words >&2 & sleep @",
    "exec >&- <&-; sleep @",
    "trap '' TERM INT HUP; sleep @ & while :; do wait; done",
];

fn frontend(site: &Site, registry: &Registry, words: &str) -> String {
    let name = format!("{}/frontend:{}", registry.host(), site.number());
    let text = format!("FROM busybox\nENTRYPOINT {}\n", serde_json::json!(["sh", "-c", words]));
    let context = site.shop.context(&[("Dockerfile", &text)]);
    outcome(site.shop.build_with(&site.daemon, &context).args(["--push", "-t", &name])).ok();
    name
}

fn ask(site: &Site, name: &str) -> Running {
    let source = format!("source={name}");
    let words = ["build", "--progress", "plain", "--frontend", "gateway.v0", "--opt", &source];
    Running::start(&mut site.shop.buildctl(&site.daemon, &words))
}

#[tokio::test(flavor = "multi_thread")]
async fn frontends_that_fail() {
    let registry = Registry::with_busybox();
    let site = Site::with_registry(&registry);
    let names: Vec<_> = CASES.iter().map(|(words, _)| frontend(&site, &registry, words)).collect();
    site.survives(async |site: &Site| {
        for (name, (_, expected)) in names.iter().zip(CASES) {
            let ended = ask(site, name).wait();
            ended.refused(&[expected]);
        }
        ask(site, &format!("{}/nosuch:1", registry.host())).wait().refused(&["not found"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frontends_that_never_end() {
    let registry = Registry::with_busybox();
    let site = Site::with_registry(&registry);
    let markers: Vec<_> = ENDLESS.iter().map(|_| site.shop.marker()).collect();
    let all = ENDLESS.iter().zip(&markers);
    let names: Vec<_> = all.map(|(words, marker)| frontend(&site, &registry, &words.replace('@', marker))).collect();
    site.survives(async |site: &Site| {
        for (name, marker) in names.iter().zip(&markers) {
            let asking = ask(site, name);
            assert!(until(PATIENCE, || !processes_with(marker).is_empty()), "the frontend does not run");
            std::thread::sleep(Duration::from_millis(200));
            asking.signal("INT");
            asking.wait().refused(&[]);
            assert!(until(PATIENCE, || processes_with(marker).is_empty()), "the frontend still runs");
        }
    })
    .await;
}
