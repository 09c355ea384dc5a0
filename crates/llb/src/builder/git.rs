//! Files of a git repository.

use super::{Meta, Output, source::Attributes};
use crate::{Error, GitUrl, attrs, git_url::Scheme};

/// Which part of a repository, and how it is fetched.
#[derive(Debug, Clone)]
pub struct Git {
    /// Branch, tag or commit; the default branch when empty.
    pub reference: String,
    /// Directory to take; all when empty.
    pub subdir: String,
    /// Whether `.git` stays.
    pub keep_git_dir: bool,
    /// What the commit must be: all of its digest or the beginning.
    pub checksum: String,
    /// Whether submodules are left out.
    pub skip_submodules: bool,
    /// `checkout` or `commit`: which time files get.
    pub mtime: String,
    /// Whether the commit of `checksum` is fetched without asking what the reference is.
    pub fetch_by_commit: bool,
    /// Secret with the `Authorization` header.
    pub auth_header_secret: String,
    /// Secret with a token.
    pub auth_token_secret: String,
    /// Host keys to accept, as a `known_hosts` file; for `ssh` only.
    pub known_ssh_hosts: String,
    /// The session's agent socket; for `ssh` only, `default` when empty.
    pub mount_ssh_sock: String,
    /// Take the commit from a bundle instead.
    pub bundle: Option<GitBundle>,
    /// Give the commit as a bundle, a file of that name, instead of files.
    pub checkout_bundle: bool,
}

/// A bundle that is a blob of a registry or a layout.
#[derive(Debug, Clone, Default)]
pub struct GitBundle {
    /// `docker-image+blob://…@digest` or `oci-layout+blob://…@digest`.
    pub locator: String,
    /// The session that serves the layout.
    pub session: Option<String>,
    /// The session's name for the layout.
    pub store: Option<String>,
}

/// The secret that holds a header unless another is named.
const AUTH_HEADER_SECRET: &str = "GIT_AUTH_HEADER";
/// The secret that holds a token unless another is named.
const AUTH_TOKEN_SECRET: &str = "GIT_AUTH_TOKEN";

impl Default for Git {
    fn default() -> Self {
        Self {
            reference: String::new(),
            subdir: String::new(),
            keep_git_dir: false,
            checksum: String::new(),
            skip_submodules: false,
            mtime: String::new(),
            fetch_by_commit: false,
            auth_header_secret: AUTH_HEADER_SECRET.to_owned(),
            auth_token_secret: AUTH_TOKEN_SECRET.to_owned(),
            known_ssh_hosts: String::new(),
            mount_ssh_sock: String::new(),
            bundle: None,
            checkout_bundle: false,
        }
    }
}

impl Git {
    /// The files. `remote` is an address of any form that git knows; one without a protocol is taken for `https`.
    pub fn output(self, remote: &str, meta: Meta) -> Result<Output, Error> {
        let url = GitUrl::parse(remote).or_else(|error| match error {
            crate::git_url::GitUrlError::UnknownProtocol { .. } => GitUrl::parse(&format!("https://{remote}")),
            _ => Err(error),
        })?;
        let mut a = Attributes::needing("source.git");
        let flag = |on: bool| on.then_some("true");
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        a.set(attrs::GIT_KEEP_DIR, flag(self.keep_git_dir), Some("source.git.keepgitdir"));
        a.set(attrs::GIT_FULL_URL, text(&url.remote), Some("source.git.fullurl"));
        let named = self.auth_token_secret != AUTH_TOKEN_SECRET || self.auth_header_secret != AUTH_HEADER_SECRET;
        let auth = named.then_some("source.git.httpauth");
        a.set(attrs::GIT_AUTH_TOKEN_SECRET, text(&self.auth_token_secret), auth);
        a.set(attrs::GIT_AUTH_HEADER_SECRET, text(&self.auth_header_secret), auth);
        if url.scheme == Scheme::Ssh {
            a.set(attrs::GIT_KNOWN_SSH_HOSTS, text(&self.known_ssh_hosts), None);
            a.caps.push("source.git.knownsshhosts");
            let socket = text(&self.mount_ssh_sock).unwrap_or_else(|| "default".to_owned());
            a.set(attrs::GIT_MOUNT_SSH_SOCK, Some(socket), Some("source.git.mountsshsock"));
        }
        a.set(attrs::GIT_CHECKSUM, text(&self.checksum), Some("source.git.checksum"));
        a.set(attrs::GIT_SKIP_SUBMODULES, flag(self.skip_submodules), Some("source.git.skipsubmodules"));
        a.set(attrs::GIT_MTIME, text(&self.mtime), Some("source.git.mtime"));
        a.set(attrs::GIT_FETCH_BY_COMMIT, flag(self.fetch_by_commit), Some("source.git.fetchbycommit"));
        if let Some(bundle) = self.bundle {
            a.set(attrs::GIT_BUNDLE, Some(bundle.locator), Some("source.git.bundle"));
            a.set(attrs::OCI_SESSION, bundle.session, None);
            a.set(attrs::OCI_STORE, bundle.store, None);
        }
        a.set(attrs::GIT_CHECKOUT_BUNDLE, flag(self.checkout_bundle), Some("source.git.checkoutbundle"));
        // The identifier is the same for every protocol that leads to the repository.
        let mut id = format!("git://{}/{}", url.host, url.path.trim_start_matches('/'));
        if !(self.reference.is_empty() && self.subdir.is_empty()) {
            id.push('#');
            id.push_str(&self.reference);
            if !self.subdir.is_empty() {
                id.push(':');
                id.push_str(&self.subdir);
            }
        }
        Ok(a.output(id, false, meta))
    }
}
