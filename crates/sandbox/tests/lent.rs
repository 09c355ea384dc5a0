//! What a process finds in `/proc` below a changed root, and what is left of that. Needs root and `/bin/busybox` (static).

use cooper_mount::Mount;
use cooper_sandbox::{Chroot, ContainerSpec, Network, ProcessIo, ProcessSpec, Sandbox as _};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncReadExt as _;

/// Runs a script in a tree as a user, and says what it printed.
async fn run(state: &Path, root: &Path, user: &str, script: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let sandbox = Chroot::open(state).unwrap();
    let mount = Mount::Bind { source: root.to_owned(), readonly: false };
    let mut spec = ContainerSpec::new(format!("lent-{}", NEXT.fetch_add(1, Ordering::Relaxed)), mount);
    spec.network = Network::Host;
    let mut process = ProcessSpec::new(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    process.user = user.to_owned();
    let (io, mut streams) = ProcessIo::piped().unwrap();
    let container = sandbox.start(spec, process, io).await.unwrap();
    let mut out = String::new();
    streams.stdout.read_to_string(&mut out).await.unwrap();
    container.wait().await.unwrap();
    out
}

#[tokio::test]
async fn proc_can_be_gone_to_and_executed_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (root, state) = (dir.path().join("root"), dir.path().join("state"));
    for name in ["bin", "proc/own", "tmp"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "cat", "ls", "echo", "true", "sleep", "setsid"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let time = |path: &str| fs::metadata(root.join(path)).map(|stat| (stat.mtime(), stat.mtime_nsec())).unwrap();
    let before = (time(""), time("proc"));
    for (script, expected) in [
        ("cd /proc/self && cat comm && cd fd && ls | head -n 1", "sh\n0\n"),
        ("cd /proc/thread-self && cat comm; true", "sh\n"),
        ("cd /sys/kernel/mm && [ -d ../mm ] && [ -d . ] && echo there", "there\n"),
        ("cd /proc/self/root/bin && ls sh", "sh\n"),
        ("cat /proc/self/root/proc/own 2>&1 | cut -c 1-5", "cat: \n"),
        ("(exec -a busybox /proc/self/exe echo again)", "again\n"),
        ("for n in 1 2 3 4; do (exec -a busybox /proc/self/exe echo $n) & done | sort; wait", "1\n2\n3\n4\n"),
        ("exec 5< /bin/echo; (exec -a echo /proc/self/fd/5 opened)", "opened\n"),
        ("/proc/self/none 2>/dev/null || echo none", "none\n"),
        ("cd /proc/nothing 2>/dev/null || echo none", "none\n"),
        ("cd /proc/self/comm 2>/dev/null || echo none", "none\n"),
        ("setsid sh -c 'while :; do cd /proc/self; cd /; done' & sleep 0.1; echo left", "left\n"),
    ] {
        let script = format!(
            "PATH=/bin; head() {{ busybox head \"$@\"; }}; cut() {{ busybox cut \"$@\"; }}; sort() {{ busybox sort; }}; {script}"
        );
        for user in ["0:0", "1000:1000"] {
            assert_eq!(run(&state, &root, user, &script).await, expected, "{user}: {script}");
        }
    }
    let left: Vec<_> = fs::read_dir(root.join("proc")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["own"], "what the tree has is there again, and nothing else");
    assert_eq!((time(""), time("proc")), before);
    assert!(!root.join("sys").exists() && !root.join("dev").exists());
}
