//! Packages and their URLs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// A package, as some database or lock file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its identity.
    pub url: PackageUrl,
    /// Licences as declared: expressions, identifiers or free text.
    pub licences: BTreeSet<String>,
    /// Who supplies it.
    pub supplier: Option<String>,
    /// Its home page.
    pub homepage: Option<String>,
    /// The source package that it was built from, with its version.
    pub source: Option<String>,
    /// The files that tell of it, absolute, the most telling first.
    pub evidence: Vec<String>,
}

impl Package {
    /// A package of which nothing but the identity is known.
    pub fn new(url: PackageUrl) -> Self {
        Self { url, licences: BTreeSet::new(), supplier: None, homepage: None, source: None, evidence: Vec::new() }
    }

    /// Adds licences that are not empty.
    #[must_use]
    pub fn licensed<S: Into<String>>(mut self, licences: impl IntoIterator<Item = S>) -> Self {
        let licences = licences.into_iter().map(Into::into).map(|l: String| l.trim().to_owned());
        self.licences.extend(licences.filter(|l| !l.is_empty()));
        self
    }

    /// Takes over what `other`, the same package found elsewhere, knows.
    pub fn merge(&mut self, other: Self) {
        self.licences.extend(other.licences);
        self.supplier = self.supplier.take().or(other.supplier);
        self.homepage = self.homepage.take().or(other.homepage);
        self.source = self.source.take().or(other.source);
        for place in other.evidence {
            if !self.evidence.contains(&place) {
                self.evidence.push(place);
            }
        }
    }
}

/// A package URL: `pkg:type/namespace/name@version?qualifiers`.
///
/// Ordered by its parts; displayed in the canonical form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageUrl {
    kind: &'static str,
    namespace: String,
    name: String,
    version: String,
    qualifiers: BTreeMap<&'static str, String>,
}

impl PackageUrl {
    /// A URL of a type whose names have a namespace (with `/` between its parts), perhaps an empty one. Applies the
    /// rules of the type about letters.
    pub fn new(kind: &'static str, namespace: &str, name: &str, version: &str) -> Self {
        let lower_namespace = matches!(kind, "deb" | "apk" | "rpm" | "golang" | "npm" | "composer");
        let lower_name = matches!(kind, "deb" | "apk" | "golang" | "npm" | "composer" | "pypi");
        let cased = |text: &str, lower: bool| if lower { text.to_lowercase() } else { text.to_owned() };
        let mut name = cased(name, lower_name);
        if kind == "pypi" {
            name = name.replace('_', "-");
        }
        let namespace = cased(namespace, lower_namespace);
        Self { kind, namespace, name, version: version.to_owned(), qualifiers: BTreeMap::new() }
    }

    /// The URL of a name whose part before the last `/` is the namespace.
    pub fn of_path(kind: &'static str, path: &str, version: &str) -> Self {
        let (namespace, name) = path.rsplit_once('/').unwrap_or(("", path));
        Self::new(kind, namespace, name, version)
    }

    /// Adds a qualifier when it is not empty.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        let value = value.into();
        if !value.is_empty() {
            self.qualifiers.insert(key, value);
        }
        self
    }

    /// The type, such as `deb`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What the name is unique in; may be empty.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name without its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name as people of its language write it.
    pub fn full_name(&self) -> String {
        match self.kind {
            "deb" | "apk" | "rpm" => self.name.clone(),
            _ if self.namespace.is_empty() => self.name.clone(),
            "maven" => format!("{}:{}", self.namespace, self.name),
            _ => format!("{}/{}", self.namespace, self.name),
        }
    }

    /// The version; may be empty.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for PackageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pkg:{}/", self.kind)?;
        for part in self.namespace.split('/').filter(|part| !part.is_empty()) {
            write!(f, "{}/", Encoded(part))?;
        }
        write!(f, "{}", Encoded(&self.name))?;
        if !self.version.is_empty() {
            write!(f, "@{}", Encoded(&self.version))?;
        }
        for (i, (key, value)) in self.qualifiers.iter().enumerate() {
            write!(f, "{}{key}={}", if i == 0 { '?' } else { '&' }, Encoded(value))?;
        }
        Ok(())
    }
}

/// Everything percent-encoded but letters, digits, `.`, `-`, `_`, `~` and `:`.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form() {
        let url = |kind, namespace, name, version| PackageUrl::new(kind, namespace, name, version);
        for (url, expected) in [
            (
                url("deb", "debian", "libstdc++6", "1:12.2.0-14+deb12u1")
                    .with("arch", "amd64")
                    .with("distro", "debian-12"),
                "pkg:deb/debian/libstdc%2B%2B6@1:12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12",
            ),
            (url("deb", "debian", "tzdata", "2024a~rc1").with("arch", ""), "pkg:deb/debian/tzdata@2024a~rc1"),
            (
                url("rpm", "Fedora", "Curl", "7.50.3-1.fc25").with("epoch", "1"),
                "pkg:rpm/fedora/Curl@7.50.3-1.fc25?epoch=1",
            ),
            (url("npm", "@Angular", "animation", "12.3.1"), "pkg:npm/%40angular/animation@12.3.1"),
            (url("pypi", "", "Django_Package", "1.11.1.dev1"), "pkg:pypi/django-package@1.11.1.dev1"),
            (
                PackageUrl::of_path("golang", "google.golang.org/Genproto", "v2.0.0+incompatible"),
                "pkg:golang/google.golang.org/genproto@v2.0.0%2Bincompatible",
            ),
            (
                url("maven", "org.apache.xmlgraphics", "batik-anim", "1.9.1"),
                "pkg:maven/org.apache.xmlgraphics/batik-anim@1.9.1",
            ),
            (url("cargo", "", "rand", "0.7.2"), "pkg:cargo/rand@0.7.2"),
            (url("nuget", "", "EnterpriseLibrary.Common", ""), "pkg:nuget/EnterpriseLibrary.Common"),
        ] {
            assert_eq!(url.to_string(), expected);
        }
    }
}
