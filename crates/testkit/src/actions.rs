//! A stand-in for GitHub's cache of workflow runs, stricter than the original, speaking both versions.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::http::{Answer, Request, Server};

/// The repository whose entries it lists.
pub const REPOSITORY: &str = "someone/something";
/// The token for listing them.
pub const LISTING_TOKEN: &str = "listing";

/// A cache service.
#[derive(Debug)]
pub struct Actions {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    /// Part of every signed URL; old ones are refused.
    generation: usize,
}

#[derive(Debug)]
struct Entry {
    key: String,
    version: String,
    scope: String,
    /// Pieces by offset (version 1) or by block name (version 2), before the end.
    pieces: BTreeMap<String, Vec<u8>>,
    bytes: Vec<u8>,
    committed: bool,
}

impl Actions {
    /// Starts an empty one.
    #[track_caller]
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let server = Server::start(move |client| drop(serve(client, &shared)));
        Self { server, state }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// A token that reads and writes the first of these scopes and reads the others.
    pub fn token(scopes: &[&str]) -> String {
        let scopes = scopes.iter().enumerate();
        let scopes = scopes.map(|(i, s)| json!({"Scope": s, "Permission": if i == 0 { 3 } else { 1 }}));
        let payload = json!({"ac": scopes.collect::<Value>().to_string(), "nbf": 0, "exp": 4_000_000_000_u64});
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.to_string()))
    }

    /// Keys of what can be read.
    pub fn keys(&self) -> Vec<String> {
        let state = self.state.lock().expect("stand-in");
        state.entries.iter().filter(|e| e.committed).map(|e| e.key.clone()).collect()
    }

    /// Lets all URLs that were given out end.
    pub fn end_urls(&self) {
        self.state.lock().expect("stand-in").generation += 1;
    }

    /// Reserves a key like somebody who then dies.
    pub fn abandon(&self, scope: &str, key: &str) {
        let mut state = self.state.lock().expect("stand-in");
        let version = state.entries.first().map(|e| e.version.clone()).unwrap_or_default();
        state.entries.push(Entry::new(key, &version, scope));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.state.lock().expect("stand-in").entries.clear();
    }
}

impl Entry {
    fn new(key: &str, version: &str, scope: &str) -> Self {
        let (key, version, scope) = (key.to_owned(), version.to_owned(), scope.to_owned());
        Self { key, version, scope, pieces: BTreeMap::new(), bytes: Vec::new(), committed: false }
    }
}

fn serve(mut client: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let Some(request) = Request::read(&client)? else { return Ok(()) };
    let answer = state.lock().expect("stand-in").answer(&request);
    client.write_all(&answer.bytes(&request.method))
}

/// `(scope, whether it may be written)` of a token.
fn scopes(request: &Request) -> Option<Vec<(String, bool)>> {
    let token = request.header("authorization")?.strip_prefix("Bearer ")?;
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    let scopes: Value = serde_json::from_str(payload["ac"].as_str()?).ok()?;
    let scope = |s: &Value| Some((s["Scope"].as_str()?.to_owned(), s["Permission"].as_u64()? & 2 != 0));
    scopes.as_array()?.iter().map(scope).collect()
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        let path = request.path().to_owned();
        if let Some(id) = path.strip_prefix("/signed/") {
            return self.signed(request, id);
        }
        if path == format!("/repos/{REPOSITORY}/actions/caches") {
            return self.list(request);
        }
        let Some(scopes) = scopes(request) else {
            return Answer::json(401, &json!({"message": "no token"}));
        };
        if let Some(call) = path.strip_prefix("/twirp/github.actions.results.api.v1.CacheService/") {
            return self.version2(request, call, &scopes);
        }
        match (request.method.as_str(), path.strip_prefix("/_apis/artifactcache/")) {
            (method, Some(call)) => self.version1(request, method, call, &scopes),
            _ => Answer::new(404, ""),
        }
    }

    /// The entry with this key, or the newest whose key begins with it; the first scope that has any.
    fn find(&self, key: &str, version: &str, scopes: &[(String, bool)]) -> Option<usize> {
        let fits = |entry: &Entry, scope: &str| entry.committed && entry.version == version && entry.scope == scope;
        scopes.iter().find_map(|(scope, _)| {
            let all = || self.entries.iter().enumerate().rev().filter(|(_, e)| fits(e, scope));
            let exact = all().find(|(_, e)| e.key == key);
            exact.or_else(|| all().find(|(_, e)| e.key.starts_with(key))).map(|(index, _)| index)
        })
    }

    fn reserve(&mut self, key: &str, version: &str, scopes: &[(String, bool)]) -> Result<usize, u16> {
        let scope = scopes.iter().find(|(_, writes)| *writes).map(|(scope, _)| scope).ok_or(403_u16)?;
        if key.is_empty() || key.len() > 512 || key.contains(',') || version.is_empty() {
            return Err(400);
        }
        if self.entries.iter().any(|e| e.key == key && e.version == version && e.scope == *scope) {
            return Err(409);
        }
        self.entries.push(Entry::new(key, version, scope));
        Ok(self.entries.len() - 1)
    }

    fn url(&self, request: &Request, index: usize) -> String {
        let host = request.header("host").unwrap_or_default();
        format!("http://{host}/signed/{index}?sig=g{}", self.generation)
    }

    fn version1(&mut self, request: &Request, method: &str, call: &str, scopes: &[(String, bool)]) -> Answer {
        let id = call.strip_prefix("caches/").and_then(|id| id.parse::<usize>().ok()?.checked_sub(1));
        let open = id.filter(|id| self.entries.get(*id).is_some_and(|e| !e.committed));
        match (method, call, open) {
            ("GET", "cache", _) => {
                let (keys, version) = (request.query("keys"), request.query("version"));
                let (keys, version) = (keys.unwrap_or_default(), version.unwrap_or_default());
                match keys.split(',').find_map(|key| self.find(key, &version, scopes)) {
                    Some(index) => {
                        let entry = &self.entries[index];
                        let url = self.url(request, index);
                        Answer::json(200, &json!({"cacheKey": entry.key, "scope": entry.scope, "archiveLocation": url}))
                    }
                    None => Answer::new(204, ""),
                }
            }
            ("POST", "caches", _) => {
                let asked = request.json();
                let (key, version) = (asked["key"].as_str(), asked["version"].as_str());
                match self.reserve(key.unwrap_or_default(), version.unwrap_or_default(), scopes) {
                    Ok(index) => Answer::json(201, &json!({"cacheId": index + 1})),
                    Err(409) => Answer::json(
                        409,
                        &json!({"typeKey": "ArtifactCacheItemAlreadyExistsException", "message": "there already"}),
                    ),
                    Err(status) => Answer::json(status, &json!({"message": "refused"})),
                }
            }
            ("PATCH", _, Some(index)) => {
                let range = request.header("content-range").unwrap_or_default();
                let start = range.strip_prefix("bytes ").and_then(|r| r.split_once('-')?.0.parse::<u64>().ok());
                let Some(start) = start else { return Answer::new(400, "no content-range") };
                self.entries[index].pieces.insert(format!("{start:020}"), request.body.clone());
                Answer::new(204, "")
            }
            ("POST", _, Some(index)) => {
                let entry = &mut self.entries[index];
                let bytes: Vec<u8> = entry.pieces.values().flatten().copied().collect();
                if request.json()["size"].as_u64() != Some(bytes.len() as u64) {
                    return Answer::json(400, &json!({"message": "not all bytes are there"}));
                }
                (entry.bytes, entry.committed) = (bytes, true);
                Answer::new(204, "")
            }
            _ => Answer::json(404, &json!({"message": "no such reservation"})),
        }
    }

    fn version2(&mut self, request: &Request, call: &str, scopes: &[(String, bool)]) -> Answer {
        let asked = request.json();
        let text = |name: &str| asked[name].as_str().unwrap_or_default();
        let (key, version) = (text("key"), text("version"));
        match call {
            "GetCacheEntryDownloadURL" => {
                let more = asked["restore_keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
                match std::iter::once(key).chain(more).find_map(|key| self.find(key, version, scopes)) {
                    Some(index) => {
                        let (url, key) = (self.url(request, index), &self.entries[index].key);
                        Answer::json(200, &json!({"ok": true, "signed_download_url": url, "matched_key": key}))
                    }
                    None => Answer::json(200, &json!({"ok": false, "signed_download_url": "", "matched_key": ""})),
                }
            }
            "CreateCacheEntry" => match self.reserve(key, version, scopes) {
                Ok(index) => Answer::json(200, &json!({"ok": true, "signed_upload_url": self.url(request, index)})),
                Err(409) => Answer::json(409, &json!({"code": "already_exists", "msg": "there already"})),
                Err(status) => Answer::json(status, &json!({"code": "refused", "msg": "refused"})),
            },
            "FinalizeCacheEntryUpload" => {
                let mine = |e: &&mut Entry| !e.committed && e.key == key && e.version == version;
                let size: Option<usize> = text("size_bytes").parse().ok();
                match self.entries.iter_mut().find(mine) {
                    Some(entry) if Some(entry.bytes.len()) == size => {
                        entry.committed = true;
                        Answer::json(200, &json!({"ok": true, "entry_id": "1"}))
                    }
                    Some(_) => Answer::json(400, &json!({"code": "invalid_argument", "msg": "another size"})),
                    None => Answer::json(404, &json!({"code": "not_found", "msg": "no such reservation"})),
                }
            }
            _ => Answer::json(404, &json!({"code": "bad_route", "msg": call})),
        }
    }

    /// What storage does behind signed URLs.
    fn signed(&mut self, request: &Request, id: &str) -> Answer {
        if request.header("authorization").is_some() {
            return Answer::new(400, "two authorisations at once");
        }
        if request.query("sig") != Some(format!("g{}", self.generation)) {
            return Answer::new(403, "the URL has ended");
        }
        let Some(entry) = id.parse().ok().and_then(|id: usize| self.entries.get_mut(id)) else {
            return Answer::new(404, "");
        };
        match (request.method.as_str(), request.query("comp").as_deref()) {
            ("GET", None) if entry.committed => {
                let range =
                    request.header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-')?.0.parse().ok());
                let Some(start) = range else { return Answer::new(200, entry.bytes.clone()) };
                let (start, end): (usize, usize) = (start, entry.bytes.len());
                let Some(bytes) = entry.bytes.get(start..).filter(|b| !b.is_empty()) else {
                    return Answer::new(416, "");
                };
                let range = format!("bytes {start}-{}/{end}", end - 1);
                Answer::new(206, bytes).with("content-range", &range)
            }
            ("PUT", None) if !entry.committed && request.header("x-ms-blob-type") == Some("BlockBlob") => {
                entry.bytes.clone_from(&request.body);
                Answer::new(201, "")
            }
            ("PUT", Some("block")) if !entry.committed => {
                let name = request.query("blockid").unwrap_or_default();
                if STANDARD.decode(&name).is_err() {
                    return Answer::new(400, "block names are base64");
                }
                entry.pieces.insert(name, request.body.clone());
                Answer::new(201, "")
            }
            ("PUT", Some("blocklist")) if !entry.committed => {
                let list = String::from_utf8_lossy(&request.body).into_owned();
                let names = list.split("<Latest>").skip(1).filter_map(|rest| rest.split_once("</Latest>"));
                let mut bytes = Vec::new();
                for (name, _) in names {
                    let Some(piece) = entry.pieces.get(name) else { return Answer::new(400, "no such block") };
                    bytes.extend_from_slice(piece);
                }
                entry.bytes = bytes;
                Answer::new(201, "")
            }
            ("GET", Some("blocklist")) => {
                let block = |(name, bytes): (&String, &Vec<u8>)| {
                    format!("<Block><Name>{name}</Name><Size>{}</Size></Block>", bytes.len())
                };
                let blocks: String = entry.pieces.iter().map(block).collect();
                Answer::new(200, format!("<BlockList><UncommittedBlocks>{blocks}</UncommittedBlocks></BlockList>"))
            }
            _ => Answer::new(404, ""),
        }
    }

    fn list(&self, request: &Request) -> Answer {
        if request.header("authorization") != Some(&format!("Bearer {LISTING_TOKEN}")) {
            return Answer::json(401, &json!({"message": "Bad credentials"}));
        }
        let (prefix, scope) = (request.query("key").unwrap_or_default(), request.query("ref"));
        let number = |name: &str| request.query(name).and_then(|v| v.parse::<usize>().ok());
        let (page, size) = (number("page").unwrap_or(1).max(1), number("per_page").unwrap_or(30));
        let fits = |e: &&Entry| {
            e.committed && e.key.starts_with(&prefix) && scope.as_ref().is_none_or(|scope| e.scope == *scope)
        };
        let all: Vec<Value> = self.entries.iter().filter(fits).map(|e| json!({"key": e.key, "ref": e.scope})).collect();
        let some: Vec<&Value> = all.iter().skip((page - 1) * size).take(size).collect();
        Answer::json(200, &json!({"total_count": all.len(), "actions_caches": some}))
    }
}
