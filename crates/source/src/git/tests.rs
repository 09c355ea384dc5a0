//! Real repositories, fetched by file:// and http://.

use super::*;
use crate::secrets::{SecretError, Secrets};
use std::{
    collections::HashMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

struct Bench {
    dir: tempfile::TempDir,
    source: GitSource,
    outs: usize,
}

/// Runs git as its user would.
fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=n", "-c", "user.email=e@x", "-c", "protocol.file.allow=always"])
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_COMMITTER_DATE", "2020-02-02T02:02:02Z")
        .output()
        .unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

impl Bench {
    fn new() -> Self {
        Self::with(&[])
    }

    /// A remote of two commits on `main`, a branch `side/x`, a tag `light` and an annotated tag `v1`.
    fn with(init: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let remote = dir.path().join("remote");
        fs::create_dir(&remote).unwrap();
        git(&remote, &[&["init", "--quiet", "-b", "main"], init].concat());
        fs::create_dir_all(remote.join("sub/deep")).unwrap();
        fs::write(remote.join("sub/deep/file"), "one").unwrap();
        fs::write(remote.join("run.sh"), "#!/bin/sh").unwrap();
        fs::set_permissions(remote.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("/etc", remote.join("link")).unwrap();
        git(&remote, &["add", "."]);
        git(&remote, &["commit", "--quiet", "-m", "first"]);
        git(&remote, &["tag", "light"]);
        git(&remote, &["tag", "-a", "v1", "-m", "version one"]);
        git(&remote, &["branch", "side/x"]);
        fs::write(remote.join("second"), "two").unwrap();
        git(&remote, &["add", "."]);
        git(&remote, &["commit", "--quiet", "-m", "second"]);
        let source = GitSource::open(dir.path().join("git")).unwrap();
        Self { dir, source, outs: 0 }
    }

    fn remote(&self) -> PathBuf {
        self.dir.path().join("remote")
    }

    fn request(&self, reference: &str) -> GitRequest {
        let remote = format!("file://{}", self.remote().display());
        GitRequest { remote, reference: reference.to_owned(), ..GitRequest::default() }
    }

    async fn checkout(&mut self, request: &GitRequest) -> Result<(GitCommit, PathBuf), GitError> {
        let commit = self.source.resolve(request, &NoAccess).await?;
        self.outs += 1;
        let out = self.dir.path().join(format!("out{}", self.outs));
        fs::create_dir(&out).unwrap();
        self.source.checkout(request, &commit, &NoAccess, &out).await?;
        Ok((commit, out))
    }

    fn hash(&self, revision: &str) -> String {
        git(&self.remote(), &["rev-parse", revision])
    }
}

/// The paths below `dir`, `.git` left out.
fn list(dir: &Path) -> String {
    let mut names: Vec<String> = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(at) = stack.pop() {
        for entry in fs::read_dir(at).unwrap().map(Result::unwrap) {
            if entry.file_name() == ".git" {
                continue;
            }
            names.push(entry.path().strip_prefix(dir).unwrap().display().to_string());
            if entry.file_type().unwrap().is_dir() {
                stack.push(entry.path());
            }
        }
    }
    names.sort();
    names.join(" ")
}

const FIRST: &str = "link run.sh sub sub/deep sub/deep/file";
const SECOND: &str = "link run.sh second sub sub/deep sub/deep/file";

#[tokio::test]
async fn references_of_every_kind() {
    let mut b = Bench::new();
    let (main, first) = (b.hash("main"), b.hash("light"));
    for (reference, full, files) in [
        ("", "refs/heads/main", SECOND),
        ("main", "refs/heads/main", SECOND),
        ("refs/heads/side/x", "refs/heads/side/x", FIRST),
        ("light", "refs/tags/light", FIRST),
        ("v1", "refs/tags/v1", FIRST),
        (first.as_str(), first.as_str(), FIRST),
        (main.as_str(), main.as_str(), SECOND),
    ] {
        let (commit, out) = b.checkout(&b.request(reference)).await.unwrap();
        assert_eq!((commit.reference.as_str(), list(&out).as_str()), (full, files), "{reference:?}");
        assert!(!out.join(".git").exists());
        let mode = |p: &str| fs::metadata(out.join(p)).unwrap().mode() & 0o777;
        assert_eq!((mode("run.sh"), mode("sub/deep/file"), mode("sub")), (0o755, 0o644, 0o755));
    }
    let (commit, _) = b.checkout(&b.request("v1")).await.unwrap();
    assert_eq!((commit.checksum.clone(), commit.commit()), (b.hash("v1"), first.as_str()));
    let objects = b.source.objects(&b.request("v1"), &commit, &NoAccess).await.unwrap();
    assert!(String::from_utf8(objects.tag.unwrap()).unwrap().contains("version one"));
    assert!(String::from_utf8(objects.commit).unwrap().ends_with("first\n"));
}

#[tokio::test]
async fn plain_files_may_be_writable_for_all() {
    let mut b = Bench::new();
    for (writable, plain) in [(false, 0o644), (true, 0o666)] {
        let request = GitRequest { writable, ..b.request("main") };
        let (commit, out) = b.checkout(&request).await.unwrap();
        let mode = |p: &str| fs::metadata(out.join(p)).unwrap().mode() & 0o777;
        assert_eq!((mode("run.sh"), mode("sub/deep/file"), mode("sub")), (0o755, plain, 0o755));
        assert_eq!(commit.cache_key(&request).ends_with("(writable)"), writable);
    }
}

#[tokio::test]
async fn branches_move_and_change_their_kind() {
    let mut b = Bench::new();
    let old = b.source.resolve(&b.request("main"), &NoAccess).await.unwrap();
    git(&b.remote(), &["commit", "--quiet", "--allow-empty", "-m", "third"]);
    let out = b.dir.path().join("old");
    fs::create_dir(&out).unwrap();
    b.source.checkout(&b.request("main"), &old, &NoAccess, &out).await.unwrap();
    assert_eq!(list(&out), SECOND, "what was resolved is what is checked out");
    let (commit, _) = b.checkout(&b.request("main")).await.unwrap();
    assert_eq!(commit.checksum, b.hash("main"));
    b.checkout(&b.request("side/x")).await.unwrap();
    git(&b.remote(), &["branch", "-D", "side/x"]);
    git(&b.remote(), &["commit", "--quiet", "--allow-empty", "-m", "fourth"]);
    git(&b.remote(), &["branch", "side"]);
    let (commit, _) = b.checkout(&b.request("side")).await.unwrap();
    assert_eq!(commit.checksum, b.hash("side"));
    git(&b.remote(), &["tag", "-f", "v1", "main"]);
    let (commit, _) = b.checkout(&b.request("v1")).await.unwrap();
    assert_eq!(commit.checksum, b.hash("main"), "a moved tag");
}

#[tokio::test]
async fn the_git_directory_is_kept_on_request() {
    let mut b = Bench::new();
    for (reference, name) in [("main", "refs/heads/main"), ("v1", "refs/tags/v1"), ("light", "refs/tags/light")] {
        let request = GitRequest { keep_git_dir: true, ..b.request(reference) };
        let (commit, out) = b.checkout(&request).await.unwrap();
        assert_eq!(git(&out, &["rev-parse", "HEAD"]), commit.commit());
        assert_eq!(git(&out, &["for-each-ref", "--format=%(refname)"]), name);
        assert_eq!(git(&out, &["status", "--porcelain"]), "");
        assert_eq!(git(&out, &["remote", "get-url", "origin"]), request.remote);
        assert_eq!(git(&out, &["rev-list", "--count", "HEAD"]), "1");
        assert!(commit.cache_key(&request).starts_with(&format!("{}.git#{name}", commit.checksum)));
    }
    let first = b.hash("light");
    let (_, out) = b.checkout(&GitRequest { keep_git_dir: true, ..b.request(&first) }).await.unwrap();
    assert_eq!(git(&out, &["rev-parse", "HEAD"]), first);
}

#[tokio::test]
async fn a_subdirectory_alone() {
    let mut b = Bench::new();
    for (subdir, files) in [("sub", "deep deep/file"), ("/sub/./deep/", "file"), ("..", SECOND)] {
        let request = GitRequest { subdir: subdir.into(), ..b.request("main") };
        assert_eq!(list(&b.checkout(&request).await.unwrap().1), files, "{subdir}");
    }
    for subdir in ["nope", "run.sh", "link", "link/ssl"] {
        let request = GitRequest { subdir: subdir.into(), ..b.request("main") };
        assert!(matches!(b.checkout(&request).await, Err(GitError::Subdir { .. })), "{subdir}");
    }
}

#[tokio::test]
async fn checksums_pin_commits() {
    let mut b = Bench::new();
    let (main, tag, first) = (b.hash("main"), b.hash("v1"), b.hash("light"));
    let pinned =
        |reference: &str, checksum: &str| GitRequest { checksum: Some(checksum.into()), ..b.request(reference) };
    let good = [pinned("main", &main[..7]), pinned("v1", &tag), pinned("v1", &first), pinned(&main, &main)];
    let bad = [pinned("main", &first), pinned("v1", &main), pinned(&main, &first)];
    let nonsense = pinned("main", "not-hex");
    let direct = GitRequest { fetch_by_commit: true, ..pinned("elsewhere", &first) };
    let direct_short = GitRequest { fetch_by_commit: true, ..pinned("main", "abc") };
    for request in good {
        b.checkout(&request).await.unwrap();
    }
    for request in bad {
        assert!(matches!(b.checkout(&request).await, Err(GitError::Mismatch { .. })), "{request:?}");
    }
    assert!(matches!(b.checkout(&nonsense).await, Err(GitError::Checksum(_))));
    assert!(matches!(b.checkout(&direct_short).await, Err(GitError::FetchByCommit(_))));
    let (commit, out) = b.checkout(&direct).await.unwrap();
    assert_eq!((commit.reference.as_str(), list(&out).as_str()), ("refs/heads/elsewhere", FIRST));
    let (_, out) = b.checkout(&GitRequest { keep_git_dir: true, ..direct }).await.unwrap();
    assert_eq!(git(&out, &["rev-parse", "elsewhere"]), first);
}

#[tokio::test]
async fn repositories_of_sha256() {
    let mut b = Bench::with(&["--object-format=sha256"]);
    let (commit, out) = b.checkout(&GitRequest { keep_git_dir: true, ..b.request("v1") }).await.unwrap();
    assert_eq!((commit.checksum.len(), list(&out).as_str()), (64, FIRST));
}

#[tokio::test]
async fn times_of_the_commit() {
    let mut b = Bench::new();
    let request = GitRequest { mtime: ModificationTime::Commit, ..b.request("main") };
    let (_, out) = b.checkout(&request).await.unwrap();
    for path in ["", "run.sh", "link", "sub/deep"] {
        assert_eq!(fs::symlink_metadata(out.join(path)).unwrap().mtime(), 1_580_608_922, "{path}");
    }
}

#[tokio::test]
async fn submodules_come_along_but_never_from_local_paths() {
    let mut b = Bench::new();
    let inner = b.dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    git(&inner, &["init", "--quiet", "-b", "main"]);
    fs::write(inner.join("inside"), "i").unwrap();
    git(&inner, &["add", "."]);
    git(&inner, &["commit", "--quiet", "-m", "i"]);
    git(&b.remote(), &["submodule", "--quiet", "add", &format!("file://{}", inner.display()), "module"]);
    git(&b.remote(), &["commit", "--quiet", "-m", "module"]);
    let error = b.checkout(&b.request("main")).await.unwrap_err();
    assert!(error.to_string().contains("transport 'file' not allowed"), "{error}");
    let (_, out) = b.checkout(&GitRequest { skip_submodules: true, ..b.request("main") }).await.unwrap();
    assert_eq!(fs::read_dir(out.join("module")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let mut b = Bench::new();
    let error = b.checkout(&b.request("nope")).await.unwrap_err();
    assert_eq!(error.to_string(), "repository does not contain ref nope, output: \"\"");
    assert!(matches!(b.checkout(&b.request("--upload-pack=x")).await, Err(GitError::Reference(_))));
    let request = GitRequest { remote: "file:///nonexistent/repo".into(), ..GitRequest::default() };
    let error = b.checkout(&request).await.unwrap_err().to_string();
    assert!(
        error.starts_with("error fetching default branch for repository file:///nonexistent/repo: git stderr:\n"),
        "{error}"
    );
    let gone = b.request(&"0".repeat(40));
    assert!(matches!(b.checkout(&gone).await, Err(GitError::Moved { .. } | GitError::Command { .. })));
}

#[derive(Debug, Default)]
struct Table(HashMap<String, &'static str>, Mutex<Vec<String>>);

#[async_trait::async_trait]
impl Secrets for Table {
    async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, SecretError> {
        Ok(self.0.get(id).map(|s| s.as_bytes().to_vec()))
    }
}

#[async_trait::async_trait]
impl GitAccess for Table {
    async fn ssh_agent(&self, _: &str) -> Result<Box<dyn SshSocket>, SecretError> {
        Err("no agent".into())
    }
    fn log(&self, line: &str) {
        self.1.lock().unwrap().push(line.to_owned());
    }
}

#[tokio::test]
async fn secrets_are_sent_and_not_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let log = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let n = socket.read(&mut request).await.unwrap();
            log.lock().unwrap().push_str(&String::from_utf8_lossy(&request[..n]));
            let _ = socket.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    let b = Bench::new();
    let secrets =
        Table(HashMap::from([("T".to_owned(), "general"), (format!("T.{address}"), "special\n")]), Mutex::default());
    let request = GitRequest {
        remote: format!("http://{address}/x.git"),
        auth_token_secret: Some("T".into()),
        auth_header_secret: Some("H".into()),
        ..GitRequest::default()
    };
    let error = b.source.resolve(&request, &secrets).await.unwrap_err().to_string();
    assert!(error.contains("403"), "{error}");
    assert!(!secrets.1.lock().unwrap().is_empty(), "git's words reach the log");
    // base64 of x-access-token:special
    assert!(seen.lock().unwrap().contains("Authorization: basic eC1hY2Nlc3MtdG9rZW46c3BlY2lhbA=="), "{seen:?}");
    let request = GitRequest { ssh_agent: Some("default".into()), ..request };
    assert!(matches!(b.source.resolve(&request, &secrets).await, Err(GitError::Ssh { .. })));
}

#[tokio::test]
async fn bundles_are_written_and_read() {
    let mut b = Bench::new();
    let main = b.hash("main");
    // The shallow repository of an ordinary checkout must not make a shallow bundle.
    b.checkout(&b.request("main")).await.unwrap();
    let (_, out) = b.checkout(&GitRequest { checkout_bundle: true, ..b.request("main") }).await.unwrap();
    assert_eq!(list(&out), "bundle");
    let file = out.join("bundle");
    let bundle = Some(GitBundle { locator: "docker-image+blob://x".into(), ..GitBundle::default() });
    for (reference, full) in [("main", "refs/heads/main"), ("", main.as_str()), (main.as_str(), main.as_str())] {
        let request = GitRequest {
            remote: "https://nowhere.invalid/x.git".into(),
            bundle: bundle.clone(),
            checksum: Some(main.clone()),
            ..b.request(reference)
        };
        let source = GitSource::open(b.dir.path().join(format!("other{}", reference.len()))).unwrap();
        let commit = source.resolve_in_bundle(&request, &file, &NoAccess).await.unwrap();
        assert_eq!((commit.reference.as_str(), commit.checksum.as_str()), (full, main.as_str()));
        source.import_bundle(&request, &commit, &file, &NoAccess).await.unwrap();
        let out = tempfile::tempdir().unwrap();
        source.checkout(&request, &commit, &NoAccess, out.path()).await.unwrap();
        assert_eq!(list(out.path()), SECOND);
    }
    let absent = GitRequest { bundle, checksum: Some("0".repeat(40)), ..b.request("") };
    let commit = b.source.resolve_in_bundle(&absent, &file, &NoAccess).await.unwrap();
    let error = b.source.import_bundle(&absent, &commit, &file, &NoAccess).await.unwrap_err().to_string();
    assert!(error.contains("not found in bundle docker-image+blob://x"), "{error}");
}

#[tokio::test]
async fn signatures_of_tags_and_commits() {
    let b = Bench::new();
    let key = |name: &str| {
        let path = b.dir.path().join(name);
        let keygen = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&path).status();
        assert!(keygen.unwrap().success());
        (format!("user.signingKey={}", path.display()), fs::read_to_string(path.with_extension("pub")).unwrap())
    };
    let ((author, by_author), (releaser, by_releaser)) = (key("author"), key("releaser"));
    let sign = |key: &str, args: &[&str]| git(&b.remote(), &[&["-c", "gpg.format=ssh", "-c", key], args].concat());
    sign(&author, &["commit", "--quiet", "--allow-empty", "-S", "-m", "signed"]);
    sign(&releaser, &["tag", "-s", "-m", "release", "v2"]);
    git(&b.remote(), &["tag", "-a", "-m", "not signed", "v3"]);
    let check = async |reference: &str, keys: &str, require_tag: bool, ignore_tag: bool| {
        let request = b.request(reference);
        let commit = b.source.resolve(&request, &NoAccess).await.unwrap();
        let objects = b.source.objects(&request, &commit, &NoAccess).await.unwrap();
        let wanted = GitSignature { keys: keys.to_owned(), require_tag, ignore_tag, ..GitSignature::default() };
        objects.verify(&commit, &wanted).map_or_else(|e| e.to_string(), |()| "good".to_owned())
    };
    let mismatch = "failed to verify ssh signature: public key does not match";
    for (reference, keys, require, ignore, expected) in [
        ("main", &by_author, false, false, "good"),
        ("main", &by_releaser, false, false, mismatch),
        ("main", &by_author, true, false, "signed tag required but no signed tag found"),
        ("v2", &by_releaser, true, false, "good"),
        ("v2", &by_releaser, false, true, mismatch),
        ("v2", &by_author, false, false, "good"),
        ("v2", &by_author, true, false, mismatch),
        ("v3", &by_author, true, false, "git object is not signed"),
        ("v3", &by_author, false, false, "good"),
        ("light", &by_author, false, false, "git object is not signed"),
        ("main", &String::new(), false, false, "failed to parse ssh public key: no key found"),
    ] {
        assert_eq!(check(reference, keys, require, ignore).await, expected, "{reference} {require} {ignore}");
    }
}
