//! Bundles: repositories as single files, as a place to take commits from and as a form of checkouts.

use super::{
    GitAccess, GitCommit, GitError, GitRequest, GitSource,
    command::{Git, Place},
    fetch::{has, prepare},
    resolve::{check, is_commit, matching, pinned},
};
use std::path::Path;

/// Name of the file that a checkout as a bundle consists of.
const FILE: &str = "bundle";
/// The branch of a bundle whose request names none; git wants some name.
const NAMELESS: &str = "refs/heads/main";

/// Where commits come from in place of the remote.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitBundle {
    /// `docker-image+blob://…@sha256:…` or `oci-layout+blob://…@sha256:…`
    pub locator: String,
    /// The session that has the layout; empty for those of the build.
    pub session: String,
    /// The layout's name; empty for that of the locator.
    pub store: String,
}

impl GitSource {
    /// [`GitSource::resolve`] by the references in the bundle `file`.
    pub async fn resolve_in_bundle(
        &self,
        request: &GitRequest,
        file: &Path,
        access: &dyn GitAccess,
    ) -> Result<GitCommit, GitError> {
        check(request)?;
        if let Some(pinned) = pinned(request)? {
            return Ok(pinned);
        }
        let git = self.git(request, access).await?;
        matching(&git, request, &file.to_string_lossy(), &request.reference).await
    }

    /// Puts the commits of the bundle `file` where [`GitSource::checkout`] and [`GitSource::objects`] look first.
    pub async fn import_bundle(
        &self,
        request: &GitRequest,
        commit: &GitCommit,
        file: &Path,
        access: &dyn GitAccess,
    ) -> Result<(), GitError> {
        let git = self.git(request, access).await?;
        let repository = self.hold(&request.remote).await;
        prepare(&git, &repository.dir, request, commit.checksum.len() == 64).await?;
        if has(&git, &repository.dir, &commit.checksum).await {
            return Ok(());
        }
        let file = file.to_string_lossy();
        let spec = format!("+refs/*:refs/cooper/bundle/{}/*", commit.checksum);
        let args = ["fetch", "--quiet", "--force", "--no-tags", "--", &file, &spec];
        git.run("failed to import git bundle for", Place::bare(&repository.dir), args).await?;
        if has(&git, &repository.dir, &commit.checksum).await {
            return Ok(());
        }
        let bundle = request.bundle.as_ref().map(|b| b.locator.clone()).unwrap_or_default();
        Err(GitError::NotInBundle { commit: commit.checksum.clone(), bundle })
    }
}

/// Writes `commit` and its history into a bundle in `dir`, under the name that the request gave it.
pub(super) async fn write(
    git: &Git<'_>,
    bare: &Path,
    request: &GitRequest,
    commit: &GitCommit,
    dir: &Path,
) -> Result<(), GitError> {
    if bare.join("shallow").exists() {
        // Who fetches from a bundle needs everything: bundles cannot say that they are shallow.
        let args = ["fetch", "--quiet", "--force", "--no-tags", "--unshallow", "--", "origin", &commit.checksum];
        git.run("failed to fetch the history of", Place::bare(bare), args).await?;
    }
    // A repository of one reference: others must not get into the bundle, nor this one into theirs.
    let own = tempfile::TempDir::new_in(dir).map_err(GitError::io("create a directory in", dir))?;
    let place = Place::bare(own.path());
    let mut args = vec!["-c", "init.defaultBranch=master", "init", "--quiet", "--bare"];
    if commit.checksum.len() == 64 {
        args.push("--object-format=sha256");
    }
    git.run("failed to init repository for", place, args).await?;
    let name = format!("refs/cooper/checkout/{}", commit.checksum);
    git.run("failed to name a commit of", Place::bare(bare), ["update-ref", &name, &commit.checksum]).await?;
    let target = target_name(&request.reference);
    let (from, spec) = (format!("file://{}", bare.display()), format!("{name}:{target}"));
    let fetch = ["fetch", "--quiet", "--no-tags", "--", &from, &spec];
    git.run("failed to fetch remote", place, fetch).await?;
    let file = dir.join(FILE).to_string_lossy().into_owned();
    git.run("failed to create git bundle for", place, ["bundle", "create", "--quiet", &file, &target]).await?;
    Ok(())
}

/// The full name of a reference within a bundle. Names without a kind are taken for branches.
fn target_name(reference: &str) -> String {
    match reference {
        "" => NAMELESS.to_owned(),
        commit if is_commit(commit) => NAMELESS.to_owned(),
        tag if tag.starts_with("refs/tags/") => tag.to_owned(),
        name => format!("refs/heads/{}", name.trim_start_matches("refs/").trim_start_matches("heads/")),
    }
}

#[cfg(test)]
mod tests {
    use super::target_name;

    #[test]
    fn references_keep_their_names_in_bundles() {
        for (reference, expected) in [
            ("", "refs/heads/main"),
            ("0123456789012345678901234567890123456789", "refs/heads/main"),
            ("refs/tags/v1", "refs/tags/v1"),
            ("master", "refs/heads/master"),
            ("heads/x", "refs/heads/x"),
            ("refs/heads/side/x", "refs/heads/side/x"),
        ] {
            assert_eq!(target_name(reference), expected);
        }
    }
}
