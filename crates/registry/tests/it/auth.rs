//! Challenges, tokens, credentials.

use crate::fake::{Access, Fake, Fixed, anonymous, basic, client};
use cooper_oci::{ImageRef, media_types};
use cooper_registry::{Client, Credential, Credentials, CredentialsError, Token, TokenRequest};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;

async fn serve(access: Access) -> (Arc<Fake>, ImageRef) {
    let fake = Fake::start(access).await;
    fake.manifest("a", "v1", media_types::OCI_MANIFEST, MANIFEST);
    let name = format!("{}/a:v1", fake.host()).parse().unwrap();
    (fake, name)
}

async fn error(fake: &Fake, client: &Client, name: &ImageRef) -> String {
    let error = client.resolve(name).await.unwrap_err();
    assert!(error.is_unauthorized());
    error.to_string().replace(&fake.host(), "HOST")
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_tokens_are_asked_for_once() {
    let (fake, name) = serve(Access::Bearer(None)).await;
    let client = client(anonymous());
    client.resolve(&name).await.unwrap();
    client.resolve(&name).await.unwrap();
    insta::assert_snapshot!(fake.log(), @r"
    HEAD /v2/a/manifests/v1 401
    GET /token 200
    HEAD /v2/a/manifests/v1 200
    HEAD /v2/a/manifests/v1 200
    ");
    fake.revoke();
    client.resolve(&name).await.unwrap();
    insta::assert_snapshot!(fake.log(), @r"
    HEAD /v2/a/manifests/v1 401
    GET /token 200
    HEAD /v2/a/manifests/v1 200
    ");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_wait_for_one_token() {
    let (fake, name) = serve(Access::Bearer(None)).await;
    let client = client(anonymous());
    client.resolve(&name).await.unwrap();
    fake.revoke();
    fake.log();
    let tasks = (0..8).map(|_| {
        let (client, name) = (client.clone(), name.clone());
        tokio::spawn(async move { client.resolve(&name).await.map(|_| ()) })
    });
    for task in futures::future::join_all(tasks).await {
        task.unwrap().unwrap();
    }
    let tokens = fake.log().lines().filter(|l| l.contains("/token")).count();
    assert!(tokens <= 2, "{tokens} token requests");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_every_kind() {
    let (fake, name) = serve(Access::Basic("u", "p")).await;
    client(basic("u", "p")).resolve(&name).await.unwrap();
    insta::assert_snapshot!(error(&fake, &client(basic("u", "wrong")), &name).await, @r#"pull access denied, repository does not exist or may require authorization: HOST/a:v1: authorization failed: unexpected status from HEAD request to http://HOST/v2/a/manifests/v1: 401 Unauthorized (the credentials of user "u" for HOST do not give this right)"#);
    insta::assert_snapshot!(error(&fake, &client(anonymous()), &name).await, @"pull access denied, repository does not exist or may require authorization: HOST/a:v1: authorization failed: unexpected status from HEAD request to http://HOST/v2/a/manifests/v1: 401 Unauthorized (no credentials for HOST were given: log in to HOST)");

    let (fake, name) = serve(Access::Bearer(Some(("u", "p")))).await;
    client(basic("u", "p")).resolve(&name).await.unwrap();
    client(Arc::new(Fixed(Credential::IdentityToken("refresh-me".into())))).resolve(&name).await.unwrap();
    insta::assert_snapshot!(error(&fake, &client(basic("u", "wrong")), &name).await, @r#"failed to authorize: cannot fetch a token for HOST from http://HOST/token: 401 Unauthorized: incorrect username or password; the credentials of user "u" for HOST were refused"#);
    insta::assert_snapshot!(error(&fake, &client(anonymous()), &name).await, @"failed to authorize: cannot fetch a token for HOST from http://HOST/token: 401 Unauthorized: incorrect username or password; no credentials for HOST were given");
}

/// Fetches tokens itself, as a client's session does.
#[derive(Debug)]
struct Authority(AtomicUsize);

#[async_trait::async_trait]
impl Credentials for Authority {
    async fn credentials(&self, _: &str) -> Result<Credential, CredentialsError> {
        Err("the secret stays with the authority".into())
    }

    async fn token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        assert_eq!(
            (request.service.as_str(), request.scopes.as_slice()),
            ("fake", &["repository:a:pull".to_owned()][..])
        );
        let url = format!("{}?service=fake&scope={}", request.realm, request.scopes[0]);
        let http = cooper_registry::http_client_builder()?.build()?;
        let answer = http.get(url).header("user-agent", "t").basic_auth("u", Some("p")).send().await?;
        let answer: serde_json::Value = serde_json::from_slice(&answer.bytes().await?)?;
        let token = answer["token"].as_str().unwrap_or_default().into();
        Ok(Some(Token { token, expires_in: None, issued_at: None }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_authority_keeps_its_secret() {
    let (_fake, name) = serve(Access::Bearer(Some(("u", "p")))).await;
    let authority = Arc::new(Authority(0.into()));
    let client = client(Arc::clone(&authority) as Arc<dyn Credentials>);
    client.resolve(&name).await.unwrap();
    client.resolve(&name).await.unwrap();
    assert_eq!(authority.0.load(Ordering::SeqCst), 1);
}
