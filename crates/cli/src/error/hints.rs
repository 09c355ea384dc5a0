//! What to try next. One table: what a message must contain, and the advice.

use super::CliError;

/// All of the words must occur in the message, in whatever case.
const ADVICE: &[(&[&str], &str)] = &[
    (
        &["did not complete successfully", "exit code: 127"],
        "the command was not found in the image; check its spelling, PATH, and that the base image contains it",
    ),
    (
        &["did not complete successfully", "exit code: 126"],
        "the command exists but cannot be executed; check its mode and its interpreter",
    ),
    (
        &["did not complete successfully", "exit code: 137"],
        "the step was killed, most often for lack of memory; give it more or run fewer steps at once",
    ),
    (
        &["exec format error"],
        "the program is for another CPU; build with --platform, or install QEMU's binfmt handlers",
    ),
    (
        &["failed to calculate checksum", "not found"],
        "check the path relative to the build context, and whether .dockerignore excludes it",
    ),
    (
        &["failed to compute cache key", "not found"],
        "check the path relative to the build context, and whether .dockerignore excludes it",
    ),
    (&["failed to read dockerfile"], "name the Dockerfile with -f, relative to the current directory"),
    (&["secret", "not found"], "pass it with --secret id=NAME,src=FILE or --secret id=NAME,env=VARIABLE"),
    (&["no ssh handler"], "forward an agent with --ssh default, or a key with --ssh default=PATH"),
    (&["no ssh key"], "forward an agent with --ssh default, or a key with --ssh default=PATH"),
    (&["unset ssh forward key"], "forward an agent with --ssh default, or a key with --ssh default=PATH"),
    (
        &["granting entitlement"],
        "allow it on the daemon: --allow-insecure-entitlement, or insecure-entitlements in its configuration",
    ),
    (
        &["is not allowed", "entitlement"],
        "request it with --allow network.host, --allow security.insecure or --allow device",
    ),
    (
        &["requested by the build but not allowed"],
        "allow it with --allow device=NAME (VENDOR/CLASS=NAME, VENDOR/CLASS for the first of a kind, VENDOR/CLASS=* for all), \
         or all devices with --allow device",
    ),
    (&["no space left on device"], "free some with `cooper prune`, or put the state elsewhere with --root"),
    (&["azblob cache", "401"], "check the credentials of the cache: its attributes, or those of the environment"),
    (&["azblob cache", "403"], "check the credentials of the cache: its attributes, or those of the environment"),
    (&["s3 cache", "403"], "check the credentials of the cache: its attributes, or those of the environment"),
    (&["401"], "log in to the registry first (credentials are read from ~/.docker/config.json)"),
    (&["403"], "log in to the registry with an account that may do this (credentials: ~/.docker/config.json)"),
    (&["authorization failed"], "log in to the registry first (credentials are read from ~/.docker/config.json)"),
    (
        &["failed to resolve source metadata", "not found"],
        "check the image's name and tag; private images need a login",
    ),
    (
        &["server gave HTTP response to HTTPS client"],
        "mark the registry as plain HTTP: [registry.\"HOST\"] http = true, or registry.insecure=true on the output",
    ),
    (&["certificate"], "name the registry's CA in [registry.\"HOST\"] ca = [\"FILE\"] of the configuration"),
    (&["no active session"], "the client went away before the daemon had what it needed; try again"),
    (&["target stage", "could not be found"], "list the stages with `cooper build --call targets`"),
    (&["another instance running"], "use the running daemon with --addr, or another state directory with --root"),
];

pub(super) fn hint(error: &CliError) -> Option<String> {
    match error {
        CliError::Connect { address, .. } if address.starts_with("unix://") => {
            Some("is the daemon running? `cooper daemon` starts one; without --addr, COOPER_HOST and BUILDKIT_HOST the build runs in this process".into())
        }
        CliError::Connect { .. } => Some("check the address and, for TLS, --tlscacert, --tlscert and --tlskey".into()),
        CliError::Rpc { failure, .. } => {
            failure.missing.as_ref().map(|name| format!("the frontend lacks {name}; a newer one may have it")).or_else(|| advice(&failure.message))
        }
        other => advice(&other.to_string()),
    }
}

fn advice(message: &str) -> Option<String> {
    let message = message.to_lowercase();
    let fits = |words: &&[&str]| words.iter().all(|word| message.contains(&word.to_lowercase()));
    ADVICE.iter().find(|(words, _)| fits(words)).map(|(_, advice)| (*advice).to_owned())
}
