//! One client that is connected, as the daemon sees it.

use crate::{
    Error, Result,
    client::LocalSide,
    connection::{Channel, MAX_MESSAGE, origin},
    headers,
};
use http::HeaderMap;
use std::{collections::HashSet, fmt, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;

/// What a client says of itself when it opens a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionParams {
    /// Id, chosen by the client; random.
    pub id: String,
    /// Name; legacy, mostly empty.
    pub name: String,
    /// What transferred files may be shared under with later sessions of the same client.
    pub shared_key: String,
    /// Methods that the client serves, as `/package.Service/Method`.
    pub methods: Vec<String>,
    /// Interval and timeout of health checks, when the client asks for its own.
    pub health: Option<Duration>,
}

impl SessionParams {
    /// From the metadata of a `Control.Session` call.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self> {
        Self::from_headers(metadata.as_ref())
    }

    /// From the headers of an HTTP upgrade.
    pub fn from_headers(map: &HeaderMap) -> Result<Self> {
        let text = |key| map.get(key).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let id = text(headers::SESSION_ID);
        if id.is_empty() {
            return Err(Error::MissingId);
        }
        let methods = map.get_all(headers::SESSION_METHOD).iter();
        let health = text(headers::SESSION_HEALTH_TIMEOUT).parse().ok().filter(|ms: &u64| *ms > 0);
        Ok(Self {
            id,
            name: text(headers::SESSION_NAME),
            shared_key: text(headers::SESSION_SHARED_KEY),
            methods: methods.filter_map(|v| v.to_str().ok().map(str::to_owned)).collect(),
            health: health.map(Duration::from_millis),
        })
    }

    /// As metadata of a `Control.Session` call.
    #[must_use]
    pub fn to_metadata(&self) -> MetadataMap {
        let mut map = MetadataMap::new();
        headers::put(&mut map, headers::SESSION_ID, &self.id);
        headers::put(&mut map, headers::SESSION_NAME, &self.name);
        headers::put(&mut map, headers::SESSION_SHARED_KEY, &self.shared_key);
        for method in &self.methods {
            headers::put(&mut map, headers::SESSION_METHOD, method);
        }
        if let Some(health) = self.health {
            headers::put(&mut map, headers::SESSION_HEALTH_TIMEOUT, &health.as_millis().to_string());
        }
        map
    }
}

/// A connected client. Its calls are grouped by service in the modules of this crate.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    params: SessionParams,
    supported: HashSet<String>,
    channel: Channel,
    ended: CancellationToken,
    local: LocalSide,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("params", &self.inner.params).field("ended", &self.is_ended()).finish()
    }
}

impl Session {
    pub(crate) fn new(params: SessionParams, channel: Channel, local: LocalSide) -> Self {
        let supported = params.methods.iter().map(|m| m.to_ascii_lowercase()).collect();
        Self { inner: Arc::new(Inner { params, supported, channel, ended: CancellationToken::new(), local }) }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.params.id
    }

    /// The session's name; mostly empty.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.params.name
    }

    /// What transferred files may be shared under.
    #[must_use]
    pub fn shared_key(&self) -> &str {
        &self.inner.params.shared_key
    }

    /// Whether the client serves `/package.Service/Method`; upper and lower case are the same.
    #[must_use]
    pub fn supports(&self, method: &str) -> bool {
        self.inner.supported.contains(&method.to_ascii_lowercase())
    }

    /// Cancelled once the session has ended: the client went, or stopped answering.
    #[must_use]
    pub fn ended(&self) -> &CancellationToken {
        &self.inner.ended
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.inner.ended.is_cancelled()
    }

    /// The raw channel, for services that this crate doesn't know.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.inner.channel.clone()
    }

    pub(crate) fn health_interval(&self) -> Option<Duration> {
        self.inner.params.health
    }

    /// What the client offers, when it is in this process.
    pub(crate) fn local(&self) -> &LocalSide {
        &self.inner.local
    }

    /// A caller of any method, with the field's limits.
    pub(crate) fn grpc(&self) -> tonic::client::Grpc<Channel> {
        tonic::client::Grpc::with_origin(self.channel(), origin())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Refuses calls that the client doesn't serve.
    pub(crate) fn require(&self, method: &'static str) -> Result<()> {
        if self.supports(method) { Ok(()) } else { Err(Error::Unsupported { method }) }
    }
}
