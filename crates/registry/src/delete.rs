//! Getting rid of manifests, where a registry lets its users do that.

use crate::{Client, Error, challenge::Scopes, client::Endpoint, request::Call};
use cooper_oci::{Digest, ImageRef};
use http::{Method, StatusCode};
use serde::Deserialize;

/// Most bytes of one page of tags.
const MAX_PAGE: u64 = 4 << 20;
/// Tags asked for at a time.
const PAGE: usize = 1000;

/// Most pages that are read for the sake of one prefix.
const MAX_PAGES: usize = 20;

/// A name behind all that begin with `prefix`: tags have ASCII characters only.
fn after(prefix: &str) -> String {
    format!("{prefix}\u{7f}")
}

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
            let page = self.tags_page(&endpoint, name, all.last().map(String::as_str)).await?;
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

    /// The tags of `name`'s repository that begin with `prefix`, at most `limit`: one request where the registry lists in
    /// order, as the specification wants it.
    ///
    /// # Errors
    ///
    /// As for [`Client::tags`].
    pub async fn tags_from(&self, name: &ImageRef, prefix: &str, limit: usize) -> Result<Vec<String>, Error> {
        let endpoint = self.push_endpoint(name)?;
        let (mut found, mut last) = (Vec::new(), prefix.to_owned());
        for _ in 0..MAX_PAGES {
            let page = self.tags_page(&endpoint, name, Some(&last)).await?;
            let ours = page.iter().filter(|tag| tag.starts_with(prefix) && !found.contains(*tag));
            found.extend(ours.cloned().collect::<Vec<_>>());
            let next = page.last().filter(|next| **next > last).cloned();
            match next {
                // Those that begin so stand together; a list without order or pages has come whole.
                Some(next) if page.len() >= PAGE && found.len() < limit && next.as_str() <= after(prefix).as_str() => {
                    last = next;
                }
                _ => break,
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    async fn tags_page(&self, endpoint: &Endpoint, name: &ImageRef, last: Option<&str>) -> Result<Vec<String>, Error> {
        let mut url = endpoint.url(&self.shared, name, "tags", "list")?;
        url.query_pairs_mut().append_pair("n", &PAGE.to_string());
        if let Some(last) = last {
            url.query_pairs_mut().append_pair("last", last);
        }
        let call = Call::new(Method::GET, url, Scopes::pull(&endpoint.repository(name)));
        let answer = self.send(endpoint, call).await?;
        if !answer.response.status().is_success() {
            return Err(self.refused(endpoint, &Method::GET, answer, &name.repository()).await);
        }
        let place = answer.url.clone();
        let body = self.read(answer, MAX_PAGE).await?;
        let page: Tags = serde_json::from_slice(&body)
            .map_err(|error| Error::protocol(&place, format!("a list of tags that cannot be read: {error}")))?;
        Ok(page.tags.unwrap_or_default())
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
