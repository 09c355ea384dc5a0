//! A registry that wants tokens: a gate in front of one that wants nothing, with the token server that it names.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::faults::forward;
use crate::http::{Answer, Request, Server};

/// What the token server calls itself.
const SERVICE: &str = "gate";

/// A registry behind a token server that knows `user` with the password `secret`.
#[derive(Debug)]
pub struct TokenGate {
    server: Server,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    tokens: BTreeSet<String>,
    fetched: Vec<Fetched>,
}

/// One visit to the token server that ended with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The process that came.
    pub process: Option<u32>,
    /// What it asked for.
    pub scope: String,
}

impl TokenGate {
    /// Starts one in front of the registry at `127.0.0.1:port`.
    #[track_caller]
    pub fn start(port: u16) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        // What goes wrong with one connection is what the client has to cope with.
        let server = Server::start(move |client| drop(serve(client, port, &shared)));
        Self { server, state }
    }

    /// Host and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.server.port())
    }

    /// The section of a configuration file that clients of this registry need.
    pub fn section(&self) -> String {
        format!("[registry.\"{}\"]\nhttp = true\n", self.host())
    }

    /// Who has fetched tokens since this was asked last.
    pub fn fetched(&self) -> Vec<Fetched> {
        std::mem::take(&mut self.state.lock().expect("token gate").fetched)
    }
}

fn serve(mut client: TcpStream, port: u16, state: &Mutex<State>) -> std::io::Result<()> {
    let Some(request) = Request::read(&client)? else { return Ok(()) };
    let answer = if request.path() == "/token" {
        issue(&request, &client, state).bytes(&request.method)
    } else {
        let host = request.header("host").unwrap_or_default();
        let token = request.header("authorization").and_then(|a| a.strip_prefix("Bearer "));
        if token.is_some_and(|token| state.lock().expect("token gate").tokens.contains(token)) {
            forward(&request, port)?
        } else {
            challenge(host, request.path(), &request.method).bytes(&request.method)
        }
    };
    client.write_all(&answer)
}

/// Says where tokens are to be had, and what for.
fn challenge(host: &str, path: &str, method: &str) -> Answer {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let end = parts.iter().position(|part| matches!(*part, "manifests" | "blobs" | "tags")).unwrap_or(1);
    let actions = if matches!(method, "GET" | "HEAD") { "pull" } else { "pull,push" };
    let scope = match parts.get(1..end).unwrap_or_default() {
        [] => String::new(),
        repository => format!(",scope=\"repository:{}:{actions}\"", repository.join("/")),
    };
    let value = format!("Bearer realm=\"http://{host}/token\",service=\"{SERVICE}\"{scope}");
    let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": "a token is required"}]});
    Answer::json(401, &body).with("www-authenticate", &value)
}

/// A token for whoever logs in, by `GET` and a header or by `POST` and a form.
fn issue(request: &Request, client: &TcpStream, state: &Mutex<State>) -> Answer {
    let basic = format!("Basic {}", STANDARD.encode("user:secret"));
    // A form has the syntax of a query.
    let form = Request { target: format!("?{}", String::from_utf8_lossy(&request.body)), ..request.clone() };
    let by_form =
        form.query("username").as_deref() == Some("user") && form.query("password").as_deref() == Some("secret");
    if request.header("authorization") != Some(basic.as_str()) && !by_form {
        return Answer::json(401, &json!({"details": "who are you?"}));
    }
    let scope = request.queries("scope").chain(form.queries("scope")).collect::<Vec<_>>().join(" ");
    let mut state = state.lock().expect("token gate");
    let token = format!("token-{}-{scope}", state.tokens.len()).replace([':', '/', ',', ' '], "-");
    state.tokens.insert(token.clone());
    state.fetched.push(Fetched { process: owner(client), scope });
    Answer::json(200, &json!({"token": token, "access_token": token, "expires_in": 300}))
}

/// The process at the other end of a connection on this machine.
fn owner(client: &TcpStream) -> Option<u32> {
    let port = format!(":{:04X}", client.peer_addr().ok()?.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    // The address on that side, its state and queues, and further on the inode.
    let of_line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1)?.ends_with(&port).then(|| words.get(9).map(|inode| format!("socket:[{inode}]")))?
    };
    let socket = table.lines().find_map(of_line)?;
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds = |id: &u32| {
        let files = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
        files.filter_map(|f| fs::read_link(f.path()).ok()).any(|link| link.to_str() == Some(&socket))
    };
    ids.into_iter().find(holds)
}
