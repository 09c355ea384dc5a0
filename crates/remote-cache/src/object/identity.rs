//! Who asks an S3 service: credentials from attributes, or from where AWS's own programs look.

use super::exchange::{Head, RequestError, Sign, chain};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, header};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner};
use reqsign_core::{
    CommandExecute, CommandOutput, Context, Error as SignError, FileRead, HttpSend, OsEnv, ProvideCredential,
    SignRequest, SigningCredential,
};
use std::time::Duration;
use tokio::sync::Mutex;

/// Metadata services are near or not there.
const METADATA_PATIENCE: Duration = Duration::from_secs(5);
/// A body that is not hashed before it is sent: its digest is checked by whoever reads it, and TLS guards the way.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// Signs requests by AWS's version 4.
#[derive(Debug)]
pub(crate) struct Identity {
    signer: RequestSigner,
    context: Context,
    provider: Option<DefaultCredentialProvider>,
    known: Mutex<Option<Credential>>,
}

impl Identity {
    /// `given`: credentials that the client gave. Otherwise environment, profiles, web identity, programs, container
    /// and machine roles are asked, in this order.
    pub(crate) fn new(region: &str, given: Option<Credential>) -> Result<Self, RequestError> {
        let context = Context::new().with_env(OsEnv).with_file_read(Files).with_command_execute(Programs);
        let context = match &given {
            Some(_) => context,
            None => context.with_http_send(Http::new()?),
        };
        let provider = given.is_none().then(DefaultCredentialProvider::new);
        Ok(Self { signer: RequestSigner::new("s3", region), context, provider, known: Mutex::new(given) })
    }

    async fn credential(&self) -> Result<Credential, RequestError> {
        let mut known = self.known.lock().await;
        if let Some(credential) = known.as_ref().filter(|c| self.provider.is_none() || c.is_valid()) {
            return Ok(credential.clone());
        }
        let found = match &self.provider {
            Some(provider) => provider.provide_credential(&self.context).await,
            None => Ok(None),
        };
        let found =
            found.map_err(|e| RequestError::Credentials(format!("cannot get AWS credentials: {}", chain(&e))))?;
        let found = found.ok_or_else(|| {
            RequestError::Credentials(
                "no AWS credentials: give access_key_id and secret_access_key, or set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, a profile or a role for the builder"
                    .to_owned(),
            )
        })?;
        *known = Some(found.clone());
        Ok(found)
    }
}

#[async_trait]
impl Sign for Identity {
    async fn sign(&self, head: &mut Head) -> Result<(), RequestError> {
        head.headers.insert("x-amz-content-sha256", HeaderValue::from_static(UNSIGNED));
        let credential = self.credential().await?;
        // What proxies and the HTTP client may change is not signed.
        let mut request = http::Request::builder().method(head.method.clone()).uri(head.url.as_str());
        for (name, value) in &head.headers {
            if name.as_str().starts_with("x-amz-") {
                request = request.header(name, value);
            }
        }
        let place = super::exchange::plain(&head.url);
        let request = request.body(()).map_err(|e| RequestError::Answer { place, reason: e.to_string() })?;
        let mut parts = request.into_parts().0;
        let signed = self.signer.sign_request(&self.context, &mut parts, Some(&credential), None).await;
        signed.map_err(|e| RequestError::Credentials(format!("cannot sign a request: {}", chain(&e))))?;
        parts.headers.remove(header::HOST);
        for (name, value) in &parts.headers {
            head.headers.insert(name, value.clone());
        }
        Ok(())
    }

    async fn renew(&self) -> bool {
        if self.provider.is_none() {
            return false;
        }
        *self.known.lock().await = None;
        true
    }
}

#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> reqsign_core::Result<Vec<u8>> {
        tokio::fs::read(path).await.map_err(|e| SignError::config_invalid(format!("cannot read {path}: {e}")))
    }
}

/// `credential_process` of profiles.
#[derive(Debug)]
struct Programs;

impl CommandExecute for Programs {
    async fn command_execute(&self, program: &str, args: &[&str]) -> reqsign_core::Result<CommandOutput> {
        let mut command = tokio::process::Command::new(program);
        command.args(args).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
        let output = output
            .map_err(|_| SignError::config_invalid(format!("{program} takes longer than 60 s")))?
            .map_err(|e| SignError::config_invalid(format!("cannot run {program}: {e}")))?;
        Ok(CommandOutput { status: output.status.code().unwrap_or(-1), stdout: output.stdout, stderr: output.stderr })
    }
}

#[derive(Debug)]
struct Http(reqwest::Client);

impl Http {
    fn new() -> Result<Self, RequestError> {
        let setup = |error: &dyn std::error::Error| RequestError::Setup(chain(error));
        let builder = cooper_registry::http_client_builder().map_err(|e| setup(&e))?;
        let client = builder.connect_timeout(Duration::from_secs(1)).timeout(METADATA_PATIENCE).build();
        Ok(Self(client.map_err(|e| setup(&e))?))
    }
}

impl HttpSend for Http {
    async fn http_send(&self, request: http::Request<Bytes>) -> reqsign_core::Result<http::Response<Bytes>> {
        let failed = |e: reqwest::Error| SignError::unexpected(chain(&e.without_url()));
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let response = self.0.execute(request).await.map_err(failed)?;
        let mut answer = http::Response::builder().status(response.status());
        for (name, value) in response.headers() {
            answer = answer.header(name, value);
        }
        let body = response.bytes().await.map_err(failed)?;
        answer.body(body).map_err(|e| SignError::unexpected(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    #[tokio::test]
    async fn given_credentials_sign_without_asking_anybody() {
        let given = Credential {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "secret".into(),
            session_token: Some("session".into()),
            expires_in: None,
        };
        let identity = Identity::new("eu-central-1", Some(given)).unwrap();
        let mut head = Head::new(Method::PUT, "http://localhost:9000/bucket/blobs/sha256:ab".parse().unwrap())
            .with("if-none-match", "*");
        identity.sign(&mut head).await.unwrap();
        let authorization = head.headers["authorization"].to_str().unwrap();
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{authorization}");
        assert!(authorization.contains("/eu-central-1/s3/aws4_request, SignedHeaders=host;"), "{authorization}");
        assert!(!authorization.contains("if-none-match"), "{authorization}");
        assert_eq!(head.headers["x-amz-security-token"], "session");
        assert!(!head.headers.contains_key("host"));
        assert_eq!(head.headers.len(), head.headers.keys_len(), "each header once: {:?}", head.headers);
        assert!(!identity.renew().await, "there are no others");
    }
}
