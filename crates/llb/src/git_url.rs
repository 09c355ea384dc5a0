//! Git addresses as git takes them, and as Docker extends them with fragments and queries.

use crate::path;

/// Why a text is no address of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GitUrlError {
    /// Neither `protocol://` nor `user@host:path`.
    #[error("{input:?} is not a git address: unknown protocol")]
    UnknownProtocol {
        /// The text.
        input: String,
    },
    /// A protocol that git sources do not speak.
    #[error("{input:?} is not a git address: invalid protocol {protocol}")]
    InvalidProtocol {
        /// The text.
        input: String,
        /// Its protocol.
        protocol: String,
    },
    /// A URL or a path of another kind.
    #[error("{input:?} is not a git address")]
    NotGit {
        /// The text.
        input: String,
    },
    /// A git address whose query cannot be used.
    #[error("{0}")]
    Query(String),
}

impl GitUrlError {
    /// Whether the text is a git address all the same, only a wrong one.
    pub fn is_git(&self) -> bool {
        matches!(self, Self::Query(_))
    }
}

/// How the repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Clear text.
    Http,
    /// The usual one.
    Https,
    /// With keys.
    Ssh,
    /// git's own, clear text.
    Git,
}

/// An address of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitUrl {
    /// How.
    pub scheme: Scheme,
    /// Host with its port.
    pub host: String,
    /// Path on the host, as it is after decoding.
    pub path: String,
    /// `name=value` pairs, decoded; a name alone has the value `None`.
    pub query: Vec<(String, Option<String>)>,
    /// Before the colon of the fragment.
    pub reference: String,
    /// After the colon of the fragment, relative and clean.
    pub subdir: String,
    /// The address for git: without query and fragment.
    pub remote: String,
}

impl GitUrl {
    /// Reads `protocol://host/path` or `user@host:path`, each with `?query` and `#ref:subdir`.
    pub fn parse(input: &str) -> Result<Self, GitUrlError> {
        let (rest, fragment) = input.split_once('#').unwrap_or((input, ""));
        let (remote, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, host, path) = if let Some((protocol, rest)) = protocol(remote) {
            let scheme = match protocol.to_ascii_lowercase().as_str() {
                "http" => Scheme::Http,
                "https" => Scheme::Https,
                "ssh" => Scheme::Ssh,
                "git" => Scheme::Git,
                other => {
                    let protocol = other.to_owned();
                    return Err(GitUrlError::InvalidProtocol { input: input.to_owned(), protocol });
                }
            };
            let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            (scheme, host, decode(path))
        } else {
            let (host, path) = scp(remote).ok_or_else(|| GitUrlError::UnknownProtocol { input: input.to_owned() })?;
            (Scheme::Ssh, host, path.to_owned())
        };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        Ok(Self {
            scheme,
            host: host.to_owned(),
            path,
            query: query.split('&').filter(|pair| !pair.is_empty()).map(pair).collect(),
            reference: decode(reference),
            subdir: relative(&decode(subdir)),
            remote: remote.to_owned(),
        })
    }

    /// Whether git would reach `input` over a network.
    pub fn is_transport(input: &str) -> bool {
        match protocol(input) {
            Some((p, _)) => matches!(p.to_ascii_lowercase().as_str(), "http" | "https" | "ssh" | "git"),
            None => scp(input).is_some(),
        }
    }
}

fn protocol(text: &str) -> Option<(&str, &str)> {
    let (protocol, rest) = text.split_once("://")?;
    (!protocol.is_empty() && protocol.bytes().all(|b| b.is_ascii_alphanumeric())).then_some((protocol, rest))
}

/// `user@host:path`
fn scp(text: &str) -> Option<(&str, &str)> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = rest.split_once(':')?;
    let word = |text: &str, more: u8| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == more)
    };
    (word(user, b'_') && word(host, b'.')).then_some((host, path))
}

fn pair(text: &str) -> (String, Option<String>) {
    let plus = |text: &str| decode(&text.replace('+', " "));
    match text.split_once('=') {
        Some((name, value)) => (plus(name), Some(plus(value)).filter(|value| !value.is_empty())),
        None => (plus(text), None),
    }
}

/// Resolves `%xx`; what is no such sequence stays.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (bytes[i], hex(i + 1), hex(i + 2)) {
            out.push((high * 16 + low) as u8);
            i += 3;
        } else {
            out.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

fn relative(subdir: &str) -> String {
    path::join("/", subdir).trim_start_matches('/').to_owned()
}

/// A git address in a Dockerfile or as a build context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitRef {
    /// The address for git.
    pub remote: String,
    /// Name of the repository's directory.
    pub short_name: String,
    /// Branch, tag or commit; empty is the default branch.
    pub reference: String,
    /// What the commit must be.
    pub checksum: String,
    /// Directory to take; empty is all.
    pub subdir: String,
    /// `github.com/…` without a protocol: it could be a path, and counts as an address of contexts only.
    pub ambiguous: bool,
    /// Whether the transfer can be read by others.
    pub unencrypted: bool,
    /// Whether `.git` stays.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: Option<bool>,
    /// `checkout` or `commit`, or empty.
    pub mtime: String,
    /// Whether the commit of `checksum` is fetched without asking what the reference is.
    pub fetch_by_commit: bool,
}

impl GitRef {
    /// Reads an address. Web addresses count only when their path ends in `.git`.
    pub fn parse(input: &str) -> Result<Self, GitUrlError> {
        let not_git = || GitUrlError::NotGit { input: input.to_owned() };
        if input.starts_with("./") || input.starts_with("../") {
            return Err(not_git());
        }
        let ambiguous = input.starts_with("github.com/");
        let url = if ambiguous { GitUrl::parse(&format!("https://{input}"))? } else { GitUrl::parse(input)? };
        let web = matches!(url.scheme, Scheme::Http | Scheme::Https);
        if web && !ambiguous && url.path.strip_suffix(".git").is_none() {
            return Err(not_git());
        }
        let remote = if ambiguous { url.remote.trim_start_matches("https://").to_owned() } else { url.remote };
        let name = remote.rsplit('/').next().unwrap_or(&remote);
        let mut parsed = Self {
            short_name: name.strip_suffix(".git").unwrap_or(name).to_owned(),
            remote,
            reference: url.reference,
            subdir: url.subdir,
            ambiguous,
            unencrypted: matches!(url.scheme, Scheme::Http | Scheme::Git),
            ..Self::default()
        };
        parsed.read_query(&url.query).map_err(GitUrlError::Query)?;
        Ok(parsed)
    }

    fn read_query(&mut self, query: &[(String, Option<String>)]) -> Result<(), String> {
        let (mut tag, mut branch) = (None, None);
        for (position, (key, value)) in query.iter().enumerate() {
            if query[..position].iter().any(|(other, _)| other == key) {
                return Err(format!("query {key:?} has multiple values"));
            }
            let text = || value.clone().ok_or_else(|| format!("query {key:?} has no value"));
            let flag = || match value.as_deref() {
                None => Ok(true),
                Some(value) => parse_bool(value).ok_or_else(|| format!("invalid {key} value: {value:?}")),
            };
            match key.as_str() {
                "ref" => set(&mut self.reference, text()?, "ref")?,
                "subdir" => set(&mut self.subdir, text()?, "subdir")?,
                "tag" => tag = Some(text()?),
                "branch" => branch = Some(text()?),
                "checksum" | "commit" => self.checksum = text()?,
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = Some(flag()?),
                "fetch-by-commit" => self.fetch_by_commit = flag()?,
                "mtime" => match text()? {
                    mtime if mtime == "checkout" || mtime == "commit" => self.mtime = mtime,
                    other => {
                        return Err(format!("invalid mtime value: {other:?} (must be \"checkout\" or \"commit\")"));
                    }
                },
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("branch conflicts with tag".to_owned());
        }
        for (name, prefix) in [(tag, "refs/tags/"), (branch, "refs/heads/")] {
            if let Some(name) = name {
                let full = if name.starts_with(prefix) { name } else { format!("{prefix}{name}") };
                set(&mut self.reference, full, "ref")?;
            }
        }
        Ok(())
    }

    /// The address with a fragment in place of a query.
    pub fn fragment_form(&self, with_subdir: bool) -> String {
        let subdir = if with_subdir { relative(&self.subdir) } else { String::new() };
        match (self.reference.is_empty(), subdir.is_empty()) {
            (true, true) => self.remote.clone(),
            (_, true) => format!("{}#{}", self.remote, self.reference),
            (_, false) => format!("{}#{}:{subdir}", self.remote, self.reference),
        }
    }

    /// The options of a git source that say the same.
    pub fn source(&self) -> crate::Git {
        crate::Git {
            reference: self.reference.clone(),
            subdir: self.subdir.clone(),
            keep_git_dir: self.keep_git_dir == Some(true),
            checksum: self.checksum.clone(),
            skip_submodules: self.submodules == Some(false),
            mtime: self.mtime.clone(),
            fetch_by_commit: self.fetch_by_commit,
            ..crate::Git::default()
        }
    }
}

fn set(field: &mut String, value: String, name: &str) -> Result<(), String> {
    if !field.is_empty() && *field != value {
        return Err(format!("{name} conflicts: {field:?} vs {value:?}"));
    }
    *field = value;
    Ok(())
}

/// The spellings of a boolean that options accept.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        for (input, host, path, reference, subdir, remote) in [
            ("https://github.com/a/b.git#v1:x/y", "github.com", "/a/b.git", "v1", "x/y", "https://github.com/a/b.git"),
            ("git@github.com:a/b.git#main", "github.com", "a/b.git", "main", "", "git@github.com:a/b.git"),
            ("ssh://git@h:22/a/b?x=1", "h:22", "/a/b", "", "", "ssh://git@h:22/a/b"),
            ("git://h/a%20b#:/../d/", "h", "/a b", "", "d", "git://h/a%20b"),
        ] {
            let url = GitUrl::parse(input).unwrap();
            assert_eq!(
                (
                    url.host.as_str(),
                    url.path.as_str(),
                    url.reference.as_str(),
                    url.subdir.as_str(),
                    url.remote.as_str()
                ),
                (host, path, reference, subdir, remote)
            );
        }
        assert!(matches!(GitUrl::parse("a/b"), Err(GitUrlError::UnknownProtocol { .. })));
        assert!(matches!(GitUrl::parse("ftp://a/b"), Err(GitUrlError::InvalidProtocol { .. })));
    }

    #[test]
    fn tells_git_from_the_rest() {
        for (input, git) in [
            ("https://h/a.git", true),
            ("https://h/a.git?ref=x", true),
            ("https://h/a.tar.gz", false),
            ("http://h/a", false),
            ("github.com/a/b", true),
            ("git@h:a", true),
            ("ssh://h/a", true),
            ("git://h/a", true),
            ("./a.git", false),
            ("src", false),
            ("", false),
        ] {
            assert_eq!(GitRef::parse(input).is_ok(), git, "{input}");
        }
        assert!(GitRef::parse("github.com/a/b").unwrap().ambiguous);
        assert!(GitRef::parse("git://h/a").unwrap().unencrypted);
    }

    #[test]
    fn reads_queries() {
        let check = |input: &str| {
            GitRef::parse(&format!("https://h/a.git{input}"))
                .map_err(|e| {
                    assert!(e.is_git());
                    e.to_string()
                })
                .map_or_else(
                    |e| e,
                    |r| format!("{}:{} {} {:?} {:?}", r.reference, r.subdir, r.checksum, r.keep_git_dir, r.submodules),
                )
        };
        insta::assert_snapshot!(
            [
                "?ref=x&subdir=d&checksum=ab",
                "?tag=v1",
                "?branch=refs/heads/b",
                "?keep-git-dir&submodules=false",
                "?ref=x#y",
                "?ref=x#x",
                "?tag=a&branch=b",
                "?ref=a&ref=b",
                "?ref=",
                "?mtime=never",
                "?keep-git-dir=7",
                "?what=1",
            ]
            .map(check)
            .join("\n"),
            @r#"
        x:d ab None None
        refs/tags/v1:  None None
        refs/heads/b:  None None
        :  Some(true) Some(false)
        ref conflicts: "y" vs "x"
        x:  None None
        branch conflicts with tag
        query "ref" has multiple values
        query "ref" has no value
        invalid mtime value: "never" (must be "checkout" or "commit")
        invalid keep-git-dir value: "7"
        unexpected query "what"
        "#
        );
    }
}
