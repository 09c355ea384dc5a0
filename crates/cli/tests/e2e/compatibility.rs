//! Images as earlier releases of BuildKit made them (`--compatibility-version`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cooper_testkit::http::{Answer, Request, Server};
use cooper_testkit::{Workshop, outcome};
use serde_json::Value;

use crate::workshop;

/// A git repository behind a server that knows nothing of git; the server and the repository's address.
fn repository(dir: &Path) -> (Server, String) {
    fs::create_dir_all(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/plain"), "plain").unwrap();
    for arguments in [
        &["init", "--quiet", "--initial-branch", "main"][..],
        &["add", "."],
        &["-c", "user.name=n", "-c", "user.email=e@example.com", "commit", "--quiet", "-m", "first"],
        &["update-server-info"],
    ] {
        outcome(Command::new("git").current_dir(dir).args(arguments)).ok();
    }
    let root: PathBuf = dir.into();
    let server = Server::start(move |mut stream| {
        let Ok(Some(request)) = Request::read(&stream) else { return };
        let found = fs::read(root.join(request.path().trim_start_matches('/')));
        let answer = found.map_or_else(|_| Answer::new(404, ""), |bytes| Answer::new(200, bytes));
        let _ = std::io::Write::write_all(&mut stream, &answer.bytes(&request.method));
    });
    let address = format!("http://127.0.0.1:{}/.git#main", server.port());
    (server, address)
}

/// A blob of a layout.
fn blob(layout: &Path, descriptor: &Value) -> Value {
    let digest = descriptor["digest"].as_str().expect("digest");
    serde_json::from_slice(&fs::read(layout.join("blobs").join(digest.replacen(':', "/", 1))).unwrap()).unwrap()
}

/// An image in a layout, exported by `kind` with these flags.
fn exported(shop: &Workshop, context: &Path, flags: &[&str], kind: &str) -> (PathBuf, Value) {
    let layout = shop.path(&format!("layout {}", flags.join(" ")));
    let _ = fs::remove_dir_all(&layout);
    let output = format!("type={kind},tar=false,dest={}", layout.display());
    outcome(shop.build(context).args(flags).args(["-o", &output])).ok();
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let document = blob(&layout, &index["manifests"][0]);
    (layout, document)
}

#[test]
fn versions_choose_the_habits_of_an_image() {
    let shop = workshop();
    let context = shop.dockerfile("RUN echo made > /made\n");
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let oci = "application/vnd.oci.image.manifest.v1+json";
    for (version, kind, image) in [
        ("10", "docker", docker),
        ("20", "docker", docker),
        ("30", "docker", oci),
        ("0", "docker", oci),
        // A layout of the specification has its types, whoever made it.
        ("10", "oci", oci),
        ("20", "oci", oci),
    ] {
        let flags = ["--compatibility-version", version, "--provenance=false"];
        let (_, manifest) = exported(&shop, &context, &flags, kind);
        assert_eq!(manifest["mediaType"], image, "{kind} of version {version}");
    }
    for (version, config, artifact) in [
        ("10", "application/vnd.oci.image.config.v1+json", Value::Null),
        ("20", "application/vnd.oci.image.config.v1+json", Value::Null),
        ("30", "application/vnd.oci.empty.v1+json", Value::from("application/vnd.docker.attestation.manifest.v1+json")),
    ] {
        let flags = ["--compatibility-version", version, "--provenance=mode=min"];
        let (layout, index) = exported(&shop, &context, &flags, "oci");
        let statement = blob(&layout, &index["manifests"][1]);
        assert_eq!((&statement["config"]["mediaType"], &statement["artifactType"]), (&Value::from(config), &artifact));
        assert_eq!(statement.get("subject").is_some(), version == "30");
        let predicate = blob(&layout, &statement["layers"][0])["predicate"].clone();
        let request = &predicate["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(request["compatibilityVersion"].to_string(), version);
    }
}

#[test]
fn features_and_versions_that_are_not_there_are_refused() {
    let shop = workshop();
    let context = shop.dockerfile("RUN echo made > /made\n");
    let zstd = format!("type=oci,compression=zstd,dest={}", shop.path("zstd.tar").display());
    for (version, output, refusal) in [
        ("10", zstd.as_str(), "unsupported compatibility-version 10 feature oci exporter compression=zstd"),
        ("11", "type=cacheonly", "unsupported compatibility-version 11 (supported: [10 20 30])"),
        ("40", "type=cacheonly", "unsupported compatibility-version 40: upgrade buildkit (max supported: 30)"),
    ] {
        outcome(shop.build(&context).args(["--compatibility-version", version, "-o", output])).refused(&[refusal]);
    }
    outcome(shop.build(&context).args(["--compatibility-version", "20", "-o", &zstd])).ok();
}

/// The same commit is two checkouts, and neither is taken for the other.
#[test]
fn checkouts_of_the_oldest_version_are_writable_for_all() {
    let shop = workshop();
    let (_server, address) = repository(&shop.path("repository"));
    let context = shop.dockerfile(&format!("ADD {address} /g/\nRUN stat -c %a /g/sub/plain > /out\n"));
    for (version, mode) in [("30", "644"), ("10", "666"), ("20", "644"), ("10", "666")] {
        let out = shop.path("out");
        let flags = ["--compatibility-version", version, "-o", &crate::local(&out)];
        outcome(shop.build(&context).args(flags)).ok();
        assert_eq!(crate::read(out.join("out")).trim(), mode, "version {version}");
    }
}
