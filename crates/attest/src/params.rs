//! Which attestations a build is asked for: `attest:KIND` options and `BUILDKIT_ATTEST_KIND` build arguments, whose
//! values are lists of `key=value`.

use crate::{Error, Result};
use std::collections::BTreeMap;

const OPTION: &str = "attest:";
const ARGUMENT: &str = "build-arg:BUILDKIT_ATTEST_";
/// The word that makes a request none.
const DISABLED: &str = "disabled";
/// The scanner when none is named: the one that is built in, for which no image must be pulled.
const SCANNER: &str = "builtin";

/// The parameters of one attestation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(pub BTreeMap<String, String>);

impl Params {
    /// A parameter, when given.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// The attestations that are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// What is in the result.
    pub sbom: Option<Params>,
    /// How it was made.
    pub provenance: Option<Params>,
}

impl Wanted {
    /// Reads a frontend's options.
    pub fn parse(opts: &BTreeMap<String, String>) -> Result<Self> {
        let mut out = Self::default();
        for (key, value) in opts {
            let Some(kind) = key.strip_prefix(OPTION).or_else(|| key.strip_prefix(ARGUMENT)) else { continue };
            let (place, key, default) = match kind.to_lowercase().as_str() {
                "sbom" => (&mut out.sbom, "generator", SCANNER),
                "provenance" => (&mut out.provenance, "version", "v1"),
                kind => return Err(Error::Kind(kind.to_owned())),
            };
            *place = fields(kind, value)?.map(|mut params| {
                params.0.entry(key.to_owned()).or_insert_with(|| default.to_owned());
                params
            });
        }
        Ok(out)
    }

    /// The options that a frontend gets which may know no scanner but images: without the request for a bill of materials
    /// that the scanner which is built in makes anyway, of whatever the frontend returns.
    pub fn without_builtin_scans(opts: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let sbom = |key: &str| {
            let kind = key.strip_prefix(OPTION).or_else(|| key.strip_prefix(ARGUMENT));
            kind.is_some_and(|kind| kind.eq_ignore_ascii_case("sbom"))
        };
        let wanted = Self::parse(opts).ok().and_then(|wanted| wanted.sbom);
        let builtin = wanted.is_some_and(|params| matches!(params.get("generator"), Some(SCANNER | "")));
        opts.iter().filter(|(key, _)| !(builtin && sbom(key))).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// Those of `opts` that are requests for attestations, for a frontend to pass on.
    pub fn options(opts: &BTreeMap<String, String>) -> impl Iterator<Item = (&String, &String)> {
        opts.iter().filter(|(key, _)| key.starts_with(OPTION) || key.starts_with(ARGUMENT))
    }
}

/// A line of comma-separated values, each `key=value` or a key alone; none when the attestation is refused.
fn fields(kind: &str, value: &str) -> Result<Option<Params>> {
    let mut params = Params::default();
    if value == "false" {
        return Ok(None);
    }
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(value.as_bytes());
    let mut record = csv::StringRecord::new();
    let read = reader.read_record(&mut record);
    read.map_err(|source| Error::Params { kind: kind.to_lowercase(), source })?;
    for field in &record {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        if key == DISABLED && matches!(value, "" | "true" | "1") {
            return Ok(None);
        }
        params.0.insert(key.to_owned(), value.to_owned());
    }
    Ok(Some(params))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(opts: &[(&str, &str)]) -> String {
        let opts = opts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let shown = |params: Option<Params>| match params {
            None => "none".to_owned(),
            Some(params) => params.0.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "),
        };
        match Wanted::parse(&opts) {
            Ok(wanted) => format!("sbom: {}; provenance: {}", shown(wanted.sbom), shown(wanted.provenance)),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn frontends_are_asked_for_scans_by_images_only() {
        let check = |opts: &[(&str, &str)], want: &str| {
            let opts = opts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let left = Wanted::without_builtin_scans(&opts);
            assert_eq!(left.keys().map(String::as_str).collect::<Vec<_>>().join(" "), want);
        };
        check(&[("attest:sbom", "generator=builtin"), ("a", "b"), ("attest:provenance", "")], "a attest:provenance");
        check(&[("attest:sbom", "")], "");
        check(&[("build-arg:BUILDKIT_ATTEST_SBOM", "generator=builtin,format=all")], "");
        check(&[("attest:sbom", "generator=scan:1")], "attest:sbom");
        check(&[("attest:sbom", "false")], "attest:sbom");
        check(&[("attest:other", "x")], "attest:other");
    }

    #[test]
    fn requests_come_as_options_and_arguments() {
        for (opts, want) in [
            (&[][..], "sbom: none; provenance: none"),
            (&[("attest:provenance", "")], "sbom: none; provenance: version=v1"),
            (
                &[("attest:provenance", "mode=max,version=v0.2,builder-id=https://x/?a=b"), ("build-arg:A", "b")],
                "sbom: none; provenance: builder-id=https://x/?a=b mode=max version=v0.2",
            ),
            (
                &[("build-arg:BUILDKIT_ATTEST_SBOM", "generator=scan:1,\"A=x,y\"")],
                "sbom: A=x,y generator=scan:1; provenance: none",
            ),
            (&[("attest:sbom", "flag")], "sbom: flag= generator=builtin; provenance: none"),
            (&[("attest:sbom", "false")], "sbom: none; provenance: none"),
            (&[("attest:provenance", "mode=min,disabled=true")], "sbom: none; provenance: none"),
            (&[("attest:other", "")], "unknown attestation type \"other\""),
        ] {
            assert_eq!(parse(opts), want);
        }
    }
}
