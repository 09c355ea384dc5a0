//! Where Dockerfiles and contexts come from, beside the directory that is built.

use std::process::Command;

use cooper_testkit::http::{Answer, Request, Server};
use cooper_testkit::outcome;

use crate::{local, read, workshop};

/// A server that knows these paths.
fn serving(files: Vec<(&'static str, Vec<u8>)>) -> Server {
    Server::start(move |mut client| {
        use std::io::Write as _;
        let Ok(Some(request)) = Request::read(&client) else { return };
        let found = files.iter().find(|(path, _)| *path == request.path());
        let answer = found.map_or_else(|| Answer::new(404, "nothing"), |(_, body)| Answer::new(200, body.clone()));
        let _ = client.write_all(&answer.bytes(&request.method));
    })
}

#[test]
fn a_dockerfile_from_a_url() {
    let large = [b"FROM scratch\n#".to_vec(), vec![b'x'; 3 << 20]].concat();
    let server = serving(vec![
        ("/dir/My.Dockerfile", b"FROM scratch\nCOPY a /b\n".to_vec()),
        ("/wrong", b"FROM scratch\nCOPPY a /b\n".to_vec()),
        ("/large", large),
    ]);
    let url = |path: &str| format!("http://127.0.0.1:{}/{path}", server.port());
    let shop = workshop();
    let context = shop.context(&[("Dockerfile", "FROM scratch\nCOPY nothing /\n"), ("a", "of the context")]);

    let mut build = shop.build(&context);
    outcome(build.args(["-f", &url("dir/My.Dockerfile")]).arg("-o").arg(local(&shop.path("out")))).ok();
    assert_eq!(read(shop.path("out/b")), "of the context");

    let cases: &[(&str, &[&str])] = &[
        ("wrong", &["unknown instruction: COPPY", "   2 | >>> COPPY a /b"]),
        ("large", &["it is larger than the 2 MiB"]),
        ("gone", &["failed to read dockerfile from http", "the server answers 404"]),
    ];
    for (path, texts) in cases {
        outcome(shop.build(&context).args(["-f", &url(path)])).refused(texts);
    }
}

/// A directory as a base has layers that no config tells of: what the step is called is told.
#[test]
fn the_history_of_images_on_directories() {
    let shop = workshop();
    let context = shop.context(&[("Dockerfile", "FROM base\nCOPY a /b\n"), ("a", "a")]);
    let base = shop.context(&[("f", "of the base")]);
    let archive = shop.path("image.tar");
    let mut build = shop.build(&context);
    build.arg("--build-context").arg(format!("base={}", base.display()));
    outcome(build.arg("-o").arg(format!("type=oci,dest={}", archive.display()))).ok();
    let reference = format!("oci-archive:{}", archive.display());
    let config = outcome(Command::new("skopeo").args(["inspect", "--config", &reference])).ok();
    let config: serde_json::Value = serde_json::from_slice(&config.stdout).unwrap();
    let told = |entry: &serde_json::Value| format!("{} | {}", entry["created_by"], entry["comment"]);
    let history: Vec<String> = config["history"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(
        history,
        [r#""COPY a /b # buildkit" | "buildkit.dockerfile.v0""#, r#""[1/2] COPY a /b" | "buildkit.exporter.image.v0""#]
    );
    assert_eq!(config["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
}

/// Results of several platforms in one directory: what was there before is deleted once, not by each of them.
#[test]
fn several_platforms_replace_a_directory() {
    let shop = workshop();
    let context =
        shop.context(&[("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY a /dir/$TARGETARCH\n"), ("a", "a")]);
    let dest = shop.path("out");
    std::fs::create_dir_all(dest.join("old")).unwrap();
    let mut build = shop.build(&context);
    build.args(["--platform", "linux/amd64,linux/arm64", "-o"]);
    outcome(build.arg(format!("{},mode=delete,platform-split=false", local(&dest)))).ok();
    assert_eq!(["amd64", "arm64"].map(|arch| read(dest.join("dir").join(arch))), ["a", "a"]);
    assert!(!dest.join("old").exists());
}
