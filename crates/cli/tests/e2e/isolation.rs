//! The lower levels of isolation: as an ordinary user, and where nothing can be mounted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use cooper_testkit::{Outcome, outcome};

use crate::{local, read, workshop};

/// Nobody in particular, with nothing set aside in `/etc/subuid`.
const USER: u32 = 65534;

/// What every level owes a step: its files, a secret and a cache for as long as it runs, a network's names, directories
/// that can be renamed (a copy would have another number).
const STEPS: &str = "ENV PATH=/bin\nRUN mkdir /out && id -u > /out/id && cat /etc/hosts > /out/hosts && echo x > /dev/null\n\
    RUN --mount=type=secret,id=s,target=/run/s --mount=type=tmpfs,target=/t \
    cat /run/s > /out/secret && touch /t/x && rm -f /etc/none\n\
    RUN mkdir /bin/a && stat -c %i /bin/a > /n && mv /bin/a /bin/b && stat -c %i /bin/b | cmp - /n && rmdir /bin/b && rm /n\n\
    RUN --mount=type=cache,target=/cache echo kept > /cache/file\n\
    RUN --mount=type=cache,target=/cache cp /cache/file /out/cached\n\
    RUN --mount=from=base,source=/bin,target=/other test -e /other/busybox && ls / > /out/list\n\
    FROM scratch\nCOPY --from=base /out /\n";

fn stages() -> String {
    STEPS.replace("FROM scratch\nCOPY --from=base", "FROM scratch\nCOPY --from=made").replacen(
        "ENV",
        "FROM base AS made\nENV",
        1,
    )
}

/// Insists on texts in standard output.
fn prints(told: &Outcome, texts: &[&str]) {
    for text in texts {
        assert!(told.text().contains(text), "lacks {text:?}: {told}");
    }
}

#[test]
fn an_ordinary_user_builds() {
    let shop = workshop();
    let context = shop.dockerfile(&stages());
    fs::set_permissions(shop.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let as_user = |command: &mut Command| {
        command.uid(USER).gid(USER).env("HOME", shop.path("home")).env("USER", "nobody");
        outcome(command)
    };
    fs::write(shop.path("secret"), "hidden").unwrap();
    fs::set_permissions(shop.path("secret"), fs::Permissions::from_mode(0o644)).unwrap();
    let told = as_user(shop.cooper().arg("doctor").arg("--root").arg(shop.path("doctor"))).ok();
    prints(&told, &["user-namespace   works", "in use: user-namespace"]);
    let mut build = shop.build(&context);
    build.args(["--secret", &format!("id=s,src={}", shop.path("secret").display())]);
    as_user(build.args(["-o", &local(&shop.path("out"))])).ok();
    assert_eq!(read(shop.path("out/id")), "0\n", "root in there");
    assert_eq!(read(shop.path("out/secret")), "hidden");
    assert_eq!(read(shop.path("out/cached")), "kept\n");
    assert!(read(shop.path("out/hosts")).contains("localhost"));
    let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(shop.path("out/id")).unwrap());
    assert_eq!(owner, USER, "and only there");
    let denied = shop.dockerfile("RUN /bin/mount -t tmpfs x /mnt || /bin/unshare -U true\n");
    as_user(&mut shop.build(&denied)).refused(&["did not complete successfully"]);
}

/// As in most containers: root, who may not mount.
#[test]
fn root_without_privileges_keeps_its_users() {
    let shop = workshop();
    let context = shop.dockerfile(
        "ENV PATH=/bin\nRUN mkdir /out && chown 1000:2000 /out\nUSER 1000:2000\nRUN id -u > /out/id && id -g >> /out/id\n",
    );
    let without = |command: &Command| {
        let mut unprivileged = Command::new("setpriv");
        unprivileged.args(["--inh-caps=-all", "--bounding-set=-sys_admin"]).arg(command.get_program());
        unprivileged.args(command.get_args());
        for (name, value) in command.get_envs() {
            unprivileged.env(name, value.unwrap_or_default());
        }
        outcome(&mut unprivileged)
    };
    let told = without(shop.cooper().arg("doctor").arg("--root").arg(shop.path("doctor"))).ok();
    prints(&told, &["root, which has no privileges outside its user namespace", "in use: user-namespace"]);
    without(shop.build(&context).args(["-o", &local(&shop.path("out"))])).ok();
    assert_eq!(read(shop.path("out/out/id")), "1000\n2000\n");
}

/// `exit(7)` for 64-bit Arm: an executable of one segment.
const ARM: [u64; 17] = [
    0x7f45_4c46_0201_0100,
    0,
    0x0200_b700_0100_0000,
    0x7800_0100_0000_0000,
    0x4000_0000_0000_0000,
    0,
    0x0000_0000_4000_3800,
    0x0100_0000_0000_0000,
    0x0100_0000_0500_0000,
    0,
    0x0000_0100_0000_0000,
    0x0000_0100_0000_0000,
    0x8400_0000_0000_0000,
    0x8400_0000_0000_0000,
    0x0000_0100_0000_0000,
    0xa80b_80d2_e000_80d2,
    0x0100_00d4_0000_0000,
];

pub fn arm_program() -> Vec<u8> {
    ARM.iter().flat_map(|word| word.to_be_bytes()).collect()
}

#[test]
fn steps_for_another_processor_are_emulated_and_say_so() {
    let shop = workshop();
    let context = shop.context(&[("Dockerfile", "FROM scratch\nCOPY program /program\nRUN [\"/program\"]\n")]);
    fs::write(context.join("program"), arm_program()).unwrap();
    fs::set_permissions(context.join("program"), fs::Permissions::from_mode(0o755)).unwrap();
    let emulators = shop.path("emulators");
    fs::create_dir(&emulators).unwrap();
    fs::copy("/usr/bin/qemu-aarch64-static", emulators.join("buildkit-qemu-aarch64")).unwrap();
    let path = format!("{}:{}", emulators.display(), std::env::var("PATH").unwrap());
    outcome(shop.build(&context).args(["--platform", "linux/arm64"]).env("PATH", path))
        .refused(&["this step is for linux/arm64: it is emulated by", "exit code: 7"]);
}

#[test]
fn a_changed_root_is_enough() {
    let shop = workshop();
    let context = shop.dockerfile(&stages());
    fs::write(shop.path("secret"), "hidden").unwrap();
    let mut doctor = shop.cooper();
    doctor.env("COOPER_SANDBOX", "chroot").arg("doctor").arg("--root").arg(shop.path("doctor"));
    prints(&outcome(&mut doctor).ok(), &["in use: chroot", "steps are not isolated from the builder"]);
    fs::write(shop.path("config.toml"), "[worker.oci]\nsnapshotter = \"native\"\ngc = false\n").unwrap();
    let mut build = shop.build(&context);
    build.env("COOPER_SANDBOX", "chroot").args(["--secret", &format!("id=s,src={}", shop.path("secret").display())]);
    outcome(build.args(["-o", &local(&shop.path("out"))])).ok();
    assert_eq!(read(shop.path("out/secret")), "hidden");
    assert_eq!(read(shop.path("out/cached")), "kept\n");
    let left: Vec<_> = read(shop.path("out/list")).lines().map(str::to_owned).collect();
    assert!(!left.iter().any(|name| name == "cache" || name == "t"), "mount points are gone again: {left:?}");
    let offline = shop.dockerfile("RUN --network=none true\n");
    outcome(shop.build(&offline).env("COOPER_SANDBOX", "chroot")).refused(&["needs a network namespace"]);
    let marker = shop.marker();
    let leaving = shop.dockerfile(&format!("RUN /bin/busybox setsid /bin/busybox sleep {marker} & sleep 0.1\n"));
    outcome(shop.build(&leaving).env("COOPER_SANDBOX", "chroot")).ok();
    assert_eq!(cooper_testkit::leftovers::processes_with(&marker), [0u32; 0], "nothing outlives a step");
}

/// What a step below a changed root finds in `/proc` and `/sys`, asked by root and by another user.
#[test]
fn a_changed_root_has_a_proc_that_is_lent() {
    let shop = workshop();
    let questions = "( readlink /proc/self/exe; cat /proc/self/comm; [ \"$(readlink /proc/self)\" -gt 1 ] && echo number; \
        ls /proc/self/fd | head -n 1; grep -c ^MemTotal: /proc/meminfo; cat /proc/mounts | cut -d ' ' -f 2,3; \
        stat -f -c %T /proc; echo written > /dev/stdout; echo read | cat /dev/stdin; [ -d /sys/kernel ] && echo kernel; \
        sh -c 'cat /proc/'$$'/comm'; for path in /proc/1/comm /proc/self/root/none /procedure; do [ -e $path ] || echo none; done; \
        echo 1 2>/dev/null >/proc/sys/vm/drop_caches || echo refused; ls -d /proc/1; cat /proc/self/root/hi /proc/self/cwd/hi; \
        (exec -a busybox /proc/self/exe echo again); (exec -a busybox /proc/$$/exe echo numbered); \
        (cd /proc/self && cat comm && ls fd | head -n 1 && pwd -P | sed s/[0-9]*$//); (cd /sys/kernel && ls -d mm); \
        exec 7</; cat /proc/self/fd/7/hi; chmod 600 /dev/fd/7/none || echo missing; \
        exec 8<>/dev/ptmx && ls -d /dev/pts/9999 || echo closed ) 2>/dev/null";
    let context = shop.dockerfile(&format!(
        "RUN echo hi > /hi\nRUN {questions} | tee /root.txt\nRUN mkdir -m 777 /w\nUSER 1000:1000\nRUN {questions} | tee /w/user.txt\n\
         FROM scratch\nCOPY --from=base /root.txt /w/user.txt /\n"
    ));
    fs::write(shop.path("config.toml"), "[worker.oci]\nsnapshotter = \"native\"\ngc = false\n").unwrap();
    let mut build = shop.build(&context);
    outcome(build.env("COOPER_SANDBOX", "chroot").args(["-o", &local(&shop.path("out"))])).ok();
    let expected = "/bin/busybox\ncat\nnumber\n0\n1\n/ rootfs\n/proc proc\n/sys sysfs\nproc\nwritten\nread\nkernel\nsh\n\
        none\nnone\nnone\nrefused\n/proc/1\nhi\nhi\nagain\nnumbered\nsh\n0\n/proc/\nmm\nhi\nmissing\nclosed\n";
    for file in ["root.txt", "user.txt"] {
        assert_eq!(read(shop.path(&format!("out/{file}"))), expected, "{file}");
    }
}
