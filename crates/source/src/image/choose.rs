//! Choosing from an index.

use cooper_oci::{Descriptor, MediaType, Platform};

/// The entries of an index that can serve `wanted`, the best first.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// Entries whose platform serves, best first.
    pub(super) serving: Vec<Descriptor>,
    /// Entries that do not say their platform: their configs tell.
    pub(super) unmarked: Vec<Descriptor>,
    /// Indexes within the index.
    pub(super) nested: Vec<Descriptor>,
    /// The platforms listed, for the error message.
    pub(super) available: Vec<String>,
}

impl Candidates {
    /// Sorts `entries`. Attestations (`unknown/unknown`) are no images.
    pub(super) fn of(entries: &[Descriptor], wanted: &Platform) -> Self {
        let mut found = Self::default();
        let mut scored: Vec<(u32, &Descriptor)> = Vec::new();
        for entry in entries {
            match (entry.kind(), &entry.platform) {
                (MediaType::Index, None) => found.nested.push(entry.clone()),
                (MediaType::Manifest, None) => found.unmarked.push(entry.clone()),
                (MediaType::Manifest | MediaType::Index, Some(platform)) if !is_attestation(platform) => {
                    let text = platform.clone().normalized().to_string();
                    if !found.available.contains(&text) {
                        found.available.push(text);
                    }
                    scored.extend(platform.serves(wanted).map(|score| (score, entry)));
                }
                _ => {}
            }
        }
        // Stable: of equally good entries the index's first wins.
        scored.sort_by_key(|(score, _)| *score);
        for (_, entry) in scored {
            match entry.kind() {
                MediaType::Index => found.nested.push(entry.clone()),
                _ => found.serving.push(entry.clone()),
            }
        }
        found
    }
}

fn is_attestation(platform: &Platform) -> bool {
    platform.os == "unknown" && platform.architecture == "unknown"
}

#[cfg(test)]
mod tests {
    use super::*;
    use cooper_oci::media_types;

    fn choose(wanted: &str, listed: &[&str]) -> String {
        let entries: Vec<Descriptor> = listed
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let (kind, platform) = match text.strip_prefix("index ") {
                    Some(platform) => (media_types::OCI_INDEX, platform),
                    None => (media_types::OCI_MANIFEST, *text),
                };
                let mut desc = Descriptor::new(kind, cooper_oci::Digest::of(text), i as u64);
                desc.platform = match platform {
                    "-" => None,
                    "unknown/unknown" => {
                        Some(Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() })
                    }
                    text => Some(text.parse().unwrap()),
                };
                desc
            })
            .collect();
        let found = Candidates::of(&entries, &wanted.parse().unwrap());
        let show = |list: &[Descriptor]| list.iter().map(|d| d.size.to_string()).collect::<Vec<_>>().join(" ");
        format!("{} | {} | {}", show(&found.serving), show(&found.unmarked), show(&found.nested))
    }

    #[test]
    fn the_best_platform_comes_first() {
        for (wanted, listed, expected) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64", "unknown/unknown"][..], "1 |  | "),
            ("linux/amd64/v3", &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "1 0 |  | "),
            ("linux/arm/v7", &["linux/arm/v6", "linux/arm/v7", "linux/arm/v5"], "1 0 2 |  | "),
            ("linux/arm64", &["linux/arm/v7", "linux/arm64"], "1 0 |  | "),
            ("linux/amd64", &["linux/amd64", "linux/amd64"], "0 1 |  | "),
            ("linux/s390x", &["linux/amd64"], " |  | "),
            ("linux/amd64", &["-", "index -", "index linux/amd64"], " | 0 | 1 2"),
        ] {
            assert_eq!(choose(wanted, listed), expected, "{wanted} of {listed:?}");
        }
    }
}
