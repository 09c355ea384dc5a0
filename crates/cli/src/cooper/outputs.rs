//! `-t`, `-o`, `--push`, `--load`, `--annotation`: what becomes of the result.

use std::collections::BTreeMap;

use clap::Args;
use cooper_oci::ImageRef;

use crate::client::output::{Export, Surroundings, kept, loaded, parse_docker};
use crate::error::{CliError, Result};

/// The flags.
#[derive(Debug, Default, Args)]
pub struct OutputFlags {
    /// Name and optionally a tag (format: name:tag)
    #[arg(short, long, value_name = "NAME")]
    tag: Vec<String>,
    /// Output destination: type=image|oci|docker|tar|local,dest=PATH,…; a directory; or `-` for a tar on
    /// standard output (default: the image stays in the builder's store)
    #[arg(short, long, value_name = "SPEC")]
    output: Vec<String>,
    /// Push the image to its registry
    #[arg(long)]
    push: bool,
    /// Load the image into docker, podman, nerdctl or containerd; docker, podman and containerd are not sent layers that they have
    #[arg(long)]
    load: bool,
    /// Add an annotation to the image: [index|manifest|…[PLATFORM]:]KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
}

/// The exports, in the order in which they were asked for.
pub fn exports(flags: &OutputFlags, around: &Surroundings<'_>) -> Result<Vec<Export>> {
    for tag in &flags.tag {
        tag.parse::<ImageRef>().map_err(|error| CliError::Usage(format!("invalid tag {tag:?}: {error}")))?;
    }
    let mut exports = Vec::new();
    for flag in &flags.output {
        exports.extend(parse_docker(flag, around)?);
    }
    if flags.push && !exports.iter().any(|export| export.kind == "image") {
        exports.push(kept(BTreeMap::new()));
    }
    if flags.load {
        exports.push(loaded(BTreeMap::new(), around)?);
    }
    if exports.is_empty() && flags.output.is_empty() {
        exports.push(kept(BTreeMap::new()));
    }
    let names = flags.tag.join(",");
    let annotations = annotations(&flags.annotation)?;
    for export in exports.iter_mut().filter(|export| matches!(export.kind.as_str(), "image" | "oci" | "docker")) {
        if !names.is_empty() {
            export.attrs.entry("name".into()).or_insert_with(|| names.clone());
        }
        export.attrs.extend(annotations.clone());
        if export.kind == "image" && flags.push {
            export.attrs.insert("push".into(), "true".into());
            if !export.attrs.contains_key("name") {
                return Err(CliError::Usage("tag is needed when pushing to registry: give a name with -t".into()));
            }
        }
    }
    Ok(exports)
}

const TARGETS: [&str; 4] = ["manifest", "index", "manifest-descriptor", "index-descriptor"];

/// `[TARGET[PLATFORM][,TARGET…]:]KEY=VALUE` as attributes of an image export.
fn annotations(flags: &[String]) -> Result<BTreeMap<String, String>> {
    let mut attrs = BTreeMap::new();
    for flag in flags {
        let fault = |what: &str| CliError::Usage(format!("invalid annotation {flag:?}: {what}"));
        let (name, value) = flag.split_once('=').ok_or_else(|| fault("expected KEY=VALUE"))?;
        let target_of = |word: &str| TARGETS.contains(&word.split('[').next().unwrap_or_default());
        match name.split_once(':').filter(|(targets, _)| targets.split(',').all(target_of)) {
            None => drop(attrs.insert(format!("annotation.{name}"), value.to_owned())),
            Some((_, "")) => return Err(fault("expected a key after the target")),
            Some((targets, key)) => {
                for target in targets.split(',') {
                    attrs.insert(format!("annotation-{target}.{key}"), value.to_owned());
                }
            }
        }
    }
    Ok(attrs)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: OutputFlags,
    }

    fn shown(line: &str) -> String {
        let flags = Line::parse_from(std::iter::once("x").chain(line.split_whitespace())).flags;
        let around =
            Surroundings { stdout_is_terminal: false, find_loader: &|| Some(vec!["docker".into(), "load".into()]) };
        match exports(&flags, &around) {
            Err(error) => format!("! {error}"),
            Ok(exports) => {
                let one = |export: Export| {
                    let attrs: Vec<_> = export.attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    format!("{} [{}] {:?}", export.kind, attrs.join(" "), export.destination)
                };
                exports.into_iter().map(one).collect::<Vec<_>>().join("; ")
            }
        }
    }

    #[test]
    fn flags_become_exports() {
        for (line, expected) in [
            ("", "image [] Daemon"),
            ("-t a -t b:1", "image [name=a,b:1] Daemon"),
            ("-t a --push", "image [name=a push=true] Daemon"),
            ("--push", "! tag is needed when pushing to registry: give a name with -t"),
            ("-t a --load", "docker [name=a] Loader([\"docker\", \"load\"])"),
            ("-t a -o type=oci,dest=/tmp/x.tar", "oci [name=a] File(\"/tmp/x.tar\")"),
            ("-t a -o type=oci,name=b,dest=- --push", "oci [name=b] Stdout; image [name=a push=true] Daemon"),
            ("-o out -t a", "local [] Directory { path: \"out\", delete: false }"),
            ("-o type=cacheonly", ""),
            ("-o -", "tar [] Stdout"),
            ("--annotation k=v", "image [annotation.k=v] Daemon"),
            (
                "--annotation index,manifest[linux/amd64]:k=v",
                "image [annotation-index.k=v annotation-manifest[linux/amd64].k=v] Daemon",
            ),
            ("--annotation a:b=c", "image [annotation.a:b=c] Daemon"),
            ("--annotation a", "! invalid annotation \"a\": expected KEY=VALUE"),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
        assert!(shown("-t UPPER").starts_with("! invalid tag \"UPPER\""));
    }
}
