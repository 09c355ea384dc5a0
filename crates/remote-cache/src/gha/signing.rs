//! Signed documents: a program of the operator's signs what is written, and what is read must be signed by somebody whom
//! the operator's policy takes. The services that sign are sigstore's; nothing is asked of them here.

use crate::{Error, Result};
use bytes::Bytes;
use cooper_oci::Digest;
use cooper_sigstore::{Policy, TrustedRoot, Verified, verify};
use std::{process::Stdio, sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// A bundle is some kilobytes.
pub(super) const MAX_BUNDLE: u64 = 4 << 20;

/// How documents of GitHub's cache are signed, and whose signatures count.
#[derive(Debug, Clone, Default)]
pub struct Signatures {
    /// The program that signs, and its arguments: the document comes on its standard input, the bundle goes to its
    /// standard output. Nothing is signed when empty.
    pub command: Vec<String>,
    /// Whether documents without a good signature are passed over.
    pub required: bool,
    /// Without it nothing can be verified: nothing that is there is built upon.
    pub trust: Option<Arc<Trust>>,
}

/// What signatures are measured by.
#[derive(Debug, Clone)]
pub struct Trust {
    /// Keys and certificates.
    pub root: TrustedRoot,
    /// Whose of the good signatures are taken.
    pub policy: Policy,
}

impl Signatures {
    /// Whether documents have signatures at all. Those that may lack them are kept apart.
    pub(super) fn are_used(&self) -> bool {
        self.required || !self.command.is_empty()
    }

    /// The signature of a document, which the policy takes as far as that can be told. Waits for the program for `patience`.
    pub(super) async fn sign(&self, cache: &str, document: &Bytes, patience: Duration) -> Result<Option<Bytes>> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(None) };
        let failed = |reason: String| {
            let doing = format!("signing command {program:?} failed");
            Error::failed(cache, &doing)(reason)
        };
        let run = async {
            let mut command = Command::new(program);
            command.args(arguments).kill_on_drop(true);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            let input = child.stdin.take();
            let write = async {
                // A program that does not read to the end says by its status whether that is right.
                if let Some(mut input) = input {
                    let _ = input.write_all(document).await;
                }
            };
            let ((), output) = tokio::join!(write, child.wait_with_output());
            output
        };
        let output = tokio::time::timeout(patience, run).await;
        let output = output.map_err(|_| failed("it does not end".to_owned()))?.map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, said.trim())));
        }
        if output.stdout.len() as u64 > MAX_BUNDLE {
            return Err(failed(format!("a bundle of {} bytes is none", output.stdout.len())));
        }
        let bundle = Bytes::from(output.stdout);
        if self.trust.is_some() {
            self.verify(cache, document.clone(), bundle.clone()).await?;
        } else {
            tracing::warn!(cache, "the signature is not verified before it is sent: there is no trusted root");
        }
        Ok(Some(bundle))
    }

    /// Who signed a document.
    pub(super) async fn verify(&self, cache: &str, document: Bytes, bundle: Bytes) -> Result<Verified> {
        let digest = Digest::of(&document);
        let doing = format!("the signature of {digest} does not count");
        let Some(trust) = self.trust.clone() else {
            return Err(Error::failed(cache, &doing)("there is no trusted root (cache.gha.verify.trustedRoot)"));
        };
        let work = move || -> std::result::Result<Verified, Box<dyn std::error::Error + Send + Sync>> {
            let verified = verify(&bundle, &document, &trust.root)?;
            trust.policy.check(&verified)?;
            Ok(verified)
        };
        let verified = tokio::task::spawn_blocking(work).await.map_err(Error::failed(cache, &doing))?;
        verified.map_err(Error::failed(cache, &doing))
    }
}

/// Who signed, in few words.
pub(super) fn signer(verified: &Verified) -> String {
    let field = |name: &str| verified.certificate.get(name).map_or("", String::as_str);
    format!("{} ({})", field("subjectAlternativeName"), field("issuer"))
}
