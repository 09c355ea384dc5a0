//! What an engine that images are loaded into has already, so that it is not sent again.
//!
//! Docker reads the file of a layer only when no image of its store has that layer on top of the same others; containerd
//! takes a blob that an archive lacks from its store. Both are asked by their own programs; whoever gives no answer gets
//! everything. Docker on top of containerd's store insists on whole archives, podman pulls ([`super::pulled`]).

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use cooper_oci::{ChainId, DiffId, Digest};

use super::output::{Destination, Export};

/// Images of docker that are looked at, and digests that are told. More would cost more than they save.
const MOST_IMAGES: usize = 400;
const MOST_DIGESTS: usize = 4000;

/// Adds to exports that are loaded what is there: as `present-chains` or `present-blobs`, separated by commas.
pub fn note(exports: &mut [Export]) {
    for export in exports {
        let Destination::Loader(words) = &export.destination else { continue };
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (key, found) = match words.as_slice() {
            ["docker", ..] => ("present-chains", docker().unwrap_or_default()),
            ["ctr", ..] => ("present-blobs", containerd().unwrap_or_default()),
            _ => continue,
        };
        if !found.is_empty() {
            let list: Vec<&str> = found.iter().take(MOST_DIGESTS).map(String::as_str).collect();
            export.attrs.insert(key.to_owned(), list.join(","));
        }
    }
}

/// What a program prints; `None` when it fails.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn docker() -> Option<BTreeSet<String>> {
    if printed("docker", &["info", "--format", "{{json .DriverStatus}}"])?.contains("io.containerd.snapshotter") {
        return None;
    }
    let listed = printed("docker", &["image", "ls", "--quiet", "--no-trunc"])?;
    let images: BTreeSet<&str> = listed.split_whitespace().collect();
    if images.is_empty() {
        return None;
    }
    let mut arguments = vec!["image", "inspect", "--format", "{{json .RootFS.Layers}}"];
    arguments.extend(images.into_iter().take(MOST_IMAGES));
    Some(chains(&printed("docker", &arguments)?))
}

/// The chains of all stacks of layers, one list of diff ids a line.
fn chains(lines: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in lines.lines() {
        let stack: Vec<Digest> = serde_json::from_str(line).unwrap_or_default();
        let mut below: Option<ChainId> = None;
        for diff_id in stack {
            let chain = ChainId::next(below.as_ref(), &DiffId(diff_id));
            found.insert(chain.to_string());
            below = Some(chain);
        }
    }
    found
}

fn containerd() -> Option<BTreeSet<String>> {
    let listed = printed("ctr", &["content", "ls", "--quiet"])?;
    Some(listed.split_whitespace().filter(|word| word.parse::<Digest>().is_ok()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stack_of_an_image_is_there() {
        let (a, b) = (DiffId(Digest::of("a")), DiffId(Digest::of("b")));
        let (first, second) = (ChainId::next(None, &a), ChainId::next(Some(&ChainId::next(None, &a)), &b));
        let lines = format!("[\"{a}\",\"{b}\"]\n[\"{a}\"]\nnull\nnonsense\n");
        assert_eq!(chains(&lines), [first.to_string(), second.to_string()].into());
    }
}
