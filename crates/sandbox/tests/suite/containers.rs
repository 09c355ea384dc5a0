//! What a process sees and may do in a container, tried with real containers from busybox, whatever runs them: the crate around
//! this module says what does. Needs root and `/bin/busybox` (static).

use cooper_mount::{Mount, OverlayUpper};
use cooper_sandbox::{
    Container, ContainerMount, ContainerSpec, DnsConfig, Error, ExitCause, Hook, HookPoint, Host, MountKind, Network,
    Output, ProcessIo, ProcessSpec, Resources, Sandbox, Security, Stdin, Ulimit, WinSize,
};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A base image of busybox, a state directory and the sandbox.
struct Bench {
    dir: tempfile::TempDir,
    sandbox: Box<dyn Sandbox>,
}

/// What came of a container.
#[derive(Debug)]
struct Outcome {
    cause: ExitCause,
    out: String,
    err: String,
    /// The upper directory: what the container changed.
    upper: PathBuf,
}

fn next_id() -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        for name in ["bin", "etc", "tmp", "root", "home/joe"] {
            fs::create_dir_all(base.join(name)).unwrap();
        }
        fs::copy("/bin/busybox", base.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "ls", "id", "mount", "sleep", "echo", "true", "false", "stat", "touch", "mkdir", "hostname",
            "ip", "grep", "chroot", "readlink", "test", "kill", "su", "env", "tty", "head", "wc", "mknod", "unshare",
            "sed", "stty", "seq", "dd", "rm", "nslookup", "ps",
        ] {
            symlink("busybox", base.join("bin").join(applet)).unwrap();
        }
        fs::write(
            base.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n42:x:4242:1::/:/bin/sh\n",
        )
        .unwrap();
        fs::write(base.join("etc/group"), "root:x:0:\njoe:x:1000:\nwheel:x:10:joe,root\naudio:x:29:joe\n").unwrap();
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        let sandbox = crate::open(&dir.path().join("state"));
        Self { dir, sandbox }
    }

    /// A writable root on top of busybox.
    fn root(&self) -> (Mount, PathBuf) {
        let work = self.dir.path().join(next_id());
        let (upper, scratch) = (work.join("upper"), work.join("work"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&scratch).unwrap();
        let mount = Mount::Overlay {
            lower: vec![self.dir.path().join("base")],
            upper: Some(OverlayUpper { dir: upper.clone(), work: scratch }),
            userxattr: false,
        };
        (mount, upper)
    }

    fn container(&self) -> (ContainerSpec, PathBuf) {
        let (root, upper) = self.root();
        (ContainerSpec::new(next_id(), root), upper)
    }

    async fn start(&self, spec: ContainerSpec, process: ProcessSpec, io: ProcessIo) -> Box<dyn Container> {
        self.sandbox.start(spec, process, io).await.unwrap()
    }

    /// Runs a process to its end.
    async fn process(&self, process: ProcessSpec, change: impl FnOnce(&mut ContainerSpec)) -> Result<Outcome, Error> {
        let (mut spec, upper) = self.container();
        change(&mut spec);
        let (io, mut streams) = ProcessIo::piped().unwrap();
        let container = self.sandbox.start(spec, process, io).await?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let (a, b) = tokio::join!(streams.stdout.read_to_end(&mut out), streams.stderr.read_to_end(&mut err));
        a.unwrap();
        b.unwrap();
        let status = container.wait().await?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ok(Outcome { cause: status.cause, out: text(out), err: text(err), upper })
    }

    /// Runs a shell script.
    async fn script(&self, script: &str) -> Outcome {
        self.process(shell(script), |_| {}).await.unwrap()
    }

    /// Runs a script and compares what it printed.
    async fn check(&self, script: &str, expected: &str) {
        let outcome = self.script(script).await;
        assert_eq!(outcome.out.trim_end(), expected, "{script}: {outcome:?}");
    }

    async fn check_with(&self, change: impl FnOnce(&mut ContainerSpec), script: &str, expected: &str) {
        let outcome = self.process(shell(script), change).await.unwrap();
        assert_eq!(outcome.out.trim_end(), expected, "{script}: {outcome:?}");
    }
}

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec { env: vec!["PATH=/bin".into()], ..ProcessSpec::new(["/bin/sh", "-c", script]) }
}

/// Everything below `dir`, sorted, directories with a slash.
fn names(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().unwrap().is_dir() {
                found.push(format!("{name}/"));
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    walk(dir, "", &mut found);
    found.sort();
    found
}

#[tokio::test]
async fn exit_codes_signals_and_bytes() {
    let bench = Bench::new();
    for (script, cause) in [
        ("exit 0", ExitCause::Code(0)),
        ("exit 7", ExitCause::Code(7)),
        ("exit 255", ExitCause::Code(255)),
        // The first process of a namespace ignores signals that it sends to itself, so a child does the dying.
        ("sh -c 'kill -TERM $$'; exit $?", ExitCause::Code(143)),
    ] {
        assert_eq!(bench.script(script).await.cause, cause, "{script}");
    }
    let outcome = bench.script("printf 'a\\0b\\r\\n'; printf 'err' >&2").await;
    assert_eq!((outcome.out.as_bytes(), outcome.err.as_str()), (&b"a\0b\r\n"[..], "err"));
    bench.check("echo $$; cat", "1").await;
}

#[tokio::test]
async fn large_output_arrives_whole_and_input_is_passed() {
    let bench = Bench::new();
    let outcome = bench.script("seq 1 200000").await;
    assert_eq!(outcome.out.lines().count(), 200_000);
    let (spec, _) = bench.container();
    let (mut io, mut streams) = ProcessIo::piped().unwrap();
    let (stdin, mut feed) = Stdin::pipe().unwrap();
    io.stdin = stdin;
    let container = bench.start(spec, shell("cat; echo end"), io).await;
    feed.write_all(b"fed\n").await.unwrap();
    drop(feed);
    let mut out = String::new();
    streams.stdout.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "fed\nend\n");
    assert!(container.wait().await.unwrap().success());
}

#[tokio::test]
async fn programs_that_cannot_run_say_why() {
    let bench = Bench::new();
    let base = bench.dir.path().join("base");
    fs::write(base.join("bin/plain"), "no program").unwrap();
    fs::write(base.join("bin/garbage"), "\u{1}\u{2}").unwrap();
    fs::set_permissions(base.join("bin/garbage"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(base.join("bin/script"), "#!/missing/interpreter\n").unwrap();
    fs::set_permissions(base.join("bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
    // What runtime programs say themselves is theirs; where they find out too late, it is output of the step.
    let table = [
        (vec!["foo"], "exec: \"foo\": executable file not found in $PATH", "", ""),
        (
            vec!["/bin/foo"],
            "exec: \"/bin/foo\": stat /bin/foo: no such file or directory",
            "",
            "exec: \"/bin/foo\": executable",
        ),
        (
            vec!["/bin"],
            "exec: \"/bin\": is a directory",
            "exec: \"/bin\": permission",
            "exec: \"/bin\": operation not permitted",
        ),
        (vec!["/bin/plain"], "exec: \"/bin/plain\": permission denied", "", ""),
        (vec!["plain"], "exec: \"plain\": permission denied", "exec: \"plain\": executable file not found", ""),
        (vec![""], "exec: \"\": executable file not found in $PATH", "", "exec: \"\": operation not permitted"),
        (vec!["/bin/garbage"], "exec /bin/garbage: exec format error", "exec format error", "Exec format error"),
        (vec!["script"], "exec script: no such file or directory", "no such file", "No such file"),
        (vec![], "a process needs a program to run", "", ""),
    ];
    for (args, builtin, runc, crun) in table {
        let own = match crate::PROGRAM {
            Some("runc") => runc,
            Some("crun") => crun,
            _ => "",
        };
        let expected = if own.is_empty() { builtin } else { own };
        let process = ProcessSpec { env: vec!["PATH=/nowhere:/bin".into()], ..ProcessSpec::new(args.clone()) };
        match bench.process(process, |_| {}).await {
            Err(error) => assert!(error.to_string().starts_with(expected), "{args:?}: {error}"),
            Ok(outcome) => {
                assert!(crate::PROGRAM.is_some() && outcome.cause == ExitCause::Code(1), "{args:?}: {outcome:?}");
                assert!(outcome.err.contains(expected), "{args:?}: {outcome:?}");
            }
        }
    }
}

#[tokio::test]
async fn users_come_from_the_containers_own_files() {
    let bench = Bench::new();
    let print = "id -u; id -g; id -G; echo $HOME";
    for (user, expected) in [
        ("", "0 0 0 10 /root"),
        ("joe", "1000 1000 1000 10 29 /home/joe"),
        ("1000", "1000 1000 1000 10 29 /home/joe"),
        ("joe:wheel", "1000 10 10 /home/joe"),
        ("1234", "1234 0 0 /"),
        ("1234:5678", "1234 5678 5678 /"),
        ("42", "4242 1 1 /"),
    ] {
        let process = ProcessSpec { user: user.into(), ..shell(print) };
        let outcome = bench.process(process, |_| {}).await.unwrap();
        assert_eq!(outcome.out.split_whitespace().collect::<Vec<_>>().join(" "), expected, "{user:?} {outcome:?}");
    }
    for (user, expected) in [
        ("jane", "unable to find user jane: no matching entries in passwd file"),
        ("joe:jane", "unable to find group jane: no matching entries in group file"),
    ] {
        let process = ProcessSpec { user: user.into(), ..shell(print) };
        assert_eq!(bench.process(process, |_| {}).await.unwrap_err().to_string(), expected);
    }
    let process = ProcessSpec { env: vec!["HOME=/x".into()], extra_groups: vec![77], ..shell("echo $HOME; id -G") };
    assert_eq!(bench.process(process, |_| {}).await.unwrap().out, "/x\n0 10 77\n");
}

#[tokio::test]
async fn privileges_are_the_fields_default() {
    let bench = Bench::new();
    let caps = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let root = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2";
    bench.check(caps, root).await;
    let process = ProcessSpec { user: "joe".into(), ..shell(caps) };
    let outcome = bench.process(process, |_| {}).await.unwrap();
    let user = root.replacen("00000000a80425fb", "0000000000000000", 2);
    assert_eq!(outcome.out.trim_end(), user);
    for refused in ["mount -t tmpfs none /tmp", "unshare -m true", "mount -o remount,rw /sys"] {
        let outcome = bench.script(refused).await;
        assert_ne!(outcome.cause, ExitCause::Code(0), "{refused}");
        assert!(outcome.err.contains("ermission denied") || outcome.err.contains("not permitted"), "{outcome:?}");
    }
    bench.check("chroot / echo works", "works").await;
}

#[tokio::test]
async fn privileges_can_be_gained_by_programs_made_for_it() {
    let bench = Bench::new();
    let base = bench.dir.path().join("base");
    fs::copy("/bin/busybox", base.join("bin/root-cat")).unwrap();
    let process = ProcessSpec { user: "joe".into(), ..shell("/bin/suid/cat /secret") };
    fs::create_dir(base.join("bin/suid")).unwrap();
    fs::copy("/bin/busybox", base.join("bin/suid/cat")).unwrap();
    fs::set_permissions(base.join("bin/suid/cat"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::write(base.join("secret"), "told").unwrap();
    fs::set_permissions(base.join("secret"), fs::Permissions::from_mode(0o400)).unwrap();
    // busybox gives privileges up by itself, unless it is told not to.
    fs::write(base.join("etc/busybox.conf"), "[SUID]\ncat = ssx root.root\n").unwrap();
    fs::set_permissions(base.join("etc/busybox.conf"), fs::Permissions::from_mode(0o644)).unwrap();
    let outcome = bench.process(process, |_| {}).await.unwrap();
    assert_eq!(outcome.out, "told", "{outcome:?}");
}

#[tokio::test]
async fn the_machine_is_hidden() {
    let bench = Bench::new();
    bench.check("ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : | grep .", "").await;
    bench.check("wc -c < /proc/keys; wc -c < /proc/timer_list", "0\n0").await;
    for path in ["/proc/sys/kernel/domainname", "/sys/kernel/profiling", "/proc/irq/default_smp_affinity"] {
        let outcome = bench.script(&format!("echo x > {path}")).await;
        assert!(outcome.err.contains("Read-only file system"), "{path}: {outcome:?}");
    }
    bench.check("test $(ls /proc | grep -c '^[0-9]*$') -le 4 && echo few", "few").await;
    bench.check("ls /proc/self/fd | wc -l", "4").await;
    // runc copies all streams.
    let stdin = if crate::PROGRAM == Some("runc") { "pipe:" } else { "/dev/null" };
    bench.check("readlink /proc/self/fd/0 | sed 's/:.*/:/'", stdin).await;
}

#[tokio::test]
async fn devices() {
    let bench = Bench::new();
    bench
        .check(
            "ls /dev | grep -v core; stat -c '%F %a' /dev/null /dev/pts /dev/shm /dev",
            "fd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\
             character special file 666\ndirectory 755\ndirectory 1777\ndirectory 755",
        )
        .await;
    bench.check("echo x > /dev/null; head -c 4 /dev/zero | wc -c; readlink /dev/ptmx", "4\npts/ptmx").await;
    bench.check("echo 1 > /dev/shm/x; echo 2 > /dev/x; cat /dev/shm/x /dev/x", "1\n2").await;
    // A node can be made, and reaches nothing.
    for dir in ["/tmp", "/dev"] {
        let outcome = bench.script(&format!("mknod {dir}/vda b 254 0 && cat {dir}/vda")).await;
        let refused = ["Permission denied", "Operation not permitted"].iter().any(|why| outcome.err.contains(why));
        assert!(refused, "{outcome:?}");
    }
    bench
        .check_with(
            |s| s.shm_size = Some(1 << 20),
            "dd if=/dev/zero of=/dev/shm/x 2>/dev/null; stat -c %s /dev/shm/x",
            "1048576",
        )
        .await;
    bench.check("echo to-stdout > /dev/stdout; echo to-stderr > /dev/stderr", "to-stdout").await;
    let process = ProcessSpec { user: "joe".into(), ..shell("echo ok > /dev/stdout") };
    assert_eq!(bench.process(process, |_| {}).await.unwrap().out, "ok\n");
}

#[tokio::test]
async fn network_and_names() {
    let bench = Bench::new();
    bench.check("hostname", "buildkitsandbox").await;
    bench.check_with(|s| s.hostname = "other".into(), "hostname", "other").await;
    let none = |s: &mut ContainerSpec| s.network = Network::None;
    bench.check_with(none, "ip -o link | wc -l; ip -o addr show lo | grep -c 127.0.0.1/8", "1\n1").await;
    bench.check_with(none, "cat < /sys/class/net/lo/operstate; ls /sys/class/net", "unknown\nlo").await;
    let links = fs::read_dir("/sys/class/net").unwrap().count();
    bench.check("ls /sys/class/net | wc -l", &links.to_string()).await;
    let extra = |s: &mut ContainerSpec| {
        s.extra_hosts = vec![Host { ip: "10.0.0.7".parse().unwrap(), name: "db".into() }];
        s.dns = Some(DnsConfig { nameservers: vec!["10.9.9.9".into()], ..DnsConfig::default() });
    };
    bench
        .check_with(
            extra,
            "cat /etc/hosts; grep nameserver /etc/resolv.conf",
            "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\n\
             nameserver 10.9.9.9",
        )
        .await;
    bench.check_with(|s| s.network_files = false, "ls /etc", "group\npasswd").await;
}

#[tokio::test]
async fn network_of_a_path() {
    let bench = Bench::new();
    let own = |s: &mut ContainerSpec| s.network = Network::Namespace("/proc/self/ns/net".into());
    bench
        .check_with(own, "readlink /proc/self/ns/net", &fs::read_link("/proc/self/ns/net").unwrap().to_string_lossy())
        .await;
    let missing = |s: &mut ContainerSpec| s.network = Network::Namespace("/run/netns/missing".into());
    let error = bench.process(shell("true"), missing).await.unwrap_err().to_string();
    assert!(error.contains("/run/netns/missing"), "{error}");
}

#[tokio::test]
async fn limits_of_processes() {
    let bench = Bench::new();
    let limit = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
    let process = ProcessSpec {
        ulimits: vec![limit("nofile", 100, 200), limit("core", 0, 0), limit("nproc", 50, 60)],
        ..shell("ulimit -n; ulimit -Hn; ulimit -c; grep processes /proc/self/limits")
    };
    assert_eq!(
        bench.process(process, |_| {}).await.unwrap().out,
        "100\n200\n0\nMax processes             50                   60                   processes \n"
    );
    for (bad, expected) in [
        (limit("nofiles", 1, 1), "unknown ulimit \"nofiles\": expected one of core, cpu"),
        (limit("nofile", 2, 1), "ulimit nofile: the soft limit (2) is above the hard one (1)"),
        (
            limit("nofile", -1, -1),
            match crate::PROGRAM {
                None => "set ulimit nofile=unlimited:unlimited (the builder's own hard limit is",
                Some(_) => "start the process with ",
            },
        ),
    ] {
        let process = ProcessSpec { ulimits: vec![bad.clone()], ..shell("true") };
        let error = bench.process(process, |_| {}).await.unwrap_err().to_string();
        assert!(error.starts_with(expected), "{bad:?}: {error}");
    }
}

#[tokio::test]
async fn surroundings_of_a_process() {
    let bench = Bench::new();
    bench.check("umask", "0022").await;
    bench.check("cat /proc/self/stat | { read pid comm state ppid pgrp session rest; echo $session; }", "1").await;
    let direct = ProcessSpec::new(["/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    let outcome = bench.process(direct, |_| {}).await.unwrap();
    assert_eq!(outcome.out, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
    let process = ProcessSpec { cwd: "/made/for/it".into(), ..shell("pwd; stat -c %u:%a .") };
    let outcome = bench.process(process, |_| {}).await.unwrap();
    assert_eq!(outcome.out, "/made/for/it\n0:755\n");
    assert_eq!(names(&outcome.upper), ["etc/", "made/", "made/for/", "made/for/it/"], "the working directory stays");
    let process = ProcessSpec { cwd: "relative".into(), ..shell("pwd") };
    assert!(matches!(bench.process(process, |_| {}).await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn nothing_is_left_in_the_root() {
    let bench = Bench::new();
    let mounts =
        |dest: &str| ContainerMount { dest: dest.into(), kind: MountKind::Tmpfs { size: None }, readonly: false };
    for (recursive, expected) in [(false, vec!["a/", "a/b/"]), (true, vec![])] {
        let (mut spec, upper) = bench.container();
        spec.remove_stubs_recursive = recursive;
        spec.mounts = vec![mounts("/a/b/c"), mounts("/mnt")];
        spec.mounts.push(ContainerMount {
            dest: "/run/secrets/x".into(),
            kind: MountKind::Memory { content: b"s".to_vec(), mode: 0o400, uid: 0, gid: 0 },
            readonly: true,
        });
        let container = bench.start(spec, shell("true"), ProcessIo::default()).await;
        assert!(container.wait().await.unwrap().success());
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        if !recursive {
            expected.extend(["run/".into(), "run/secrets/".into()]);
        }
        // Directories that were there before may have been copied up; nothing is in them.
        let left: Vec<_> = names(&upper).into_iter().filter(|n| n != "etc/").collect();
        assert_eq!(left, expected, "recursive: {recursive}");
    }
}

#[tokio::test]
async fn an_empty_root_stays_empty() {
    let bench = Bench::new();
    let root = bench.dir.path().join("empty");
    fs::create_dir(&root).unwrap();
    fs::copy("/bin/busybox", root.join("true")).unwrap();
    let spec = ContainerSpec::new(next_id(), Mount::Bind { source: root.clone(), readonly: false });
    let container = bench.start(spec, ProcessSpec::new(["/true"]), ProcessIo::default()).await;
    assert!(container.wait().await.unwrap().success());
    assert_eq!(names(&root), ["true"]);
}

#[tokio::test]
async fn directories_keep_their_time() {
    let bench = Bench::new();
    let base = bench.dir.path().join("base");
    let before = fs::metadata(base.join("etc")).unwrap();
    let outcome = bench.script("true").await;
    if let Ok(after) = fs::metadata(outcome.upper.join("etc")) {
        assert_eq!((after.mtime(), after.mtime_nsec()), (before.mtime(), before.mtime_nsec()));
    }
    let outcome = bench.script("touch -d @1234567890 /etc /etc/hosts 2>/dev/null").await;
    assert_eq!(fs::metadata(outcome.upper.join("etc")).unwrap().mtime(), 1_234_567_890);
}

#[tokio::test]
async fn mounts() {
    let bench = Bench::new();
    let tree = bench.dir.path().join("tree");
    fs::create_dir_all(tree.join("sub/deep")).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    fs::write(tree.join("sub/deep/leaf"), "leaf").unwrap();
    symlink("/sub", tree.join("link")).unwrap();
    symlink("../../../../etc", tree.join("out")).unwrap();
    let bind = Mount::Bind { source: tree.clone(), readonly: false };
    let at = |dest: &str, subpath: &str, readonly| ContainerMount {
        dest: dest.into(),
        kind: MountKind::Tree { mount: bind.clone(), subpath: subpath.into(), shared: false },
        readonly,
    };
    bench.check_with(|s| s.mounts = vec![at("/m", "", false)], "cat /m/file", "content").await;
    bench.check_with(|s| s.mounts = vec![at("/m", "file", true)], "cat /m", "content").await;
    bench.check_with(|s| s.mounts = vec![at("/m", "link/deep", true)], "ls /m", "leaf").await;
    bench
        .check_with(|s| s.mounts = vec![at("/m", "/", false)], "echo x > /m/new; ls /m", "file\nlink\nnew\nout\nsub")
        .await;
    assert_eq!(fs::read_to_string(tree.join("new")).unwrap(), "x\n");
    bench.check_with(|s| s.mounts = vec![at("/m", "", true)], "echo x > /m/new2 || echo refused", "refused").await;
    let escape = bench.process(shell("ls /m"), |s| s.mounts = vec![at("/m", "out", true)]).await.unwrap_err();
    assert!(escape.to_string().contains("find out in the tree for /m"), "{escape}");
    // Mounts lie in mounts, and links lead where they lead inside.
    let nested = |s: &mut ContainerSpec| {
        s.mounts = vec![at("/a", "", false), at("/a/sub/inner", "file", true), at("/a/sub/deep", "", true)];
    };
    bench.check_with(nested, "cat /a/sub/inner; ls /a/sub/deep", "contentfile\nlink\nnew\nout\nsub").await;
    assert_eq!(names(&tree.join("sub")), ["deep/", "deep/leaf"], "a mount point in a mount goes as well");
    let overlay =
        Mount::Overlay { lower: vec![tree.clone(), bench.dir.path().join("base")], upper: None, userxattr: false };
    let part = |s: &mut ContainerSpec| {
        let kind = MountKind::Tree { mount: overlay.clone(), subpath: "sub/deep".into(), shared: false };
        s.mounts = vec![ContainerMount { dest: "/o".into(), kind, readonly: true }];
    };
    bench.check_with(part, "ls /o", "leaf").await;
    let over = |s: &mut ContainerSpec| {
        s.mounts = vec![ContainerMount {
            dest: "/dev/shm".into(),
            kind: MountKind::Tmpfs { size: Some(4096) },
            readonly: false,
        }];
    };
    bench.check_with(over, "dd if=/dev/zero of=/dev/shm/x 2>/dev/null; stat -c %s /dev/shm/x", "4096").await;
    for dest in ["/", "relative", "/.."] {
        let result = bench.process(shell("true"), |s| s.mounts = vec![at(dest, "", true)]).await;
        assert!(matches!(result, Err(Error::Invalid(_))), "{dest}");
    }
    let inside_proc = bench.process(shell("true"), |s| s.mounts = vec![at("/proc/self/fd/3", "", true)]).await;
    assert!(inside_proc.is_err());
}

#[tokio::test]
async fn secrets() {
    let bench = Bench::new();
    let secret = |s: &mut ContainerSpec| {
        let kind = MountKind::Memory { content: b"hush".to_vec(), mode: 0o440, uid: 1000, gid: 10 };
        s.mounts = vec![ContainerMount { dest: "/run/secrets/x".into(), kind, readonly: true }];
    };
    bench
        .check_with(
            secret,
            "cat /run/secrets/x; stat -c ' %a %u %g' /run/secrets/x; ls /run/secrets; ls /",
            "hush 440 1000 10\nx\nbin\ndev\netc\nhome\nproc\nroot\nrun\nsys\ntmp",
        )
        .await;
    bench.check_with(secret, "echo x > /run/secrets/x || echo refused", "refused").await;
}

#[tokio::test]
async fn host_files_and_sockets() {
    let bench = Bench::new();
    let path = bench.dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = |s: &mut ContainerSpec| {
        let kind = MountKind::Host { source: path.clone() };
        s.mounts = vec![ContainerMount { dest: "/run/agent.sock".into(), kind, readonly: false }];
    };
    bench.check_with(socket, "stat -c %F /run/agent.sock", "socket").await;
    let missing = |s: &mut ContainerSpec| {
        let kind = MountKind::Host { source: "/does/not/exist".into() };
        s.mounts = vec![ContainerMount { dest: "/x".into(), kind, readonly: false }];
    };
    let error = bench.process(shell("true"), missing).await.unwrap_err().to_string();
    assert!(error.contains("/does/not/exist"), "{error}");
}

#[tokio::test]
async fn read_only_roots() {
    let bench = Bench::new();
    let outcome = bench.process(shell("echo x > /tmp/x || echo refused"), |s| s.readonly_rootfs = true).await.unwrap();
    assert_eq!(outcome.out, "refused\n");
    assert_eq!(names(&outcome.upper).into_iter().filter(|n| n != "etc/").count(), 0, "{:?}", names(&outcome.upper));
    // A root without a writable side, in which the mount points are missing.
    let base = bench.dir.path().join("base");
    for readonly_rootfs in [false, true] {
        let sealed = |s: &mut ContainerSpec| {
            s.rootfs = Mount::Bind { source: base.clone(), readonly: true };
            s.readonly_rootfs = readonly_rootfs;
        };
        bench
            .check_with(sealed, "echo x > /tmp/x || echo refused; test -e /proc/self && echo proc", "refused\nproc")
            .await;
    }
    assert!(!base.join("proc").exists());
    assert_eq!(fs::read_dir(bench.dir.path().join("state/scratch")).unwrap().count(), 0);
}

#[tokio::test]
async fn dangling_links_to_mounted_files() {
    let bench = Bench::new();
    let base = bench.dir.path().join("base");
    symlink("../run/systemd/resolve/stub-resolv.conf", base.join("etc/resolv.conf")).unwrap();
    let outcome = bench.script("test -s /etc/resolv.conf && readlink /etc/resolv.conf").await;
    assert_eq!(outcome.out, "../run/systemd/resolve/stub-resolv.conf\n");
    assert_eq!(names(&outcome.upper).into_iter().filter(|n| n != "etc/").count(), 0, "{:?}", names(&outcome.upper));
}

/// How long a process sleeps by which it is found, whatever else is tested at the same time.
fn marker(number: u32) -> String {
    let own = match crate::PROGRAM {
        None => 1,
        Some("runc") => 2,
        Some(_) => 3,
    };
    format!("{number}.{own}5")
}

fn processes_with(marker: &str) -> usize {
    let has = |pid: &str| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| String::from_utf8_lossy(&c).contains(marker))
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    pids.filter(|p| p.bytes().all(|b| b.is_ascii_digit()) && has(p)).count()
}

#[tokio::test]
async fn killing_ends_the_whole_tree() {
    let bench = Bench::new();
    let marker = &marker(31337);
    let (spec, _) = bench.container();
    let (io, mut streams) = ProcessIo::piped().unwrap();
    let script = format!("(sh -c 'sleep {marker} & sleep {marker} &' &) ; echo up; sleep {marker}");
    let container = bench.start(spec, shell(&script), io).await;
    let mut up = [0; 3];
    streams.stdout.read_exact(&mut up).await.unwrap();
    while processes_with(marker) < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let begun = Instant::now();
    assert_eq!(container.kill().await.unwrap().code(), 137);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(processes_with(marker), 0);
    let mut rest = Vec::new();
    streams.stdout.read_to_end(&mut rest).await.unwrap();
    container.signal(9).unwrap();
    assert_eq!(container.kill().await.unwrap().code(), 137, "killing twice is no error");
}

/// Names the directory in which a copy of this test program plays a builder that gets killed.
const DOOMED: &str = "COOPER_TEST_DOOMED_BUILDER";

#[tokio::test]
async fn a_killed_builder_takes_its_containers_along() {
    let marker = &marker(5512);
    if let Some(dir) = std::env::var_os(DOOMED) {
        let mut bench = Bench::new();
        bench.sandbox = crate::open(&Path::new(&dir).join("state"));
        let mut running = Vec::new();
        for user in ["", "joe"] {
            let (mut spec, _) = bench.container();
            spec.resources.pids = Some(100);
            let process = ProcessSpec { user: user.into(), ..shell(&format!("sleep {marker} & sleep {marker}")) };
            running.push(bench.start(spec, process, ProcessIo::default()).await);
        }
        while processes_with(marker) < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        println!("up");
        return std::future::pending().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut builder = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "containers::a_killed_builder_takes_its_containers_along", "--nocapture"])
        .env(DOOMED, dir.path())
        .env("TMPDIR", dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(builder.stdout.take().unwrap()));
    assert!(lines.any(|line| line.unwrap().ends_with("up")));
    builder.kill().unwrap();
    builder.wait().unwrap();
    let begun = Instant::now();
    while processes_with(marker) > 0 {
        assert!(begun.elapsed() < Duration::from_secs(5), "containers survive");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let records = dir.path().join("state/cgroups");
    let left: Vec<_> = fs::read_dir(&records)
        .unwrap()
        .flat_map(|e| fs::read_to_string(e.unwrap().path()).unwrap().lines().map(PathBuf::from).collect::<Vec<_>>())
        .collect();
    crate::open(&dir.path().join("state"));
    assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
    assert!(left.iter().all(|dir| !dir.exists()), "{left:?}");
}

#[tokio::test]
async fn the_end_of_the_first_process_is_the_end_of_all() {
    let bench = Bench::new();
    let marker = marker(4711);
    let outcome = bench.script(&format!("sleep {marker} & exit 3")).await;
    assert_eq!(outcome.cause, ExitCause::Code(3));
    assert_eq!(processes_with(&marker), 0);
}

#[tokio::test]
async fn dropping_kills() {
    let bench = Bench::new();
    let (spec, _) = bench.container();
    let (io, mut streams) = ProcessIo::piped().unwrap();
    let container = bench.start(spec, shell("echo up; sleep 4712.25"), io).await;
    let mut up = [0; 3];
    streams.stdout.read_exact(&mut up).await.unwrap();
    drop(container);
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), streams.stdout.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn signals_reach_the_process() {
    let bench = Bench::new();
    let (spec, _) = bench.container();
    let (io, mut streams) = ProcessIo::piped().unwrap();
    let container =
        bench.start(spec, shell("trap 'echo got; exit 5' TERM; echo up; while :; do sleep 0.01; done"), io).await;
    let mut up = [0; 3];
    streams.stdout.read_exact(&mut up).await.unwrap();
    container.signal(15).unwrap();
    assert_eq!(container.wait().await.unwrap().cause, ExitCause::Code(5));
}

#[tokio::test]
async fn further_processes_join() {
    let bench = Bench::new();
    let (mut spec, _) = bench.container();
    spec.network = Network::None;
    let container = bench.start(spec, shell("echo 1 > /tmp/here; sleep 100"), ProcessIo::default()).await;
    let (io, mut streams) = ProcessIo::piped().unwrap();
    let script = "while ! test -e /tmp/here; do :; done; cat /tmp/here; hostname; id -u; ls /sys/class/net; \
                  grep -E 'CapBnd|Seccomp:' /proc/self/status; test $$ -gt 1 && echo own";
    let process = ProcessSpec { user: "joe".into(), cwd: "/tmp".into(), ..shell(script) };
    let process = container.exec(process, io).await.unwrap();
    let mut out = String::new();
    streams.stdout.read_to_string(&mut out).await.unwrap();
    assert_eq!(out, "1\nbuildkitsandbox\n1000\nlo\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\nown\n");
    assert!(process.wait().await.unwrap().success());
    let missing = container.exec(ProcessSpec::new(["nope"]), ProcessIo::default()).await;
    assert!(missing.is_err_and(|e| e.to_string().contains("executable file not found in $PATH")));
    let sleeper = container.exec(shell("sleep 100"), ProcessIo::default()).await.unwrap();
    assert_eq!(container.kill().await.unwrap().code(), 137);
    assert_eq!(sleeper.wait().await.unwrap().code(), 137, "the container's end ends all");
    assert!(container.exec(shell("true"), ProcessIo::default()).await.is_err());
}

#[tokio::test]
async fn terminals() {
    let bench = Bench::new();
    let (spec, _) = bench.container();
    let process = ProcessSpec {
        tty: Some(WinSize { rows: 33, cols: 99 }),
        // Runtime programs pass sizes and output on, in their own time.
        ..shell(
            "tty; stty size; read x; until [ \"$(stty size)\" = '5 6' ]; do :; done; echo got $x; stty size; sleep 0.3",
        )
    };
    let mut container = bench.start(spec, process, ProcessIo::default()).await;
    let mut terminal = container.take_terminal().unwrap();
    assert!(container.take_terminal().is_none());
    let mut text = String::new();
    let mut answered = false;
    let mut buffer = [0; 256];
    while let Ok(count @ 1..) = terminal.output.read(&mut buffer).await {
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        if !answered && text.contains("33 99") {
            container.resize(WinSize { rows: 5, cols: 6 }).unwrap();
            terminal.input.write_all(b"hello\n").await.unwrap();
            answered = true;
        }
    }
    assert_eq!(text, "/dev/pts/0\r\n33 99\r\nhello\r\ngot hello\r\n5 6\r\n");
    assert!(container.wait().await.unwrap().success());
}

#[tokio::test]
async fn insecure_containers_can_do_more() {
    let bench = Bench::new();
    let insecure = |s: &mut ContainerSpec| s.security = Security::Insecure;
    bench
        .check_with(
            insecure,
            "mount -t tmpfs none /tmp && echo mounted; grep Seccomp: /proc/self/status",
            "mounted\nSeccomp:\t0",
        )
        .await;
    bench.check_with(insecure, "wc -c < /proc/timer_list | grep -vc '^0$'", "1").await;
    bench.check_with(insecure, "test -w /sys/kernel/mm && echo writable", "writable").await;
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let line = own.lines().find(|l| l.starts_with("CapBnd")).unwrap().to_owned();
    bench.check_with(insecure, "grep CapBnd /proc/self/status", &line).await;
}

#[tokio::test]
async fn limits_are_imposed_or_warned_about() {
    let bench = Bench::new();
    let (mut spec, _) = bench.container();
    spec.resources =
        Resources { memory: Some(16 << 20), memory_swap: Some(16 << 20), pids: Some(50), ..Resources::default() };
    let id = spec.id.clone();
    let (io, _streams) = ProcessIo::piped().unwrap();
    let eat = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40; exit 0";
    let container = bench.start(spec, shell(eat), io).await;
    let status = container.wait().await.unwrap();
    if container.warnings().is_empty() {
        assert!(status.oom, "{status:?}");
        assert!(container.stats().memory_peak.unwrap() <= 17 << 20, "{:?}", container.stats());
    } else {
        assert!(container.warnings()[0].contains("cgroup") || container.warnings()[0].contains("limit"));
    }
    for dir in ["/sys/fs/cgroup/memory/cooper", "/sys/fs/cgroup/cooper"] {
        assert!(!Path::new(dir).join(&id).exists(), "{dir}");
    }
    assert_eq!(fs::read_dir(bench.dir.path().join("state/cgroups")).unwrap().count(), 0);
}

#[tokio::test]
async fn usage_is_known_without_cgroups() {
    let bench = Bench::new();
    let (spec, _) = bench.container();
    let container = bench.start(spec, shell("seq 1 300000 > /tmp/x"), ProcessIo::default()).await;
    container.wait().await.unwrap();
    let usage = container.stats();
    assert!(usage.cpu_user.unwrap() + usage.cpu_system.unwrap() > Duration::ZERO, "{usage:?}");
    assert!(usage.memory_peak.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_no_trace_on_the_host() {
    let bench = std::sync::Arc::new(Bench::new());
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let runs: Vec<_> = (0..40)
        .map(|n| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.script(&format!("echo {n}; exit {n}")).await })
        })
        .collect();
    for (n, run) in runs.into_iter().enumerate() {
        let outcome = run.await.unwrap();
        assert_eq!((outcome.cause, outcome.out), (ExitCause::Code(n as i32), format!("{n}\n")));
    }
    assert_eq!(mounts(), before);
    let mine = std::process::id();
    let zombies = fs::read_dir(format!("/proc/{mine}/task")).unwrap().flatten().flat_map(|task| {
        fs::read_to_string(task.path().join("children"))
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    assert_eq!(zombies.count(), 0);
}

#[tokio::test]
async fn a_null_output_and_a_file_output() {
    let bench = Bench::new();
    let path = bench.dir.path().join("log");
    let file = fs::File::create(&path).unwrap();
    let (spec, _) = bench.container();
    let io = ProcessIo { stdout: Output::Fd(file.into()), ..ProcessIo::default() };
    let container = bench.start(spec, shell("echo logged; echo lost >&2"), io).await;
    assert!(container.wait().await.unwrap().success());
    assert_eq!(fs::read_to_string(path).unwrap(), "logged\n");
}

/// A hook that appends what `script` prints to a file of the host.
fn hook(point: HookPoint, file: &Path, script: &str) -> Hook {
    let script = format!("{{ echo {}; {script}; }} >> {}", point.as_str(), file.display());
    let (path, args) = (PathBuf::from("/bin/busybox"), ["sh", "-c", &script].map(str::to_owned).to_vec());
    Hook { point, path, args, env: vec!["PATH=/bin:/usr/bin".into(), "GIVEN=1".into()], timeout: None }
}

#[tokio::test]
async fn hooks_run_at_their_points() {
    let bench = Bench::new();
    let log = bench.dir.path().join("log");
    let say = |point, script: &str| hook(point, &log, script);
    let told = "grep -o '\"status\": *\"[a-z]*\"' | tr -d ' '; echo $GIVEN";
    let (mut spec, _) = bench.container();
    spec.hostname = "hooked".into();
    spec.mounts = vec![ContainerMount {
        dest: "/run/data".into(),
        kind: MountKind::Memory { content: b"mounted".to_vec(), mode: 0o644, uid: 0, gid: 0 },
        readonly: true,
    }];
    let inside = Hook {
        args: ["sh", "-c", "echo startContainer in $(hostname) $(cat /run/data) > /tmp/hook"]
            .map(str::to_owned)
            .to_vec(),
        ..say(HookPoint::StartContainer, "")
    };
    // The root of the container, as its configuration tells, with what is mounted there.
    let root = "b=$(sed 's/.*\"bundle\": *\"\\([^\"]*\\)\".*/\\1/'); \
        r=$(sed 's/.*\"path\": *\"\\([^\"]*\\)\".*/\\1/' $b/config.json); case $r in /*) ;; *) r=$b/$r;; esac; cat $r/run/data; echo";
    spec.hooks = vec![
        say(HookPoint::Poststop, told),
        say(HookPoint::Poststart, told),
        inside,
        say(HookPoint::CreateContainer, root),
        say(HookPoint::CreateRuntime, told),
        say(HookPoint::Prestart, told),
    ];
    let (io, mut streams) = ProcessIo::piped().unwrap();
    let container = bench.start(spec, shell("cat /tmp/hook; exit 4"), io).await;
    let mut out = String::new();
    streams.stdout.read_to_string(&mut out).await.unwrap();
    assert_eq!(container.wait().await.unwrap().cause, ExitCause::Code(4));
    assert_eq!(out, "startContainer in hooked mounted\n");
    let said = fs::read_to_string(&log).unwrap();
    let status = |line: &str| line.replace("\"status\":", "").replace(['"', ' '], "");
    let said: Vec<_> = said.lines().map(status).collect();
    let expected = [
        "prestart",
        "creating",
        "1",
        "createRuntime",
        "creating",
        "1",
        "createContainer",
        "mounted",
        "poststart",
        "running",
        "1",
        "poststop",
        "stopped",
        "1",
    ];
    // Runtime programs do not agree in what they call a container at each point.
    let known = |line: &String| crate::PROGRAM.is_some() && ["created", "creating", "running"].contains(&line.as_str());
    let alike = |line: &String| if known(line) { "alive".to_owned() } else { line.clone() };
    let expected = expected.map(|word| alike(&word.to_owned()));
    assert_eq!(said.iter().map(alike).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_failing_hook_fails_the_container() {
    let bench = Bench::new();
    let log = bench.dir.path().join("log");
    for point in [HookPoint::CreateRuntime, HookPoint::CreateContainer, HookPoint::StartContainer, HookPoint::Poststart]
    {
        let (mut spec, _) = bench.container();
        let mut failing = hook(point, &log, "");
        failing.args = ["sh", "-c", "echo no such thing >&2; exit 3"].map(str::to_owned).to_vec();
        spec.hooks = vec![failing];
        let outcome = bench.sandbox.start(spec, shell("exit 0"), ProcessIo::default()).await;
        match (outcome, crate::PROGRAM) {
            (Err(error), None) => {
                let chain = format!("{error}");
                let expected =
                    format!("run the {} hook /bin/busybox: it ended with code 3: no such thing", point.as_str());
                assert_eq!(chain, expected);
            }
            (Err(_), Some(_)) => {}
            (Ok(container), program) => {
                // The order of the field's runtimes in these two: the process may be there already.
                assert!(program.is_some() && point >= HookPoint::StartContainer, "{point:?}");
                container.wait().await.unwrap();
            }
        }
    }
    let (mut spec, _) = bench.container();
    let mut slow = hook(HookPoint::CreateRuntime, &log, "");
    slow.args = ["sh", "-c", "sleep 60"].map(str::to_owned).to_vec();
    slow.timeout = Some(Duration::from_secs(1));
    spec.hooks = vec![slow];
    let begun = Instant::now();
    assert!(bench.sandbox.start(spec, shell("exit 0"), ProcessIo::default()).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(20));
}
