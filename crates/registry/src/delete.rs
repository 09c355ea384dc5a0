//! Getting rid of manifests, where a registry lets its users do that.

use crate::{Client, Error, challenge::Scopes, request::Call};
use cooper_oci::{Digest, ImageRef};
use http::{Method, StatusCode};
use serde::Deserialize;

/// Most bytes of one page of tags.
const MAX_PAGE: u64 = 4 << 20;
/// Tags asked for at a time.
const PAGE: usize = 1000;

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Client {
    /// The tags of `name`'s repository; `None` when there are more than `limit`.
    ///
    /// # Errors
    ///
    /// The registry cannot be asked or does not tell; [`Error::NotFound`] where there is no such repository.
    pub async fn tags(&self, name: &ImageRef, limit: usize) -> Result<Option<Vec<String>>, Error> {
        let endpoint = self.push_endpoint(name)?;
        let mut all: Vec<String> = Vec::new();
        loop {
            let mut url = endpoint.url(&self.shared, name, "tags", "list")?;
            url.query_pairs_mut().append_pair("n", &PAGE.to_string());
            if let Some(last) = all.last() {
                url.query_pairs_mut().append_pair("last", last);
            }
            let call = Call::new(Method::GET, url, Scopes::pull(&endpoint.repository(name)));
            let answer = self.send(&endpoint, call).await?;
            if !answer.response.status().is_success() {
                return Err(self.refused(&endpoint, &Method::GET, answer, &name.repository()).await);
            }
            let place = answer.url.clone();
            let body = self.read(answer, MAX_PAGE).await?;
            let page: Tags = serde_json::from_slice(&body)
                .map_err(|error| Error::protocol(&place, format!("a list of tags that cannot be read: {error}")))?;
            let page = page.tags.unwrap_or_default();
            // Registries without pages send everything each time.
            let known = all.len();
            all.extend(page.iter().filter(|tag| !all[..known].contains(tag)).cloned().collect::<Vec<_>>());
            if all.len() > limit {
                return Ok(None);
            }
            if all.len() == known || page.len() < PAGE {
                return Ok(Some(all));
            }
        }
    }

    /// Removes a manifest with every tag that it has. Whether it was there.
    ///
    /// # Errors
    ///
    /// The registry does not let anybody delete, or not this user.
    pub async fn delete_manifest(&self, name: &ImageRef, digest: &Digest) -> Result<bool, Error> {
        let endpoint = self.push_endpoint(name)?;
        let url = endpoint.url(&self.shared, name, "manifests", digest.as_str())?;
        let repository = endpoint.repository(name);
        let call = Call::new(Method::DELETE, url, Scopes::push(&repository).with(&repository, &["delete"]));
        let answer = self.send(&endpoint, call).await?;
        match answer.response.status() {
            status if status.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => {
                let reference = format!("{}@{digest}", name.repository());
                Err(self.refused(&endpoint, &Method::DELETE, answer, &reference).await)
            }
        }
    }
}
