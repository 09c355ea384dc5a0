//! Filling a bare repository.

use super::{
    GitCommit, GitError, GitRequest, GitSource,
    command::{Git, Place},
    resolve::{Repository, is_commit},
};
use std::path::Path;

/// Where fetched references are kept: they are advertised in the next fetch, which so transfers less, and cannot
/// collide with each other's names.
const NAMESPACE: &str = "refs/cooper/";

impl GitSource {
    /// The bare repository with `commit` in it.
    pub(super) async fn fetched(
        &self,
        git: &Git<'_>,
        request: &GitRequest,
        commit: &GitCommit,
    ) -> Result<Repository, GitError> {
        let repository = self.hold(&request.remote).await;
        prepare(git, &repository.dir, request, commit.checksum.len() == 64).await?;
        if !has(git, &repository.dir, &commit.checksum).await {
            fetch(git, &repository.dir, commit).await?;
        }
        verify(git, &repository.dir, request, commit).await?;
        Ok(repository)
    }
}

/// Creates the bare repository, unless it is there: complete or not at all.
pub(super) async fn prepare(git: &Git<'_>, dir: &Path, request: &GitRequest, sha256: bool) -> Result<(), GitError> {
    if dir.exists() {
        // A killed fetch leaves its lock; this task holds the repository alone.
        let lock = dir.join("shallow.lock");
        return match std::fs::remove_file(&lock) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(GitError::io("remove", lock)(e)),
            _ => Ok(()),
        };
    }
    let parent = dir.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::TempDir::new_in(parent).map_err(GitError::io("create a directory in", parent))?;
    let mut args = vec!["-c", "init.defaultBranch=master", "init", "--quiet", "--bare"];
    if sha256 {
        args.push("--object-format=sha256");
    }
    let place = Place::bare(temporary.path());
    git.run("failed to init repository for", place, args).await?;
    // An address without a refspec: fetches update the names that they are told and no others.
    git.run("failed to add remote", place, ["config", "remote.origin.url", &request.remote]).await?;
    std::fs::rename(temporary.keep(), dir).map_err(GitError::io("create", dir))
}

pub(super) async fn has(git: &Git<'_>, dir: &Path, hash: &str) -> bool {
    let object = format!("{hash}^{{commit}}");
    git.run("failed to look for a commit of", Place::bare(dir), ["cat-file", "-e", &object]).await.is_ok()
}

/// The cheapest fetch that the server grants: the tip alone, the commit alone, everything.
async fn fetch(git: &Git<'_>, dir: &Path, commit: &GitCommit) -> Result<(), GitError> {
    if !is_commit(&commit.reference) {
        let spec = format!("+{}:{NAMESPACE}{}", commit.reference, commit.reference.trim_start_matches("refs/"));
        let mut result = shallow(git, dir, &spec).await;
        if result.as_ref().is_err_and(|e| is_name_conflict(e.stderr())) {
            // A branch has become the parent directory of another one: forget what was kept.
            forget(git, dir).await?;
            result = shallow(git, dir, &spec).await;
        }
        match result {
            Ok(()) if has(git, dir, &commit.checksum).await => return Ok(()),
            // The reference has moved meanwhile; its old commit may still be served.
            Ok(()) => {}
            // A local name with a commit to fetch: the remote need not have the name.
            Err(e) if e.stderr().contains("couldn't find remote ref") => {}
            Err(e) => return Err(e),
        }
    }
    let spec = format!("+{0}:{NAMESPACE}commit/{0}", commit.checksum);
    if shallow(git, dir, &spec).await.is_ok() && has(git, dir, &commit.checksum).await {
        return Ok(());
    }
    // Servers that hand out tips only.
    let mut args = vec!["fetch", "--force", "--tags"];
    if dir.join("shallow").exists() {
        args.push("--unshallow");
    }
    args.extend(["--", "origin", "+refs/*:refs/cooper/all/*"]);
    git.run("failed to fetch remote", Place::bare(dir), args).await?;
    if has(git, dir, &commit.checksum).await {
        Ok(())
    } else {
        Err(GitError::Moved { reference: commit.reference.clone(), commit: commit.checksum.clone() })
    }
}

/// Fetches one commit without its history, or with it where the transport cannot do without.
async fn shallow(git: &Git<'_>, dir: &Path, spec: &str) -> Result<(), GitError> {
    let what = "failed to fetch remote";
    let args = ["fetch", "--no-tags", "--force", "--depth=1", "--", "origin", spec];
    match git.run(what, Place::bare(dir), args).await {
        Err(e) if e.stderr().contains("--depth") || e.stderr().contains("shallow") => {
            let args = ["fetch", "--no-tags", "--force", "--", "origin", spec];
            git.run(what, Place::bare(dir), args).await.map(drop)
        }
        result => result.map(drop),
    }
}

fn is_name_conflict(stderr: &str) -> bool {
    stderr.contains("unable to update local ref")
        || stderr.contains("cannot lock ref")
        || stderr.contains("refname conflict")
}

async fn forget(git: &Git<'_>, dir: &Path) -> Result<(), GitError> {
    let what = "failed to list the references of";
    let out = git.line(what, Place::bare(dir), ["for-each-ref", "--format=%(refname)", NAMESPACE]).await?;
    for name in out.lines() {
        git.run("failed to remove a reference of", Place::bare(dir), ["update-ref", "-d", name]).await?;
    }
    Ok(())
}

/// Compares the pinned checksum with the object and, for an annotated tag, with its commit.
async fn verify(git: &Git<'_>, dir: &Path, request: &GitRequest, commit: &GitCommit) -> Result<(), GitError> {
    let Some(expected) = &request.checksum else { return Ok(()) };
    if commit.checksum.starts_with(expected.as_str()) {
        return Ok(());
    }
    let peeled = format!("{}^{{commit}}", commit.checksum);
    let actual = git.line("failed to rev-parse a commit of", Place::bare(dir), ["rev-parse", &peeled]).await?;
    if actual.starts_with(expected.as_str()) {
        Ok(())
    } else {
        let both = if actual == commit.checksum { actual } else { format!("{} or {actual}", commit.checksum) };
        Err(GitError::Mismatch { expected: expected.clone(), actual: both })
    }
}
