//! Remote caches that the options name: `cache-imports`, and `cache-from` of older clients.

use super::options::invalid;
use cooper_engine::{BuildError, CacheSpec};
use serde::Deserialize;
use std::collections::BTreeMap;

const IMPORTS: &str = "cache-imports";
const FROM: &str = "cache-from";

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "Type", alias = "type")]
    kind: String,
    #[serde(default, rename = "Attrs", alias = "attrs")]
    attrs: Option<BTreeMap<String, String>>,
}

/// The caches to import.
pub fn imports(opts: &BTreeMap<String, String>) -> Result<Vec<CacheSpec>, BuildError> {
    let text = |key: &str| opts.get(key).filter(|v| !v.is_empty());
    let entries: Vec<Entry> = match text(IMPORTS) {
        Some(json) => {
            serde_json::from_str(json).map_err(|e| invalid(format!("failed to unmarshal {IMPORTS} ({json:?}): {e}")))?
        }
        None => Vec::new(),
    };
    let mut specs: Vec<CacheSpec> =
        entries.into_iter().map(|e| CacheSpec { kind: e.kind, attrs: e.attrs.unwrap_or_default() }).collect();
    let references = text(FROM).into_iter().flat_map(|v| v.split(',')).filter(|r| !r.is_empty());
    specs.extend(references.map(|reference| CacheSpec {
        kind: "registry".to_owned(),
        attrs: [("ref".to_owned(), reference.to_owned())].into(),
    }));
    Ok(specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings() {
        let read = |pairs: &[(&str, &str)]| {
            let opts = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            imports(&opts).map_err(|e| e.message)
        };
        let registry = |r: &str| CacheSpec { kind: "registry".into(), attrs: [("ref".into(), r.into())].into() };
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(read(&[("cache-from", "a,b")]), Ok(vec![registry("a"), registry("b")]));
        let json = r#"[{"Type":"registry","Attrs":{"ref":"x"}},{"Type":"gha"}]"#;
        let gha = CacheSpec { kind: "gha".into(), attrs: BTreeMap::new() };
        assert_eq!(read(&[("cache-imports", json), ("cache-from", "y")]), Ok(vec![registry("x"), gha, registry("y")]));
        assert!(read(&[("cache-imports", "{")]).unwrap_err().starts_with("failed to unmarshal cache-imports"));
    }
}
