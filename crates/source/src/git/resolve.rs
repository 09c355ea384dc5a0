//! From a reference to a commit.

use super::{
    GitAccess, GitBundle, GitError, GitSignature,
    command::{Git, Place, redacted, temporary_file},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use cooper_oci::Digest;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use url::Url;

/// Which times the files of a checkout get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ModificationTime {
    /// The time of the checkout.
    #[default]
    Checkout,
    /// The committer's time.
    Commit,
}

/// What is wanted of a repository.
#[derive(Debug, Clone, Default)]
pub struct GitRequest {
    /// Address as git takes it, without fragment and query.
    pub remote: String,
    /// Branch, tag, full reference or commit; empty for the default branch.
    pub reference: String,
    /// Subdirectory to check out; empty for everything.
    pub subdir: String,
    /// Commit hash (or its beginning) that the reference must stand for.
    pub checksum: Option<String>,
    /// Whether the checkout has a `.git` directory.
    pub keep_git_dir: bool,
    /// Whether submodules are left out.
    pub skip_submodules: bool,
    /// The files' times.
    pub mtime: ModificationTime,
    /// Whether `checksum` is fetched directly, without asking what the reference stands for.
    pub fetch_by_commit: bool,
    /// Id of a secret with an access token for HTTPS; `<id>.<host>` is tried first.
    pub auth_token_secret: Option<String>,
    /// Id of a secret with a whole `Authorization` value; `<id>.<host>` is tried first.
    pub auth_header_secret: Option<String>,
    /// Id of the SSH agent.
    pub ssh_agent: Option<String>,
    /// Lines of a known-hosts file.
    pub known_hosts: Option<String>,
    /// Where commits come from in place of the remote. The caller fetches it, see [`GitSource::import_bundle`].
    pub bundle: Option<GitBundle>,
    /// Whether the checkout is a bundle, a single file of that name.
    pub checkout_bundle: bool,
    /// Whether all may write to files that are not executable, as in checkouts of builders before 2024.
    pub writable: bool,
    /// What must be signed, and by whom. The caller sees to it, see [`GitObjects::verify`].
    pub signature: Option<GitSignature>,
}

impl GitRequest {
    /// Whether the request says by itself which commit it is about.
    pub fn names_commit(&self) -> bool {
        pinned(self).is_ok_and(|commit| commit.is_some())
    }
}

/// What a request stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitCommit {
    /// Full reference, or the commit itself.
    pub reference: String,
    /// Hash that the reference stands for: a commit, or the tag object of an annotated tag.
    pub checksum: String,
    /// The commit of an annotated tag.
    pub commit: Option<String>,
}

/// A commit's objects, as git stores them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitObjects {
    /// The commit object.
    pub commit: Vec<u8>,
    /// The hash of the commit.
    pub commit_hash: String,
    /// The tag object of an annotated tag.
    pub tag: Option<Vec<u8>>,
}

impl GitCommit {
    /// The hash of the commit itself, as far as it is known.
    pub fn commit(&self) -> &str {
        self.commit.as_deref().unwrap_or(&self.checksum)
    }

    /// Everything that the checkout's content depends on.
    pub fn cache_key(&self, request: &GitRequest) -> String {
        let mut key = if request.keep_git_dir { self.checksum.clone() } else { self.commit().to_owned() };
        if request.keep_git_dir {
            key = format!("{key}.git#{}", self.reference);
        }
        if !request.subdir.is_empty() {
            key = format!("{key}:{}", request.subdir);
        }
        if request.skip_submodules {
            key += "(skip-submodules)";
        }
        if request.mtime == ModificationTime::Commit {
            key += "(mtime=commit)";
        }
        if request.checkout_bundle {
            key += "(bundle)";
        } else if request.writable {
            key += "(writable)";
        }
        key
    }
}

/// Fetches git repositories and writes checkouts.
#[derive(Debug, Clone)]
pub struct GitSource {
    root: PathBuf,
    /// One lock per remote: git's own locks fail instead of waiting.
    locks: Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>,
}

impl GitSource {
    /// A source whose bare repositories live in `root`.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, GitError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(GitError::io("create", &root))?;
        // Addresses of remotes may hold passwords.
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&root, private).map_err(GitError::io("change the mode of", &root))?;
        Ok(Self { root, locks: Arc::default() })
    }

    /// What `request` stands for now. Asks the remote, unless the request names a commit.
    pub async fn resolve(&self, request: &GitRequest, access: &dyn GitAccess) -> Result<GitCommit, GitError> {
        check(request)?;
        if let Some(pinned) = pinned(request)? {
            return Ok(pinned);
        }
        let git = self.git(request, access).await?;
        let reference = match request.reference.as_str() {
            "" => default_branch(&git, &request.remote).await?,
            reference => reference.to_owned(),
        };
        matching(&git, request, &request.remote, &reference).await
    }

    /// The objects behind `commit`, for signature checks; fetches them.
    pub async fn objects(
        &self,
        request: &GitRequest,
        commit: &GitCommit,
        access: &dyn GitAccess,
    ) -> Result<GitObjects, GitError> {
        let git = self.git(request, access).await?;
        let repository = self.fetched(&git, request, commit).await?;
        let place = Place::bare(&repository.dir);
        let kind = git.line("failed to read", place, ["cat-file", "-t", &commit.checksum]).await?;
        let peeled = format!("{}^{{commit}}", commit.checksum);
        let tag = match kind.as_str() {
            "tag" => Some(git.run("failed to read", place, ["cat-file", "tag", &commit.checksum]).await?),
            _ => None,
        };
        let commit_hash = match &tag {
            Some(_) => git.line("failed to rev-parse a commit of", place, ["rev-parse", &peeled]).await?,
            None => commit.checksum.clone(),
        };
        let commit = git.run("failed to read", place, ["cat-file", "commit", &peeled]).await?;
        Ok(GitObjects { commit, commit_hash, tag })
    }

    /// The git program with the request's credentials.
    pub(super) async fn git<'a>(&self, request: &GitRequest, access: &'a dyn GitAccess) -> Result<Git<'a>, GitError> {
        let remote = redacted(&request.remote);
        let config = authorization(request, access).await?.into_iter().collect();
        let agent = match &request.ssh_agent {
            None => None,
            Some(id) => Some(access.ssh_agent(id).await.map_err(|source| GitError::Ssh {
                id: id.clone(),
                remote: remote.clone(),
                source,
            })?),
        };
        let known_hosts = request.known_hosts.as_deref().filter(|k| !k.is_empty()).map(temporary_file).transpose()?;
        Ok(Git { access, remote, config, agent, known_hosts })
    }

    /// The bare repository of a remote, held for this task alone.
    pub(super) async fn hold(&self, remote: &str) -> Repository {
        let lock = Arc::clone(self.locks.lock().entry(remote.to_owned()).or_default());
        let guard = lock.lock_owned().await;
        Repository { dir: self.root.join(Digest::of(remote).hex()), _guard: guard }
    }

    /// The directory of the bare repositories.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// A bare repository that no other task touches.
pub(super) struct Repository {
    pub(super) dir: PathBuf,
    _guard: OwnedMutexGuard<()>,
}

pub(super) fn check(request: &GitRequest) -> Result<(), GitError> {
    if request.reference.starts_with('-') {
        return Err(GitError::Reference(request.reference.clone()));
    }
    if request.remote.starts_with('-') {
        return Err(GitError::Reference(request.remote.clone()));
    }
    match &request.checksum {
        Some(c) if c.is_empty() || !c.bytes().all(|b| b.is_ascii_hexdigit()) => Err(GitError::Checksum(c.clone())),
        _ => Ok(()),
    }
}

/// The commit that a request names itself.
pub(super) fn pinned(request: &GitRequest) -> Result<Option<GitCommit>, GitError> {
    if is_commit(&request.reference) {
        return match &request.checksum {
            Some(expected) if !request.reference.starts_with(expected.as_str()) => {
                Err(GitError::Mismatch { expected: expected.clone(), actual: request.reference.clone() })
            }
            _ => Ok(Some(of_commit(&request.reference, &request.reference))),
        };
    }
    if let (Some(_), "", Some(checksum)) = (&request.bundle, request.reference.as_str(), &request.checksum) {
        return Ok(Some(of_commit(checksum, checksum)));
    }
    if !request.fetch_by_commit {
        return Ok(None);
    }
    let checksum = request.checksum.clone().unwrap_or_default();
    if !is_commit(&checksum) {
        return Err(GitError::FetchByCommit(checksum));
    }
    Ok(Some(match request.reference.as_str() {
        "" => of_commit(&checksum, &checksum),
        full if full.starts_with("refs/") => of_commit(full, &checksum),
        branch => of_commit(&format!("refs/heads/{branch}"), &checksum),
    }))
}

fn of_commit(reference: &str, checksum: &str) -> GitCommit {
    GitCommit { reference: reference.to_owned(), checksum: checksum.to_owned(), commit: None }
}

/// What `reference` is in the repository or bundle at `from`, when it is what the request pins.
pub(super) async fn matching(
    git: &Git<'_>,
    request: &GitRequest,
    from: &str,
    reference: &str,
) -> Result<GitCommit, GitError> {
    let peeled = format!("{reference}^{{}}");
    let args = ["ls-remote", "--", from, reference, &peeled];
    let out = git.run("failed to fetch remote", Place::default(), args).await?;
    let commit = listed(&String::from_utf8_lossy(&out), reference)?;
    let Some(expected) = &request.checksum else { return Ok(commit) };
    if [Some(&commit.checksum), commit.commit.as_ref()].iter().flatten().any(|c| c.starts_with(expected.as_str())) {
        return Ok(commit);
    }
    let both = commit.commit.as_ref().map(|c| format!(" or {c}")).unwrap_or_default();
    Err(GitError::Mismatch { expected: expected.clone(), actual: format!("{}{both}", commit.checksum) })
}

/// A full SHA-1 or SHA-256 hash.
pub(super) fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

async fn default_branch(git: &Git<'_>, remote: &str) -> Result<String, GitError> {
    let args = ["ls-remote", "--symref", "--", remote, "HEAD"];
    let out = git.line("error fetching default branch for repository", Place::default(), args).await?;
    let branch =
        out.lines().find_map(|l| l.strip_prefix("ref: ")?.split_whitespace().next()?.strip_prefix("refs/heads/"));
    match branch {
        Some(branch) if !branch.starts_with('-') => Ok(branch.to_owned()),
        _ => Err(GitError::NoDefaultBranch { remote: git.remote.clone() }),
    }
}

/// Reads `ls-remote`'s answer. A full reference wins, then a branch, then a tag: git's own preference.
fn listed(output: &str, reference: &str) -> Result<GitCommit, GitError> {
    let listed: HashMap<&str, &str> =
        output.lines().filter_map(|line| line.split_once('\t')).map(|(hash, name)| (name, hash)).collect();
    let full = format!("refs/{}", reference.trim_start_matches("refs/"));
    let branch = format!("refs/heads/{}", reference.trim_start_matches("refs/heads/"));
    let tag = format!("refs/tags/{}", reference.trim_start_matches("refs/tags/"));
    let names = [full, branch, tag];
    let found = names.iter().find_map(|name| Some((name, *listed.get(name.as_str())?)));
    let Some((name, checksum)) = found else {
        let (reference, output) = (reference.to_owned(), output.to_owned());
        return Err(GitError::NoReference { reference, output });
    };
    if !is_commit(checksum) {
        return Err(GitError::Answer { asked: "a commit hash", output: checksum.to_owned() });
    }
    let commit = listed.get(format!("{name}^{{}}").as_str()).map(|c| (*c).to_owned());
    Ok(GitCommit { reference: name.clone(), checksum: checksum.to_owned(), commit })
}

/// The configuration that sends the request's secret along, when there is one.
async fn authorization(request: &GitRequest, access: &dyn GitAccess) -> Result<Option<(String, String)>, GitError> {
    let Some(url) = Url::parse(&request.remote).ok().filter(|u| matches!(u.scheme(), "http" | "https")) else {
        return Ok(None);
    };
    let host = match (url.host_str().unwrap_or_default(), url.port()) {
        (host, Some(port)) => format!("{host}:{port}"),
        (host, None) => host.to_owned(),
    };
    let (header, token) = (request.auth_header_secret.as_ref(), request.auth_token_secret.as_ref());
    let candidates = [
        header.map(|id| (format!("{id}.{host}"), false)),
        token.map(|id| (format!("{id}.{host}"), true)),
        header.map(|id| (id.clone(), false)),
        token.map(|id| (id.clone(), true)),
    ];
    for (id, is_token) in candidates.into_iter().flatten() {
        let secret = access.secret(&id).await;
        let secret = secret.map_err(|source| GitError::Secret { id, remote: redacted(&request.remote), source })?;
        let Some(secret) = secret else { continue };
        let text = String::from_utf8_lossy(&secret);
        let value = if is_token {
            format!("basic {}", STANDARD.encode(format!("x-access-token:{}", text.trim())))
        } else {
            text.trim().to_owned()
        };
        let key = format!("http.{}.extraheader", scope(&request.remote));
        return Ok(Some((key, format!("Authorization: {value}"))));
    }
    Ok(None)
}

/// For which addresses a secret is sent. Submodules on the same well-known host may use it too.
fn scope(remote: &str) -> &str {
    ["https://github.com/", "https://www.github.com/"].into_iter().find(|p| remote.starts_with(p)).unwrap_or(remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_as_git_prefers() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let output = format!(
            "{a}\trefs/heads/x\n{b}\trefs/tags/x\n{c}\trefs/tags/x^{{}}\n{b}\trefs/tags/v1\n{c}\trefs/tags/v1^{{}}\n{a}\trefs/pull/1/head\n"
        );
        let show = |reference: &str| match listed(&output, reference) {
            Ok(found) => {
                let commit = found.commit.map(|c| format!(" {}", &c[..1])).unwrap_or_default();
                format!("{} {}{commit}", found.reference, &found.checksum[..1])
            }
            Err(e) => e.to_string().lines().next().unwrap_or_default().chars().take(42).collect(),
        };
        for (reference, expected) in [
            ("x", "refs/heads/x a"),
            ("refs/tags/x", "refs/tags/x b c"),
            ("v1", "refs/tags/v1 b c"),
            ("pull/1/head", "refs/pull/1/head a"),
            ("refs/pull/1/head", "refs/pull/1/head a"),
            ("nope", "repository does not contain ref nope, outp"),
        ] {
            assert_eq!(show(reference), expected);
        }
    }
}
