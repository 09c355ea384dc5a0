//! `cooper build` without any daemon.

use std::process::Command;

use cooper_testkit::image::{inspect, unpack};
use cooper_testkit::outcome;

use crate::{ONE_FILE, read, workshop};

#[test]
fn an_archive_that_other_programs_read() {
    let shop = workshop();
    let context = shop.dockerfile(
        "RUN adduser -D -u 7 cooper 2>/dev/null || echo cooper:x:7:7::/:/bin/sh > /etc/passwd; \
         mkdir -p /d && echo one > /d/one && ln -s one /d/link && chmod 600 /d/one\nUSER 7\nENV A=b\n\
         WORKDIR /w\nCMD [\"cat\", \"one\"]\nLABEL made=by\n",
    );
    let archive = shop.path("image.tar");
    let digest = shop.path("digest");
    let mut build = shop.build(&context);
    build.arg("-o").arg(format!("type=oci,dest={},name=example.com/a:1", archive.display()));
    outcome(build.arg("--iidfile").arg(&digest)).ok().says("RUN adduser");

    let reference = format!("oci-archive:{}", archive.display());
    let seen = inspect(&reference);
    assert_eq!(seen["Digest"], read(digest));
    assert_eq!(seen["Labels"]["made"], "by");
    assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(4), "COPY, two RUNs, WORKDIR: {seen}");
    let rootfs = unpack(&reference, &shop.path("unpacked"));
    assert_eq!(read(rootfs.join("d/one")), "one\n");
    assert_eq!(rootfs.join("d/link").read_link().unwrap().to_str(), Some("one"));

    let config = outcome(Command::new("skopeo").args(["inspect", "--config", &reference])).ok();
    let config: serde_json::Value = serde_json::from_slice(&config.stdout).unwrap();
    assert_eq!(config["config"]["User"], "7");
    assert_eq!(config["config"]["WorkingDir"], "/w");
    assert_eq!(config["config"]["Cmd"], serde_json::json!(["cat", "one"]));
    assert_eq!(config["config"]["Env"].as_array().unwrap().last().unwrap(), "A=b");
}

#[test]
fn an_image_is_named_on_the_terminal_and_in_files() {
    let shop = workshop();
    let context = shop.dockerfile(ONE_FILE);
    let (digest, metadata) = (shop.path("digest"), shop.path("metadata.json"));
    let mut build = shop.build(&context);
    build.args(["-t", "example.com/made:1", "--iidfile"]).arg(&digest).arg("--metadata-file").arg(&metadata);
    let digest = {
        let told = outcome(&mut build).ok();
        let digest = read(digest);
        told.says(&format!("image example.com/made:1@{digest}"));
        digest
    };
    let metadata: serde_json::Value = serde_json::from_str(&read(metadata)).unwrap();
    assert_eq!(metadata["containerimage.digest"], digest.as_str());
    assert_eq!(metadata["image.name"], "example.com/made:1");

    let quiet = outcome(shop.build(&context).arg("-q")).ok();
    assert_eq!(quiet.text().trim(), digest);
    assert_eq!(quiet.stderr, "");
}

#[test]
fn a_dockerfile_or_a_tar_on_standard_input() {
    let shop = workshop();
    let context = shop.context(&[("Dockerfile", "FROM scratch\nCOPY a /b\n"), ("a", "from a tar")]);
    outcome(Command::new("tar").args(["-cf"]).arg(shop.path("c.tar")).arg("-C").arg(&context).arg(".")).ok();
    let build = |script: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env("COOPER", crate::COOPER).current_dir(shop.path(""));
        outcome(&mut command).ok()
    };
    build("$COOPER build --root state -o out - < c.tar");
    assert_eq!(read(shop.path("out/b")), "from a tar");
    build("cd context0 && printf 'FROM scratch\\nCOPY a /c\\n' | $COOPER build --root ../state -f - -o ../out .");
    assert_eq!(read(shop.path("out/c")), "from a tar");
}
