//! Files from URLs (`http://`, `https://`) and uploads of the client (`http://buildkit-session/…`).

use super::SourceOp;
use crate::{
    domain::{Build, BuildJob, StepError},
    layers::tree::Tree,
    sources::access::{ClientAccess, Tell, TransferBar},
    worker::Worker,
};
use async_trait::async_trait;
use cooper_attest::{Capture, HttpSource};
use cooper_content::ByteStream;
use cooper_oci::{Digest, Digester};
use cooper_solver::{CacheMap, Op, OpContext};
use cooper_source::{
    Attributes,
    http::{HttpFile, HttpRequest},
};
use futures::StreamExt as _;
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The host that stands for the client's own uploads.
const UPLOAD_HOST: &str = "buildkit-session";

/// An HTTP source bound to a worker.
pub struct HttpOp {
    worker: Arc<Worker>,
    request: HttpRequest,
    /// What it resolved to; equal vertices of concurrent builds share the op.
    resolved: Mutex<Option<HttpFile>>,
}

impl HttpOp {
    /// Reads the identifier and attributes of a source.
    pub fn new(worker: &Arc<Worker>, identifier: &str, attrs: &Attributes) -> Result<Self, String> {
        let request = HttpRequest::from_source(identifier, attrs).map_err(|e| e.to_string())?;
        Ok(Self { worker: worker.clone(), request, resolved: Mutex::default() })
    }

    async fn file(&self, cx: &OpContext<Build>) -> Result<HttpFile, StepError> {
        if let Some(known) = self.resolved.lock().clone() {
            return Ok(known);
        }
        let (jobs, tell) = (cx.jobs(), |event| cx.emit(event));
        let file = self.worker.resolve_http(&self.request, &jobs, &tell).await?;
        let file = self.worker.check_http_signature(&self.request, file, &jobs, &tell).await?;
        *self.resolved.lock() = Some(file.clone());
        Ok(file)
    }
}

impl SourceOp for HttpOp {
    fn capture(&self, capture: &mut Capture) {
        if let Some(file) = self.resolved.lock().clone() {
            capture.add_http(HttpSource { url: self.request.url.clone(), digest: file.digest });
        }
    }
}

#[async_trait]
impl Op<Build> for HttpOp {
    async fn cache_map(&self, cx: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let file = self.file(cx).await?;
        let mut digester = Digester::default();
        digester.update_field("http");
        digester.update_field(file.cache_key().as_str());
        // Who may read it, and in which form it was asked for.
        digester.update_field(self.request.auth_header_secret.as_deref().unwrap_or_default());
        for (name, value) in &self.request.headers {
            digester.update_field(name);
            digester.update_field(value);
        }
        Ok(CacheMap { digest: digester.finish(), dependencies: Vec::new(), volatile: false })
    }

    async fn content_digest(&self, _: usize, _: &Tree, _: &OpContext<Build>) -> Result<Digest, StepError> {
        Err(StepError::refused("a file from a URL has no inputs"))
    }

    async fn run(&self, _: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        let file = self.file(cx).await?;
        let file = self.worker.fetch_http(&self.request, file, &cx.jobs(), &|event| cx.emit(event)).await?;
        let tree = self.worker.file_tree(file, format!("http url {}", self.request.url)).await?;
        Ok(vec![Some(tree)])
    }

    fn resolves(&self) -> bool {
        true
    }
}

impl Worker {
    /// What a URL stands for in the builds `jobs`: the same each time they ask.
    pub async fn resolve_http(
        &self,
        request: &HttpRequest,
        jobs: &[Arc<BuildJob>],
        tell: Tell<'_>,
    ) -> Result<HttpFile, StepError> {
        let resolve = async {
            let access = ClientAccess::new(self, jobs, tell);
            let bar = TransferBar::new(format!("downloading {}", display_name(request)), tell);
            match upload_path(request) {
                Some(path) => {
                    let (received, upload) = counted(access.upload(UPLOAD_HOST, path).await?);
                    bar.watch(&received, self.http.keep(request, upload)).await
                }
                None => self.http.resolve(request, &access, |now, total| bar.advance(now, total)).await,
            }
            .map_err(StepError::while_doing(""))
        };
        // With a checksum nothing is asked, and nothing need be remembered.
        if request.checksum.is_some() && upload_path(request).is_none() {
            return resolve.await;
        }
        let pins: Vec<_> = jobs.iter().map(|job| job.pins.http(request.key())).collect();
        let Some(first) = pins.iter().find(|pin| pin.initialized()).or(pins.first()) else { return resolve.await };
        let file = first.get_or_try_init(|| resolve).await?.clone();
        for pin in &pins {
            pin.set(file.clone()).ok();
        }
        Ok(file)
    }

    /// Brings the content of a resolved URL here.
    pub async fn fetch_http(
        &self,
        request: &HttpRequest,
        file: HttpFile,
        jobs: &[Arc<BuildJob>],
        tell: Tell<'_>,
    ) -> Result<HttpFile, StepError> {
        if request.checksum.is_none() && self.layers.content.renew(&file.digest).is_ok_and(|here| here) {
            return Ok(file);
        }
        if upload_path(request).is_some() {
            return Err(StepError::refused(format!("the upload {} is gone and cannot be had again", request.url)));
        }
        let access = ClientAccess::new(self, jobs, tell);
        let bar = TransferBar::new(format!("downloading {}", display_name(request)), tell);
        let pinned = HttpRequest { checksum: Some(file.digest.clone()), ..request.clone() };
        let fetched = self.http.fetch(&pinned, &access, |now, total| bar.advance(now, total)).await;
        fetched.map_err(StepError::while_doing(""))
    }

    /// Checks the signature that the request wants, for which the content is needed here.
    pub async fn check_http_signature(
        &self,
        request: &HttpRequest,
        file: HttpFile,
        jobs: &[Arc<BuildJob>],
        tell: Tell<'_>,
    ) -> Result<HttpFile, StepError> {
        let Some(signature) = request.signature.clone() else { return Ok(file) };
        let file = self.fetch_http(request, file, jobs, tell).await?;
        let store = self.layers.content.clone();
        let check = move || file.verify(&store, &signature).map(|()| file).map_err(StepError::while_doing(""));
        tokio::task::spawn_blocking(check).await.map_err(StepError::while_doing("cannot check a signature"))?
    }

    /// A tree of a single file whose content is here.
    pub async fn file_tree(self: &Arc<Self>, file: HttpFile, description: String) -> Result<Tree, StepError> {
        let worker = self.clone();
        let write = move || {
            let write = worker.write(&Tree::default())?;
            file.write(&worker.layers.content, write.active().layer_dir()).map_err(StepError::while_doing(""))?;
            write.commit(&description)
        };
        tokio::task::spawn_blocking(write).await.map_err(StepError::while_doing("cannot write a downloaded file"))?
    }
}

/// A stream, and the number of bytes that it has brought so far.
fn counted(stream: ByteStream) -> (Arc<AtomicU64>, ByteStream) {
    let received = Arc::new(AtomicU64::new(0));
    let count = received.clone();
    let stream = stream.inspect(move |chunk| {
        count.fetch_add(chunk.as_ref().map_or(0, |c| c.len() as u64), Ordering::Relaxed);
    });
    (received, stream.boxed())
}

/// The path of an upload, when the URL is one of the client's own.
fn upload_path(request: &HttpRequest) -> Option<&str> {
    let (_, rest) = request.url.split_once("://")?;
    let path = rest.strip_prefix(UPLOAD_HOST)?;
    path.starts_with('/').then(|| path.split(['?', '#']).next().unwrap_or(path))
}

/// The last part of the URL: what people know a download by.
fn display_name(request: &HttpRequest) -> &str {
    let path = request.url.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').find(|part| !part.is_empty()).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_told_from_urls() {
        for (url, path) in [
            ("http://buildkit-session/abc", Some("/abc")),
            ("https://buildkit-session/a/b?q", Some("/a/b")),
            ("http://buildkit-session.example/abc", None),
            ("http://buildkit-session:80/abc", None),
            ("http://example/buildkit-session/x", None),
        ] {
            assert_eq!(upload_path(&HttpRequest::new(url)), path, "{url}");
        }
    }
}
