//! Further processes of steps in a changed root, where no namespace ends them. Needs root and `/bin/busybox` (static).

use cooper_mount::Mount;
use cooper_sandbox::{Chroot, Container, ContainerSpec, Network, ProcessIo, ProcessSpec, Sandbox};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

fn shell(script: &str) -> ProcessSpec {
    ProcessSpec { env: vec!["PATH=/bin".into()], ..ProcessSpec::new(["/bin/sh", "-c", script]) }
}

async fn start(dir: &Path, script: &str) -> Box<dyn Container> {
    let root = dir.join("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "echo", "true"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let sandbox = Chroot::open(&dir.join("state")).unwrap();
    let mut spec = ContainerSpec::new("test".to_owned(), Mount::Bind { source: root, readonly: false });
    spec.network = Network::Host;
    sandbox.start(spec, shell(script), ProcessIo::default()).await.unwrap()
}

#[tokio::test]
async fn further_processes_end_with_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let container = start(dir.path(), "sleep 100").await;
    let (io, mut streams) = ProcessIo::piped().unwrap();
    let process = container.exec(shell("echo here; sleep 100"), io).await.unwrap();
    let mut here = [0; 5];
    streams.stdout.read_exact(&mut here).await.unwrap();
    assert_eq!(container.kill().await.unwrap().code(), 137);
    let ended = tokio::time::timeout(Duration::from_secs(10), process.wait()).await.expect("it ends");
    assert_eq!(ended.unwrap().code(), 137);
    let late = container.exec(shell("sleep 100"), ProcessIo::default()).await.map(drop).unwrap_err();
    assert!(late.to_string().contains("the container has ended"), "{late}");
}

#[tokio::test(flavor = "multi_thread")]
async fn none_slips_in_while_the_first_ends() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let container = start(dir.path(), "sleep 0.02").await;
        let mut started = Vec::new();
        while let Ok(process) = container.exec(shell("sleep 100"), ProcessIo::default()).await {
            started.push(process);
        }
        for process in &started {
            let ended = tokio::time::timeout(Duration::from_secs(10), process.wait()).await.expect("it ends");
            assert_eq!(ended.unwrap().code(), 137);
        }
    }
}
