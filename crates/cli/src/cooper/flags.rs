//! Flags that become options of the frontend, one for one.

use std::collections::BTreeMap;

use clap::Args;
use cooper_oci::Platform;

use crate::client::pairs::{Env, build_args};
use crate::csv;
use crate::error::{CliError, Result};

/// The flags.
#[derive(Debug, Default, Args)]
pub struct FrontendFlags {
    /// Set build-time variables; without a value it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set metadata for an image
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Set target platforms (e.g. linux/amd64,linux/arm64, local)
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<String>,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Do not cache the specified stages
    #[arg(long, value_name = "STAGE")]
    no_cache_filter: Vec<String>,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pull: bool,
    /// Add a custom host-to-IP mapping: HOST:IP or HOST=IP
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Networking mode of RUN instructions: default, none or host
    #[arg(long, value_name = "MODE", default_value = "default", hide_default_value = true)]
    network: String,
    /// Size of /dev/shm, e.g. 64m
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Ulimit options, e.g. nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Parent cgroup of RUN instructions
    #[arg(long, value_name = "CGROUP")]
    cgroup_parent: Option<String>,
    /// Attestation parameters, e.g. type=sbom,generator=IMAGE
    #[arg(long, value_name = "SPEC")]
    attest: Vec<String>,
    /// Shorthand for --attest=type=provenance: true, false, mode=max, …
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    provenance: Option<String>,
    /// Shorthand for --attest=type=sbom: true, false, generator=IMAGE
    #[arg(long, value_name = "SPEC", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
}

impl FrontendFlags {
    /// RUN instructions share the host's network, which needs an entitlement.
    pub fn uses_host_network(&self) -> bool {
        self.network == "host"
    }
}

/// Options of the frontend, by name.
pub fn frontend_attrs(flags: &FrontendFlags, env: Env<'_>) -> Result<BTreeMap<String, String>> {
    let mut attrs = build_args(&flags.build_arg, env)?;
    let mut put = |key: &str, value: String| drop(attrs.insert(key.to_owned(), value));
    if let Some(target) = flags.target.as_ref().filter(|target| !target.is_empty()) {
        put("target", target.clone());
    }
    for label in &flags.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        put(&format!("label:{key}"), value.to_owned());
    }
    if !flags.platform.is_empty() {
        put("platform", platforms(&flags.platform)?);
    }
    if flags.no_cache {
        put("no-cache", String::new());
    } else if !flags.no_cache_filter.is_empty() {
        put("no-cache", flags.no_cache_filter.join(","));
    }
    if flags.pull {
        put("image-resolve-mode", "pull".into());
    }
    if !flags.add_host.is_empty() {
        put("add-hosts", hosts(&flags.add_host)?);
    }
    match flags.network.as_str() {
        "" | "default" => {}
        "none" | "host" => put("force-network-mode", flags.network.clone()),
        other => {
            return Err(CliError::Usage(format!(
                "network mode {other:?} not supported, expected default, none or host"
            )));
        }
    }
    if let Some(size) = &flags.shm_size {
        match size.parse() {
            Ok(cooper_daemon::config::DiskSpace::Bytes(bytes)) => put("shm-size", bytes.to_string()),
            _ => return Err(CliError::Usage(format!("invalid --shm-size {size:?}, expected e.g. 64m"))),
        }
    }
    if !flags.ulimit.is_empty() {
        put("ulimit", ulimits(&flags.ulimit)?);
    }
    if let Some(parent) = &flags.cgroup_parent {
        put("cgroup-parent", parent.clone());
    }
    for (kind, parameters) in attestations(flags)? {
        put(&format!("attest:{kind}"), parameters);
    }
    Ok(attrs)
}

fn platforms(flags: &[String]) -> Result<String> {
    let names = flags.iter().flat_map(|flag| flag.split(',')).map(str::trim).filter(|name| !name.is_empty());
    let names = names.map(|name| match name {
        "local" => Ok(Platform::host().to_string()),
        name => {
            name.parse::<Platform>().map_err(|error| CliError::Usage(format!("--platform: {error}")))?;
            Ok(name.to_owned())
        }
    });
    Ok(names.collect::<Result<Vec<_>>>()?.join(","))
}

/// `HOST:IP` and `HOST=IP`, the address perhaps in brackets.
fn hosts(flags: &[String]) -> Result<String> {
    let entries = flags.iter().map(|flag| {
        let (host, ip) = flag.split_once('=').or_else(|| flag.split_once(':')).unwrap_or((flag, ""));
        let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
        if host.is_empty() || ip.is_empty() {
            return Err(CliError::Usage(format!("bad format for add-host: {flag:?}, expected HOST:IP")));
        }
        if ip != "host-gateway" && ip.parse::<std::net::IpAddr>().is_err() {
            return Err(CliError::Usage(format!("invalid IP address in add-host: {ip:?}")));
        }
        Ok(format!("{host}={ip}"))
    });
    Ok(entries.collect::<Result<Vec<_>>>()?.join(","))
}

fn ulimits(flags: &[String]) -> Result<String> {
    for flag in flags {
        let valid = flag.split_once('=').is_some_and(|(name, limits)| {
            !name.is_empty() && limits.splitn(2, ':').all(|limit| limit.parse::<i64>().is_ok())
        });
        if !valid {
            return Err(CliError::Usage(format!("invalid ulimit argument: {flag}, expected NAME=SOFT[:HARD]")));
        }
    }
    Ok(flags.join(","))
}

/// Kind and parameters of every attestation that is wanted; the shorthands win over `--attest`.
fn attestations(flags: &FrontendFlags) -> Result<BTreeMap<String, String>> {
    let mut wanted = BTreeMap::new();
    for flag in &flags.attest {
        let fields = csv::fields(flag).map_err(|error| CliError::Usage(format!("--attest {flag}: {error}")))?;
        let (mut kind, mut parameters, mut disabled) = (None, Vec::new(), false);
        for field in fields {
            match field.split_once('=') {
                Some(("type", value)) => kind = Some(value.to_owned()),
                Some(("disabled", value)) => disabled = value == "true",
                _ => parameters.push(field),
            }
        }
        let kind = kind.ok_or_else(|| CliError::Usage(format!("--attest {flag}: attestation type not specified")))?;
        if disabled {
            wanted.remove(&kind);
        } else {
            wanted.insert(kind, joined(&parameters));
        }
    }
    for (kind, flag) in [("provenance", &flags.provenance), ("sbom", &flags.sbom)] {
        let Some(text) = flag else { continue };
        match cooper_daemon::config::parse_go_bool(text) {
            Ok(true) => drop(wanted.entry(kind.into()).or_default()),
            Ok(false) => drop(wanted.remove(kind)),
            Err(_) if kind == "provenance" && matches!(text.as_str(), "min" | "max") => {
                wanted.insert(kind.into(), format!("mode={text}"));
            }
            Err(_) => drop(wanted.insert(kind.into(), text.clone())),
        }
    }
    Ok(wanted)
}

/// Back to one csv line; fields with a comma or a quote are quoted.
fn joined(fields: &[String]) -> String {
    let quoted = fields.iter().map(|field| {
        if field.contains([',', '"']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field.clone() }
    });
    quoted.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: FrontendFlags,
    }

    fn attrs(line: &str) -> String {
        let flags = Line::parse_from(std::iter::once("x").chain(line.split_whitespace())).flags;
        let env = |name: &str| (name == "SET").then(|| "env".to_owned());
        match frontend_attrs(&flags, &env) {
            Ok(attrs) => attrs.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" "),
            Err(error) => format!("! {error}"),
        }
    }

    #[test]
    fn flags_become_options() {
        for (line, expected) in [
            ("", ""),
            ("--build-arg A=1 --build-arg SET --build-arg UNSET", "build-arg:A=1 build-arg:SET=env"),
            ("--target t --label a=b --label c", "label:a=b label:c= target=t"),
            (
                "--platform linux/amd64,linux/arm64 --platform linux/arm/v7",
                "platform=linux/amd64,linux/arm64,linux/arm/v7",
            ),
            ("--no-cache --no-cache-filter a", "no-cache="),
            ("--no-cache-filter a --no-cache-filter b", "no-cache=a,b"),
            ("--pull --network host", "force-network-mode=host image-resolve-mode=pull"),
            ("--network bridge", "! network mode \"bridge\" not supported, expected default, none or host"),
            ("--add-host a:1.2.3.4 --add-host b=[::1]", "add-hosts=a=1.2.3.4,b=::1"),
            ("--add-host a", "! bad format for add-host: \"a\", expected HOST:IP"),
            ("--shm-size 64m --cgroup-parent p", "cgroup-parent=p shm-size=67108864"),
            ("--ulimit nofile=1:2 --ulimit core=0", "ulimit=nofile=1:2,core=0"),
            ("--ulimit nofile", "! invalid ulimit argument: nofile, expected NAME=SOFT[:HARD]"),
            ("--provenance=mode=max --sbom", "attest:provenance=mode=max attest:sbom="),
            ("--provenance=max", "attest:provenance=mode=max"),
            ("--attest type=sbom,generator=a,x=1 --provenance=false", "attest:sbom=generator=a,x=1"),
            ("--attest type=sbom --sbom=false", ""),
            ("--attest generator=a", "! --attest generator=a: attestation type not specified"),
        ] {
            assert_eq!(attrs(line), expected, "{line}");
        }
    }
}
