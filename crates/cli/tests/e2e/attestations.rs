//! Statements about results, and that the same input gives the same image.

use std::fs;
use std::path::Path;
use std::process::Command;

use cooper_testkit::{Access, Registry, outcome};
use serde_json::Value;

use crate::{COOPER, local, read, workshop, workshop_with};

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
fn statements_are_found_as_referrers() {
    let registry = Registry::start(Access::Open);
    let shop = workshop_with(&registry);
    let context = shop.dockerfile("RUN echo made > /made\n");
    let name = format!("{}/app:1", registry.host());
    let output = format!("type=image,name={name},push=true,attestation-storage=referrers");
    outcome(shop.build(&context).args(["--provenance=mode=min", "--sbom=true", "-o", &output])).ok();
    // The tag is the image itself, for whoever stumbles over an index.
    let manifest: Value = serde_json::from_slice(&registry.manifest("app:1")).unwrap();
    assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
    let digest = registry.digest("app:1");
    // Debian's registry keeps no lists, so there is one under the tag that the specification says.
    let list: Value = serde_json::from_slice(&registry.manifest(&format!("app:{}", digest.replace(':', "-")))).unwrap();
    assert_eq!(list["mediaType"], "application/vnd.oci.image.index.v1+json");
    let entries = list["manifests"].as_array().unwrap();
    let kinds: Vec<_> =
        entries.iter().map(|e| e["annotations"]["in-toto.io/predicate-type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]);
    for entry in entries {
        assert_eq!(entry["artifactType"], "application/vnd.in-toto+json");
        let referring: Value =
            serde_json::from_slice(&registry.manifest(&format!("app@{}", entry["digest"].as_str().unwrap()))).unwrap();
        assert_eq!(referring["subject"]["digest"], digest.as_str());
        assert_eq!(referring["layers"][0]["mediaType"], "application/vnd.in-toto+json");
    }
    // Built again, nothing is listed twice.
    outcome(shop.build(&context).args(["--sbom=true", "-o", &output])).ok();
    let again: Value =
        serde_json::from_slice(&registry.manifest(&format!("app:{}", digest.replace(':', "-")))).unwrap();
    assert_eq!(again["manifests"].as_array().unwrap().len(), entries.len());
}

#[test]
fn the_same_input_gives_the_same_image() {
    let shop = workshop();
    let context =
        shop.dockerfile("RUN mkdir /d && echo x > /d/a && ln /d/a /d/b && chmod 4711 /d/a\nCOPY busybox /c\n");
    let image = "oci,rewrite-timestamp=true";
    let cache = shop.path("cache").display().to_string();
    let build_with = |root: &str, out: &str, one_thread: bool, kind: &str, more: &[&str]| {
        let words: &[&str] = if one_thread { &["taskset", "-c", "0", COOPER] } else { &[COOPER] };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).env_remove("BUILDKIT_HOST").env_remove("COOPER_HOST");
        command.args(["build", "--progress", "plain", "--build-arg", "SOURCE_DATE_EPOCH=1600000000", "--root"]);
        command.arg(shop.path(root)).arg("--config").arg(shop.path("config.toml")).arg(&context);
        let out = shop.path(out);
        command.args(more).arg("-o").arg(format!("type={kind},dest={}", out.display()));
        outcome(&mut command).ok();
        fs::read(out).unwrap()
    };
    let build = |root: &str, out: &str, one_thread: bool, kind: &str| build_with(root, out, one_thread, kind, &[]);
    for attributes in ["", ",compression=zstd", ",compression=estargz,force-compression=true"] {
        let kind = format!("{image}{attributes}");
        let first = build("a", "a.tar", false, &kind);
        assert!(first == build("a", "again.tar", false, &kind), "cached: {kind}");
        assert!(first == build("b", "b.tar", true, &kind), "another root, one thread: {kind}");
    }
    for kind in ["tar", "docker,rewrite-timestamp=true,name=example.com/a:1", "oci,compression=uncompressed"] {
        let first = build("a", "a.tar", false, kind);
        assert!(first == build("a", "again.tar", false, kind), "cached: {kind}");
        if !kind.contains("uncompressed") {
            assert!(first == build("b", "b.tar", true, kind), "another root, one thread: {kind}");
        }
    }
    shop.configure("snapshotter = \"native\"\n");
    let native = build("c", "c.tar", false, image);
    shop.configure("");
    assert!(native == build("a", "e.tar", false, image), "another snapshotter");
    // What comes from a cache keeps its times even where nothing is rewritten.
    let export = format!("type=local,dest={cache},mode=max");
    let plain = build_with("d", "d.tar", false, "oci", &["--cache-to", &export]);
    let import = format!("type=local,src={cache}");
    let imported = build_with("f", "f.tar", false, "oci", &["--cache-from", &import]);
    assert!(plain == imported, "from an imported cache");
}
