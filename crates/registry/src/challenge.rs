//! `WWW-Authenticate` challenges (RFC 9110, section 11.6.1) and token scopes (distribution's token specification).

use http::{HeaderMap, header::WWW_AUTHENTICATE};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What a server asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scopes: Scopes, error: String },
}

impl Challenge {
    /// The challenge to answer: bearer before basic; `None` when the server offers neither.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            for (scheme, mut params) in parse(value.to_str().unwrap_or_default()) {
                let mut take = |name: &str| params.remove(name).unwrap_or_default();
                if scheme.eq_ignore_ascii_case("bearer") {
                    let (realm, service, error) = (take("realm"), take("service"), take("error"));
                    return Some(Self::Bearer { realm, service, scopes: Scopes::parse(&take("scope")), error });
                }
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
            }
        }
        basic
    }
}

/// Splits a header into schemes and their parameters. Lenient: what makes no sense is skipped.
fn parse(text: &str) -> Vec<(String, BTreeMap<String, String>)> {
    let mut challenges: Vec<(String, BTreeMap<String, String>)> = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace()).unwrap_or(rest.len());
        let word = &rest[..end];
        let after = rest[end..].trim_start();
        rest = if let Some(value) = after.strip_prefix('=') {
            let (value, tail) = parameter_value(value.trim_start());
            if let Some((_, params)) = challenges.last_mut() {
                params.insert(word.to_ascii_lowercase(), value);
            }
            tail
        } else {
            if !word.is_empty() {
                challenges.push((word.to_owned(), BTreeMap::new()));
            }
            after
        };
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    challenges
}

/// A token or quoted string and what follows it.
fn parameter_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Rights on resources: `repository:<name>` to actions. Ordered, so equal sets print equally.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    pub(crate) fn pull(repository: &str) -> Self {
        Self::default().with(repository, &["pull"])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self::default().with(repository, &["pull", "push"])
    }

    pub(crate) fn with(mut self, repository: &str, actions: &[&str]) -> Self {
        let set = self.0.entry(format!("repository:{repository}")).or_default();
        set.extend(actions.iter().map(|a| (*a).to_owned()));
        self
    }

    pub(crate) fn union(mut self, other: &Self) -> Self {
        for (resource, actions) in &other.0 {
            self.0.entry(resource.clone()).or_default().extend(actions.iter().cloned());
        }
        self
    }

    pub(crate) fn covers(&self, other: &Self) -> bool {
        let has = |have: &BTreeSet<String>, action: &String| have.contains(action) || have.contains("*");
        other
            .0
            .iter()
            .all(|(resource, actions)| self.0.get(resource).is_some_and(|have| actions.iter().all(|a| has(have, a))))
    }

    /// Space-separated `type:name:action,action` entries.
    fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        for entry in text.split_whitespace() {
            if let Some((resource, actions)) = entry.rsplit_once(':') {
                let set = scopes.0.entry(resource.to_owned()).or_default();
                set.extend(actions.split(',').map(str::to_owned));
            }
        }
        scopes
    }

    pub(crate) fn to_strings(&self) -> Vec<String> {
        let join = |actions: &BTreeSet<String>| actions.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        self.0.iter().map(|(resource, actions)| format!("{resource}:{}", join(actions))).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_strings().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(headers: &[&str]) -> Option<Challenge> {
        Challenge::of(&headers.iter().map(|h| (WWW_AUTHENTICATE, h.parse().unwrap())).collect())
    }

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        let scopes = Scopes::parse(scope);
        Challenge::Bearer { realm: realm.into(), service: service.into(), scopes, error: String::new() }
    }

    #[test]
    fn challenges_in_all_their_spellings() {
        assert_eq!(
            challenge(&[r#"Bearer realm="https://a/t",service="s, x",scope="repository:a/b:pull,push""#]),
            Some(bearer("https://a/t", "s, x", "repository:a/b:pull,push"))
        );
        assert_eq!(challenge(&["Basic realm=\"r\""]), Some(Challenge::Basic));
        assert_eq!(challenge(&["basic realm=r, BEARER realm=u , service = s"]), Some(bearer("u", "s", "")));
        assert_eq!(challenge(&["Negotiate", "Bearer realm=\"a\\\"b\""]), Some(bearer("a\"b", "", "")));
        assert_eq!(challenge(&["Negotiate"]), None);
        assert_eq!(challenge(&[]), None);
        assert_eq!(challenge(&["=,,= \"", "Bearer realm=\"open"]), Some(bearer("open", "", "")));
    }

    #[test]
    fn scopes_merge_and_cover() {
        let scopes = Scopes::push("a").union(&Scopes::pull("b"));
        assert_eq!(scopes.to_string(), "repository:a:pull,push repository:b:pull");
        assert!(scopes.covers(&Scopes::pull("a")) && scopes.covers(&Scopes::default()));
        assert!(!Scopes::pull("a").covers(&Scopes::push("a")));
        assert!(Scopes::parse("repository:a:*").covers(&Scopes::push("a")));
        assert_eq!(Scopes::parse("repository:host:5000/x:pull").to_string(), "repository:host:5000/x:pull");
    }
}
