//! Writing a commit's files.

use super::{
    GitAccess, GitCommit, GitError, GitRequest, GitSource, ModificationTime,
    command::{Git, Place},
};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Component, Path, PathBuf},
};

impl GitSource {
    /// Writes the files of `commit` into `dir`, which is empty and nobody else's. Fetches what is missing.
    pub async fn checkout(
        &self,
        request: &GitRequest,
        commit: &GitCommit,
        access: &dyn GitAccess,
        dir: &Path,
    ) -> Result<(), GitError> {
        let git = self.git(request, access).await?;
        let repository = self.fetched(&git, request, commit).await?;
        if request.checkout_bundle {
            return super::bundle::write(&git, &repository.dir, request, commit, dir).await;
        }
        let subdir = clean(&request.subdir);
        // The whole tree is written beside the wanted part, on the same file system: renames move it.
        let whole = match &subdir {
            None => None,
            Some(_) => Some(tempfile::TempDir::new_in(dir).map_err(GitError::io("create a directory in", dir))?),
        };
        let tree = whole.as_ref().map_or(dir, tempfile::TempDir::path);
        let git_dir = if request.keep_git_dir && subdir.is_none() {
            clone_into(&git, &repository.dir, request, commit, tree).await?
        } else {
            // The bare repository's index belongs to the last checkout.
            let _ = fs::remove_file(repository.dir.join("index"));
            let args = ["checkout", "--quiet", "--no-overlay", &commit.checksum, "--", "."];
            git.run("failed to checkout remote", Place::tree(&repository.dir, tree), args).await?;
            repository.dir.clone()
        };
        if !request.skip_submodules {
            update_submodules(&git, Place::tree(&git_dir, tree)).await?;
        }
        let time = match request.mtime {
            ModificationTime::Commit => Some(commit_time(&git, &repository.dir, commit).await?),
            ModificationTime::Checkout => None,
        };
        let (tree, target, writable) = (tree.to_owned(), dir.to_owned(), request.writable);
        let finish = move || {
            if let Some(subdir) = subdir {
                take_subdir(&tree, &subdir, &target)?;
            }
            drop(whole);
            if writable {
                let_all_write(&target)?;
            }
            time.map_or(Ok(()), |time| set_times(&target, time))
        };
        match tokio::task::spawn_blocking(finish).await {
            Ok(result) => result,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
}

/// Checks submodules out, without their history where the servers can do that.
async fn update_submodules(git: &Git<'_>, place: Place<'_>) -> Result<(), GitError> {
    let what = "failed to update submodules for";
    let args = ["submodule", "update", "--init", "--recursive"];
    match git.run(what, place, args.into_iter().chain(["--depth=1"])).await {
        Err(e) if e.stderr().contains("--depth") || e.stderr().contains("shallow") => {
            git.run(what, place, args).await.map(drop)
        }
        result => result.map(drop),
    }
}

/// A repository of its own in `tree/.git` with just the commit, named as in the remote. Returns its directory.
async fn clone_into(
    git: &Git<'_>,
    bare: &Path,
    request: &GitRequest,
    commit: &GitCommit,
    tree: &Path,
) -> Result<PathBuf, GitError> {
    let git_dir = tree.join(".git");
    let place = Place::tree(&git_dir, tree);
    let mut args = vec!["-c", "init.defaultBranch=master", "init", "--quiet"];
    if commit.checksum.len() == 64 {
        args.push("--object-format=sha256");
    }
    git.run("failed to init repository for", place, args).await?;
    // By protocol, not by path: local clones share files.
    let source = format!("file://{}", bare.display());
    git.run("failed to add remote", place, ["remote", "add", "origin", &source]).await?;
    // The bare repository advertises the commit under a name made for this.
    let name = format!("refs/cooper/checkout/{}", commit.checksum);
    git.run("failed to name a commit of", Place::bare(bare), ["update-ref", &name, &commit.checksum]).await?;
    let spec =
        if commit.reference.starts_with("refs/") { format!("{name}:{}", commit.reference) } else { name.clone() };
    let fetch = ["fetch", "--quiet", "-u", "--no-tags", "--depth=1", "--", "origin", &spec];
    git.run("failed to fetch remote", place, fetch).await?;
    git.run("failed to checkout remote", place, ["checkout", "--quiet", "--detach", "FETCH_HEAD"]).await?;
    let remote = super::command::redacted(&request.remote);
    git.run("failed to set remote origin to", place, ["remote", "set-url", "origin", &remote]).await?;
    // Both name the moment of the checkout, which makes no two of them equal.
    git.run("failed to expire reflog for remote", place, ["reflog", "expire", "--all", "--expire=now"]).await?;
    let _ = fs::remove_file(git_dir.join("FETCH_HEAD"));
    Ok(git_dir)
}

async fn commit_time(git: &Git<'_>, bare: &Path, commit: &GitCommit) -> Result<i64, GitError> {
    let peeled = format!("{}^{{commit}}", commit.checksum);
    let args = ["log", "-1", "--format=%ct", &peeled];
    let out = git.line("failed to get commit time for", Place::bare(bare), args).await?;
    out.parse().map_err(|_| GitError::Answer { asked: "a commit's time", output: out })
}

/// The subdirectory without `.`, `..` and slashes at its ends; `None` for everything.
fn clean(subdir: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    for component in Path::new(subdir).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => drop(path.pop()),
            _ => {}
        }
    }
    (path != Path::new("")).then_some(path)
}

/// Moves what is in `tree/subdir` into `target`. Links on the way are refused: they could lead anywhere.
fn take_subdir(tree: &Path, subdir: &Path, target: &Path) -> Result<(), GitError> {
    let mut from = tree.to_owned();
    for component in subdir.components() {
        from.push(component);
        if !fs::symlink_metadata(&from).is_ok_and(|m| m.is_dir()) {
            let part = from.strip_prefix(tree).unwrap_or(&from).display().to_string();
            return Err(GitError::Subdir { subdir: subdir.display().to_string(), part });
        }
    }
    for entry in fs::read_dir(&from).map_err(GitError::io("list", &from))? {
        let entry = entry.map_err(GitError::io("list", &from))?;
        fs::rename(entry.path(), target.join(entry.file_name())).map_err(GitError::io("move", entry.path()))?;
    }
    Ok(())
}

/// Lets all users write to the regular files in `dir` that nobody may execute.
fn let_all_write(dir: &Path) -> Result<(), GitError> {
    for entry in fs::read_dir(dir).map_err(GitError::io("list", dir))? {
        let entry = entry.map_err(GitError::io("list", dir))?;
        let path = entry.path();
        let meta = entry.metadata().map_err(GitError::io("stat", &path))?;
        let mode = meta.permissions().mode();
        if meta.is_dir() {
            let_all_write(&path)?;
        } else if meta.is_file() && mode & 0o111 == 0 {
            let writable = fs::Permissions::from_mode(mode | 0o222);
            fs::set_permissions(&path, writable).map_err(GitError::io("change the mode of", &path))?;
        }
    }
    Ok(())
}

/// Gives everything in `dir`, and `dir` itself, the time `seconds` since 1970; children before parents.
fn set_times(dir: &Path, seconds: i64) -> Result<(), GitError> {
    for entry in fs::read_dir(dir).map_err(GitError::io("list", dir))? {
        let entry = entry.map_err(GitError::io("list", dir))?;
        let kind = entry.file_type().map_err(GitError::io("stat", entry.path()))?;
        if kind.is_dir() {
            set_times(&entry.path(), seconds)?;
        } else {
            set_time(&entry.path(), seconds)?;
        }
    }
    set_time(dir, seconds)
}

fn set_time(path: &Path, seconds: i64) -> Result<(), GitError> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| GitError::io("set the time of", path)(e.into()))
}
