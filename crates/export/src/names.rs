//! The names that an image gets.

use crate::{Error, ImageAttrs, Result};
use cooper_oci::{Digest, ImageRef};

/// What an image is called, where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// As given, `*` and the dangling prefix resolved: what is named, pushed and answered.
    pub given: Vec<String>,
    /// What the local image store calls it: the given ones, with `@digest` beside them when asked for.
    pub stored: Vec<String>,
}

impl Names {
    /// The names that were asked for, known before there is an image. `own` is the result's `image.name`.
    pub fn asked(attrs: &ImageAttrs, own: Option<&str>) -> Vec<String> {
        let name = match (attrs.name.as_str(), own) {
            ("*", own) => own.unwrap_or_default(),
            (name, _) => name,
        };
        name.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
    }

    /// The names of the image `digest`. `own` is the result's `image.name`.
    pub fn of(attrs: &ImageAttrs, own: Option<&str>, digest: &Digest) -> Self {
        let mut name = match (attrs.name.as_str(), own) {
            ("*", Some(own)) => own.to_owned(),
            (name, _) => name.to_owned(),
        };
        let mut canonical = attrs.name_canonical;
        if !attrs.dangling_name_prefix.is_empty() && (!attrs.dangling_name_empty_only || name.is_empty()) {
            let dangling = format!("{}@{digest}", attrs.dangling_name_prefix);
            if name.is_empty() {
                name = dangling;
                canonical = false;
            } else {
                name = format!("{name},{dangling}");
            }
        }
        let given: Vec<String> = name.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
        let stored = given.iter().flat_map(|name| {
            let with_digest = (canonical && !name.contains('@')).then(|| format!("{name}@{digest}"));
            std::iter::once(name.clone()).chain(with_digest)
        });
        Self { stored: stored.collect(), given }
    }

    /// The `image.name` entry of a response; none without a name.
    pub fn response(&self) -> Option<String> {
        (!self.given.is_empty()).then(|| self.given.join(","))
    }

    /// The names in full, with `latest` where nothing else is said: what archives list.
    pub fn normalized(&self) -> Result<Vec<ImageRef>> {
        self.given.iter().map(|name| parse(name).map(ImageRef::with_default_tag)).collect()
    }
}

/// Reads one name.
pub(crate) fn parse(name: &str) -> Result<ImageRef> {
    name.parse().map_err(|source| Error::Name { name: name.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(attrs: &[(&str, &str)], own: Option<&str>) -> String {
        let attrs = ImageAttrs::parse(crate::Target::Store, attrs.iter().copied()).unwrap();
        let digest = Digest::of("x");
        let names = Names::of(&attrs, own, &digest);
        let text = format!("{} | {}", names.given.join(" "), names.stored.join(" "));
        text.replace(digest.as_str(), "D")
    }

    #[test]
    fn follow_the_attributes() {
        assert_eq!(names(&[], None), " | ");
        assert_eq!(names(&[("name", "a,b:1")], None), "a b:1 | a b:1");
        assert_eq!(names(&[("name", "*")], Some("own")), "own | own");
        assert_eq!(names(&[("name", "a"), ("name-canonical", "")], None), "a | a a@D");
        assert_eq!(names(&[("dangling-name-prefix", "p"), ("name-canonical", "")], None), "p@D | p@D");
        assert_eq!(names(&[("name", "a"), ("dangling-name-prefix", "p")], None), "a p@D | a p@D");
        let only = [("name", "a"), ("dangling-name-prefix", "p"), ("danging-name-empty-only", "true")];
        assert_eq!(names(&only, None), "a | a");
    }

    #[test]
    fn archives_list_full_names() {
        let names = Names { given: vec!["a".into(), "h:1/b@".into()], stored: Vec::new() };
        assert_eq!(names.normalized().unwrap_err().to_string(), "failed to parse h:1/b@");
        let names = Names { given: vec!["a".into(), "h:1/b:c".into()], stored: Vec::new() };
        let full: Vec<_> = names.normalized().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(full, ["docker.io/library/a:latest", "h:1/b:c"]);
    }
}
