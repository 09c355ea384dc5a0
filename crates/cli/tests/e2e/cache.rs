//! What is not done twice.

use std::fs;

use cooper_testkit::{Running, outcome};

use crate::{local, read, workshop};

/// Lines of plain progress that name a step which came from the cache.
fn cached(stderr: &str) -> usize {
    stderr.lines().filter(|line| line.ends_with(" CACHED")).count()
}

#[test]
fn a_repeated_build_is_cached_and_byte_identical() {
    let shop = workshop();
    let context = shop.dockerfile("COPY a /a\nRUN cat /proc/sys/kernel/random/uuid > /id\nWORKDIR /w\n");
    fs::write(context.join("a"), "one").unwrap();
    let (first, second) = (shop.path("1.tar"), shop.path("2.tar"));
    let output = |path: &std::path::Path| format!("type=oci,dest={}", path.display());

    // Across two daemons on one state directory, and then embedded.
    let daemon = shop.daemon();
    let fresh = outcome(shop.build_with(&daemon, &context).args(["-o", &output(&first)])).ok();
    assert_eq!(cached(&fresh.stderr), 0, "{fresh}");
    let again = outcome(shop.build_with(&daemon, &context).args(["-o", &output(&second)])).ok();
    assert_eq!(cached(&again.stderr), 5, "{again}");
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the archives differ");
    drop(daemon);
    let daemon = shop.daemon();
    let again = outcome(shop.build_with(&daemon, &context).args(["-o", &output(&second)])).ok();
    assert_eq!(cached(&again.stderr), 5, "{again}");
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the archives differ after a restart");
    drop(daemon);
    let again = outcome(shop.build(&context).args(["-o", &output(&second)])).ok();
    assert_eq!(cached(&again.stderr), 5, "{again}");
    assert!(fs::read(&first).unwrap() == fs::read(&second).unwrap(), "the archives differ without a daemon");

    // A file that was touched is still the same, a file that changed is not.
    fs::write(context.join("a"), "one").unwrap();
    assert_eq!(cached(&outcome(&mut shop.build(&context)).ok().stderr), 5);
    fs::write(context.join("a"), "two").unwrap();
    let changed = outcome(&mut shop.build(&context)).ok();
    assert_eq!(cached(&changed.stderr), 2, "only what stands before the change: {changed}");
    let forced = outcome(shop.build(&context).arg("--no-cache")).ok();
    assert_eq!(cached(&forced.stderr), 0, "{forced}");
}

#[test]
fn builds_at_the_same_time_share_steps() {
    let shop = workshop();
    let daemon = shop.daemon();
    let context = shop
        .dockerfile("RUN sleep 1; cat /proc/sys/kernel/random/uuid > /id\nFROM scratch\nCOPY --from=base /id /id\n");
    let out = |number: usize| shop.path(&format!("out{number}"));
    let builds: Vec<_> = (0..6)
        .map(|number| Running::start(shop.build_with(&daemon, &context).arg("-o").arg(local(&out(number)))))
        .collect();
    for build in builds {
        build.wait().ok();
    }
    let first = read(out(0).join("id"));
    for number in 1..6 {
        assert_eq!(read(out(number).join("id")), first, "build {number} ran the step again");
    }
}

#[test]
fn unused_stages_do_not_run_and_others_run_at_once() {
    let shop = workshop();
    // Each step ends when it has seen the other.
    let step = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,id=met,target=/c touch /c/{own}; n=0; \
             until [ -e /c/{other} ]; do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done; echo met > /t\n"
        )
    };
    let (left, right) = (step("left", "right"), step("right", "left"));
    let context = shop.dockerfile(&format!(
        "FROM base AS unused\nRUN exit 1\nFROM base AS left\n{left}FROM base AS right\nRUN :\n{right}\
         FROM scratch\nCOPY --from=left /t /l\nCOPY --from=right /t /r\n"
    ));
    outcome(shop.build(&context).arg("-o").arg(local(&shop.path("out")))).ok();
    assert_eq!(["l", "r"].map(|name| read(shop.path("out").join(name))), ["met\n", "met\n"]);
}
