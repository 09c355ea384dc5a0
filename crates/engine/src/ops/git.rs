//! Checkouts of git repositories (`git://`).

use super::{SourceOp, blob::BlobPlace};
use crate::{
    compatibility::Compatibility,
    domain::{Build, BuildJob, StepError},
    layers::{store::RecordType, tree::Tree},
    sources::access::{ClientAccess, Tell},
    worker::Worker,
};
use async_trait::async_trait;
use cooper_attest::{Capture, GitSource};
use cooper_oci::{Digest, Digester};
use cooper_solver::{CacheMap, Op, OpContext};
use cooper_source::{
    Attributes,
    git::{GitCommit, GitObjects, GitRequest},
};
use parking_lot::Mutex;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// A git source bound to a worker.
pub struct GitOp {
    worker: Arc<Worker>,
    request: GitRequest,
    /// What it resolved to; equal vertices of concurrent builds share the op.
    resolved: Mutex<Option<GitCommit>>,
}

impl GitOp {
    /// Reads the identifier and attributes of a source.
    pub fn new(
        worker: &Arc<Worker>,
        identifier: &str,
        attrs: &Attributes,
        compatibility: Compatibility,
    ) -> Result<Self, String> {
        let mut request = GitRequest::from_source(identifier, attrs).map_err(|e| e.to_string())?;
        request.writable = compatibility.has_writable_checkouts();
        Ok(Self { worker: worker.clone(), request, resolved: Mutex::default() })
    }

    async fn commit(&self, cx: &OpContext<Build>) -> Result<GitCommit, StepError> {
        if let Some(known) = self.resolved.lock().clone() {
            return Ok(known);
        }
        let (jobs, tell) = (cx.jobs(), |event| cx.emit(event));
        let commit = self.worker.resolve_git(&self.request, &jobs, &tell).await?;
        if self.request.signature.is_some() {
            self.worker.git_objects(&self.request, &commit, &jobs, &tell).await?;
        }
        *self.resolved.lock() = Some(commit.clone());
        Ok(commit)
    }
}

impl SourceOp for GitOp {
    fn capture(&self, capture: &mut Capture) {
        let Some(commit) = self.resolved.lock().clone() else { return };
        let request = &self.request;
        let url = match request.reference.as_str() {
            "" => request.remote.clone(),
            reference => format!("{}#{reference}", request.remote),
        };
        let bundle = request.bundle.as_ref().map(|b| b.locator.clone());
        capture.add_git(GitSource { url, commit: commit.commit().to_owned(), bundle });
        for secret in [&request.auth_token_secret, &request.auth_header_secret].into_iter().flatten() {
            capture.add_secret(secret, true);
        }
        if let Some(agent) = &request.ssh_agent {
            capture.add_ssh(agent, true);
        }
    }
}

#[async_trait]
impl Op<Build> for GitOp {
    async fn cache_map(&self, cx: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let commit = self.commit(cx).await?;
        let mut digester = Digester::default();
        digester.update_field("git");
        digester.update_field(commit.cache_key(&self.request));
        // A repository that keeps its address differs by it.
        digester.update_field(if self.request.keep_git_dir { self.request.remote.as_str() } else { "" });
        Ok(CacheMap { digest: digester.finish(), dependencies: Vec::new(), volatile: false })
    }

    async fn content_digest(&self, _: usize, _: &Tree, _: &OpContext<Build>) -> Result<Digest, StepError> {
        Err(StepError::refused("a git checkout has no inputs"))
    }

    async fn run(&self, _: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        let commit = self.commit(cx).await?;
        let tell = |event| cx.emit(event);
        let jobs = cx.jobs();
        let access = ClientAccess::new(&self.worker, &jobs, &tell);
        let doing = || "cannot write a git checkout";
        let worker = self.worker.clone();
        let write = tokio::task::spawn_blocking(move || worker.write(&Tree::default())).await;
        let write = write.map_err(StepError::while_doing(doing()))??;
        self.worker.import_bundle(&self.request, &commit, &jobs, &tell).await?;
        let checkout = self.worker.git.checkout(&self.request, &commit, &access, write.active().layer_dir()).await;
        checkout.map_err(StepError::while_doing(""))?;
        let description = format!("git snapshot for {}#{}", shown(&self.request.remote), self.request.reference);
        let commit = move || write.commit_as(RecordType::GitCheckout, &description);
        let tree = tokio::task::spawn_blocking(commit).await.map_err(StepError::while_doing(doing()))??;
        Ok(vec![Some(tree)])
    }

    fn resolves(&self) -> bool {
        true
    }

    fn resolving_key(&self, vertex: &Digest) -> Digest {
        checkout_key(vertex, self.request.writable)
    }
}

impl Worker {
    /// What a reference stands for in the builds `jobs`: the same each time they ask.
    pub async fn resolve_git(
        &self,
        request: &GitRequest,
        jobs: &[Arc<BuildJob>],
        tell: Tell<'_>,
    ) -> Result<GitCommit, StepError> {
        let resolve = async {
            let access = ClientAccess::new(self, jobs, tell);
            // Most requests for bundles name a commit: nothing need be looked up.
            let commit = match self.bundle_file(request, request.names_commit(), jobs, tell).await? {
                Some(file) => self.git.resolve_in_bundle(request, file.path(), &access).await,
                None => self.git.resolve(request, &access).await,
            };
            commit.map_err(StepError::while_doing(""))
        };
        let checksum = request.checksum.as_deref().unwrap_or_default();
        let key = format!("{}#{} {checksum} {}", request.remote, request.reference, request.fetch_by_commit);
        let pins: Vec<_> = jobs.iter().map(|job| job.pins.git(key.clone())).collect();
        let Some(first) = pins.iter().find(|pin| pin.initialized()).or(pins.first()) else { return resolve.await };
        let commit = first.get_or_try_init(|| resolve).await?.clone();
        for pin in &pins {
            pin.set(commit.clone()).ok();
        }
        Ok(commit)
    }

    /// The raw objects behind a resolved reference. Whoever gets them may rely on the signature that the request
    /// wants.
    pub async fn git_objects(
        &self,
        request: &GitRequest,
        commit: &GitCommit,
        jobs: &[Arc<BuildJob>],
        tell: Tell<'_>,
    ) -> Result<GitObjects, StepError> {
        self.import_bundle(request, commit, jobs, tell).await?;
        let access = ClientAccess::new(self, jobs, tell);
        let objects = self.git.objects(request, commit, &access).await.map_err(StepError::while_doing(""))?;
        if let Some(wanted) = &request.signature {
            objects.verify(commit, wanted).map_err(StepError::while_doing(""))?;
        }
        Ok(objects)
    }

    /// Takes the commits of the request's bundle, if it has one.
    async fn import_bundle(
        &self,
        request: &GitRequest,
        commit: &GitCommit,
        jobs: &[Arc<BuildJob>],
        tell: Tell<'_>,
    ) -> Result<(), StepError> {
        let Some(file) = self.bundle_file(request, false, jobs, tell).await? else { return Ok(()) };
        let access = ClientAccess::new(self, jobs, tell);
        self.git.import_bundle(request, commit, file.path(), &access).await.map_err(StepError::while_doing(""))
    }

    /// The request's bundle as a file with a path, which git wants; none when it has none or `unneeded`.
    async fn bundle_file(
        &self,
        request: &GitRequest,
        unneeded: bool,
        jobs: &[Arc<BuildJob>],
        tell: Tell<'_>,
    ) -> Result<Option<BundleFile>, StepError> {
        let Some(bundle) = request.bundle.as_ref().filter(|_| !unneeded) else { return Ok(None) };
        let (scheme, name) = bundle.locator.split_once("://").unwrap_or_default();
        // A layout without a name is called as the locator says.
        let store = if bundle.store.is_empty() { name.split('@').next().unwrap_or_default() } else { &bundle.store };
        let attrs = [("oci.session", bundle.session.as_str()), ("oci.store", store)];
        let attrs = attrs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let doing = format!("failed to fetch git bundle {name}");
        let place = BlobPlace::new(scheme, name, &attrs).map_err(StepError::while_doing(doing.clone()))?;
        self.fetch_blob(&place, jobs, tell).await.map_err(StepError::while_doing(doing.clone()))?;
        let file = BundleFile(self.scratch.join(format!("bundle-{}", crate::layers::store::random_id())));
        let content = self.layers.content.clone();
        let copy = move || {
            let blob = content.reader(&place.digest).map_err(std::io::Error::other)?;
            let mut target = std::fs::File::create_new(file.path())?;
            std::io::copy(&mut blob.file(), &mut target)?;
            Ok::<_, std::io::Error>(file)
        };
        let copied = tokio::task::spawn_blocking(copy).await.map_err(StepError::while_doing(doing.clone()))?;
        copied.map(Some).map_err(StepError::while_doing(doing))
    }
}

/// A bundle on disk, removed when dropped.
struct BundleFile(PathBuf);

impl BundleFile {
    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for BundleFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// What stands for the op of a vertex among all builds: checkouts differ by the release whose habits a build wants.
pub fn checkout_key(vertex: &Digest, writable: bool) -> Digest {
    if writable { Digest::of(format!("{vertex} writable")) } else { vertex.clone() }
}

/// The address without user and password.
fn shown(remote: &str) -> String {
    match remote.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => remote.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn descriptions_hold_no_passwords() {
        for (remote, shown) in [
            ("https://user:secret@host/a@b.git", "https://host/a@b.git"),
            ("https://host:8443/a.git", "https://host:8443/a.git"),
            ("git@host:a.git", "git@host:a.git"),
        ] {
            assert_eq!(super::shown(remote), shown);
        }
    }
}
