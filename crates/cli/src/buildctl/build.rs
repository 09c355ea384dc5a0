//! `buildctl build`.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use cooper_llb::{OpDigest, pb};
use cooper_wire::sourcepolicy;
use tonic::transport::Channel;

use super::dump_llb::read_stdin;
use crate::client::build::{self, Build};
use crate::client::interrupt::Interrupt;
use crate::client::pairs::{self, process_env};
use crate::client::{cache, logins, metadata, output, random_id, secret, ssh};
use crate::error::{CliError, Result, print};
use crate::progress::observe::{CacheMetrics, trace_to};
use crate::progress::{Mode, Progress, Stream};

/// Flags.
#[derive(Debug, Args)]
pub struct BuildFlags {
    /// Define exports for build result, e.g. --output type=image,name=docker.io/username/image,push=true
    #[arg(short, long)]
    output: Vec<String>,
    /// Set type of progress (auto, plain, tty, rawjson, quiet). Use plain to show container output
    #[arg(long, default_value = "auto")]
    progress: String,
    /// Path to trace file. Defaults to no tracing.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Allow build access to the local directory: NAME=DIR
    #[arg(long)]
    local: Vec<String>,
    /// Allow build access to the local OCI layout: NAME=DIR
    #[arg(long)]
    oci_layout: Vec<String>,
    /// Define frontend used for build
    #[arg(long, default_value = "", hide_default_value = true)]
    frontend: String,
    /// Define custom options for frontend, e.g. --opt target=foo --opt build-arg:foo=bar
    #[arg(long)]
    opt: Vec<String>,
    /// Disable cache for all the vertices
    #[arg(long)]
    no_cache: bool,
    /// Export build cache, e.g. --export-cache type=registry,ref=example.com/foo/bar
    #[arg(long)]
    export_cache: Vec<String>,
    /// Import build cache, e.g. --import-cache type=registry,ref=example.com/foo/bar
    #[arg(long)]
    import_cache: Vec<String>,
    /// Secret value exposed to the build. Format id=secretname,src=filepath
    #[arg(long)]
    secret: Vec<String>,
    /// Allow extra privileged entitlement, e.g. network.host, security.insecure, device
    #[arg(long)]
    allow: Vec<String>,
    /// Allow forwarding SSH agent or a raw unix socket: default|ID[=SOCKET[,raw=false]|KEY[,KEY]]
    #[arg(long)]
    ssh: Vec<String>,
    /// Output build metadata (e.g., image digest) to a file as JSON
    #[arg(long)]
    metadata_file: Option<PathBuf>,
    /// Read source policy file from a JSON file
    #[arg(long)]
    source_policy_file: Option<PathBuf>,
    /// Run build with proxy network enforcement
    #[arg(long)]
    proxy_network: bool,
    /// Write build ref to a file
    #[arg(long)]
    ref_file: Option<PathBuf>,
    /// Overwrite TLS configuration when authenticating with registries:
    /// host=HOST,insecure=BOOL,ca=FILE,cert=FILE,key=FILE
    #[arg(long)]
    registry_auth_tlscontext: Vec<String>,
    /// Where to output json cache metrics: a file, 'stdout' or 'stderr'
    #[arg(long)]
    debug_json_cache_metrics: Option<String>,
}

/// Runs it.
pub async fn run(channel: Channel, flags: BuildFlags) -> Result<()> {
    let started = Instant::now();
    let build = request(&flags)?;
    let mode = Mode::parse(&flags.progress, process_env("BUILDKIT_PROGRESS").as_deref(), Stream::Stderr.is_terminal())
        .map_err(|error| CliError::Usage(error.to_string()))?;
    let mut observers = Vec::new();
    if let Some(path) = &flags.trace {
        observers.push(trace_to(open_trace(path)?));
    }
    let metrics = flags.debug_json_cache_metrics.clone().filter(|out| !out.is_empty());
    let recorder = CacheMetrics::default();
    if metrics.is_some() {
        observers.push(recorder.observer());
    }
    let (ref_id, interrupt) = (build.ref_id.clone(), Interrupt::install()?);
    let progress = Progress::start(mode, Stream::Stderr, observers);
    let result = build::run(channel, build, progress, interrupt).await;
    if let Some(path) = &flags.ref_file {
        metadata::write_atomically(path, ref_id.as_bytes())?;
    }
    let outcome = result?;
    if let Some(path) = &flags.metadata_file {
        metadata::write_file(path, &metadata::document(&outcome.response))?;
    }
    print_result(&outcome.metadata)?;
    metrics.map_or(Ok(()), |out| write_metrics(&out, &recorder.report(started.elapsed())))
}

/// What a subrequest answered.
pub fn print_result(metadata: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    if let Some(text) = metadata.get("result.txt") {
        return print(&String::from_utf8_lossy(text));
    }
    let mut results = metadata.iter().filter(|(key, _)| key.starts_with("result."));
    results.try_for_each(|(key, value)| print(&format!("{key}\n{}\n", String::from_utf8_lossy(value))))
}

fn request(flags: &BuildFlags) -> Result<Build> {
    let around = output::surroundings();
    let mut attrs = pairs::frontend_options(&flags.opt, &process_env)?;
    let definition = if flags.frontend.is_empty() {
        let mut definition = read_stdin("please specify --frontend or pipe LLB definition to stdin")?;
        if definition.def.is_empty() {
            return Err(CliError::Usage("empty definition sent to build. Specify --frontend instead?".into()));
        }
        if flags.no_cache {
            ignore_cache(&mut definition);
        }
        Some(definition)
    } else {
        if flags.no_cache {
            attrs.insert("no-cache".into(), String::new());
        }
        None
    };
    let subrequest = attrs.contains_key("requestid");
    if subrequest {
        attrs.entry("frontend.caps".into()).or_insert_with(|| "moby.buildkit.frontend.subrequests".into());
    }
    Ok(Build {
        ref_id: random_id(),
        frontend: flags.frontend.clone(),
        attrs,
        definition,
        exports: flags.output.iter().map(|flag| output::parse_buildctl(flag, &around)).collect::<Result<_>>()?,
        locals: pairs::locals(&flags.local)?,
        layouts: pairs::oci_layouts(&flags.oci_layout)?,
        cache_exports: cache::parse_exports(&flags.export_cache, "--export-cache", &process_env)?,
        cache_imports: cache::parse_imports(&flags.import_cache, "--import-cache", &process_env)?,
        secrets: secret::parse_all(&flags.secret, &process_env)?,
        ssh: ssh::parse_all(&flags.ssh)?,
        entitlements: pairs::entitlements(&flags.allow)?,
        source_policy: flags.source_policy_file.as_deref().map(read_policy).transpose()?,
        proxy_network: flags.proxy_network,
        subrequest,
        tokens: Some(logins::parse_tls_contexts(&flags.registry_auth_tlscontext)?),
        ..Build::default()
    })
}

fn ignore_cache(definition: &mut pb::Definition) {
    for raw in &definition.def {
        definition.metadata.entry(OpDigest::of(raw).to_string()).or_default().ignore_cache = true;
    }
}

/// A policy as Go's JSON has it: enumerations by number or name, members by their protobuf names.
fn read_policy(path: &Path) -> Result<sourcepolicy::Policy> {
    let text = std::fs::read(path).map_err(CliError::file("cannot read", path))?;
    crate::client::policy::parse(&text).map_err(|error| {
        CliError::Usage(format!("failed to unmarshal source-policy-file {:?}: {error}", path.display().to_string()))
    })
}

fn open_trace(path: &Path) -> Result<std::fs::File> {
    let options = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    options.map_err(CliError::file("cannot open trace file", path))
}

fn write_metrics(out: &str, text: &str) -> Result<()> {
    match out {
        "stdout" => print(text),
        "stderr" => {
            eprint!("{text}");
            Ok(())
        }
        path => {
            let mut file = std::fs::File::create(path).map_err(CliError::file("cannot create", path))?;
            file.write_all(text.as_bytes()).map_err(CliError::file("cannot write", path))
        }
    }
}
