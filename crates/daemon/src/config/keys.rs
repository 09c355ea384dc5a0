//! The names of all keys, so that an unknown one can be reported with its nearest neighbour.

use toml::{Table, Value};

/// What a table may contain.
enum Shape {
    /// Exactly these keys.
    Keys(&'static [(&'static str, Shape)]),
    /// Keys of the user's choice, each with this shape.
    Each(&'static Shape),
    /// A value, or a table that nobody looks into.
    Leaf,
}
use Shape::{Each, Keys, Leaf};

const GC_POLICY: Shape = Keys(&[
    ("all", Leaf),
    ("filters", Leaf),
    ("keepDuration", Leaf),
    ("keepBytes", Leaf),
    ("reservedSpace", Leaf),
    ("maxUsedSpace", Leaf),
    ("minFreeSpace", Leaf),
]);

const OCI: Shape = Keys(&[
    ("enabled", Leaf),
    ("labels", Leaf),
    ("platforms", Leaf),
    ("snapshotter", Leaf),
    ("rootless", Leaf),
    ("noProcessSandbox", Leaf),
    ("userRemapUnsupported", Leaf),
    ("binary", Leaf),
    ("proxySnapshotterPath", Leaf),
    ("defaultCgroupParent", Leaf),
    ("apparmor-profile", Leaf),
    ("selinux", Leaf),
    ("max-parallelism", Leaf),
    ("stargzSnapshotter", Leaf),
    ("networkMode", Leaf),
    ("cniConfigPath", Leaf),
    ("cniBinaryPath", Leaf),
    ("cniPoolSize", Leaf),
    ("bridgeName", Leaf),
    ("bridgeSubnet", Leaf),
    ("gc", Leaf),
    ("gckeepstorage", Leaf),
    ("reservedSpace", Leaf),
    ("maxUsedSpace", Leaf),
    ("minFreeSpace", Leaf),
    ("gcpolicy", GC_POLICY),
]);

const CONTAINERD: Shape = Keys(&[
    ("enabled", Leaf),
    ("address", Leaf),
    ("namespace", Leaf),
    ("labels", Leaf),
    ("platforms", Leaf),
    ("snapshotter", Leaf),
    ("rootless", Leaf),
    ("defaultCgroupParent", Leaf),
    ("apparmor-profile", Leaf),
    ("selinux", Leaf),
    ("max-parallelism", Leaf),
    ("networkMode", Leaf),
    ("cniConfigPath", Leaf),
    ("cniBinaryPath", Leaf),
    ("cniPoolSize", Leaf),
    ("bridgeName", Leaf),
    ("bridgeSubnet", Leaf),
    ("gc", Leaf),
    ("gckeepstorage", Leaf),
    ("reservedSpace", Leaf),
    ("maxUsedSpace", Leaf),
    ("minFreeSpace", Leaf),
    ("gcpolicy", GC_POLICY),
    ("runtime", Keys(&[("name", Leaf), ("path", Leaf), ("options", Leaf)])),
]);

const REGISTRY: Shape = Keys(&[
    ("mirrors", Leaf),
    ("http", Leaf),
    ("insecure", Leaf),
    ("ca", Leaf),
    ("tlsconfigdir", Leaf),
    ("keypair", Keys(&[("key", Leaf), ("cert", Leaf)])),
]);

const ROOT: Shape = Keys(&[
    ("debug", Leaf),
    ("trace", Leaf),
    ("root", Leaf),
    ("insecure-entitlements", Leaf),
    ("proxyNetwork", Leaf),
    ("provenanceEnvDir", Leaf),
    ("log", Keys(&[("format", Leaf), ("level", Leaf)])),
    (
        "grpc",
        Keys(&[
            ("address", Leaf),
            ("debugAddress", Leaf),
            ("uid", Leaf),
            ("gid", Leaf),
            ("securityDescriptor", Leaf),
            ("tls", Keys(&[("cert", Leaf), ("key", Leaf), ("ca", Leaf)])),
        ]),
    ),
    ("otel", Keys(&[("socketPath", Leaf)])),
    ("cdi", Keys(&[("disabled", Leaf), ("specDirs", Leaf), ("autoAllowed", Leaf)])),
    ("worker", Keys(&[("oci", OCI), ("containerd", CONTAINERD)])),
    ("registry", Each(&REGISTRY)),
    ("dns", Keys(&[("nameservers", Leaf), ("options", Leaf), ("searchDomains", Leaf)])),
    ("history", Keys(&[("maxAge", Leaf), ("maxEntries", Leaf)])),
    (
        "frontend",
        Keys(&[
            ("dockerfile.v0", Keys(&[("enabled", Leaf), ("standIn", Leaf)])),
            ("gateway.v0", Keys(&[("enabled", Leaf), ("allowedRepositories", Leaf)])),
        ]),
    ),
    ("system", Keys(&[("platformsCacheMaxAge", Leaf), ("maxRegistryConcurrency", Leaf)])),
    (
        "cache",
        Keys(&[(
            "gha",
            Keys(&[
                ("sign", Keys(&[("command", Leaf)])),
                ("verify", Keys(&[("required", Leaf), ("trustedRoot", Leaf), ("policy", Leaf)])),
            ]),
        )]),
    ),
]);

/// Renames keys that differ from a known one in case only, drops and reports the others.
pub(super) fn check(table: &mut Table, report: &mut dyn FnMut(String)) {
    walk(table, &ROOT, "", report);
}

fn walk(table: &mut Table, shape: &Shape, place: &str, report: &mut dyn FnMut(String)) {
    let entries: Vec<(String, Value)> = std::mem::take(table).into_iter().collect();
    for (key, mut value) in entries {
        let (key, inner) = match shape {
            Leaf => (key, &Leaf),
            Each(inner) => (key, *inner),
            Keys(known) => {
                let Some((name, inner)) = known.iter().find(|(name, _)| name.eq_ignore_ascii_case(&key)) else {
                    let nearest = nearest(&key, known.iter().map(|(name, _)| *name));
                    let hint = nearest.map(|name| format!(", did you mean {name}?")).unwrap_or_default();
                    report(format!("unknown key {}{hint}", join(place, &key)));
                    continue;
                };
                ((*name).to_owned(), inner)
            }
        };
        let place = join(place, &key);
        match &mut value {
            Value::Table(inner_table) => walk(inner_table, inner, &place, report),
            Value::Array(items) => {
                for item in items {
                    if let Value::Table(inner_table) = item {
                        walk(inner_table, inner, &place, report);
                    }
                }
            }
            _ => {}
        }
        table.insert(key, value);
    }
}

fn join(place: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if place.is_empty() { key } else { format!("{place}.{key}") }
}

/// The name at the smallest edit distance, unless even that is more than a third of the word away.
fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    names
        .map(|name| (edit_distance(&word, &name.to_ascii_lowercase()), name))
        .min()
        .filter(|(distance, _)| *distance <= word.len().div_ceil(3))
        .map(|(_, name)| name)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
