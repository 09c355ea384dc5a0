//! Every class of change, and the answer of `cooper explain` to it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use cooper_testkit::{Access, Daemon, Registry, Workshop, image, outcome};
use serde_json::Value;

use crate::{observe::get, workshop, workshop_with};

/// The reasons of the last build, one line a step: its text, then the reason as JSON.
#[track_caller]
fn reasons(mut explain: Command) -> String {
    let out = outcome(explain.args(["--format", "json"])).ok().stdout;
    let answer: Value = serde_json::from_slice(&out).expect("an explanation");
    let steps = answer["steps"].as_array().expect("steps");
    let line = |step: &Value| {
        let name = step["name"].as_str().expect("a name");
        let text = name.split_once("] ").map_or(name, |(_, text)| text);
        format!("{text}: {}", step["reason"])
    };
    steps.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn embedded(shop: &Workshop) -> Command {
    let mut command = shop.cooper();
    command.args(["explain", "--root"]).arg(shop.path("state")).arg("--config").arg(shop.path("config.toml"));
    command
}

/// A context that reads files of every class.
fn context(shop: &Workshop) -> PathBuf {
    let dir = shop.dockerfile(
        "FROM base AS owned\nARG OWNER=0\nRUN echo x > /owned && chown $OWNER /owned\n\
         FROM base\nARG V=1\nRUN echo $V > /v\nCOPY d /d\nCOPY --from=owned /owned /owned\nRUN echo last\n",
    );
    fs::create_dir(dir.join("d")).unwrap();
    for name in ["a", "b"] {
        fs::write(dir.join("d").join(name), name).unwrap();
        fs::set_permissions(dir.join("d").join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    dir
}

/// Builds a context, changes one thing, builds again, asks.
#[track_caller]
fn check(change: impl FnOnce(&Path, &mut Command), expected: &str) {
    let shop = workshop();
    let context = context(&shop);
    outcome(&mut shop.build(&context)).ok();
    let mut second = shop.build(&context);
    change(&context, &mut second);
    outcome(&mut second).ok();
    let text = reasons(embedded(&shop));
    assert_eq!(text.lines().next().unwrap_or_default(), expected, "{text}");
    // What comes behind it follows from it.
    for line in text.lines().skip(1).filter(|line| line.contains("follows")) {
        assert!(line.contains("\"step\":\"["), "{text}");
    }
}

fn edit(path: PathBuf, from: &str, to: &str) {
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn a_byte_of_a_file() {
    check(
        |dir, _| fs::write(dir.join("d/b"), "c").unwrap(),
        r#"COPY d /d: {"change":"content","from":"3e23e8160039594a","input":"[internal] load build context","kind":"file","others":0,"path":"d/b","to":"2e7d2c03a9507ae2"}"#,
    );
}

#[test]
fn the_mode_of_a_file() {
    check(
        |dir, _| fs::set_permissions(dir.join("d/a"), fs::Permissions::from_mode(0o600)).unwrap(),
        r#"COPY d /d: {"change":"mode","from":"0644","input":"[internal] load build context","kind":"file","others":0,"path":"d/a","to":"0600"}"#,
    );
}

#[test]
fn a_file_more_and_others_beside_it() {
    check(
        |dir, _| {
            fs::write(dir.join("d/aa"), "").unwrap();
            fs::remove_file(dir.join("d/b")).unwrap();
        },
        r#"COPY d /d: {"change":"added","input":"[internal] load build context","kind":"file","others":1,"path":"d/aa"}"#,
    );
}

#[test]
fn the_owner_of_a_file_of_another_stage() {
    let shop = workshop();
    let context = context(&shop);
    outcome(&mut shop.build(&context)).ok();
    outcome(shop.build(&context).args(["--build-arg", "OWNER=7"])).ok();
    insta::assert_snapshot!(reasons(embedded(&shop)), @r#"
    RUN echo x > /owned && chown 7 /owned: {"argument":true,"from":"0","kind":"variable","name":"OWNER","to":"7"}
    COPY --from=owned /owned /owned: {"change":"owner","from":"0:0","input":"[owned 1/1] RUN echo x > /owned && chown 7 /owned","kind":"file","others":0,"path":"owned","to":"7:0"}
    RUN echo last: {"kind":"follows","step":"[stage-2 3/4] COPY --from=owned /owned /owned"}
    "#);
    // The owners of a context are the builder's.
    chown(context.join("d/a"), Some(5), Some(5)).unwrap();
    outcome(shop.build(&context).args(["--build-arg", "OWNER=7"])).ok();
    assert_eq!(reasons(embedded(&shop)), "");
}

#[test]
fn a_build_argument() {
    check(
        |_, build| {
            build.args(["--build-arg", "V=2"]);
        },
        r#"RUN echo 2 > /v: {"argument":true,"from":"1","kind":"variable","name":"V","to":"2"}"#,
    );
    check(
        |dir, _| edit(dir.join("Dockerfile"), "ARG V=1", "ARG V=3"),
        r#"RUN echo 3 > /v: {"argument":false,"from":"1","kind":"variable","name":"V","to":"3"}"#,
    );
}

/// Of a copy the text shows values, the instruction does not.
#[test]
fn an_argument_in_a_copy() {
    let shop = workshop();
    let context = shop.dockerfile("FROM scratch\nARG V=a\nCOPY d/$V /x\n");
    fs::create_dir(context.join("d")).unwrap();
    for name in ["a", "b"] {
        fs::write(context.join("d").join(name), name).unwrap();
    }
    outcome(&mut shop.build(&context)).ok();
    outcome(shop.build(&context).args(["--build-arg", "V=b"])).ok();
    assert_eq!(
        reasons(embedded(&shop)),
        r#"COPY d/b /x: {"argument":true,"from":"a","kind":"variable","name":"V","to":"b"}"#
    );
}

#[test]
fn the_text_of_an_instruction() {
    check(
        |dir, _| edit(dir.join("Dockerfile"), "echo last", "echo least"),
        r#"RUN echo least: {"from":"RUN echo last","kind":"instruction","to":"RUN echo least"}"#,
    );
}

#[test]
fn the_platform() {
    check(
        |_, build| {
            build.args(["--platform", "linux/386"]);
        },
        r#"RUN ["/bin/busybox", "--install", "-s", "/bin"]: {"from":"linux/amd64","kind":"platform","to":"linux/386"}"#,
    );
}

#[test]
fn no_cache() {
    check(
        |_, build| {
            build.arg("--no-cache");
        },
        r#"COPY busybox /bin/busybox: {"kind":"no-cache"}"#,
    );
}

#[test]
fn what_was_never_seen() {
    let shop = workshop();
    let context = context(&shop);
    outcome(&mut shop.build(&context)).ok();
    let text = reasons(embedded(&shop));
    assert_eq!(text.lines().count(), 7, "{text}");
    assert!(text.lines().all(|line| line.ends_with(r#": {"kind":"never-seen"}"#)), "{text}");
    // A step more at the end.
    fs::write(context.join("Dockerfile"), fs::read_to_string(context.join("Dockerfile")).unwrap() + "RUN echo new\n")
        .unwrap();
    outcome(&mut shop.build(&context)).ok();
    assert_eq!(reasons(embedded(&shop)), r#"RUN echo new: {"kind":"never-seen"}"#);
    // All is cached: there is nothing to explain.
    outcome(&mut shop.build(&context)).ok();
    assert_eq!(reasons(embedded(&shop)), "");
}

#[test]
fn what_was_pruned() {
    let shop = workshop();
    let context = context(&shop);
    let daemon = shop.daemon();
    outcome(&mut shop.build_with(&daemon, &context)).ok();
    let mut prune = shop.cooper();
    outcome(prune.args(["--addr", &daemon.address(), "prune", "--all"])).ok();
    outcome(&mut shop.build_with(&daemon, &context)).ok();
    let mut explain = shop.cooper();
    explain.args(["--addr", &daemon.address(), "explain"]);
    let text = reasons(explain);
    assert_eq!(text.lines().count(), 7, "{text}");
    for line in text.lines() {
        assert!(line.contains(r#""by":"prune","kind":"evicted""#), "{text}");
    }
}

/// What a configured policy removed, with the policy.
#[test]
fn what_a_policy_removed() {
    let shop = workshop();
    let policy = "[[worker.oci.gcpolicy]]\nall = true\nkeepDuration = 0\nmaxUsedSpace = 1\n";
    shop.configure(policy);
    let text = fs::read_to_string(shop.path("config.toml")).unwrap().replace("gc = false", "gc = true");
    fs::write(shop.path("config.toml"), text).unwrap();
    let context = context(&shop);
    let (socket, debug) = (shop.path("d.sock"), shop.path("debug.sock"));
    let mut command = shop.daemon_command(&shop.path("state"), &socket);
    command.arg("--debugaddr").arg(format!("unix://{}", debug.display()));
    let daemon = Daemon::start(command, socket, shop.path("daemon.log"));
    outcome(&mut shop.build_with(&daemon, &context)).ok();
    get(&debug, "/debug/gc");
    outcome(&mut shop.build_with(&daemon, &context)).ok();
    let mut explain = shop.cooper();
    explain.args(["--addr", &daemon.address(), "explain"]);
    let text = reasons(explain);
    assert_eq!(text.lines().count(), 7, "{text}");
    for line in text.lines() {
        assert!(line.contains(r#""by":"gc policy 1, max used 1 bytes","kind":"evicted""#), "{text}");
    }
}

#[test]
fn the_base_image() {
    let registry = Registry::with_busybox();
    let shop = workshop_with(&registry);
    let before = registry.digest("library/busybox:latest");
    let context = shop.context(&[("Dockerfile", "FROM busybox\nRUN echo x > /x\n")]);
    outcome(&mut shop.build(&context)).ok();
    let root = shop.path("root");
    image::busybox_tree(&root);
    fs::write(root.join("more"), "more").unwrap();
    let mut other = image::Layout::create(shop.path("layout"));
    other.add("latest", &[&root], serde_json::json!({"Env": ["PATH=/usr/local/bin:/bin"]}));
    registry.receive(&other, "latest", "library/busybox:latest");
    let after = registry.digest("library/busybox:latest");
    outcome(shop.build(&context).arg("--pull")).ok();
    assert_eq!(
        reasons(embedded(&shop)),
        format!(
            r#"RUN echo x > /x: {{"from":"{before}","kind":"source","name":"docker.io/library/busybox:latest","to":"{after}","what":"image"}}"#
        )
    );
}

#[test]
fn an_import_that_failed() {
    let registry = Registry::start(Access::Open);
    let shop = workshop();
    shop.configure(&registry.section());
    let context = context(&shop);
    outcome(shop.build(&context).args(["--cache-from", &format!("{}/none:cache", registry.host())])).ok();
    let text = reasons(embedded(&shop));
    for line in text.lines() {
        assert!(line.contains(r#""kind":"import-failed""#) && line.contains("none:cache: not found"), "{text}");
    }
}

/// On a machine that has never built it, compared with what another one has exported.
#[test]
fn across_machines() {
    let registry = Registry::start(Access::Open);
    let (one, two) = (workshop(), workshop());
    one.configure(&registry.section());
    two.configure(&registry.section());
    let context = context(&one);
    let cache = format!("{}/app:cache", registry.host());
    let to = format!("type=registry,ref={cache},mode=max");
    outcome(one.build(&context).args(["--cache-to", &to])).ok();
    fs::write(context.join("d/b"), "c").unwrap();
    outcome(two.build(&context).args(["--cache-from", &cache])).ok();
    insta::assert_snapshot!(reasons(embedded(&two)), @r#"
    COPY d /d: {"change":"content","from":"3e23e8160039594a","input":"[internal] load build context","kind":"file","others":0,"path":"d/b","to":"2e7d2c03a9507ae2"}
    COPY --from=owned /owned /owned: {"kind":"follows","step":"[stage-2 2/4] COPY d /d"}
    RUN echo last: {"kind":"follows","step":"[stage-2 3/4] COPY --from=owned /owned /owned"}
    "#);
    outcome(two.build(&context).args(["--cache-from", &cache, "--build-arg", "V=2"])).ok();
    let text = reasons(embedded(&two));
    let expected = r#"RUN echo 2 > /v: {"argument":true,"from":"1","kind":"variable","name":"V","to":"2"}"#;
    assert_eq!(text.lines().next(), Some(expected), "{text}");
}
