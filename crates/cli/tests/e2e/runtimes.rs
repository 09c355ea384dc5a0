//! Steps that another program runs, runc or crun; and what holds for devices and processors whoever runs steps.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use cooper_testkit::{leftovers, outcome};

use crate::{local, read, workshop};

const RUNTIMES: [&str; 2] = ["runc", "crun"];

/// What a step may expect of whoever runs it.
const STEPS: &str = "ENV PATH=/bin\nRUN mkdir /out && id -u > /out/id && grep -c sandboxed /etc/hosts > /out/hosts; echo x > /dev/null\n\
    RUN --mount=type=secret,id=s,target=/run/s --mount=type=tmpfs,target=/t cat /run/s > /out/secret && touch /t/x\n\
    RUN --mount=type=cache,target=/cache echo kept > /cache/file\n\
    RUN --mount=type=cache,target=/cache cp /cache/file /out/cached\n\
    RUN --network=none ! ls /sys/class/net | grep -v lo && grep -h Seccomp: /proc/self/status > /out/filter\n\
    USER 1000:2000\nRUN id -u && id -g && ! mount -t tmpfs none /tmp 2>/dev/null\nUSER 0\n\
    RUN grep CapEff /proc/self/status | cut -f 2 > /out/caps; ls / > /out/list; ls /proc | grep -c '^[0-9]' > /out/processes\n";

#[test]
fn steps_are_run_by_the_program_that_is_named() {
    for runtime in RUNTIMES {
        let shop = workshop();
        shop.configure(&format!("binary = {runtime:?}\n"));
        let daemon = shop.daemon();
        let context = shop.dockerfile(STEPS);
        fs::write(shop.path("secret"), "hidden").unwrap();
        let mut build = shop.build_with(&daemon, &context);
        build.args(["--secret", &format!("id=s,src={}", shop.path("secret").display())]);
        outcome(build.arg("-o").arg(local(&shop.path("made")))).ok();
        for (file, expected) in [
            ("id", "0\n"),
            ("secret", "hidden"),
            ("cached", "kept\n"),
            ("filter", "Seccomp:\t2\n"),
            ("caps", "00000000a80425fb\n"),
        ] {
            assert_eq!(read(shop.path(&format!("made/out/{file}"))), expected, "{runtime} {file}");
        }
        let list = read(shop.path("made/out/list"));
        assert!(!list.lines().any(|name| name == "cache" || name == "t"), "{runtime}: mount points are gone: {list}");
        let workers = outcome(&mut shop.buildctl(&daemon, &["debug", "workers", "--verbose"])).ok();
        assert!(workers.text().contains(&format!("{runtime} version")), "{workers}");
        let failing = shop.dockerfile("RUN exit 42\n");
        outcome(&mut shop.build_with(&daemon, &failing)).refused(&["exit code: 42"]);
        let missing = shop.dockerfile("RUN [\"/no/such\"]\n");
        outcome(&mut shop.build_with(&daemon, &missing)).refused(&["/no/such"]);
        daemon.becomes_idle();
        assert!(leftovers::mounts_below(&shop.path("")).is_empty());
    }
}

#[test]
fn an_ordinary_user_builds_through_a_program() {
    for runtime in RUNTIMES {
        let shop = workshop();
        let context = shop.dockerfile(
            "ENV PATH=/bin\nRUN --mount=type=tmpfs,target=/t mkdir /out && id -u > /out/id && ! mount -t tmpfs none /t\n\
             RUN --network=none ls /sys/class/net > /out/net; grep Seccomp: /proc/self/status > /out/filter\n",
        );
        fs::set_permissions(shop.path(""), fs::Permissions::from_mode(0o777)).unwrap();
        fs::write(shop.path("config.toml"), format!("[worker.oci]\nbinary = {runtime:?}\ngc = false\n")).unwrap();
        let mut build = shop.build(&context);
        build.uid(65534).gid(65534).env("HOME", shop.path("home")).env("USER", "nobody");
        outcome(build.args(["-o", &local(&shop.path("made"))])).ok();
        assert_eq!(read(shop.path("made/out/id")), "0\n", "{runtime}: root in there");
        assert_eq!(read(shop.path("made/out/filter")), "Seccomp:\t2\n", "{runtime}");
    }
}

#[test]
fn nothing_is_left_of_a_daemon_that_is_killed() {
    for runtime in RUNTIMES {
        let shop = workshop();
        shop.configure(&format!("binary = {runtime:?}\n"));
        let daemon = shop.daemon();
        let marker = shop.marker();
        let context = shop.dockerfile(&format!("RUN /bin/sleep {marker} & /bin/sleep {marker}\n"));
        let mut client = shop.build_with(&daemon, &context).spawn().unwrap();
        let sleeping = || leftovers::processes_with(&marker).len();
        assert!(
            cooper_testkit::process::until(std::time::Duration::from_secs(60), || sleeping() >= 2),
            "{}",
            daemon.log()
        );
        daemon.kill();
        client.wait().unwrap();
        assert_eq!(leftovers::processes_with(&marker).len(), 0);
        // The next start removes the groups; the end of the test looks for them.
        drop(shop.daemon());
        assert!(leftovers::mounts_below(&shop.path("")).is_empty());
        assert!(shop.groups().is_empty(), "{:?}", shop.groups());
    }
}

#[test]
fn what_cannot_run_steps_is_told_at_the_start() {
    let shop = workshop();
    let context = shop.dockerfile("");
    for (binary, text) in [
        ("/nowhere/runc", "the runtime program /nowhere/runc cannot be found"),
        ("no-such-runtime", "the runtime program no-such-runtime is in no directory of PATH"),
        ("/bin/ls", "/ls cannot be used to run build steps: it is no OCI runtime"),
    ] {
        shop.configure(&format!("binary = {binary:?}\n"));
        outcome(&mut shop.build(&context)).refused(&[text, "built-in sandbox"]);
    }
    if !Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        shop.configure("apparmor-profile = \"docker-default\"\n");
        outcome(&mut shop.build(&context)).refused(&["docker-default", "this kernel has no AppArmor"]);
    }
}

#[test]
fn hooks_of_devices_are_run() {
    for binary in [None, Some("runc"), Some("crun")] {
        let shop = workshop();
        let specs = shop.path("cdi");
        fs::create_dir(&specs).unwrap();
        let (program, log) = (shop.path("hook"), shop.path("log"));
        let script =
            format!("#!/bin/sh\ngrep -q ociVersion || exit 1\necho $1 $GIVEN >> {}\n[ $1 != fail ]\n", log.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let hook = |name: &str, argument: &str| {
            format!(
                "    - {{hookName: {name}, path: {}, args: [hook, {argument}], env: [GIVEN=yes, \"PATH=/bin:/usr/bin\"], timeout: 20}}\n",
                program.display()
            )
        };
        let device = |name: &str, hooks: &str| format!("- name: {name}\n  containerEdits:\n    hooks:\n{hooks}");
        let hooks = ["createRuntime", "createContainer", "poststop"].map(|name| hook(name, name)).concat();
        let devices = device("good", &hooks) + &device("bad", &hook("createRuntime", "fail"));
        fs::write(specs.join("test.yaml"), format!("cdiVersion: '0.6.0'\nkind: test.com/dev\ndevices:\n{devices}"))
            .unwrap();
        let binary_line = binary.map(|binary| format!("binary = {binary:?}\n")).unwrap_or_default();
        shop.configure(&format!("{binary_line}[cdi]\nspecDirs = [{:?}]\n", specs.display().to_string()));
        let with = |device: &str| {
            let step = format!("RUN --device=test.com/dev={device} true\n");
            shop.context(&[("Dockerfile", &format!("{}{step}", cooper_testkit::workshop::BUSYBOX))])
        };
        let mut build = shop.build(&with("good"));
        outcome(build.args(["--allow", "device=test.com/dev=good"])).ok();
        assert_eq!(read(&log), "createRuntime yes\ncreateContainer yes\npoststop yes\n", "{binary:?}");
        let told = outcome(shop.build(&with("bad")).args(["--allow", "device=test.com/dev=bad"]));
        told.refused(&["hook"]);
    }
}

/// The kernel's registry of a user namespace of its own has an entry that names a program outside of the step.
#[test]
fn an_interpreter_that_the_kernel_looks_for_in_the_step_is_lent() {
    let shop = workshop();
    let context = shop.context(&[("Dockerfile", "FROM scratch\nCOPY program /program\nRUN [\"/program\"]\n")]);
    fs::write(context.join("program"), crate::isolation::arm_program()).unwrap();
    fs::set_permissions(context.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let entry = r":test:M:0:\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:";
    let script = "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && \
        printf %s \"$ENTRY\" > /proc/sys/fs/binfmt_misc/register && exec \"$@\"";
    let build = {
        let mut build = shop.build(&context);
        build.args(["--platform", "linux/arm64"]);
        build
    };
    let mut inside = Command::new("unshare");
    inside.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh"]);
    inside.arg(build.get_program()).args(build.get_args()).env("ENTRY", entry);
    for (name, value) in build.get_envs() {
        inside.env(name, value.unwrap_or_default());
    }
    outcome(&mut inside).refused(&["emulated by an interpreter that the kernel calls", "exit code: 7"]);
}
