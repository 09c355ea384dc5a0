//! What a proxy has seen.

use cooper_oci::Digest;
use std::collections::BTreeMap;
use url::Url;

/// A request that was passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Such as `GET`.
    pub method: String,
    /// Without credentials and default ports.
    pub url: String,
    /// Where the answer leads, when it is a redirection.
    pub redirect: Option<String>,
    /// Status of the answer; 502 when there was none.
    pub status: u16,
}

/// Something that was fetched whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Without credentials and default ports.
    pub url: String,
    /// Of the body.
    pub digest: Digest,
}

/// A request whose answer says nothing certain about what a step used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incomplete {
    /// Such as `POST`.
    pub method: String,
    /// Without credentials and default ports.
    pub url: String,
    /// A fixed word, such as `method_not_materializable`.
    pub reason: &'static str,
}

/// Everything that a proxy has seen, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Requests that were passed on.
    pub requests: Vec<Request>,
    /// What they fetched.
    pub materials: Vec<Material>,
    /// Those that fetched nothing that could be named.
    pub incomplete: Vec<Incomplete>,
}

impl Record {
    /// What was fetched, also under the names from which redirections led to it.
    pub fn materials(&self) -> Vec<Material> {
        let mut known: BTreeMap<&str, &Digest> = self.materials.iter().map(|m| (m.url.as_str(), &m.digest)).collect();
        let mut all = self.materials.clone();
        loop {
            let mut redirected = self.requests.iter().filter(|r| !known.contains_key(r.url.as_str()));
            let next = redirected.find_map(|r| Some((r.url.as_str(), *known.get(r.redirect.as_deref()?)?)));
            let Some((url, digest)) = next else { return all };
            known.insert(url, digest);
            all.push(Material { url: url.to_owned(), digest: digest.clone() });
        }
    }

    /// What the log of a step says of it; empty when there was nothing.
    pub fn log(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        for Request { method, url, status, .. } in &self.requests {
            if text.is_empty() {
                text.push_str("proxy network requests:\n");
            }
            let _ = writeln!(text, "- {method} {url} -> {status}");
        }
        text
    }
}

/// A URL as it is written down: credentials don't show.
pub(crate) fn redacted(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        let _ = url.set_password(Some("xxxxx"));
    }
    if !url.username().is_empty() {
        let _ = url.set_username("xxxxx");
    }
    url.to_string()
}
