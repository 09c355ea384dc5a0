use std::path::Path;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use super::flags::go_booleans;
use super::*;

#[derive(Debug, Parser)]
struct Program {
    #[command(flatten)]
    flags: DaemonFlags,
}

fn read(text: &str) -> Loaded {
    parse(text, Path::new("buildkitd.toml")).unwrap()
}

fn with_flags(toml: &str, arguments: &[&str]) -> Result<Loaded, String> {
    let matches = go_booleans(Program::command())
        .try_get_matches_from(std::iter::once(&"buildkitd").chain(arguments))
        .map_err(|error| error.to_string())?;
    let flags = Program::from_arg_matches(&matches).unwrap().flags;
    let mut loaded = read(toml);
    flags::apply(&flags, &mut loaded).map_err(|error| error.to_string())?;
    loaded.config.complete(&Defaults::new(false, |_| None)).map_err(|error| error.to_string())?;
    Ok(loaded)
}

/// Every key of the file format, each with a value unlike its default.
const EVERY_KEY: &str = r#"
debug = true
root = "/state"
insecure-entitlements = ["network.host"]
proxyNetwork = true
provenanceEnvDir = "/prov"
[log]
format = "json"
level = "warn"
[grpc]
address = ["tcp://0.0.0.0:1234"]
debugAddress = "0.0.0.0:6060"
uid = 7
gid = 8
securityDescriptor = "x"
[grpc.tls]
cert = "c"
key = "k"
ca = "a"
[otel]
socketPath = "/otel.sock"
[cdi]
disabled = true
specDirs = ["/cdi"]
autoAllowed = ["v/c=d"]
[worker.oci]
enabled = true
labels = { a = "b" }
platforms = ["linux/arm64"]
snapshotter = "native"
rootless = true
noProcessSandbox = true
userRemapUnsupported = ""
binary = "crun"
proxySnapshotterPath = "/p"
defaultCgroupParent = "cg"
apparmor-profile = "aa"
selinux = true
max-parallelism = 4
networkMode = "host"
cniConfigPath = "/cni.json"
cniBinaryPath = "/cni"
cniPoolSize = 16
bridgeName = "b0"
bridgeSubnet = "10.0.0.0/8"
gc = true
gckeepstorage = 9000
reservedSpace = "30%"
maxUsedSpace = "60%"
minFreeSpace = "20GB"
[worker.oci.stargzSnapshotter]
no_prometheus = true
[[worker.oci.gcpolicy]]
all = true
filters = ["type==regular"]
keepDuration = "48h"
keepBytes = 1
reservedSpace = "10GB"
maxUsedSpace = 2
minFreeSpace = 3
[worker.containerd]
enabled = false
[worker.containerd.runtime]
name = "r"
path = "/r"
options = { x = 1 }
[registry."docker.io"]
mirrors = ["mirror:5000/path"]
http = true
insecure = true
ca = ["/ca"]
tlsconfigdir = ["/certs"]
[[registry."docker.io".keypair]]
key = "/key"
cert = "/cert"
[dns]
nameservers = ["1.1.1.1"]
options = ["edns0"]
searchDomains = ["example.com"]
[history]
maxAge = 172800
maxEntries = 50
[frontend."dockerfile.v0"]
enabled = false
[frontend."gateway.v0"]
enabled = true
allowedRepositories = ["docker/dockerfile"]
[system]
platformsCacheMaxAge = "1h"
maxRegistryConcurrency = 8
[cache.gha.sign]
command = ["sign"]
[cache.gha.verify]
required = true
trustedRoot = "/trusted_root.json"
[cache.gha.verify.policy]
timestampThreshold = 1
"#;

#[test]
fn every_key_is_known_and_kept() {
    let Loaded { config, warnings } = read(EVERY_KEY);
    assert_eq!(warnings, ["'debug' is deprecated, use 'log.level = \"debug\"'"]);
    insta::assert_debug_snapshot!(config);
}

#[test]
fn unknown_keys_name_their_neighbour() {
    let loaded = read(
        "rooot = \"/x\"\n[worker.oci]\nmax-paralelism = 3\nGC = false\n[worker.oci.network]\nx = 1\n\
         [registry.\"a.b\"]\nmirror = [\"m\"]\n[[worker.oci.gcpolicy]]\nkeepDurations = 1\n",
    );
    assert_eq!(loaded.config.worker.oci.gc.gc, Some(false), "keys match without regard to case");
    insta::assert_snapshot!(loaded.warnings.join("\n"), @r#"
    buildkitd.toml: unknown key registry."a.b".mirror, did you mean mirrors?
    buildkitd.toml: unknown key rooot, did you mean root?
    buildkitd.toml: unknown key worker.oci.gcpolicy.keepDurations, did you mean keepDuration?
    buildkitd.toml: unknown key worker.oci.max-paralelism, did you mean max-parallelism?
    buildkitd.toml: unknown key worker.oci.network
    "#);
}

#[test]
fn the_stand_in_for_frontend_images_is_a_key_too() {
    let loaded = read("[frontend.\"dockerfile.v0\"]\nstandIn = false\n");
    assert_eq!((loaded.config.frontend.dockerfile.stand_in, loaded.warnings.len()), (Some(false), 0));
}

#[test]
fn faults_of_the_file_say_where() {
    let fault = |text| parse(text, Path::new("b.toml")).unwrap_err().to_string();
    insta::assert_snapshot!(fault("root = \n"), @r"
    configuration file b.toml: TOML parse error at line 1, column 8
      |
    1 | root = 
      |        ^
    string values must be quoted, expected literal string
    ");
    insta::assert_snapshot!(fault("[history]\nmaxAge = \"soon\"\n"), @r#"
    configuration file b.toml: TOML parse error at line 2, column 10
      |
    2 | maxAge = "soon"
      |          ^^^^^^
    invalid duration "soon", expected e.g. 48h, 1h30m or 250ms
    "#);
    assert!(load(Path::new("/nonexistent/buildkitd.toml")).unwrap().warnings.is_empty(), "no file is an empty file");
}

#[test]
fn flags_override_the_file() {
    // Less what is refused.
    let refused = ["apparmor-profile = \"aa\"\n", "command = [\"sign\"]\n", "required = true\n"];
    let every_key = refused.iter().fold(EVERY_KEY.to_owned(), |text, line| text.replace(line, ""));
    let loaded = with_flags(
        &every_key,
        &[
            "--root=/other",
            "--addr",
            "unix:///a",
            "--addr=tcp://b:1",
            "--log-level=error",
            "--oci-worker=auto",
            "--oci-worker-gc=false",
            "--oci-worker-labels=x=y=z",
            "--oci-worker-selinux=0",
            "--oci-worker-gc-keepstorage=1,2",
            "--containerd-worker=false",
            "--group=42",
            "--allow-insecure-entitlement",
            "security.insecure",
            "--rootless=false",
            "--debug",
        ],
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.root.as_deref(), Some(Path::new("/other")));
    assert_eq!(config.grpc.address, ["unix:///a", "tcp://b:1"]);
    assert_eq!(config.log.level, "error", "--log-level beats --debug");
    assert_eq!(config.grpc.gid, Some(42));
    assert_eq!(config.entitlements, ["security.insecure"]);
    let oci = config.worker.oci;
    assert_eq!((oci.enabled, oci.gc.gc, oci.selinux, oci.rootless), (None, Some(false), false, false));
    assert_eq!(oci.labels["x"], "y=z");
    assert_eq!(
        [oci.gc.reserved_space, oci.gc.min_free_space, oci.gc.max_used_space],
        [DiskSpace::Bytes(1_000_000), DiskSpace::Bytes(2_000_000), DiskSpace::Unset]
    );
}

#[test]
fn refusals() {
    for (toml, arguments, expected) in [
        ("", &["--oci-worker=perhaps"][..], "invalid value \"perhaps\", expected true, false or auto"),
        ("", &["--containerd-worker=true"], "the containerd worker does not exist here"),
        ("[worker.containerd]\nenabled = true", &[], "the containerd worker does not exist here"),
        ("", &["--oci-worker=false"], "no worker is left"),
        ("", &["--oci-worker-gc=maybe"], "invalid boolean \"maybe\""),
        ("", &["--no-such-flag"], "unexpected argument '--no-such-flag'"),
        ("", &["--log-format=xml"], "unsupported log type \"xml\""),
        ("", &["--allow-insecure-entitlement=all"], "invalid entitlement : all"),
        ("", &["--group=no-such-group"], "unknown group no-such-group"),
        ("[system]\nmaxRegistryConcurrency = 0", &[], "must be greater than zero"),
        ("", &["--oci-worker-selinux"], "steps cannot be labelled for SELinux"),
        ("[cache.gha.verify]\nrequired = true", &[], "needs the path of a sigstore trusted_root.json"),
        ("[cache.gha.verify.policy]\nsigner = \"s\"", &[], "certificates have no such field"),
    ] {
        let error = with_flags(toml, arguments).unwrap_err();
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn durations_and_sizes() {
    for (text, expected) in [
        ("48h", Some(Duration::from_secs(48 * 3600))),
        ("1h2m3.5s", Some(Duration::from_millis(3_723_500))),
        ("250ms", Some(Duration::from_millis(250))),
        ("60", Some(Duration::from_secs(60))),
        ("", Some(Duration::ZERO)),
        ("5 minutes", None),
        ("-1h", None),
    ] {
        assert_eq!(text.parse::<GoDuration>().ok().map(|d| d.0), expected, "{text}");
    }
    for (text, expected) in [
        ("512MB", Some(DiskSpace::Bytes(512 << 20))),
        ("1.5g", Some(DiskSpace::Bytes(3 << 29))),
        ("10 GiB", Some(DiskSpace::Bytes(10 << 30))),
        ("1024", Some(DiskSpace::Bytes(1024))),
        ("30%", Some(DiskSpace::Percent(30))),
        ("", Some(DiskSpace::Unset)),
        ("lots", None),
    ] {
        assert_eq!(text.parse::<DiskSpace>().ok(), expected, "{text}");
    }
}

#[test]
fn default_gc_policies_follow_the_disk() {
    let show = |config: &GcConfig, total| {
        gc_policies(config, DiskStat { total })
            .iter()
            .map(|p| {
                format!(
                    "{}h reserved={} max={} free={}{}{}\n",
                    p.keep_duration.as_secs() / 3600,
                    p.reserved_space,
                    p.max_used_space,
                    p.min_free_space,
                    if p.all { " all" } else { "" },
                    if p.filters.is_empty() { String::new() } else { format!(" {}", p.filters.join(" ")) }
                )
            })
            .collect::<Vec<_>>()
            .concat()
    };
    insta::assert_snapshot!(show(&GcConfig::default(), 1 << 40), @r"
    48h reserved=0 max=512000000 free=0 type==source.local type==exec.cachemount type==source.git.checkout
    1440h reserved=10000000000 max=100000000000 free=205000000000
    0h reserved=10000000000 max=100000000000 free=205000000000
    0h reserved=10000000000 max=100000000000 free=205000000000 all
    ");
    insta::assert_snapshot!(show(&GcConfig::default(), 50 << 30), @r"
    48h reserved=0 max=512000000 free=0 type==source.local type==exec.cachemount type==source.git.checkout
    1440h reserved=6000000000 max=41000000000 free=11000000000
    0h reserved=6000000000 max=41000000000 free=11000000000
    0h reserved=6000000000 max=41000000000 free=11000000000 all
    ");
    let legacy = GcConfig { keep_storage: DiskSpace::Bytes(5), ..GcConfig::default() };
    assert_eq!(gc_policies(&legacy, DiskStat::default())[3].reserved_space, 5);
    assert!(gc_policies(&GcConfig { gc: Some(false), ..GcConfig::default() }, DiskStat::default()).is_empty());
}

#[test]
fn default_places() {
    let user = |name: &str| {
        Some(match name {
            "HOME" => "/home/u".to_owned(),
            "XDG_RUNTIME_DIR" => "/run/user/1:/else".to_owned(),
            _ => return None,
        })
    };
    let defaults = Defaults::new(true, user);
    assert_eq!(defaults.root, Path::new("/home/u/.local/share/buildkit"));
    assert_eq!(defaults.address, "unix:///run/user/1/buildkit/buildkitd.sock");
    assert_eq!(defaults.config_file(), Path::new("/home/u/.config/buildkit/buildkitd.toml"));
    assert_eq!(Defaults::new(false, user).root, Path::new("/var/lib/buildkit"));
}
