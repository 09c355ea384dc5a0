//! Credentials that end in the middle of an export.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use cooper_testkit::http::{Answer, Request, Server};
use cooper_testkit::{ObjectServer, Workshop, faults, objects, outcome};
use serde_json::json;

use crate::workshop;

/// Requests that the first credentials are good for: enough for a part or two of a layer.
const GOOD_FOR: usize = 6;

/// Answers each request of a connection, one a connection.
fn serve(mut stream: TcpStream, answer: impl Fn(&Request) -> Vec<u8>) {
    if let Ok(Some(request)) = Request::read(&stream) {
        stream.write_all(&answer(&request)).ok();
    }
}

/// Gives out credentials with a number, counted up.
fn issuer(make: impl Fn(usize) -> serde_json::Value + Send + Sync + 'static) -> (Server, Arc<Mutex<usize>>) {
    let issued = Arc::new(Mutex::new(0));
    let count = Arc::clone(&issued);
    let server = Server::start(move |stream| {
        serve(stream, |_| {
            let mut count = count.lock().unwrap();
            *count += 1;
            Answer::json(200, &make(*count)).bytes("GET")
        });
    });
    (server, issued)
}

/// Counts requests by those credentials and refuses those that come after `GOOD_FOR` of them.
struct Expiry {
    /// What shows in the header of the first credentials; of all, when none is good for more.
    mark: &'static str,
    seen: Mutex<usize>,
}

impl Expiry {
    fn of(mark: &'static str) -> Self {
        Self { mark, seen: Mutex::new(0) }
    }

    fn has_come(&self, request: &Request) -> bool {
        let uses = request.header("authorization").is_some_and(|value| value.contains(self.mark));
        let mut seen = self.seen.lock().unwrap();
        *seen += usize::from(uses);
        // No answer to a HEAD has room for the reason.
        uses && *seen > GOOD_FOR && request.method != "HEAD"
    }
}

/// A step with a layer of several parts.
fn large(shop: &Workshop) -> PathBuf {
    let context = shop.dockerfile("COPY large /large\nRUN echo made > /made\n");
    let mut state = 88_172_645_463_325_252_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    fs::write(context.join("large"), words.take(3 << 20).flatten().collect::<Vec<u8>>()).unwrap();
    context
}

/// An export outlives its first credentials; the cache is whole. With `mark` of all credentials it says what is wrong.
fn check(env: &[(&str, String)], cache: &str, context: &Path, shop: &Workshop, outlives: bool) {
    let with = |mut build: Command| {
        build.env_remove("AWS_ACCESS_KEY_ID").envs(env.iter().map(|(k, v)| (*k, v.as_str())));
        build
    };
    let mut export = with(shop.build(context));
    let exported = outcome(export.args(["--cache-to", &format!("{cache},mode=max")]));
    if !outlives {
        exported.refused(&["has expired"]);
        return;
    }
    exported.ok();
    let other = workshop();
    let import = outcome(with(other.build(context)).args(["--cache-from", cache])).ok();
    assert!(import.stderr.matches("CACHED").count() >= 2, "{import}");
}

fn s3(outlives: bool) {
    let store = ObjectServer::s3();
    let port = store.port();
    let expiry = Expiry::of(if outlives { "Credential=KEY1/" } else { "Credential=KEY" });
    let gate = Server::start(move |stream| {
        serve(stream, |request| {
            if expiry.has_come(request) {
                let body = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>";
                return Answer::new(400, body).bytes(&request.method);
            }
            faults::forward(request, port).unwrap_or_default()
        });
    });
    let (issuer, issued) = issuer(|number| {
        let key = format!("KEY{number}");
        json!({"AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"})
    });
    let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://127.0.0.1:{}/creds", issuer.port()))];
    let cache = format!(
        "type=s3,bucket={},region=us-east-1,endpoint_url=http://127.0.0.1:{},use_path_style=true,name=x,part_size=5242880",
        objects::BUCKET,
        gate.port()
    );
    let shop = workshop();
    check(&env, &cache, &large(&shop), &shop, outlives);
    assert!(*issued.lock().unwrap() >= 2, "the builder has asked for others");
}

#[test]
fn a_token_for_s3_ends_during_an_upload() {
    s3(true);
}

#[test]
fn an_upload_to_s3_whose_tokens_have_all_ended_says_so() {
    s3(false);
}

/// What Azure does of a container with block blobs, by tokens.
#[derive(Default)]
struct Blobs {
    blocks: HashMap<(String, String), Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
}

impl Blobs {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path().to_owned();
        let missing = || Answer::new(404, "<Error><Code>BlobNotFound</Code></Error>");
        match (request.method.as_str(), request.query("comp").as_deref()) {
            _ if request.query("restype").is_some() => Answer::new(200, ""),
            ("PUT", Some("block")) => {
                let id = request.query("blockid").expect("an id");
                self.blocks.insert((path, id), request.body.clone());
                Answer::new(201, "")
            }
            ("GET", Some("blocklist")) => Answer::new(200, "<BlockList><UncommittedBlocks/></BlockList>"),
            ("PUT", Some("blocklist")) => {
                let list = String::from_utf8_lossy(&request.body).into_owned();
                let ids = list.split("<Latest>").skip(1).filter_map(|rest| rest.split("</Latest>").next());
                let parts: Option<Vec<Vec<u8>>> =
                    ids.map(|id| self.blocks.get(&(path.clone(), id.to_owned())).cloned()).collect();
                let Some(parts) = parts else {
                    return Answer::new(400, "<Error><Code>InvalidBlockList</Code></Error>");
                };
                self.blobs.insert(path, parts.concat());
                Answer::new(201, "").with("etag", "\"1\"")
            }
            ("PUT", _) => {
                self.blobs.insert(path, request.body.clone());
                Answer::new(201, "").with("etag", "\"1\"")
            }
            ("GET" | "HEAD", _) => self.blobs.get(&path).map_or_else(missing, |bytes| {
                let from = request
                    .header("x-ms-range")
                    .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
                Answer::new(200, &bytes[from.unwrap_or(0)..]).with("etag", "\"1\"")
            }),
            _ => Answer::new(405, ""),
        }
    }
}

fn azure(outlives: bool) {
    let expiry = Expiry::of(if outlives { "Bearer token1" } else { "Bearer token" });
    let blobs = Mutex::new(Blobs::default());
    let store = Server::start(move |stream| {
        serve(stream, |request| {
            let answer = match request.header("authorization") {
                Some(_) if !expiry.has_come(request) => blobs.lock().unwrap().answer(request),
                _ => {
                    let said =
                        "<Error><Code>AuthenticationFailed</Code><Message>The token has expired.</Message></Error>";
                    Answer::new(401, said)
                }
            };
            answer.bytes(&request.method)
        });
    });
    let (issuer, issued) = issuer(|number| json!({"access_token": format!("token{number}"), "expires_in": "86400"}));
    let env = [
        ("IDENTITY_ENDPOINT", format!("http://127.0.0.1:{}/token", issuer.port())),
        ("IDENTITY_HEADER", "proof".to_owned()),
    ];
    let cache = format!(
        "type=azblob,account_url=http://127.0.0.1:{}/account,account_name=account,name=x,part_size=5242880",
        store.port()
    );
    let shop = workshop();
    check(&env, &cache, &large(&shop), &shop, outlives);
    assert!(*issued.lock().unwrap() >= 2, "the builder has asked for others");
}

#[test]
fn a_token_for_azure_ends_during_an_upload() {
    azure(true);
}

#[test]
fn an_upload_to_azure_whose_tokens_have_all_ended_says_so() {
    azure(false);
}
