//! Statements about results, and that the same input gives the same image.

use std::fs;
use std::path::Path;
use std::process::Command;

use cooper_testkit::outcome;
use serde_json::Value;

use crate::{COOPER, local, read, workshop};

/// A JSON document in an image archive.
fn document(archive: &Path, name: &str) -> Value {
    let text = outcome(Command::new("tar").arg("-xOf").arg(archive).arg(name)).ok().text();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn blob(archive: &Path, digest: &Value) -> Value {
    let path = digest.as_str().expect("digest").replacen(':', "/", 1);
    document(archive, &format!("blobs/{path}"))
}

#[test]
fn provenance_goes_along_with_images_and_files() {
    let shop = workshop();
    let context = shop.dockerfile("RUN echo made > /made\nFROM scratch\nCOPY --from=base /made /made\n");
    let archive = shop.path("image.tar");
    let provenance = ["--provenance=mode=max", "--build-arg", "WORD=1"];
    outcome(shop.build(&context).args(provenance).arg("-o").arg(format!("type=oci,dest={}", archive.display()))).ok();
    let index = blob(&archive, &document(&archive, "index.json")["manifests"][0]["digest"]);
    let (image, statement) = (&index["manifests"][0], &index["manifests"][1]);
    assert_eq!(statement["platform"]["architecture"], "unknown");
    assert_eq!(statement["annotations"]["vnd.docker.reference.digest"], image["digest"]);
    let manifest = blob(&archive, &statement["digest"]);
    assert_eq!(manifest["subject"]["digest"], image["digest"]);
    assert_eq!(manifest["artifactType"], "application/vnd.docker.attestation.manifest.v1+json");
    let layer = &manifest["layers"][0];
    assert_eq!(layer["annotations"]["in-toto.io/predicate-type"], "https://slsa.dev/provenance/v1");
    let predicate = blob(&archive, &layer["digest"])["predicate"].clone();
    let request = &predicate["buildDefinition"]["externalParameters"]["request"];
    assert_eq!(request["frontend"], "dockerfile.v0");
    assert_eq!(request["args"]["build-arg:WORD"], "1");
    assert_eq!(request["locals"][0]["name"], "context");
    assert_eq!(predicate["runDetails"]["metadata"]["buildkit_completeness"]["resolvedDependencies"], false);
    let steps = &predicate["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
    assert_eq!(steps[0]["op"]["Op"]["source"]["identifier"], "local://context");

    // The step is taken from the cache now, and what it used is told all the same.
    let out = shop.path("out");
    outcome(shop.build(&context).args(["--provenance=mode=min", "-o"]).arg(local(&out))).ok();
    let statement: Value = serde_json::from_str(&read(out.join("provenance.json"))).unwrap();
    assert_eq!(statement["subject"][0]["name"], "made");
    assert_eq!(
        statement["predicate"]["buildDefinition"]["externalParameters"]["request"]["locals"][0]["name"],
        "context"
    );

    outcome(shop.build(&context).args(["--provenance=mode=max,complete-materials=true", "-o"]).arg(local(&out)))
        .refused(&["provenance materials are incomplete", "reason: local_source"]);
    outcome(shop.build(&context).args(["--provenance=mode=medium", "-o"]).arg(local(&out)))
        .refused(&["invalid mode \"medium\""]);
}

#[test]
fn the_same_input_gives_the_same_image() {
    let shop = workshop();
    let context =
        shop.dockerfile("RUN mkdir /d && echo x > /d/a && ln /d/a /d/b && chmod 4711 /d/a\nCOPY busybox /c\n");
    let build = |root: &str, out: &str, one_thread: bool, attributes: &str| {
        let words: &[&str] = if one_thread { &["taskset", "-c", "0", COOPER] } else { &[COOPER] };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_remove("BUILDKIT_HOST").env_remove("COOPER_HOST");
        command.args(["build", "--progress", "plain", "--build-arg", "SOURCE_DATE_EPOCH=1600000000", "--root"]);
        command.arg(shop.path(root)).arg("--config").arg(shop.path("config.toml")).arg(&context);
        let out = shop.path(out);
        command.arg("-o").arg(format!("type=oci,rewrite-timestamp=true{attributes},dest={}", out.display()));
        outcome(&mut command).ok();
        fs::read(out).unwrap()
    };
    for attributes in ["", ",compression=zstd", ",compression=estargz,force-compression=true"] {
        let first = build("a", "a.tar", false, attributes);
        assert!(first == build("a", "again.tar", false, attributes), "cached: {attributes}");
        assert!(first == build("b", "b.tar", true, attributes), "another root, one thread: {attributes}");
    }
    shop.configure("snapshotter = \"native\"\n");
    let native = build("c", "c.tar", false, "");
    shop.configure("");
    assert!(native == build("a", "e.tar", false, ""), "another snapshotter");
}
