//! Pulls from and pushes to a real registry: open, with a password, with TLS.

use cooper_testkit::image::sha256;
use cooper_testkit::registry::docker_config;
use cooper_testkit::{Access, Registry, TokenGate, outcome};

use crate::{local, read, workshop};

#[test]
fn pull_and_push_with_every_kind_of_access() {
    for access in [Access::Open, Access::Basic, Access::Tls] {
        let registry = Registry::start(access);
        let pinned = registry.add_busybox();
        let shop = workshop();
        shop.configure(&registry.section());
        if access == Access::Basic {
            docker_config(&shop.path("docker"), &registry);
        }
        let host = registry.host();
        let context = shop.context(&[(
            "Dockerfile",
            &format!("FROM {host}/library/busybox@{pinned}\nRUN echo of busybox > /made\nCMD [\"cat\", \"/made\"]\n"),
        )]);
        let daemon = shop.daemon();
        let name = format!("{host}/team/app");
        let mut build = shop.build_with(&daemon, &context);
        outcome(build.args(["-t", &format!("{name}:1"), "-t", &format!("{name}:2"), "--push"])).ok();
        let (one, two) = (registry.inspect("team/app:1"), registry.inspect("team/app:2"));
        assert_eq!(one["Digest"], two["Digest"], "{access:?}");
        let base = registry.inspect("library/busybox:latest");
        assert_eq!(one["Layers"][0], base["Layers"][0], "{access:?}: the base's layer goes on as it is");

        // What was pushed is a base like any other, for an engine that starts afresh.
        let again = shop.context(&[("Dockerfile", &format!("FROM {name}:1\nRUN cp /made /again\n"))]);
        let mut build = shop.cooper();
        build.args(["build", "--root"]).arg(shop.path("other")).arg("--config").arg(shop.path("config.toml"));
        outcome(build.arg("-o").arg(local(&shop.path("out"))).arg(again)).ok();
        assert_eq!(read(shop.path("out/again")), "of busybox\n", "{access:?}");
    }
}

#[test]
fn without_the_password_the_registry_is_named() {
    let registry = Registry::start(Access::Basic);
    registry.add_busybox();
    let shop = workshop();
    shop.configure(&registry.section());
    let context = shop.context(&[("Dockerfile", &format!("FROM {}/library/busybox\n", registry.host()))]);
    outcome(&mut shop.build(&context)).refused(&[&registry.host(), "401", "log in to the registry"]);
    let context = shop.dockerfile("");
    let name = format!("{}/x:1", registry.host());
    outcome(shop.build(&context).args(["-t", &name, "--push"])).refused(&[&registry.host(), "401"]);
    docker_config(&shop.path("docker"), &registry);
    outcome(shop.build(&context).args(["-t", &name, "--push"])).ok();
    registry.inspect("x:1");
}

/// The client fetches tokens itself, so that its password stays with it; told not to, it hands the password over.
#[test]
fn tokens_are_fetched_by_the_client() {
    let registry = Registry::with_busybox();
    let gate = TokenGate::start(registry.port());
    let shop = workshop();
    shop.configure(&gate.section());
    let host = gate.host();
    let context = shop.context(&[("Dockerfile", &format!("FROM {host}/library/busybox\nRUN echo x > /made\n"))]);
    let daemon = shop.daemon();
    outcome(&mut shop.build_with(&daemon, &context)).refused(&[&host, "log in to the registry"]);

    let docker = shop.path("docker");
    let config = serde_json::json!({"auths": {&host: {"auth": "dXNlcjpzZWNyZXQ="}}});
    std::fs::create_dir_all(&docker).unwrap();
    std::fs::write(docker.join("config.json"), config.to_string()).unwrap();
    for (by_client, name) in [(true, "team/one"), (false, "team/two")] {
        gate.fetched();
        let mut build = shop.build_with(&daemon, &context);
        if !by_client {
            build.env("BUILDKIT_NO_CLIENT_TOKEN", "1");
        }
        outcome(build.args(["--no-cache", "-t", &format!("{host}/{name}:1"), "--push"])).ok();
        registry.inspect(&format!("{name}:1"));
        let fetched = gate.fetched();
        let (pulls, pushes): (Vec<_>, Vec<_>) = fetched.iter().partition(|f| !f.scope.contains("push"));
        assert!(!pushes.is_empty() && (!pulls.is_empty() || !by_client), "{fetched:?}");
        let by_daemon = |f: &&cooper_testkit::tokens::Fetched| f.process == Some(daemon.id());
        let all = fetched.iter().filter(by_daemon).count();
        assert_eq!(all, if by_client { 0 } else { fetched.len() }, "{fetched:?}");
    }
}

/// Images may hold the same files as different archives: what is built upon one names the archives of that one.
#[test]
fn equal_layers_stay_the_archives_that_they_came_as() {
    let registry = Registry::start(Access::Open);
    let shop = crate::workshop_with(&registry);
    let host = registry.host();
    let files = shop.context(&[("Dockerfile", "FROM scratch\nCOPY text /\n"), ("text", &"the same ".repeat(5000))]);
    for level in ["0", "9"] {
        let output = format!("type=image,name={host}/base:{level},push=true,compression-level={level}");
        let mut build = shop.cooper();
        build.args(["build", "--root"]).arg(shop.path(level)).arg("--config").arg(shop.path("config.toml"));
        outcome(build.arg("-o").arg(output).arg(&files)).ok();
    }
    let first = |name: &str| registry.inspect(name)["Layers"][0].clone();
    assert_ne!(first("base:0"), first("base:9"));
    let daemon = shop.daemon();
    for level in ["0", "9", "0"] {
        // Reading the base unpacks it.
        let lines = format!("FROM {host}/base:{level} AS base\nFROM base\nCOPY --from=base /text /again{level}\n");
        let context = shop.context(&[("Dockerfile", &lines)]);
        let name = format!("{host}/upon:{level}");
        outcome(shop.build_with(&daemon, &context).args(["-t", &name, "--push"])).ok();
        assert_eq!(first(&format!("upon:{level}")), first(&format!("base:{level}")), "{level}");
    }
}

#[test]
fn an_unknown_authority_is_refused() {
    let registry = Registry::start(Access::Tls);
    registry.add_busybox();
    let shop = workshop();
    shop.configure(&format!("[registry.\"{}\"]\nhttp = false\n", registry.host()));
    let context = shop.context(&[("Dockerfile", &format!("FROM {}/library/busybox\n", registry.host()))]);
    outcome(&mut shop.build(&context)).refused(&["certificate", "hint: name the registry's CA"]);
}

#[test]
fn names_without_a_host_come_from_the_mirror() {
    let registry = Registry::with_busybox();
    let shop = crate::workshop_with(&registry);
    let context = shop.context(&[("Dockerfile", "FROM busybox\nRUN echo $(busybox | head -c 7) > /made\n")]);
    outcome(shop.build(&context).arg("-o").arg(local(&shop.path("out")))).ok();
    assert_eq!(read(shop.path("out/made")), "BusyBox\n");
}

#[test]
fn push_by_digest_leaves_no_tag() {
    let registry = Registry::start(Access::Open);
    let shop = crate::workshop_with(&registry);
    let daemon = shop.daemon();
    let context = shop.dockerfile("");
    let (name, metadata) = (format!("{}/by/digest", registry.host()), shop.path("m.json"));
    let mut build = shop.buildctl_build(&daemon, &context);
    build.arg("--output").arg(format!("type=image,name={name},push-by-digest=true,push=true"));
    outcome(build.arg("--metadata-file").arg(&metadata)).ok();
    let metadata: serde_json::Value = serde_json::from_str(&read(metadata)).unwrap();
    let digest = metadata["containerimage.digest"].as_str().unwrap();
    let manifest = registry.manifest(&format!("by/digest@{digest}"));
    assert_eq!(sha256(&manifest), digest);
}
