//! Caches that travel: from one builder to another that was born empty, to every kind of place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cooper_testkit::objects::{ACCOUNT, ACCOUNT_KEY, BUCKET, ObjectServer};
use cooper_testkit::{Access, Actions, Outcome, Proxy, Registry, When, Workshop, outcome};

use crate::{local, read, workshop};

/// Two stages that tell builders apart, of which the result has a file each; a third that nobody reads.
const STAGES: &str = "RUN cat /proc/sys/kernel/random/uuid > /one\nCOPY note /note\nRUN cp /note /noted\n\
                      FROM base AS other\nRUN cat /proc/sys/kernel/random/uuid > /two\n\
                      FROM base AS unread\nRUN exit 1\n\
                      FROM scratch\nCOPY --from=work /one /noted /\nCOPY --from=other /two /two\n";
/// Steps of it that can be cached.
const STEPS: usize = 8;

fn stages(shop: &Workshop) -> PathBuf {
    let context = shop.dockerfile(&format!("FROM base AS work\n{STAGES}"));
    fs::write(context.join("note"), "noted").unwrap();
    context
}

/// A build by a builder of its own, whose state is in `root`.
fn build(shop: &Workshop, root: &str, context: &Path) -> Command {
    let mut command = shop.cooper();
    command.args(["build", "--progress", "plain", "--root"]).arg(shop.path(root));
    command.arg("--config").arg(shop.path("config.toml")).arg(context);
    command
}

/// Steps that came from a cache.
fn cached(built: &Outcome) -> usize {
    built.stderr.lines().filter(|line| line.ends_with(" CACHED")).count()
}

/// Requests that ask for the bytes of something.
fn downloads(seen: &[String]) -> Vec<&String> {
    seen.iter().filter(|request| request.starts_with("GET ") && request.contains("/blobs/")).collect()
}

/// A registry behind a proxy that counts, and a workshop that knows both.
fn counted() -> (Registry, Proxy, Workshop) {
    let registry = Registry::start(Access::Open);
    let proxy = Proxy::start(registry.port());
    let shop = workshop();
    shop.configure(&format!("{}[registry.\"{}\"]\nhttp = true\n", registry.section(), proxy.host()));
    (registry, proxy, shop)
}

/// Exports with `to`, imports with `from` into a builder without memory; both have to make the same.
#[track_caller]
fn check(shop: &Workshop, kind: &str, to: &str, from: &str) {
    let context = stages(shop);
    let (first, second) = (shop.path(&format!("{kind}-1")), shop.path(&format!("{kind}-2")));
    let made = outcome(build(shop, "first", &context).args(["--cache-to", to, "-o"]).arg(local(&first))).ok();
    let again = outcome(build(shop, "second", &context).args(["--cache-from", from, "-o"]).arg(local(&second))).ok();
    assert_eq!((cached(&made), cached(&again)), (0, STEPS), "{kind}: {made}{again}");
    for name in ["one", "two", "noted"] {
        assert_eq!(read(first.join(name)), read(second.join(name)), "{kind}: {name} was made again");
    }
    for root in ["first", "second"] {
        fs::remove_dir_all(shop.path(root)).unwrap();
    }
}

#[test]
fn registries_keep_them_in_every_form() {
    let registry = Registry::start(Access::Open);
    let shop = workshop();
    shop.configure(&registry.section());
    for (kind, attributes) in [
        ("image", ""),
        ("index", ",image-manifest=false"),
        ("docker", ",oci-mediatypes=false"),
        ("uncompressed", ",compression=uncompressed"),
        ("zstd", ",compression=zstd,compression-level=9,force-compression=true"),
        ("estargz", ",compression=estargz,force-compression=true"),
    ] {
        let reference = format!("type=registry,ref={}/cache:{kind}", registry.host());
        check(&shop, kind, &format!("{reference},mode=max{attributes}"), &reference);
        let manifest: serde_json::Value = serde_json::from_slice(&registry.manifest(&format!("cache:{kind}"))).unwrap();
        let (media_type, layers) = match kind {
            "index" => ("application/vnd.oci.image.index.v1+json", "manifests"),
            "docker" => ("application/vnd.docker.distribution.manifest.list.v2+json", "manifests"),
            _ => ("application/vnd.oci.image.manifest.v1+json", "layers"),
        };
        assert_eq!(manifest["mediaType"], media_type, "{kind}");
        let layer = manifest[layers][0]["mediaType"].as_str().unwrap();
        let end = match kind {
            "docker" => "rootfs.diff.tar.gzip",
            "uncompressed" => ".tar",
            "zstd" => ".tar+zstd",
            _ => ".tar+gzip",
        };
        assert!(layer.ends_with(end), "{kind}: {layer}");
    }
}

#[test]
fn directories_keep_them_with_tags() {
    let shop = workshop();
    let dir = shop.path("cache").display().to_string();
    for (kind, to, from) in [
        ("plain", "", ""),
        ("tagged", ",tag=other", ",tag=other"),
        ("index", ",image-manifest=false,tag=index", ",tag=index"),
        ("reset", ",tag=last,reset=true", ",tag=last"),
    ] {
        check(&shop, kind, &format!("type=local,dest={dir},mode=max{to}"), &format!("type=local,src={dir}{from}"));
    }
    // By digest, as the one tag that is left has it.
    let index: serde_json::Value = serde_json::from_str(&read(shop.path("cache/index.json"))).unwrap();
    let last = index["manifests"].as_array().unwrap().last().unwrap();
    let digest = last["digest"].as_str().unwrap();
    let context = stages(&shop);
    let import = format!("type=local,src={dir},digest={digest}");
    let built = outcome(build(&shop, "digest", &context).args(["--cache-from", &import, "-o", "type=cacheonly"])).ok();
    assert!(cached(&built) > 0, "{built}");
}

#[test]
fn images_and_object_stores_keep_them() {
    let (registry, s3, azure) = (Registry::start(Access::Open), ObjectServer::s3(), ObjectServer::azure());
    let shop = workshop();
    shop.configure(&registry.section());
    let bucket = format!(
        "type=s3,bucket={BUCKET},region=us-east-1,endpoint_url=http://127.0.0.1:{},use_path_style=true,prefix=p/,\
         access_key_id=a,secret_access_key=b,name=one;two",
        s3.port()
    );
    check(&shop, "s3", &format!("{bucket},mode=max,upload_parallelism=1"), &bucket);
    let container = format!(
        "type=azblob,account_url=http://127.0.0.1:{}/{ACCOUNT},account_name={ACCOUNT},\
         secret_access_key={ACCOUNT_KEY},name=one",
        azure.port()
    );
    check(&shop, "azblob", &format!("{container},mode=max"), &container);

    let actions = Actions::start();
    let token = Actions::token(&["refs/heads/main"]);
    for version in ["url", "url_v2"] {
        let service = format!("type=gha,{version}=http://127.0.0.1:{}/,token={token},scope={version}", actions.port());
        check(&shop, version, &format!("{service},mode=max"), &service);
    }

    // Inside the config of an image are the steps whose layers the image has.
    let context = shop.dockerfile("RUN cat /proc/sys/kernel/random/uuid > /id\nRUN cp /id /copy\n");
    let name = format!("{}/inline:1", registry.host());
    let mut push = build(&shop, "first", &context);
    outcome(push.args(["--cache-to", "type=inline", "-t", &name, "--push"])).ok();
    let pushed = registry.digest("inline:1");
    let mut again = build(&shop, "second", &context);
    again.args(["--cache-to", "type=inline", "--cache-from", &name, "-t", &name, "--push"]);
    let again = outcome(&mut again).ok();
    assert_eq!(cached(&again), 4, "{again}");
    assert_eq!(registry.digest("inline:1"), pushed, "an image from the cache differs");
}

#[test]
fn a_hit_downloads_no_layer_that_nobody_reads() {
    let (registry, proxy, shop) = counted();
    let context = stages(&shop);
    let reference = format!("{}/cache:1", proxy.host());
    let to = format!("type=registry,ref={reference},mode=max");
    outcome(build(&shop, "first", &context).args(["--cache-to", &to, "-o", "type=cacheonly"])).ok();
    let import = ["--cache-from", &reference];

    proxy.plan(When::Never);
    let hit = outcome(build(&shop, "second", &context).args(import).args(["-o", "type=cacheonly"])).ok();
    assert_eq!(cached(&hit), STEPS, "{hit}");
    assert_eq!(downloads(&proxy.seen()).len(), 1, "the cache document alone: {:?}", proxy.seen());

    // A change at the end of one stage needs what is below it, and nothing of the other.
    let changed =
        fs::read_to_string(context.join("Dockerfile")).unwrap().replace("cp /note /noted", "cp /note /noted #");
    fs::write(context.join("Dockerfile"), changed).unwrap();
    proxy.plan(When::Never);
    let partly = outcome(build(&shop, "third", &context).args(import).args(["-o", "type=cacheonly"])).ok();
    let manifest: serde_json::Value = serde_json::from_slice(&registry.manifest("cache:1")).unwrap();
    let layers = manifest["layers"].as_array().unwrap().len();
    let fetched = downloads(&proxy.seen()).len() - 1;
    assert!(fetched < layers - 1, "{fetched} of {layers} layers were read: {partly}");
    assert!(!partly.stderr.contains("[other 1/1]") || partly.stderr.contains("CACHED"), "{partly}");
}

#[test]
fn an_unchanged_cache_is_not_sent_again() {
    let (_registry, proxy, shop) = counted();
    let context = stages(&shop);
    let reference = format!("{}/cache:1", proxy.host());
    let to = format!("type=registry,ref={reference},mode=max");
    outcome(build(&shop, "first", &context).args(["--cache-to", &to, "-o", "type=cacheonly"])).ok();
    // By whoever made it, by whoever imported it, and by whoever made it in another run.
    for (root, import) in [("first", false), ("second", true), ("second", true)] {
        proxy.plan(When::Never);
        let mut again = build(&shop, root, &context);
        again.args(["--cache-to", &to, "-o", "type=cacheonly"]);
        if import {
            again.args(["--cache-from", &reference]);
        }
        let again = outcome(&mut again).ok();
        assert_eq!(cached(&again), STEPS, "{again}");
        let seen = proxy.seen();
        let sent: Vec<_> =
            seen.iter().filter(|r| ["POST ", "PATCH ", "PUT "].iter().any(|m| r.starts_with(m))).collect();
        assert!(sent.is_empty(), "{root}: {sent:?}");
        let asked = seen.iter().filter(|r| r.starts_with("HEAD ") && r.contains("/blobs/")).count();
        assert_eq!(asked, 0, "a layer that the cache names is asked for: {root}: {seen:?}");
        let read: BTreeSet<_> = downloads(&seen).into_iter().collect();
        assert!(read.len() <= 1, "more than the cache document was read: {root}: {seen:?}");
    }
}

#[test]
fn no_import_fails_a_build() {
    let registry = Registry::with_busybox();
    let shop = workshop();
    shop.configure(&registry.section());
    let host = registry.host();
    let context = shop.dockerfile("RUN echo made > /made\n");
    let nobody = cooper_testkit::ports::free_port();
    // A cache whose document says something else than its digest.
    let broken = format!("type=registry,ref={host}/broken:1,mode=max");
    outcome(build(&shop, "first", &context).args(["--cache-to", &broken, "-o", "type=cacheonly"])).ok();
    let manifest: serde_json::Value = serde_json::from_slice(&registry.manifest("broken:1")).unwrap();
    registry.corrupt(manifest["config"]["digest"].as_str().unwrap());
    for import in [
        format!("type=registry,ref={host}/nothing:1"),
        format!("type=registry,ref=127.0.0.1:{nobody}/nothing:1"),
        format!("type=registry,ref={host}/library/busybox"),
        format!("type=registry,ref={host}/broken:1"),
        "type=registry,ref=UPPER CASE".to_owned(),
        format!("type=local,src={}", shop.path("nowhere").display()),
        format!(
            "type=s3,bucket=b,region=r,endpoint_url=http://127.0.0.1:{nobody},use_path_style=true,\
             retry_max_attempts=1,access_key_id=a,secret_access_key=b"
        ),
        "type=s3".to_owned(),
        "type=unheard-of".to_owned(),
    ] {
        let root = format!("import{}", import.len());
        let built = outcome(build(&shop, &root, &context).args(["--cache-from", &import, "-o", "type=cacheonly"]));
        assert!(built.status.success(), "{import}: {built}");
    }
}

#[test]
fn an_export_fails_a_build_unless_it_may() {
    let registry = Registry::start(Access::Open);
    let shop = workshop();
    shop.configure(&registry.section());
    let context = shop.dockerfile("RUN echo made > /made\n");
    let nobody = cooper_testkit::ports::free_port();
    let to = format!(
        "type=s3,bucket=b,region=r,endpoint_url=http://127.0.0.1:{nobody},use_path_style=true,retry_max_attempts=1,\
         access_key_id=a,secret_access_key=b"
    );
    outcome(build(&shop, "state", &context).args(["--cache-to", &to, "-o", "type=cacheonly"])).refused(&["s3 cache b"]);
    let out = shop.path("out");
    let ignored = format!("{to},ignore-error=true");
    let mut lenient = build(&shop, "state", &context);
    let lenient = outcome(lenient.args(["--cache-to", &ignored, "-o"]).arg(local(&out))).ok();
    assert_eq!(read(out.join("made")), "made\n", "{lenient}");

    let one = format!("type=registry,ref={}/cache:1", registry.host());
    outcome(build(&shop, "state", &context).args(["--cache-to", &one, "--cache-to", &one, "-o", "type=cacheonly"]))
        .refused(&["duplicate cache exports"]);
    let two = format!("type=registry,ref={}/cache:2", registry.host());
    outcome(build(&shop, "state", &context).args(["--cache-to", &one, "--cache-to", &two, "-o", "type=cacheonly"]))
        .ok();
    for tag in ["1", "2"] {
        assert!(!registry.manifest(&format!("cache:{tag}")).is_empty());
    }
}
