//! The process-wide registry state, and clients that see it with one set of credentials.

use crate::{
    Backoff, Credentials, Error, HostsConfig,
    auth::Authorizer,
    homes::Homes,
    hosts::{HostsError, Place, Scheme, is_loopback},
    tls,
};
use cooper_oci::{Digest, ImageRef};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Semaphore;
use url::Url;

/// Tuning. The defaults are right for production.
#[derive(Debug, Clone)]
pub struct Options {
    /// `User-Agent` header.
    pub user_agent: String,
    /// Concurrent blob transfers per registry host.
    pub max_concurrency: usize,
    /// When requests and transfers that fail are tried again.
    pub backoff: Backoff,
    /// Blobs above this size are downloaded in parallel ranges, in bytes.
    pub parallel_above: u64,
    /// Size of one range, in bytes.
    pub range: u64,
    /// Ranges of one blob in flight at a time.
    pub ranges: usize,
    /// A download that stands still this long is taken for dead and resumed.
    pub stall: Duration,
}

impl Default for Options {
    fn default() -> Self {
        const MIB: u64 = 1 << 20;
        Self {
            user_agent: concat!("cooper/", env!("CARGO_PKG_VERSION")).to_owned(),
            max_concurrency: 4,
            backoff: Backoff::default(),
            parallel_above: 8 * MIB,
            range: 4 * MIB,
            ranges: 4,
            stall: Duration::from_secs(60),
        }
    }
}

/// Ranges that may be downloaded ahead of their readers, over all blobs: bounds memory to this many times
/// [`Options::range`].
const RANGES_AHEAD: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Registry access of the process: host configuration, connections, limits. Clones share everything.
#[derive(Clone)]
pub struct Registry(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) hosts: HostsConfig,
    pub(crate) options: Options,
    clients: Mutex<HashMap<(String, Scheme), reqwest::Client>>,
    limits: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Hosts of [`Scheme::UnverifiedOrHttp`] that turned out to speak HTTP only.
    plain: Mutex<HashSet<String>>,
    /// Permits for ranges downloaded ahead.
    pub(crate) ahead: Arc<Semaphore>,
    pub(crate) homes: Homes,
}

impl Registry {
    /// A registry access with these host tables. Certificate files are read when a host is first used.
    pub fn new(hosts: HostsConfig, options: Options) -> Self {
        Self(Arc::new(Shared {
            hosts,
            options,
            clients: Mutex::default(),
            limits: Mutex::default(),
            plain: Mutex::default(),
            ahead: Arc::new(Semaphore::new(RANGES_AHEAD)),
            homes: Homes::default(),
        }))
    }

    /// A client with `credentials` and a token cache of its own: one per user or session.
    pub fn client(&self, credentials: Arc<dyn Credentials>) -> Client {
        Client {
            shared: Arc::clone(&self.0),
            auth: Arc::new(Authorizer::new(credentials)),
            insecure: false,
            preferred: Arc::default(),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("hosts", &self.0.hosts).finish_non_exhaustive()
    }
}

/// A registry seen with one set of credentials. Clones share the token cache.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    pub(crate) auth: Arc<Authorizer>,
    insecure: bool,
    /// Which place last served a repository: asked first for its blobs.
    preferred: Arc<Mutex<HashMap<String, usize>>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("auth", &self.auth).finish_non_exhaustive()
    }
}

impl Client {
    /// The same client, for hosts whose certificates are not to be verified and that may speak plain HTTP
    /// (`registry.insecure` of a push). Mirrors are left out.
    pub fn insecure(&self) -> Self {
        Self { insecure: true, ..self.clone() }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Where to pull `name` from, the place that served it last first.
    pub(crate) fn places<'a>(&'a self, name: &'a ImageRef) -> Result<Places<'a>, Error> {
        let places = if self.insecure {
            vec![self.shared.hosts.origin(name.host(), true)]
        } else {
            self.shared.hosts.pull_places(name.host())
        };
        let preferred = self.preferred.lock().get(&name.repository()).copied().unwrap_or(0);
        let mut rest = places
            .into_iter()
            .enumerate()
            .map(|(index, place)| self.endpoint(place).map(|endpoint| (index, endpoint)))
            .collect::<Result<VecDeque<_>, Error>>()?;
        if preferred < rest.len()
            && let Some(best) = rest.remove(preferred)
        {
            rest.push_front(best);
        }
        Ok(Places { client: self, name, rest, current: 0, error: None })
    }

    /// Says that `name`'s repository has these blobs, so that other repositories of the host can have them from there.
    pub fn note_blobs<'a>(&self, name: &ImageRef, digests: impl IntoIterator<Item = &'a Digest>) {
        let Some(endpoint) = self.places(name).ok().and_then(|mut places| places.next()) else { return };
        let repository = endpoint.repository(name);
        for digest in digests {
            self.shared.homes.note(&endpoint.place.host, &repository, digest);
        }
    }

    /// Where to push `name`.
    pub(crate) fn push_endpoint(&self, name: &ImageRef) -> Result<Endpoint, Error> {
        self.endpoint(self.shared.hosts.origin(name.host(), self.insecure))
    }

    fn endpoint(&self, place: Place) -> Result<Endpoint, Error> {
        let http = self.shared.http_client(&place)?;
        Ok(Endpoint { place, http })
    }

    pub(crate) fn limit(&self, host: &str) -> Arc<Semaphore> {
        let permits = self.shared.options.max_concurrency.max(1);
        let mut limits = self.shared.limits.lock();
        Arc::clone(limits.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(permits))))
    }
}

/// The places of a name, tried in turn.
pub(crate) struct Places<'a> {
    client: &'a Client,
    name: &'a ImageRef,
    rest: VecDeque<(usize, Endpoint)>,
    current: usize,
    error: Option<Error>,
}

impl Places<'_> {
    pub(crate) fn next(&mut self) -> Option<Endpoint> {
        let (index, endpoint) = self.rest.pop_front()?;
        self.current = index;
        Some(endpoint)
    }

    /// The present place served: it is asked first for what else is wanted of the repository.
    pub(crate) fn served<T>(&self, value: T) -> T {
        self.client.preferred.lock().insert(self.name.repository(), self.current);
        value
    }

    /// Keeps the most telling error: a refusal before "not found" before a failed connection; on equal weight the
    /// later place's, as the origin comes last.
    pub(crate) fn failed(&mut self, error: Error) {
        let weight = |e: &Error| match e {
            Error::Connection { .. } => 0,
            Error::NotFound { .. } => 1,
            _ => 2,
        };
        tracing::debug!(name = %self.name, %error, "a registry does not serve");
        if self.error.as_ref().is_none_or(|kept| weight(&error) >= weight(kept)) {
            self.error = Some(error);
        }
    }

    pub(crate) fn error(self) -> Error {
        self.error.unwrap_or_else(|| Error::NotFound { reference: self.name.to_string() })
    }
}

impl Shared {
    fn http_client(&self, place: &Place) -> Result<reqwest::Client, Error> {
        let key = (place.host.clone(), place.scheme);
        if let Some(client) = self.clients.lock().get(&key) {
            return Ok(client.clone());
        }
        let verify = matches!(place.scheme, Scheme::Https | Scheme::Http);
        let tls = tls::client_config(self.hosts.tls_of(place), verify)
            .map_err(|source| Error::Hosts { host: place.host.clone(), source })?;
        let mut builder = reqwest::Client::builder()
            .use_preconfigured_tls(tls)
            // HTTP/2 would put all transfers on one connection and under its flow control.
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(&self.options.user_agent)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(Duration::from_secs(60))
            .pool_idle_timeout(Duration::from_secs(90))
            .pool_max_idle_per_host(8);
        if is_loopback(&place.host) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(Error::Setup)?;
        self.clients.lock().insert(key, client.clone());
        Ok(client)
    }

    /// Notes that the host speaks plain HTTP only. Returns false when that was known.
    pub(crate) fn fell_back(&self, host: &str) -> bool {
        self.plain.lock().insert(host.to_owned())
    }
}

/// A place with the HTTP client to reach it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) place: Place,
    pub(crate) http: reqwest::Client,
}

impl Endpoint {
    /// Name of `repository` at this place, as it appears in paths and scopes.
    pub(crate) fn repository(&self, name: &ImageRef) -> String {
        format!("{}{}", self.place.prefix, name.path())
    }

    /// `<base>/v2/<repository>/<kind>/<item>`.
    pub(crate) fn url(&self, shared: &Shared, name: &ImageRef, kind: &str, item: &str) -> Result<Url, Error> {
        let scheme = match self.place.scheme {
            Scheme::Http => "http",
            Scheme::UnverifiedOrHttp if shared.plain.lock().contains(&self.place.host) => "http",
            _ => "https",
        };
        let text = format!("{scheme}://{}/v2/{}/{kind}/{item}", self.place.host, self.repository(name));
        let mut url = Url::parse(&text).map_err(|_| Error::Hosts {
            host: self.place.host.clone(),
            source: HostsError::Host(self.place.host.clone()),
        })?;
        if let Some(origin) = &self.place.mirrors {
            // Mirrors of several registries tell them apart by this.
            url.query_pairs_mut().append_pair("ns", origin);
        }
        Ok(url)
    }
}
