//! What goes wrong at users' places: each a clear error, and then the next build is fine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use cooper_testkit::ports::free_port;
use cooper_testkit::tls::Certificate;
use cooper_testkit::{Daemon, Registry, Workshop, outcome};
use redb::TableDefinition;

use crate::{local, read, workshop, workshop_with};

/// A Dockerfile that fails, what the error says, and that the next build works.
#[track_caller]
fn refuses(shop: &Workshop, lines: &str, texts: &[&str]) {
    outcome(&mut shop.build(&shop.dockerfile(lines))).refused(texts);
    works(shop);
}

#[track_caller]
fn works(shop: &Workshop) {
    outcome(&mut shop.build(&shop.dockerfile("RUN true\n"))).ok();
}

#[test]
fn mistakes_in_dockerfiles() {
    let shop = workshop();
    let cases: &[(&str, &[&str])] = &[
        ("FORM x\n", &["unknown instruction: FORM", "Dockerfile:4", "   4 | >>> FORM x", "did you mean FROM?"]),
        ("RUN --nosuch true\n", &["unknown flag: --nosuch", "   4 | >>> RUN --nosuch true"]),
        ("COPY a\n", &["COPY requires at least two arguments", "   4 | >>> COPY a"]),
        ("ENV a\n", &["ENV must have two arguments", "   4 | >>> ENV a"]),
        ("RUN --mount=type=nosuch true\n", &["unsupported mount type \"nosuch\""]),
        ("COPY --from=nosuch /a /b\n", &["nosuch"]),
        ("RUN echo ${a:?no a} ; exit 3\n", &["exit code: 2"]),
        ("ENV b=${a:?no a}\n", &["no a"]),
        ("EXPOSE x\n", &["invalid containerPort: x"]),
    ];
    for (lines, texts) in cases {
        refuses(&shop, lines, texts);
    }
    for (text, error) in [
        ("", "the Dockerfile cannot be empty"),
        ("FROM\n", "FROM requires either one or three arguments"),
        ("RUN x\n", "no build stage in current context"),
    ] {
        outcome(&mut shop.build(&shop.context(&[("Dockerfile", text)]))).refused(&[error]);
    }
    outcome(shop.build(&shop.dockerfile("")).args(["--target", "nosuch"]))
        .refused(&["target stage \"nosuch\" could not be found", "hint: "]);
    outcome(&mut shop.build(&shop.context(&[]))).refused(&[
        "failed to read dockerfile",
        "No such file or directory",
        "hint: ",
    ]);
    outcome(&mut shop.build(&shop.path("nosuch"))).refused(&["nosuch"]);
}

#[test]
fn a_failing_step() {
    let shop = workshop();
    refuses(
        &shop,
        "RUN echo what it said && exit 7\n",
        &[
            "what it said",
            "Dockerfile:4",
            "   4 | >>> RUN echo what it said && exit 7",
            "process \"/bin/sh -c echo what it said && exit 7\" did not complete successfully: exit code: 7",
        ],
    );
    refuses(&shop, "RUN nosuch\n", &["exit code: 127", "hint: the command was not found"]);
    refuses(&shop, "RUN [\"/nosuch\"]\n", &["/nosuch", "no such file or directory"]);
    refuses(&shop, "RUN sh -c 'kill -9 $$'; exit $?\n", &["did not complete successfully", "137"]);
}

#[test]
fn missing_files_and_secrets() {
    let shop = workshop();
    refuses(&shop, "COPY nosuch /\n", &["\"/nosuch\": not found", ">>> COPY nosuch /", "hint: check the path"]);
    refuses(
        &shop,
        "RUN --mount=type=secret,id=s,required=true cat /run/secrets/s\n",
        &["secret s: not found", "hint: pass it with --secret"],
    );
    outcome(shop.build(&shop.dockerfile("")).args(["--secret", "id=s,src=/nosuch"])).refused(&["/nosuch"]);
}

#[test]
fn unknown_flags() {
    let shop = workshop();
    for (name, words) in [
        ("cooper", ["build", "--nosuch"].as_slice()),
        ("cooper", &["--nosuch"]),
        ("cooper", &["nosuch"]),
        ("buildctl", &["build", "--nosuch"]),
        ("buildkitd", &["--nosuch"]),
    ] {
        outcome(shop.named(name).args(words)).refused(&["nosuch"]);
    }
    for mistake in ["[nosuch\n", "root = 7\n", "[worker.oci]\nmax-parallelism = \"nosuch\"\n"] {
        fs::write(shop.path("config.toml"), mistake).unwrap();
        outcome(&mut shop.daemon_command(&shop.path("state"), &shop.path("s"))).refused(&["config.toml"]);
    }
}

#[test]
fn missing_images_and_registries() {
    let registry = Registry::with_busybox();
    let shop = workshop_with(&registry);
    let host = registry.host();
    let nobody = format!("127.0.0.1:{}", free_port());
    let zeros = "0".repeat(64);
    let cases: [(String, Vec<String>); 4] = [
        (
            "FROM nosuch\n".into(),
            vec!["docker.io/library/nosuch:latest".into(), "not found".into(), "Dockerfile:4".into()],
        ),
        (
            format!("FROM {host}/library/busybox:v9\n"),
            vec![format!("{host}/library/busybox:v9"), "not found".into(), "hint: ".into()],
        ),
        (format!("FROM {nobody}/a\n"), vec![nobody.clone(), "Connection refused".into()]),
        (format!("FROM busybox@sha256:{zeros}\n"), vec![zeros, "not found".into()]),
    ];
    for (lines, texts) in &cases {
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        refuses(&shop, lines, &texts);
    }
    outcome(&mut shop.build(&shop.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]))).ok();
}

#[test]
fn a_corrupt_blob() {
    let registry = Registry::with_busybox();
    let shop = workshop_with(&registry);
    let layer = registry.inspect("library/busybox:latest")["Layers"][0].as_str().unwrap().to_owned();
    registry.corrupt(&layer);
    let context = shop.context(&[("Dockerfile", "FROM busybox\nRUN true\n")]);
    outcome(&mut shop.build(&context)).refused(&[&layer, "digest"]);
    registry.corrupt(&layer); // the same bits again: repaired
    outcome(&mut shop.build(&context)).ok();
}

#[test]
fn an_unreadable_file_in_the_context() {
    let shop = workshop();
    let context = shop.dockerfile("COPY . /c\n");
    let file = context.join("private");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let daemon = shop.daemon();
    // A client without root's right to read everything.
    let mut client = Command::new("setpriv");
    let dropped = "-dac_override,-dac_read_search";
    client.args([format!("--bounding-set={dropped}"), format!("--inh-caps={dropped}")]).arg(crate::COOPER);
    client.args(["--addr", &daemon.address(), "build", "--progress", "plain"]).arg(&context);
    outcome(&mut client).refused(&["cannot open private: Permission denied"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    outcome(&mut client).ok();
}

/// A small file system that goes away with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, size: &str) -> Self {
        fs::create_dir(&at).unwrap();
        outcome(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&at)).ok();
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk() {
    let shop = workshop();
    let disk = SmallDisk::mount(shop.path("small"), "24m");
    let root = disk.0.join("state");
    let daemon = shop.daemon_at(&root);
    // By a step, by the context, and by the engine's own blobs.
    let step = shop.dockerfile("RUN dd if=/dev/zero of=/big bs=1M count=64\n");
    outcome(&mut shop.build_with(&daemon, &step)).refused(&["No space left on device", "exit code: 1"]);
    let context = shop.dockerfile("COPY big /\n");
    fs::write(context.join("big"), vec![1; 64 << 20]).unwrap();
    outcome(&mut shop.build_with(&daemon, &context)).refused(&["No space left on device", "hint: free some"]);
    let export = shop.dockerfile("RUN dd if=/dev/urandom of=/r bs=1M count=12\n");
    outcome(shop.build_with(&daemon, &export).args(["-t", "example.com/x"])).refused(&["No space left on device"]);

    outcome(&mut shop.buildctl(&daemon, &["prune", "--all"])).ok();
    let out = shop.path("out");
    let fine = shop.dockerfile("RUN echo fine > /fine\nFROM scratch\nCOPY --from=base /fine /\n");
    outcome(shop.build_with(&daemon, &fine).arg("-o").arg(local(&out))).ok();
    assert_eq!(read(out.join("fine")), "fine\n");
    drop(daemon);
    drop(disk);
}

#[test]
fn an_output_that_cannot_be_written() {
    let shop = workshop();
    let context = shop.dockerfile("");
    let mut build = shop.build(&context);
    outcome(build.args(["-o", "type=oci,dest=/nosuch/dir/x.tar"])).refused(&["/nosuch/dir"]);
    outcome(shop.build(&context).args(["-o", "type=nosuch"])).refused(&["nosuch"]);
    outcome(shop.build(&context).args(["-o", "type=oci,dest=/dev/full"])).refused(&["No space left on device"]);
}

#[test]
fn a_state_directory_of_another_version() {
    const SETTINGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("settings");
    let shop = workshop();
    let state = shop.path("state");
    fs::create_dir(&state).unwrap();
    let database = redb::Database::create(state.join("meta.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(SETTINGS).unwrap().insert("format", b"999".as_slice()).unwrap();
    write.commit().unwrap();
    drop(database);
    let expected =
        ["meta.redb was made by another version of this program", "layout 999", "use another root directory"];
    outcome(&mut shop.build(&shop.dockerfile(""))).refused(&expected);
    outcome(&mut shop.daemon_command(&state, &shop.path("s"))).refused(&expected);
    works(&{
        fs::remove_dir_all(&state).unwrap();
        shop
    });
}

#[test]
fn two_daemons_on_one_state_directory() {
    let shop = workshop();
    let first = shop.daemon();
    let second = outcome(&mut shop.daemon_command(&shop.path("state"), &shop.path("second.sock")));
    second.refused(&["buildkitd.lock, another instance running?", &format!("held by pid {}", first.id())]);
    // A build without a daemon is told to use the daemon.
    outcome(&mut shop.build(&shop.dockerfile("")))
        .refused(&["another instance running?", "hint: use the running daemon"]);
    outcome(&mut shop.build_with(&first, &shop.dockerfile("RUN true\n"))).ok();
}

#[test]
fn mistakes_about_tls() {
    let shop = workshop();
    let own = Certificate::make(&shop.path(""));
    let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let (cert, key) = (text(&own.cert), text(&own.key));
    let server = ["--tlscert", &cert, "--tlskey", &key];
    let all = ["--tlscacert", &cert, "--tlscert", &cert, "--tlskey", &key];
    let daemon = |arguments: &[&str]| {
        let (port, socket) = (free_port(), shop.path("tls.sock"));
        let address = format!("tcp://127.0.0.1:{port}");
        let mut command = shop.daemon_command(&shop.path("state"), &socket);
        command.args(["--addr", &address]).args(arguments);
        (Daemon::start(command, socket, shop.path("tls.log")), address)
    };
    let ask = |address: &str, arguments: &[&str]| {
        outcome(shop.named("buildctl").args(["--addr", address]).args(arguments).args(["debug", "info"]))
    };
    let (plain, address) = daemon(&[]);
    ask(&address, &[]).ok();
    ask(&address, &all).refused(&["the daemon does not speak TLS here"]);
    drop(plain);
    let (encrypted, address) = daemon(&server);
    ask(&address, &["--tlscacert", &cert]).ok();
    ask(&address, &[]).refused(&["the daemon expects TLS", "--tlscacert"]);
    ask(&address, &["--tlscacert", &cert, "--tlsservername", "elsewhere"]).refused(&["not valid for name"]);
    drop(encrypted);
    let (mutual, address) = daemon(&all);
    ask(&address, &all).ok();
    ask(&address, &["--tlscacert", &cert]).refused(&["the daemon expects a certificate of this client"]);
    assert!(mutual.log().contains("peer sent no certificates"), "{}", mutual.log());
}

#[test]
fn no_daemon_at_the_address() {
    let shop = workshop();
    let mut build = shop.cooper();
    build.args(["--addr", "unix:///nosuch.sock", "build"]).arg(shop.dockerfile(""));
    outcome(&mut build).refused(&["unix:///nosuch.sock", "hint: is the daemon running?"]);
}
