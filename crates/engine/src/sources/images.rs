//! Images as file trees: references to manifests, manifests to lazy layers.

use crate::{
    domain::{BuildJob, StepError, StepErrorKind},
    gateway::bridge::{ResolveOptions, ResolvedImageConfig},
    layers::{
        store::{LayerRecord, Provider, RecordType},
        tree::Tree,
    },
    worker::{SESSION_WAIT, Worker},
};
use async_trait::async_trait;
use cooper_oci::{Digest, ImageRef, Platform, chain_ids};
use cooper_registry::{Client, Credential, Credentials, CredentialsError, Token, TokenRequest};
use cooper_session::Sessions;
use cooper_source::image::{ImageRequest, ImageSource, ResolveMode, ResolvedImage};
use std::{
    fmt,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

/// Where an image is looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A registry.
    Registry {
        /// What was asked for.
        reference: ImageRef,
        /// How eager to ask the registry.
        mode: ResolveMode,
    },
    /// A content store of a client.
    Layout {
        /// What was asked for; its digest counts.
        reference: ImageRef,
        /// The session; empty for those of the build.
        session: String,
        /// The store's name.
        store: String,
    },
}

impl Worker {
    /// The registry client of a build: its session's credentials, a token cache of its own.
    pub fn registry_client(&self, jobs: &[Arc<BuildJob>]) -> Client {
        let make = |sessions: Vec<String>| {
            let credentials = SessionCredentials {
                sessions: self.sessions.clone(),
                ids: sessions,
                fallback: self.credentials.clone(),
            };
            self.registry.client(Arc::new(credentials))
        };
        match jobs.first() {
            Some(job) => job.registry.get_or_init(|| make(job.sessions())).clone(),
            None => make(Vec::new()),
        }
    }

    /// Resolves an image for a platform.
    pub async fn resolve_image(
        &self,
        place: &Place,
        platform: &Platform,
        checksum: Option<&Digest>,
        jobs: &[Arc<BuildJob>],
    ) -> Result<ResolvedImage, StepError> {
        let source = ImageSource::new(self.layers.content.clone(), self.names.clone());
        let request = |reference: &ImageRef, mode| ImageRequest {
            mode,
            checksum: checksum.cloned(),
            ..ImageRequest::new(reference.clone(), platform.clone())
        };
        match place {
            Place::Registry { reference, mode } => {
                let client = self.registry_client(jobs);
                source.resolve(&client, &request(reference, *mode)).await.map_err(|e| {
                    let what = format!("failed to resolve source metadata for {reference}");
                    StepErrorKind::Source { what, source: Box::new(e) }.into()
                })
            }
            Place::Layout { reference, session, store } => {
                let ids = match session.as_str() {
                    "" => jobs.iter().flat_map(|j| j.sessions()).collect(),
                    id => vec![id.to_owned()],
                };
                let session = self.any_session(&ids).await?;
                let blobs = session.content_store(format!("oci:{store}"));
                let request = request(reference, ResolveMode::Default);
                source.resolve_layout(Arc::new(blobs), &request).await.map_err(|e| {
                    let what = format!("failed to resolve {reference} in the OCI layout {store:?}");
                    StepErrorKind::Source { what, source: Box::new(e) }.into()
                })
            }
        }
    }

    /// The first of `ids` that shows up.
    pub async fn any_session(&self, ids: &[String]) -> Result<cooper_session::Session, StepError> {
        for id in ids {
            if let Ok(session) = self.sessions.get(id, SESSION_WAIT).await {
                return Ok(session);
            }
        }
        Err(StepError::refused(match ids.first() {
            Some(id) => format!("no active session for {id}"),
            None => "no active sessions".to_owned(),
        }))
    }

    /// The config of an image.
    pub(crate) async fn resolve_config(
        &self,
        reference: &str,
        options: &ResolveOptions,
        job: &Arc<BuildJob>,
    ) -> Result<ResolvedImageConfig, StepError> {
        let parsed: ImageRef = reference.parse().map_err(StepError::while_doing(""))?;
        let place = match &options.layout {
            Some((session, store)) => {
                Place::Layout { reference: parsed, session: session.clone(), store: store.clone() }
            }
            None => Place::Registry { reference: parsed.with_default_tag(), mode: mode(&options.mode) },
        };
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let image = self.resolve_image(&place, &platform, None, std::slice::from_ref(job)).await?;
        Ok(ResolvedImageConfig {
            reference: reference.to_owned(),
            digest: image.digest().clone(),
            config: image.config.to_vec(),
        })
    }

    /// The layers of a resolved image, the first `limit` of them, as a lazy tree.
    pub fn image_tree(
        &self,
        image: &ResolvedImage,
        name: &str,
        limit: Option<usize>,
        kind: RecordType,
        vertex: &Digest,
    ) -> Result<Tree, StepError> {
        let diffs = &image.image.rootfs.diff_ids;
        if diffs.len() != image.layers.len() {
            return Err(StepError::refused(format!(
                "image {name} has {} layers, but its config names {}",
                image.layers.len(),
                diffs.len()
            )));
        }
        let mut tree = Tree::default();
        let chain = chain_ids(diffs);
        for ((chain, diff), desc) in chain.iter().zip(diffs).zip(&image.layers).take(limit.unwrap_or(usize::MAX)) {
            let layer = self.layers.by_chain(chain, Some(&desc.digest), || LayerRecord {
                diff_id: Some(diff.clone()),
                ..LayerRecord::new(kind, format!("pulled from {name}"), tree.tops())
            });
            let provider = Provider {
                descriptor: desc.clone(),
                source: image.source.clone(),
                vertex: vertex.clone(),
                import: None,
            };
            layer.set_provider(provider);
            tree = tree.push(layer);
        }
        Ok(tree)
    }

    /// Whether the layers of an image, the first `limit` of them, were told of before.
    pub fn knows_image(&self, image: &ResolvedImage, limit: Option<usize>) -> bool {
        let chain = chain_ids(&image.image.rootfs.diff_ids);
        let top = chain.get(..limit.unwrap_or(usize::MAX).min(chain.len())).and_then(<[_]>::last);
        top.is_some_and(|top| self.layers.knows_chain(top))
    }
}

/// How eager to ask the registry, as the protocol spells it.
pub fn mode(text: &str) -> ResolveMode {
    match text {
        "pull" => ResolveMode::Pull,
        "local" => ResolveMode::Local,
        _ => ResolveMode::Default,
    }
}

/// Credentials of a build's sessions, else the engine's own.
struct SessionCredentials {
    sessions: Sessions,
    ids: Vec<String>,
    fallback: Option<Arc<dyn Credentials>>,
}

impl fmt::Debug for SessionCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCredentials").field("ids", &self.ids).finish_non_exhaustive()
    }
}

#[async_trait]
impl Credentials for SessionCredentials {
    async fn credentials(&self, host: &str) -> Result<Credential, CredentialsError> {
        for id in &self.ids {
            let Ok(session) = self.sessions.get(id, SESSION_WAIT).await else { continue };
            if let Some(cooper_session::Credentials { username, secret }) = session.credentials(host).await? {
                return Ok(if username.is_empty() {
                    Credential::IdentityToken(secret.into())
                } else {
                    Credential::Basic { username, secret: secret.into() }
                });
            }
        }
        match &self.fallback {
            Some(fallback) => fallback.credentials(host).await,
            None => Ok(Credential::Anonymous),
        }
    }

    async fn token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        let ask = cooper_session::TokenRequest {
            host: request.host.clone(),
            realm: request.realm.clone(),
            service: request.service.clone(),
            scopes: request.scopes.clone(),
        };
        for id in &self.ids {
            let Ok(session) = self.sessions.get(id, SESSION_WAIT).await else { continue };
            if session.token_authority(&request.host).await?.is_none() {
                continue;
            }
            let token = session.fetch_token(&ask).await?;
            return Ok(Some(Token {
                token: token.token.into(),
                expires_in: u64::try_from(token.expires_in).ok().filter(|s| *s > 0).map(Duration::from_secs),
                issued_at: u64::try_from(token.issued_at)
                    .ok()
                    .filter(|s| *s > 0)
                    .map(|s| UNIX_EPOCH + Duration::from_secs(s)),
            }));
        }
        match &self.fallback {
            Some(fallback) if self.ids.is_empty() => fallback.token(request).await,
            _ => Ok(None),
        }
    }
}
