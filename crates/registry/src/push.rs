//! Uploading blobs and manifests (OCI distribution spec, "Push").

use crate::{
    Client, Error,
    challenge::Scopes,
    client::Endpoint,
    error::plain,
    request::{Answer, Call, Payload},
};
use bytes::Bytes;
use cooper_content::{BlobSource, ByteStream};
use cooper_oci::{Descriptor, Digest, ImageRef, MediaType};
use futures::StreamExt;
use http::{
    HeaderName, Method, StatusCode,
    header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE},
};
use std::{fmt, sync::Arc};
use tokio::time::sleep;
use url::Url;

/// What a push of a blob came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// The repository had it.
    Present,
    /// The registry took it from another repository, without a transfer.
    Mounted {
        /// That repository's path.
        from: String,
    },
    /// It was uploaded.
    Uploaded,
}

/// Called with the number of bytes uploaded so far; after a failure the number can go back.
#[derive(Clone)]
pub struct Progress(Arc<dyn Fn(u64) + Send + Sync>);

impl Progress {
    /// Calls `f`.
    pub fn new(f: impl Fn(u64) + Send + Sync + 'static) -> Self {
        Self(Arc::new(f))
    }
}

impl Default for Progress {
    /// Tells nobody.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

const OCTETS: &str = "application/octet-stream";
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Set by registries that list manifests by their subjects.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

impl Client {
    /// Makes sure that `name`'s repository has the blob `desc`: asks for it, tries to mount it from the
    /// repositories `mount_from` (paths on the same host) and those that were seen to have it, and uploads it from
    /// `source` when it must. Uploads that break are resumed where the registry can, else started over.
    ///
    /// A blob that was seen in another repository only is mounted without asking first: that saves a request, and a
    /// mount of what is there already changes nothing. Nothing is ever sent without having asked.
    pub async fn push_blob(
        &self,
        name: &ImageRef,
        desc: &Descriptor,
        source: &dyn BlobSource,
        mount_from: &[String],
        progress: &Progress,
    ) -> Result<Pushed, Error> {
        if desc.kind() == MediaType::ForeignLayer {
            let (digest, media_type) = (desc.digest.clone(), desc.media_type.clone());
            return Err(Error::NonDistributable { digest, media_type });
        }
        let endpoint = self.push_endpoint(name)?;
        let upload = Upload {
            client: self,
            repository: endpoint.repository(name),
            reference: format!("{}@{}", name.repository(), desc.digest),
            endpoint,
            name,
            desc,
        };
        let pushed = if let Some(from) = upload.mount_unasked().await {
            Pushed::Mounted { from }
        } else if upload.exists().await? {
            Pushed::Present
        } else if let Some(from) = upload.mount(mount_from).await? {
            Pushed::Mounted { from }
        } else {
            let limit = self.limit(&upload.endpoint.place.host);
            let _permit = limit.acquire_owned().await.ok();
            upload.run(source, progress).await?;
            Pushed::Uploaded
        };
        if pushed != Pushed::Uploaded {
            (progress.0)(desc.size);
        }
        self.shared.homes.note(&upload.endpoint.place.host, &upload.repository, &desc.digest);
        Ok(pushed)
    }

    /// Stores a manifest or index under `name`'s tag, or under its digest when it has no tag.
    pub async fn push_manifest(&self, name: &ImageRef, media_type: &str, bytes: Bytes) -> Result<Descriptor, Error> {
        Ok(self.put_manifest(name, media_type, bytes).await?.0)
    }

    /// The same; tells, too, whether the registry lists the manifest with those of its subject.
    pub(crate) async fn put_manifest(
        &self,
        name: &ImageRef,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(Descriptor, bool), Error> {
        let desc = Descriptor::of(media_type, &bytes);
        let endpoint = self.push_endpoint(name)?;
        let selector = name.tag().map_or_else(|| desc.digest.to_string(), str::to_owned);
        let url = endpoint.url(&self.shared, name, "manifests", &selector)?;
        let mut failures = 0;
        let answer = loop {
            let call = Call::new(Method::PUT, url.clone(), Scopes::push(&endpoint.repository(name)))
                .header(CONTENT_TYPE, media_type)
                .payload(Payload::Bytes(bytes.clone()));
            let answer = self.send(&endpoint, call).await?;
            if answer.response.status().is_success() {
                break answer;
            }
            let error = self.refused(&endpoint, &Method::PUT, answer, &name.to_string()).await;
            // The digest is right. Registries that write blobs in place say this while somebody else stores the same one.
            let raced = matches!(&error, Error::Status(exchange) if exchange.code.as_deref() == Some("DIGEST_INVALID"));
            failures += 1;
            match self.options().backoff.pause(failures, None).filter(|_| raced) {
                Some(pause) => sleep(pause).await,
                None => return Err(error),
            }
        };
        let listed = answer.response.headers().contains_key(SUBJECT);
        let said = answer.response.headers().get(CONTENT_DIGEST).and_then(|v| v.to_str().ok()?.parse::<Digest>().ok());
        match said {
            Some(actual) if actual.algorithm() == desc.digest.algorithm() && actual != desc.digest => {
                let (reference, host) = (name.to_string(), endpoint.place.host.clone());
                Err(Error::WrongDigest { reference, host, expected: desc.digest, actual })
            }
            _ => Ok((desc, listed)),
        }
    }

    /// Whether `name`'s repository has the manifest `digest`.
    pub async fn has_manifest(&self, name: &ImageRef, digest: &Digest) -> Result<bool, Error> {
        let endpoint = self.push_endpoint(name)?;
        let url = endpoint.url(&self.shared, name, "manifests", digest.as_str())?;
        let call = Call::new(Method::HEAD, url, Scopes::push(&endpoint.repository(name)));
        Ok(self.send(&endpoint, call).await?.response.status() == StatusCode::OK)
    }
}

/// A blob on its way to a repository.
struct Upload<'a> {
    client: &'a Client,
    endpoint: Endpoint,
    name: &'a ImageRef,
    desc: &'a Descriptor,
    repository: String,
    /// For messages.
    reference: String,
}

enum Started {
    Mounted,
    /// Where to send the bytes.
    At(Url),
}

impl Upload<'_> {
    fn scopes(&self) -> Scopes {
        Scopes::push(&self.repository)
    }

    async fn exists(&self) -> Result<bool, Error> {
        let url = self.endpoint.url(&self.client.shared, self.name, "blobs", self.desc.digest.as_str())?;
        let answer = self.client.send(&self.endpoint, Call::new(Method::HEAD, url, self.scopes())).await?;
        match answer.response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                // Not Denied: that speaks of a pull.
                Err(self.client.refused(&self.endpoint, &Method::PUT, answer, &self.reference).await)
            }
            _ => Ok(false),
        }
    }

    /// Mounts the blob from the repository that it was last seen in, unless it was seen in this one, too.
    async fn mount_unasked(&self) -> Option<String> {
        let homes = self.client.shared.homes.of(&self.endpoint.place.host, &self.desc.digest);
        if homes.contains(&self.repository) {
            return None;
        }
        let from = homes.into_iter().next()?;
        self.mount_from_home(&from).await.then_some(from)
    }

    /// Mounts the blob from one of these repositories, or from one that is remembered to have it. Returns which.
    async fn mount(&self, named: &[String]) -> Result<Option<String>, Error> {
        for from in named.iter().filter(|from| **from != self.repository) {
            if let Started::Mounted = self.start(Some(from)).await? {
                return Ok(Some(from.clone()));
            }
        }
        for from in self.client.shared.homes.of(&self.endpoint.place.host, &self.desc.digest) {
            if from != self.repository && !named.contains(&from) && self.mount_from_home(&from).await {
                return Ok(Some(from));
            }
        }
        Ok(None)
    }

    /// Whether the blob could be mounted from a repository that is remembered to have it. That is a guess of ours: it
    /// must not be what a push fails for.
    async fn mount_from_home(&self, from: &String) -> bool {
        match self.start(Some(from)).await {
            Ok(Started::Mounted) => return true,
            Ok(Started::At(_)) => {
                self.client.shared.homes.forget(&self.endpoint.place.host, from, &self.desc.digest);
            }
            Err(error) => tracing::debug!(%error, from, "a blob cannot be mounted"),
        }
        false
    }

    /// Opens an upload, mounting from another repository when the registry will.
    async fn start(&self, mount: Option<&String>) -> Result<Started, Error> {
        let mut url = self.endpoint.url(&self.client.shared, self.name, "blobs", "uploads/")?;
        let mut scopes = self.scopes();
        if let Some(from) = mount {
            url.query_pairs_mut().append_pair("mount", self.desc.digest.as_str()).append_pair("from", from);
            scopes = scopes.union(&Scopes::pull(from));
        }
        let answer = self.client.send(&self.endpoint, Call::new(Method::POST, url, scopes)).await?;
        match answer.response.status() {
            StatusCode::CREATED if mount.is_some() => Ok(Started::Mounted),
            StatusCode::ACCEPTED => {
                let location = Self::location(&answer)?;
                if mount.is_some() {
                    // Not mounted: nothing will be sent to this upload.
                    let cancel = Call::new(Method::DELETE, location.clone(), self.scopes());
                    let _ = self.client.send(&self.endpoint, cancel).await;
                }
                Ok(Started::At(location))
            }
            // A repository that may not be read is one that cannot be mounted from.
            _ if mount.is_some() => Ok(Started::At(answer.url)),
            _ => Err(self.client.refused(&self.endpoint, &Method::POST, answer, &self.reference).await),
        }
    }

    /// Where the upload goes on: absolute or relative.
    fn location(answer: &Answer) -> Result<Url, Error> {
        let text = answer.response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
        let text = text.ok_or_else(|| Error::protocol(&answer.url, "an upload without Location"))?;
        let mut url =
            answer.url.join(text).map_err(|e| Error::protocol(&answer.url, format!("Location {text:?}: {e}")))?;
        // Registries behind a TLS proxy may name themselves with http; their bytes belong on TLS all the same.
        if answer.url.scheme() == "https" && url.scheme() == "http" && url.host() == answer.url.host() {
            let _ = url.set_scheme("https");
        }
        Ok(url)
    }

    /// The whole upload, with its repetitions.
    async fn run(&self, source: &dyn BlobSource, progress: &Progress) -> Result<(), Error> {
        let mut failures = 0;
        // Where a broken upload can go on, and from which byte.
        let mut resume: Option<(Url, u64)> = None;
        loop {
            let (location, offset) = match resume.take() {
                Some(at) => at,
                None => match self.start(None).await? {
                    Started::At(location) => (location, 0),
                    Started::Mounted => return Ok(()),
                },
            };
            let error = match self.send_from(source, progress, location.clone(), offset).await {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            failures += 1;
            let unauthorized = matches!(&error, Error::Status(x) if x.status == StatusCode::UNAUTHORIZED);
            // A token that expired during the transfer is renewed; every other refusal is final.
            let again = error.is_transient() || unauthorized && failures == 1;
            if !again {
                return Err(error);
            }
            let Some(pause) = self.client.options().backoff.pause(failures, None) else { return Err(error) };
            tracing::debug!(reference = %self.reference, %error, "an upload broke and is taken up again");
            sleep(pause).await;
            resume = self.received(&location).await;
        }
    }

    /// Asks how far a broken upload got. `None`: start over.
    async fn received(&self, location: &Url) -> Option<(Url, u64)> {
        let call = Call::new(Method::GET, location.clone(), self.scopes());
        let answer = self.client.send(&self.endpoint, call).await.ok()?;
        if answer.response.status() != StatusCode::NO_CONTENT {
            return None;
        }
        let range = answer.response.headers().get(RANGE)?.to_str().ok()?;
        let last: u64 = range.strip_prefix("bytes=").unwrap_or(range).strip_prefix("0-")?.parse().ok()?;
        // "0-0" also stands for nothing received.
        let offset = if last == 0 { 0 } else { last + 1 };
        let location = Self::location(&answer).unwrap_or_else(|_| location.clone());
        (offset < self.desc.size && offset > 0).then_some((location, offset))
    }

    /// Sends the bytes from `offset` and closes the upload: one `PUT`, or `PATCH` and `PUT` when resuming.
    async fn send_from(
        &self,
        source: &dyn BlobSource,
        progress: &Progress,
        location: Url,
        offset: u64,
    ) -> Result<(), Error> {
        let stream = source
            .stream(self.desc, offset)
            .await
            .map_err(|source| Error::Read { digest: self.desc.digest.clone(), source })?;
        let length = self.desc.size - offset;
        let payload = Payload::Stream(counted(stream, offset, progress.clone()), length);
        if offset == 0 {
            return self.finish(location, payload).await;
        }
        let call = Call::new(Method::PATCH, location, self.scopes())
            .header(CONTENT_TYPE, OCTETS)
            .header(CONTENT_RANGE, &format!("{offset}-{}", self.desc.size - 1))
            .payload(payload);
        let answer = self.client.send(&self.endpoint, call).await?;
        if answer.response.status() != StatusCode::ACCEPTED {
            return Err(self.client.refused(&self.endpoint, &Method::PATCH, answer, &self.reference).await);
        }
        let location = Self::location(&answer)?;
        self.finish(location, Payload::Empty).await
    }

    async fn finish(&self, mut location: Url, payload: Payload) -> Result<(), Error> {
        location.query_pairs_mut().append_pair("digest", self.desc.digest.as_str());
        let call = Call::new(Method::PUT, location, self.scopes()).header(CONTENT_TYPE, OCTETS).payload(payload);
        let answer = self.client.send(&self.endpoint, call).await?;
        match answer.response.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            StatusCode::ACCEPTED => Err(Error::Protocol {
                url: plain(&answer.url),
                reason: "the upload was not closed: the registry answered 202 to its last request".to_owned(),
            }),
            _ => Err(self.client.refused(&self.endpoint, &Method::PUT, answer, &self.reference).await),
        }
    }
}

/// `stream` with its bytes counted from `offset`.
fn counted(stream: ByteStream, offset: u64, progress: Progress) -> ByteStream {
    let mut sent = offset;
    stream
        .inspect(move |item| {
            if let Ok(chunk) = item {
                sent += chunk.len() as u64;
                (progress.0)(sent);
            }
        })
        .boxed()
}
