//! Outputs: what is exported, and where on the client's side it goes.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use cooper_daemon::config::parse_go_bool;

use crate::csv;
use crate::error::{CliError, Result};

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The exporter's name.
    pub kind: String,
    /// Its attributes, without `type`, and without `dest` when the client takes care of that.
    pub attrs: BTreeMap<String, String>,
    /// Where the result goes.
    pub destination: Destination,
}

/// Where a result goes on the client's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere: the daemon keeps or pushes it.
    Daemon,
    /// One file.
    File(PathBuf),
    /// Standard output.
    Stdout,
    /// Files into a directory; `delete` removes what the result does not have.
    Directory {
        /// The directory.
        path: PathBuf,
        /// `mode=delete`.
        delete: bool,
    },
    /// An OCI layout.
    Layout(PathBuf),
    /// Standard input of a program that loads images.
    Loader(Vec<String>),
}

/// What the world around the parser looks like.
pub struct Surroundings<'a> {
    /// Standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// The first of these programs that exists loads images.
    pub find_loader: &'a dyn Fn() -> Option<Vec<String>>,
}

/// The process's surroundings.
pub fn surroundings() -> Surroundings<'static> {
    Surroundings { stdout_is_terminal: std::io::stdout().is_terminal(), find_loader: &find_loader }
}

/// The programs that load images, the one to ask first in front, and where the daemon of each listens; podman has none.
const LOADERS: [(&[&str], Option<&str>); 4] = [
    (&["docker", "load"], Some("/var/run/docker.sock")),
    (&["podman", "load"], None),
    (&["nerdctl", "load"], Some("/run/containerd/containerd.sock")),
    (&["ctr", "images", "import", "-"], Some("/run/containerd/containerd.sock")),
];

/// The first program that is installed and whose daemon runs; else the first that is installed.
fn find_loader() -> Option<Vec<String>> {
    let path = std::env::var_os("PATH")?;
    let installed = |words: &[&str]| std::env::split_paths(&path).any(|dir| dir.join(words[0]).is_file());
    // Who names a daemon wants that one.
    let named = |words: &[&str]| words[0] == "docker" && std::env::var_os("DOCKER_HOST").is_some();
    let runs = |words: &[&str], socket: Option<&str>| named(words) || socket.is_none_or(|s| Path::new(s).exists());
    choose(|words, socket| installed(words) && runs(words, socket)).or_else(|| choose(|words, _| installed(words)))
}

fn choose(fits: impl Fn(&[&str], Option<&str>) -> bool) -> Option<Vec<String>> {
    let found = LOADERS.into_iter().find(|(words, socket)| fits(words, *socket));
    found.map(|(words, _)| words.iter().map(|word| (*word).to_owned()).collect())
}

/// buildctl's rules: `type=` is required.
pub fn parse_buildctl(flag: &str, around: &Surroundings<'_>) -> Result<Export> {
    let (kind, mut attrs) = attributes(flag)?;
    if kind.is_empty() {
        return Err(CliError::Usage("--output requires type=<type>".into()));
    }
    if let Some(value) = attrs.get("output") {
        return Err(CliError::Usage(format!("output={value} not supported for --output, you meant dest={value}?")));
    }
    let dest = attrs.get("dest").cloned().unwrap_or_default();
    let destination = destination(&kind, &dest, &attrs, around)
        .map_err(|message| CliError::Usage(format!("invalid output option: output: {message}")))?;
    if destination != Destination::Daemon {
        attrs.remove("dest");
    }
    Ok(Export { kind, attrs, destination })
}

/// `docker build`'s rules: `-` is a tar on standard output, a bare word a directory, `type=registry` an image
/// that is pushed, `type=docker` without a destination is loaded, `type=cacheonly` is no output.
pub fn parse_docker(flag: &str, around: &Surroundings<'_>) -> Result<Option<Export>> {
    let bare = csv::fields(flag).ok().filter(|fields| fields.len() == 1 && !flag.starts_with("type="));
    if let Some([word]) = bare.as_deref() {
        if word == "-" {
            return parse_buildctl("type=tar,dest=-", around).map(Some);
        }
        let word = word.strip_prefix("dest=").unwrap_or(word);
        let destination = Destination::Directory { path: word.into(), delete: false };
        return Ok(Some(Export { kind: "local".into(), attrs: BTreeMap::new(), destination }));
    }
    let (kind, mut attrs) = attributes(flag)?;
    match kind.as_str() {
        "cacheonly" => Ok(None),
        "registry" => {
            attrs.entry("push".into()).or_insert_with(|| "true".into());
            Ok(Some(Export { kind: "image".into(), attrs, destination: Destination::Daemon }))
        }
        "docker" if !attrs.contains_key("dest") && !attrs.contains_key("tar") => loaded(attrs, around).map(Some),
        _ => parse_buildctl(flag, around).map(Some),
    }
}

/// The output of `--load`.
pub fn loaded(attrs: BTreeMap<String, String>, around: &Surroundings<'_>) -> Result<Export> {
    let loader = (around.find_loader)().ok_or_else(|| {
        CliError::Usage(
            "there is no docker, podman, nerdctl or ctr to load the image into; write it to a file with \
             --output type=docker,dest=FILE, or leave --load out to keep it in the builder's store"
                .into(),
        )
    })?;
    Ok(Export { kind: "docker".into(), attrs, destination: Destination::Loader(loader) })
}

/// An image kept by the daemon.
pub fn kept(attrs: BTreeMap<String, String>) -> Export {
    Export { kind: "image".into(), attrs, destination: Destination::Daemon }
}

fn attributes(flag: &str) -> Result<(String, BTreeMap<String, String>)> {
    let pairs = csv::attributes(flag).map_err(|error| CliError::Usage(format!("--output {flag}: {error}")))?;
    let mut attrs: BTreeMap<_, _> = pairs.into_iter().collect();
    let kind = attrs.remove("type").unwrap_or_default();
    Ok((kind, attrs))
}

fn destination(
    kind: &str,
    dest: &str,
    attrs: &BTreeMap<String, String>,
    around: &Surroundings<'_>,
) -> Result<Destination, String> {
    let as_tar = attrs.get("tar").is_none_or(|tar| parse_go_bool(tar).unwrap_or(true));
    match kind {
        "local" if dest.is_empty() => Err("output directory is required for local exporter".into()),
        "local" => {
            let delete = match attrs.get("mode").map_or("", String::as_str) {
                "" | "copy" => false,
                "delete" => true,
                other => return Err(format!("unsupported mode {other:?} of local exporter, expected copy or delete")),
            };
            Ok(Destination::Directory { path: dest.into(), delete })
        }
        "oci" | "docker" if !as_tar && dest.is_empty() => {
            Err(format!("output directory is required for {kind} exporter"))
        }
        "oci" | "docker" if !as_tar => Ok(Destination::Layout(dest.into())),
        "tar" | "oci" | "docker" if dest.is_empty() || dest == "-" => {
            if around.stdout_is_terminal {
                return Err(format!("output file is required for {kind} exporter. refusing to write to console"));
            }
            Ok(Destination::Stdout)
        }
        "tar" | "oci" | "docker" => {
            let path = Path::new(dest);
            if path.is_dir() {
                return Err("destination file is a directory".into());
            }
            let parent = path.parent().filter(|dir| !dir.as_os_str().is_empty());
            match parent.map(Path::metadata) {
                Some(Err(error)) => Err(format!("invalid destination file: {dest}: {error}")),
                Some(Ok(metadata)) if !metadata.is_dir() => Err(format!("invalid destination file: {dest}")),
                _ => Ok(Destination::File(path.into())),
            }
        }
        _ if !dest.is_empty() => Err(format!("output {dest} is not supported by {kind} exporter")),
        _ => Ok(Destination::Daemon),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(terminal: bool) -> Surroundings<'static> {
        Surroundings { stdout_is_terminal: terminal, find_loader: &|| Some(vec!["docker".into(), "load".into()]) }
    }

    fn shown(result: Result<Option<Export>>) -> String {
        match result {
            Ok(None) => "nothing".into(),
            Ok(Some(export)) => {
                let attrs: Vec<_> = export.attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} [{}] {:?}", export.kind, attrs.join(" "), export.destination)
            }
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn buildctl_rules() {
        let read = |flag: &str| shown(parse_buildctl(flag, &around(false)).map(Some));
        for (flag, expected) in [
            ("type=image,name=a,push=true", "image [name=a push=true] Daemon"),
            ("type=image,\"name=a,b\"", "image [name=a,b] Daemon"),
            ("type=oci,dest=/tmp/x.tar", "oci [] File(\"/tmp/x.tar\")"),
            ("type=oci,dest=-", "oci [] Stdout"),
            ("type=docker", "docker [] Stdout"),
            ("type=oci,tar=false,dest=/tmp/d", "oci [tar=false] Layout(\"/tmp/d\")"),
            ("type=oci,tar=false", "! invalid output option: output: output directory is required for oci exporter"),
            ("type=local,dest=d", "local [] Directory { path: \"d\", delete: false }"),
            ("type=local,dest=d,mode=delete", "local [mode=delete] Directory { path: \"d\", delete: true }"),
            ("type=local", "! invalid output option: output: output directory is required for local exporter"),
            ("type=tar,dest=/tmp", "! invalid output option: output: destination file is a directory"),
            ("type=image,dest=x", "! invalid output option: output: output x is not supported by image exporter"),
            ("type=local,output=x", "! output=x not supported for --output, you meant dest=x?"),
            ("name=a", "! --output requires type=<type>"),
            ("type=oci,x", "! --output type=oci,x: invalid value x, expected key=value"),
        ] {
            assert_eq!(read(flag), expected, "{flag}");
        }
        let refused = shown(parse_buildctl("type=oci", &around(true)).map(Some));
        assert!(refused.ends_with("output file is required for oci exporter. refusing to write to console"));
    }

    #[test]
    fn docker_rules() {
        let read = |flag: &str| shown(parse_docker(flag, &around(false)));
        for (flag, expected) in [
            ("out", "local [] Directory { path: \"out\", delete: false }"),
            (".", "local [] Directory { path: \".\", delete: false }"),
            ("-", "tar [] Stdout"),
            ("type=registry,name=a", "image [name=a push=true] Daemon"),
            ("type=docker,name=a", "docker [name=a] Loader([\"docker\", \"load\"])"),
            ("type=docker,dest=-", "docker [] Stdout"),
            ("type=cacheonly", "nothing"),
            ("type=image,name=a", "image [name=a] Daemon"),
        ] {
            assert_eq!(read(flag), expected, "{flag}");
        }
        assert!(shown(parse_docker("-", &around(true))).contains("refusing to write to console"));
    }
}
