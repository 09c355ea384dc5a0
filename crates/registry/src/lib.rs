//! Client of OCI distribution registries (OCI distribution spec 1.1) and of Docker Hub's ways.
//!
//! A [`Registry`] is shared by the whole process: host configuration, connections, limits. A [`Client`] is a
//! registry seen with one set of credentials, with a token cache of its own, so that builds of different users
//! never share an authorisation. A [`Repository`] serves a repository's blobs as a
//! [`BlobSource`](cooper_content::BlobSource).
//!
//! What must never live here: choosing platforms, image layouts, unpacking, the content store's policy.

mod auth;
mod backoff;
mod challenge;
mod client;
mod credentials;
mod delete;
mod docker_config;
mod download;
mod error;
mod homes;
mod hosts;
mod push;
mod referrers;
mod request;
mod resolve;
mod segments;
mod tls;
mod token_fetcher;

pub use backoff::{Backoff, retry_after};
pub use client::{Client, Options, Registry};
pub use credentials::{Anonymous, Credential, Credentials, CredentialsError, Secret, Token, TokenRequest};
pub use docker_config::{DockerConfig, DockerConfigError};
pub use download::Repository;
pub use error::{Error, Exchange, unknown_host};
pub use hosts::{HostConfig, HostsConfig, KeyPair};
pub use push::{Progress, Pushed};
pub use resolve::{MAX_DOCUMENT, Resolved, document_type};
pub use tls::http_client_builder;
pub use token_fetcher::TokenFetcher;
