//! Signed documents of GitHub's cache, from the configuration to what a build says.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cooper_testkit::{Actions, Signer, Signing, Sigstore, Workshop, outcome};

use crate::workshop;

const STEP: &str = "RUN head -c 100 /dev/urandom | sha256sum > /made\n";

/// A place that takes signatures of whoever is named like this, and has its own documents signed by a program.
fn shop(services: &Sigstore, command: Option<&[String]>, identity: &str) -> Workshop {
    let shop = workshop();
    let root = shop.path("trusted_root.json");
    fs::write(&root, services.trusted_root().to_string()).unwrap();
    let sign = command.map(|command| format!("[cache.gha.sign]\ncommand = {command:?}\n")).unwrap_or_default();
    shop.configure(&format!(
        "{sign}[cache.gha.verify]\nrequired = true\ntrustedRoot = \"{}\"\n[cache.gha.verify.policy]\n\
         timestampThreshold = 2\ntlogThreshold = 1\nsubjectAlternativeName = \"{identity}\"\n",
        root.display()
    ));
    shop
}

/// Builds with a cache at GitHub; what the build says.
#[track_caller]
fn build(shop: &Workshop, context: &Path, flag: &str, server: &Actions, version: u8) -> String {
    let url = if version == 2 { "url_v2" } else { "url" };
    let token = Actions::token(&["refs/heads/main"]);
    let cache = format!("type=gha,{url}=http://127.0.0.1:{}/,version={version},token={token},mode=max", server.port());
    outcome(shop.build(context).args([flag, &cache, "-o", "type=cacheonly"])).ok().stderr
}

fn check(version: u8) {
    let services = Arc::new(Sigstore::new());
    let signer = Signer::start(services.clone(), Signing { timestamp: true, ..Signing::default() });
    let server = Actions::start();
    let writer = shop(&services, Some(&signer.command()), "https://ci.example.com/builder");
    let context = writer.dockerfile(STEP);
    let said = build(&writer, &context, "--cache-to", &server, version);
    assert!(said.contains("signing cache index sha256:"), "{said}");
    let reader = shop(&services, None, "https://ci.example.com/*");
    let said = build(&reader, &context, "--cache-from", &server, version);
    assert!(said.contains("signed by https://ci.example.com/builder (https://token.example.com)"), "{said}");
    assert!(said.contains("CACHED"), "{said}");
    // What others have signed is as good as not there, and the build goes on.
    let other = shop(&services, None, "https://elsewhere/*");
    let said = build(&other, &context, "--cache-from", &server, version);
    assert!(said.contains("does not match policy") && !said.contains("CACHED"), "{said}");
}

#[test]
fn only_caches_with_wanted_signatures_are_used_by_version_1() {
    check(1);
}

#[test]
fn only_caches_with_wanted_signatures_are_used_by_version_2() {
    check(2);
}

#[test]
fn signatures_that_nobody_can_verify_are_refused_at_the_start() {
    let shop = workshop();
    shop.configure("[cache.gha.verify]\nrequired = true\n");
    let context = shop.dockerfile(STEP);
    outcome(shop.build(&context).args(["-o", "type=cacheonly"])).refused(&["cache.gha.verify.trustedRoot"]);
}
