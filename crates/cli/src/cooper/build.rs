//! `cooper build`: `docker build`'s flags on the protocol.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use clap::Args;
use cooper_registry::HostsConfig;
use cooper_wire::control::VertexWarning;

use super::flags::{FrontendFlags, frontend_attrs};
use super::lint;
use super::outputs::{OutputFlags, exports};
use super::{EmbeddedFlags, GlobalFlags, context, dockerfile_url, named_context};
use crate::client::build::{self, Build, Outcome};
use crate::client::interrupt::Interrupt;
use crate::client::output::{Destination, surroundings};
use crate::client::pairs::{self, process_env};
use crate::client::{cache, loaded_layers, metadata, pulled, random_id, secret, ssh};
use crate::error::{CliError, Result, print};
use crate::progress::{Mode, Progress, Stream};

/// Flags.
#[derive(Debug, Args)]
pub struct BuildFlags {
    /// Build context: a directory, a Git or HTTP(S) URL, or `-` for a tar or a Dockerfile on standard input
    #[arg(value_name = "PATH | URL | -", default_value = ".")]
    context: String,
    #[command(flatten)]
    output: OutputFlags,
    #[command(flatten)]
    frontend: FrontendFlags,
    /// Name of the Dockerfile (default: PATH/Dockerfile), an HTTP(S) URL, or `-` for standard input
    #[arg(short, long, value_name = "FILE | URL | -")]
    file: Option<String>,
    /// Additional build contexts (e.g. name=path, name=docker-image://alpine)
    #[arg(long, value_name = "NAME=VALUE")]
    build_context: Vec<String>,
    /// Secret to expose to the build: id=NAME[,src=FILE|,env=VARIABLE]
    #[arg(long, value_name = "SPEC")]
    secret: Vec<String>,
    /// SSH agent socket or keys to expose to the build: default|ID[=SOCKET|KEY[,KEY]]
    #[arg(long, value_name = "SPEC")]
    ssh: Vec<String>,
    /// Allow extra privileged entitlement: network.host, security.insecure, device[=NAME]
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,
    /// External cache sources (e.g. user/app:cache, type=local,src=DIR)
    #[arg(long, value_name = "SPEC")]
    cache_from: Vec<String>,
    /// Cache export destinations (e.g. user/app:cache,mode=max, type=local,dest=DIR)
    #[arg(long, value_name = "SPEC")]
    cache_to: Vec<String>,
    /// Frontend to build with
    #[arg(long, value_name = "NAME", default_value = "dockerfile.v0", hide = true)]
    frontend_name: String,
    /// Type of progress output: auto, plain, tty, rawjson, quiet
    #[arg(long, value_name = "MODE", default_value = "auto", hide_default_value = true)]
    progress: String,
    /// Suppress the build output and print the image's digest on success
    #[arg(short, long)]
    quiet: bool,
    /// Write build result metadata to a file as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Write the image's digest to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Ask the Dockerfile instead of building it: check, outline, targets
    #[arg(long, value_name = "METHOD", default_value = "build", hide_default_value = true)]
    call: String,
    /// Shorthand for --call=check
    #[arg(long)]
    check: bool,
    /// Make the image as an earlier release of BuildKit did: 10 (v0.13), 20 (v0.15) or 30 (v0.31, what is done without)
    #[arg(long, value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
    compatibility_version: i64,
    /// What to do when a step fails: shell, to look into its file system on this terminal before the build ends
    #[arg(long, value_name = "ACTION")]
    on_error: Option<OnError>,
    /// Accepted and ignored: intermediate containers are always removed
    #[arg(long, hide = true)]
    rm: bool,
    /// Accepted and ignored
    #[arg(long, hide = true)]
    force_rm: bool,
    #[command(flatten)]
    engine: EmbeddedFlags,
}

/// What to do when a step fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    /// A shell in the file system of the step, as the step left it.
    Shell,
}

/// Runs it.
pub async fn run(global: &GlobalFlags, flags: BuildFlags) -> Result<()> {
    let mode = if flags.quiet { "quiet" } else { &flags.progress };
    let mode = Mode::parse(mode, process_env("BUILDKIT_PROGRESS").as_deref(), Stream::Stderr.is_terminal())
        .map_err(|error| CliError::Usage(error.to_string()))?;
    // A display that draws over itself and a shell cannot share a terminal.
    let mode = if flags.on_error.is_some() && matches!(mode, Mode::Tty) { Mode::Plain } else { mode };
    let file = match flags.file.as_deref() {
        None => context::File::Usual,
        Some(url) if dockerfile_url::is_url(url) => context::File::Text(dockerfile_url::download(url).await?),
        Some(name) => context::File::Named(name),
    };
    let (mut build, _context) = request(&flags, file)?;
    let kept = build.exports.iter().any(|export| export.destination == Destination::Daemon);
    let subrequest = build.subrequest;
    let plan = pulled::plan(&mut build).await;

    let engine = global.connect(&flags.engine, &build.entitlements).await?;
    // A builder in this process may know all that this user does; others need not see passwords.
    build.tokens = engine.is_remote().then(HostsConfig::default);
    let interrupt = Interrupt::install()?;
    let progress = Progress::start(mode, Stream::Stderr, Vec::new());
    let reference = build.ref_id.clone();
    let whole = plan.as_ref().map(|plan| plan.as_archive(&build));
    let mut built = build::run(engine.channel(), build, progress, interrupt).await;
    if let (Some(plan), Some(whole), Ok(outcome)) = (plan, whole, &mut built) {
        match plan.pull(engine.channel(), &mut outcome.response).await {
            Ok(told) if matches!(mode, Mode::Quiet | Mode::RawJson) => drop(told),
            Ok(told) => eprintln!("{told}"),
            Err(reason) => {
                eprintln!("podman cannot pull the image from here ({reason}): all of it is sent");
                let progress = Progress::start(mode, Stream::Stderr, Vec::new());
                built = build::run(engine.channel(), whole, progress, Interrupt::install()?).await;
            }
        }
    }
    let waiting = engine.cache_exports().iter().filter(|e| e.build == reference && e.ended.is_none()).count();
    if waiting > 0 {
        eprintln!("finishing {waiting} cache export(s): without a daemon nobody else would (async=true)");
    }
    let outcome = engine.finish(built).await?;
    for export in engine.cache_exports().iter().filter(|e| e.build == reference) {
        if let Some(error) = &export.error {
            eprintln!("WARNING: the export to {} failed: {error}", export.cache);
        }
    }

    if subrequest {
        return answer(&outcome);
    }
    if !matches!(mode, Mode::Quiet | Mode::RawJson) {
        tell_warnings(&outcome.warnings);
    }
    if let Some(path) = &flags.metadata_file {
        metadata::write_file(path, &metadata::document(&outcome.response))?;
    }
    let digest = metadata::image_id(&outcome.response);
    if let (Some(path), Some(digest)) = (&flags.iidfile, digest) {
        metadata::write_atomically(path, digest.as_bytes())?;
    }
    match digest {
        Some(digest) if flags.quiet => print(&format!("{digest}\n")),
        Some(digest) if kept && !matches!(mode, Mode::Quiet | Mode::RawJson) => {
            let names = outcome.response.get("image.name").map_or("", String::as_str);
            tell_image(names, digest);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn tell_image(names: &str, digest: &str) {
    let names = names.split(',').filter(|name| !name.is_empty());
    let mut named = false;
    for name in names {
        eprintln!("image {name}@{digest}");
        named = true;
    }
    if !named {
        eprintln!("image {digest} (no name; give it one with -t)");
    }
}

fn tell_warnings(warnings: &[VertexWarning]) {
    if warnings.is_empty() {
        return;
    }
    let (yellow, reset) = if std::io::stderr().is_terminal() && process_env("NO_COLOR").is_none_or(|v| v.is_empty()) {
        ("\x1b[33m", "\x1b[0m")
    } else {
        ("", "")
    };
    let plural = if warnings.len() == 1 { "" } else { "s" };
    eprintln!("\n{yellow}{} warning{plural} found:{reset}", warnings.len());
    for warning in warnings {
        eprintln!(" - {}", String::from_utf8_lossy(&warning.short));
    }
}

/// A subrequest's text, and its verdict as the exit code.
fn answer(outcome: &Outcome) -> Result<()> {
    let lint = outcome.metadata.contains_key("result.statuscode");
    let explained = outcome.metadata.get("result.json").filter(|_| lint).and_then(|json| lint::explain(json));
    match explained {
        Some(text) => print(&text)?,
        None => crate::buildctl::print_result(&outcome.metadata)?,
    }
    let status = outcome.metadata.get("result.statuscode").map(|code| String::from_utf8_lossy(code).into_owned());
    match status.as_deref().map(str::trim) {
        None | Some("" | "0") => Ok(()),
        Some(code) => Err(CliError::Exit(code.parse().unwrap_or(1))),
    }
}

fn request(flags: &BuildFlags, file: context::File<'_>) -> Result<(Build, context::Context)> {
    let mut attrs = frontend_attrs(&flags.frontend, &process_env)?;
    let mut entitlements = pairs::entitlements(&flags.allow)?;
    if flags.frontend.uses_host_network() && !entitlements.iter().any(|name| name == "network.host") {
        entitlements.push("network.host".into());
    }
    let method = if flags.check { "check" } else { &flags.call };
    let requestid = match method {
        "build" | "" => None,
        "check" | "lint" => Some("frontend.lint"),
        "outline" => Some("frontend.outline"),
        "targets" => Some("frontend.targets"),
        "subrequests.describe" => Some("frontend.subrequests.describe"),
        other => {
            return Err(CliError::Usage(format!(
                "unknown --call method {other:?}, expected build, check, outline, targets or subrequests.describe"
            )));
        }
    };
    if let Some(id) = requestid {
        attrs.insert("requestid".into(), id.into());
        attrs.insert("frontend.caps".into(), "moby.buildkit.frontend.subrequests".into());
    }
    let context = context::resolve(&flags.context, file, context::stdin())?;
    attrs.extend(context.attrs.clone());
    let mut locals = context.locals.clone();
    let named = named_context::resolve(&flags.build_context)?;
    attrs.extend(named.attrs);
    locals.extend(named.locals);

    let mut exports = if requestid.is_some() { Vec::new() } else { exports(&flags.output, &surroundings())? };
    loaded_layers::note(&mut exports);
    let build = Build {
        ref_id: random_id(),
        frontend: flags.frontend_name.clone(),
        attrs,
        exports,
        locals,
        layouts: named.layouts,
        cache_exports: cache::parse_exports(&flags.cache_to, "--cache-to", &process_env)?,
        cache_imports: cache::parse_imports(&flags.cache_from, "--cache-from", &process_env)?,
        secrets: secret::parse_all(&flags.secret, &process_env)?,
        ssh: ssh::parse_all(&flags.ssh)?,
        entitlements,
        upload: context.upload.clone(),
        shared_key: context.shared_key(),
        compatibility_version: flags.compatibility_version,
        subrequest: requestid.is_some(),
        shell: flags.on_error.is_some() && requestid.is_none(),
        ..Build::default()
    };
    Ok((build, context))
}
