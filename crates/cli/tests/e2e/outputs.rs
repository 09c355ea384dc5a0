//! Every kind of output, over the wire, to every kind of place.

use std::fs;
use std::path::Path;
use std::process::Command;

use cooper_testkit::image::{inspect, unpack};
use cooper_testkit::{Access, Registry, outcome};

use crate::{ONE_FILE, local, read, workshop, workshop_with};

/// `/made` in a tar file.
fn in_tar(tar: &Path) -> String {
    outcome(Command::new("tar").arg("-xOf").arg(tar).arg("made")).ok().text()
}

type Reader<'a> = Box<dyn Fn(&str) -> String + 'a>;

#[test]
fn files_directories_and_standard_output() {
    let shop = workshop();
    let daemon = shop.daemon();
    let context = shop.dockerfile(ONE_FILE);
    let in_image = |reference: String, name: &str| read(unpack(&reference, &shop.path(name)).join("made"));
    let path = |name: &str| shop.path(name).display().to_string();

    // Attributes, and how to read `/made` out of what they make.
    let cases: Vec<(&str, Reader<'_>)> = vec![
        ("oci", Box::new(|at: &str| in_image(format!("oci-archive:{at}"), "u1"))),
        ("docker,name=example.com/made:1", Box::new(|at: &str| in_image(format!("docker-archive:{at}"), "u2"))),
        ("oci,compression=zstd", Box::new(|at: &str| in_image(format!("oci-archive:{at}"), "u3"))),
        ("oci,compression=uncompressed", Box::new(|at: &str| in_image(format!("oci-archive:{at}"), "u4"))),
        ("tar", Box::new(|at: &str| in_tar(Path::new(at)))),
    ];
    for (number, (attributes, made)) in cases.iter().enumerate() {
        let file = path(&format!("out{number}"));
        outcome(shop.buildctl_build(&daemon, &context).arg("--output").arg(format!("type={attributes},dest={file}")))
            .ok();
        assert_eq!(made(&file), "made\n", "{attributes} to a file");

        fs::remove_dir_all(shop.path(&format!("u{}", number + 1))).ok();
        let piped =
            outcome(shop.buildctl_build(&daemon, &context).arg("--output").arg(format!("type={attributes},dest=-")));
        assert!(piped.ok().stdout == fs::read(&file).unwrap(), "{attributes} to standard output differs from the file");
    }

    let dir = path("local");
    outcome(shop.buildctl_build(&daemon, &context).arg("--output").arg(format!("type=local,dest={dir}"))).ok();
    assert_eq!(read(Path::new(&dir).join("made")), "made\n");

    let layout = path("layout");
    outcome(shop.buildctl_build(&daemon, &context).arg("--output").arg(format!("type=oci,tar=false,dest={layout}")))
        .ok();
    assert_eq!(read(unpack(&format!("oci:{layout}"), &shop.path("u9")).join("made")), "made\n");
}

#[test]
fn several_outputs_of_one_build() {
    let registry = Registry::start(Access::Open);
    let shop = workshop_with(&registry);
    let daemon = shop.daemon();
    let context = shop.dockerfile(ONE_FILE);
    let name = format!("{}/made:several", registry.host());
    let (archive, dir) = (shop.path("i.tar"), shop.path("dir"));
    outcome(
        shop.buildctl_build(&daemon, &context)
            .arg("--output")
            .arg(format!("type=image,name={name},push=true"))
            .arg("--output")
            .arg(format!("type=oci,dest={}", archive.display()))
            .arg("--output")
            .arg(local(&dir)),
    )
    .ok();
    assert_eq!(read(dir.join("made")), "made\n");
    let archive = inspect(&format!("oci-archive:{}", archive.display()));
    assert_eq!(archive["Layers"], registry.inspect("made:several")["Layers"]);
}

#[test]
fn owners_modes_and_times_arrive() {
    let shop = workshop();
    let daemon = shop.daemon();
    let context = shop.dockerfile(
        "RUN mkdir -p /o/d && echo x > /o/d/f && chown 12:34 /o/d/f && chmod 4751 /o/d/f && ln -s f /o/d/l && \
         touch -d '2001-02-03 04:05:06' /o/d/f\nFROM scratch\nCOPY --from=base /o /\n",
    );
    outcome(shop.build_with(&daemon, &context).arg("-o").arg(local(&shop.path("out")))).ok();
    let found = fs::symlink_metadata(shop.path("out/d/f")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&found) & 0o7777, 0o4751);
    assert_eq!(std::os::unix::fs::MetadataExt::mtime(&found), 981_173_106);
    assert_eq!(shop.path("out/d/l").read_link().unwrap().to_str(), Some("f"));

    let tar = shop.path("out.tar");
    outcome(shop.build_with(&daemon, &context).arg("-o").arg(format!("type=tar,dest={}", tar.display()))).ok();
    let list = outcome(Command::new("tar").args(["--numeric-owner", "--utc", "-tvf"]).arg(&tar)).ok().text();
    let line = list.lines().find(|line| line.ends_with(" d/f")).expect("d/f");
    assert!(line.starts_with("-rwsr-x--x 12/34 ") && line.contains("2001-02-03 04:05"), "{line}");
}

/// What podman says when it loads a file of the workshop, in a store of its own.
fn podman_loads(shop: &cooper_testkit::Workshop, file: &str) -> cooper_testkit::Outcome {
    let place = |name: &str| shop.path(name).display().to_string();
    let mut command = Command::new("podman");
    command.args(["--root", &place("podman"), "--runroot", &place("podman-run"), "--storage-driver", "vfs"]);
    command.args(["--events-backend", "file", "--cgroup-manager", "cgroupfs", "load", "--input"]);
    // Layouts are named by their paths, which must then look like names.
    outcome(command.arg(file).current_dir(shop.path("")))
}

#[test]
fn other_programs_take_every_kind_of_image() {
    let shop = workshop();
    let daemon = shop.daemon();
    let context = shop.context(&[("Dockerfile", "FROM scratch\nCOPY made /\n"), ("made", "made\n")]);
    let several = ["--opt", "platform=linux/amd64,linux/arm64"];
    let statements = ["--opt", "attest:provenance=mode=min", "--opt", "attest:sbom="];
    let every = |kind: &str, name: &str| {
        let compressions = ["gzip", "zstd", "estargz", "uncompressed"];
        compressions.map(|compression| format!("{kind},compression={compression},force-compression=true{name}"))
    };
    let mut rows: Vec<(String, &[&str])> = Vec::new();
    rows.extend(every("oci", "").map(|row| (row, [].as_slice())));
    rows.extend(every("docker", ",name=example.com/made:1").map(|row| (row, [].as_slice())));
    rows.extend(every("oci,tar=false", "").map(|row| (row, [].as_slice())));
    for (row, options) in [
        ("oci,oci-mediatypes=false", [].as_slice()),
        ("docker,oci-mediatypes=false", &[]),
        ("oci,annotation.a=b,annotation-manifest-descriptor.c=d", &[]),
        ("oci", &statements),
        ("oci,oci-artifact=false", &statements),
        ("docker", &statements),
        ("oci,attestation-storage=referrers", &statements),
        ("oci", &several),
        ("oci,tar=false,annotation-index.a=b", &several),
    ] {
        rows.push((row.to_owned(), options));
    }
    for (number, (row, options)) in rows.iter().enumerate() {
        let name = format!("image{number}");
        let file = shop.path(&name);
        let output = format!("type={row},dest={}", file.display());
        outcome(shop.buildctl_build(&daemon, &context).args(*options).args(["--output", &output])).ok();
        let transport = match row.as_str() {
            row if row.contains("tar=false") => "oci",
            row if row.starts_with("docker") => "docker-archive",
            _ => "oci-archive",
        };
        let reference = format!("{transport}:{}", file.display());
        inspect(&reference);
        // umoci, after skopeo has checked all digests on the way.
        let rootfs = unpack(&reference, &shop.path(&format!("unpacked{number}")));
        assert_eq!(read(rootfs.join("made")), "made\n", "{row}");
        let copied = format!("oci:{}:all", shop.path(&format!("copied{number}")).display());
        outcome(Command::new("skopeo").args(["copy", "--quiet", "--all", &reference, &copied])).ok();
        podman_loads(&shop, &name).ok();
    }
}

#[test]
fn platforms_that_share_a_directory_must_not_share_files() {
    let shop = workshop();
    let daemon = shop.daemon();
    let build = |lines: &str, output: &str| {
        let context = shop.context(&[("Dockerfile", lines), ("note", "n")]);
        let mut build = shop.buildctl_build(&daemon, &context);
        outcome(build.args(["--opt", "platform=linux/amd64,linux/arm64", "--output", output]))
    };
    let apart = "FROM scratch\nARG TARGETARCH\nCOPY note /$TARGETARCH\n";
    let same = "FROM scratch\nCOPY note /note\n";
    let (dir, tar) = (shop.path("dir"), shop.path("out.tar"));
    for kind in [format!("type=local,dest={}", dir.display()), format!("type=tar,dest={}", tar.display())] {
        build(same, &format!("{kind},platform-split=false")).refused(&["note", "linux/amd64", "linux/arm64"]);
        build(apart, &format!("{kind},platform-split=false")).ok();
        build(same, &kind).ok();
    }
    assert_eq!(read(dir.join("amd64")), "n");
    assert_eq!(read(dir.join("linux_arm64/note")), "n");
    let list = outcome(Command::new("tar").arg("-tf").arg(&tar)).ok().text();
    assert!(list.contains("linux_amd64/note") && list.contains("linux_arm64/note"), "{list}");
}

#[test]
fn images_are_loaded_into_the_engine_that_is_there() {
    let shop = workshop();
    let context = shop.dockerfile(ONE_FILE);
    let bin = shop.path("bin");
    fs::create_dir(&bin).unwrap();
    let program = |name: &str, script: &str| {
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n{script}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    // Nothing is installed: what else can be done is told, and nothing is built.
    let load = || {
        let mut build = shop.build(&context);
        build.env("PATH", &bin).env_remove("DOCKER_HOST");
        build.args(["--load", "-t", "example.com/loaded:1", "--provenance=mode=min"]);
        outcome(&mut build)
    };
    let nobody = load();
    assert!(!nobody.status.success(), "{nobody}");
    nobody.says("--output type=docker,dest=FILE");

    let place = |name: &str| shop.path(name).display().to_string();
    let store = format!(
        "exec podman --root {} --runroot {} --storage-driver vfs --events-backend file --cgroup-manager cgroupfs",
        place("podman"),
        place("podman-run")
    );
    program("podman", &format!("{store} \"$@\""));
    load().ok().says("loaded into podman, which lacked");
    let mut inspect = Command::new(bin.join("podman"));
    let seen = outcome(inspect.args(["image", "inspect", "--format", "{{.RepoTags}}", "example.com/loaded:1"])).ok();
    assert_eq!(seen.text().trim(), "[example.com/loaded:1]");

    // The engine's own reason is told.
    program("podman", "cat > /dev/null; echo 'no space left in the store' >&2; exit 3");
    let refused = load();
    assert!(!refused.status.success(), "{refused}");
    refused.says("no space left in the store");
}

#[test]
fn layers_that_docker_has_are_not_sent_again() {
    let shop = workshop();
    let bin = shop.path("bin");
    fs::create_dir(&bin).unwrap();
    // Answers as docker does of the image that it was given last.
    let script = format!(
        "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\ncd {}\n{}",
        bin.display(),
        r#"case "$1 $2" in
"info "*) echo '[]' ;;
"image ls") cat ids ;;
"image inspect") cat layers ;;
"load "*)
    cat > loaded.tar
    config=$(tar -xOf loaded.tar manifest.json | sed 's/.*"Config":"\([^"]*\)".*/\1/')
    tar -xOf loaded.tar "$config" | sed 's/.*"diff_ids":\[\([^]]*\)\].*/[\1]/' > layers
    echo "${config##*/}" > ids ;;
esac
"#
    );
    fs::write(bin.join("docker"), script).unwrap();
    fs::set_permissions(bin.join("docker"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let context = shop.dockerfile(&format!("{ONE_FILE}COPY note /note\n"));
    // Blobs beside the config and the manifest.
    let layers_sent_with = |note: &str| {
        fs::write(context.join("note"), note).unwrap();
        let mut build = shop.build(&context);
        build.env("PATH", &bin).env("DOCKER_HOST", "unix:///nowhere");
        outcome(build.args(["--load", "-t", "example.com/loaded:1"])).ok();
        let list = outcome(Command::new("tar").arg("-tf").arg(bin.join("loaded.tar"))).ok().text();
        list.lines().filter(|line| line.starts_with("blobs/sha256/") && !line.ends_with('/')).count() - 2
    };
    assert_eq!(layers_sent_with("one"), 2);
    assert_eq!(layers_sent_with("two"), 1, "only what is new");
    assert_eq!(layers_sent_with("two"), 0);
}

/// podman pulls from the build's own program: what it has already does not travel again.
#[test]
fn layers_that_podman_has_are_not_sent_again() {
    let shop = workshop();
    let bin = shop.path("bin");
    fs::create_dir(&bin).unwrap();
    let place = |name: &str| shop.path(name).display().to_string();
    let store = format!(
        "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nexec podman --root {} --runroot {} --storage-driver vfs \
         --events-backend file --cgroup-manager cgroupfs \"$@\"\n",
        place("podman"),
        place("podman-run")
    );
    fs::write(bin.join("podman"), store).unwrap();
    fs::set_permissions(bin.join("podman"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let podman = |arguments: &[&str]| outcome(Command::new(bin.join("podman")).args(arguments)).ok().text();
    let daemon = shop.daemon();
    // Of builds with layers of 8 MB and 300 kB: bytes that podman lacked, and all bytes of the image.
    let load = |last: &str| {
        let lines = format!(
            "RUN head -c 8000000 /dev/urandom > /large\nRUN head -c 300000 /dev/urandom > /small && echo {last}\n"
        );
        let context = shop.dockerfile(&lines);
        let mut build = shop.build_with(&daemon, &context);
        build.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).env_remove("DOCKER_HOST");
        let said = outcome(build.args(["--load", "-t", "example.com/app:1", "-t", "app:2"])).ok().stderr;
        let line = said.lines().find_map(|line| line.strip_prefix("loaded into podman, which lacked ")).expect(&said);
        let number = |text: &str| {
            let (digits, unit) = text.split_at(text.len() - 2);
            digits.parse::<f64>().unwrap() * if unit == "MB" { 1e6 } else { 1e3 }
        };
        let (lacked, all) = line.split_once(" of ").unwrap();
        (number(lacked), number(all))
    };
    let (lacked, all) = load("one");
    assert!(lacked > 8.3e6 && lacked <= all * 1.01, "{lacked} of {all}");
    let first = podman(&["image", "inspect", "--format", "{{.Id}} {{.RepoTags}}", "app:2"]);
    let (lacked, all) = load("two");
    assert!((3e5..4e5).contains(&lacked) && all > 8.3e6, "{lacked} of {all}");
    let second = podman(&["image", "inspect", "--format", "{{.Id}} {{.RepoTags}}", "app:2"]);
    assert_ne!(first, second);
    assert!(second.contains("[example.com/app:1 docker.io/library/app:2]"), "{second}");
    // Nothing else has a name, and nothing of this is called by the way that it took.
    assert!(!podman(&["image", "ls", "--format", "{{.Repository}}"]).contains("127.0.0.1"));

    // Where it cannot be pulled, all of it is sent.
    let script = fs::read_to_string(bin.join("podman")).unwrap();
    let without = script.replace("\nexec", "\n[ \"$1\" != pull ] || { echo 'no way there' >&2; exit 1; }\nexec");
    fs::write(bin.join("podman"), without).unwrap();
    let context = shop.dockerfile("RUN echo made > /made\n");
    let mut build = shop.build_with(&daemon, &context);
    build.env("PATH", format!("{}:/usr/bin:/bin", bin.display())).env_remove("DOCKER_HOST");
    outcome(build.args(["--load", "-t", "app:3"])).ok().says("podman cannot pull the image from here (no way there)");
    podman(&["image", "inspect", "app:3"]);
}
