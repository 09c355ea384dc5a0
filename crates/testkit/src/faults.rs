//! A proxy between a client and a server that makes one request fail, or all from one on.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::http::{Answer, Request, Server};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status instead of the server's answer; the server never sees the request.
    Status(u16),
    /// The connection is reset before the server sees the request.
    Reset,
    /// The server does what it was asked to, and the client never learns it.
    LostAnswer,
    /// The answer ends in its middle.
    Truncate,
}

impl Fault {
    /// All that clients must cope with.
    pub const ALL: [Self; 6] =
        [Self::Status(404), Self::Status(429), Self::Status(500), Self::Reset, Self::LostAnswer, Self::Truncate];
}

/// Which requests fail, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// None.
    Never,
    /// This one only.
    Once(usize, Fault),
    /// This one and all after it.
    From(usize, Fault),
}

/// A proxy in front of one server.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

/// Holds one request up on its way to the server.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<Hold>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum Hold {
    #[default]
    Nothing,
    /// The next request whose method and target are these.
    Next(String),
    /// It is here.
    Held,
}

impl Gate {
    /// Keeps the caller for as long as its request is to be held.
    fn pass(&self, request: &str) {
        let mut hold = self.state.lock().expect("gate");
        if matches!(&*hold, Hold::Next(wanted) if wanted == request) {
            *hold = Hold::Held;
            self.changed.notify_all();
            while matches!(*hold, Hold::Held) {
                hold = self.changed.wait(hold).expect("gate");
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.release();
    }
}

#[derive(Debug)]
struct State {
    when: When,
    seen: Vec<String>,
    refused: Vec<String>,
}

impl Proxy {
    /// Starts one in front of `127.0.0.1:port`.
    #[track_caller]
    pub fn start(port: u16) -> Self {
        let state = Arc::new(Mutex::new(State { when: When::Never, seen: Vec::new(), refused: Vec::new() }));
        let (shared, gate) = (Arc::clone(&state), Arc::<Gate>::default());
        let passed = Arc::clone(&gate);
        // What goes wrong with one connection is what the client has to cope with.
        let server = Server::start(move |client| drop(serve(client, port, &shared, &passed)));
        Self { server, state, gate }
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Host and port.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Begins to count anew, with these faults.
    pub fn plan(&self, when: When) {
        *self.state.lock().expect("proxy") = State { when, seen: Vec::new(), refused: Vec::new() };
    }

    /// Holds up the next request with this method and target (`PUT /v2/…`), and no other, until [`Proxy::release`]. It
    /// reaches the server then, whether its client is still there or not.
    pub fn hold(&self, request: &str) {
        *self.gate.state.lock().expect("gate") = Hold::Next(request.to_owned());
    }

    /// Refuses every request whose method and target have this in them, with 405, until the next plan.
    pub fn refuse(&self, part: &str) {
        self.state.lock().expect("proxy").refused.push(part.to_owned());
    }

    /// Waits until that request is here.
    #[track_caller]
    pub fn wait_held(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut hold = self.gate.state.lock().expect("gate");
        while !matches!(*hold, Hold::Held) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "nobody sent the request: {hold:?}");
            hold = self.gate.changed.wait_timeout(hold, left).expect("gate").0;
        }
    }

    /// Lets it go.
    pub fn release(&self) {
        *self.gate.state.lock().expect("gate") = Hold::Nothing;
        self.gate.changed.notify_all();
    }

    /// Requests since the last plan: method and target.
    pub fn seen(&self) -> Vec<String> {
        self.state.lock().expect("proxy").seen.clone()
    }
}

fn serve(mut client: TcpStream, port: u16, state: &Mutex<State>, gate: &Gate) -> std::io::Result<()> {
    let Some(request) = Request::read(&client)? else { return Ok(()) };
    let fault = {
        let mut state = state.lock().expect("proxy");
        let number = state.seen.len();
        let line = format!("{} {}", request.method, request.target);
        let refused = state.refused.iter().any(|part| line.contains(part.as_str()));
        state.seen.push(line);
        match state.when {
            _ if refused => Some(Fault::Status(405)),
            When::Once(at, fault) if number == at => Some(fault),
            When::From(at, fault) if number >= at => Some(fault),
            _ => None,
        }
    };
    match fault {
        Some(Fault::Status(status)) => {
            return client.write_all(&Answer::new(status, "a fault\n").bytes(&request.method));
        }
        Some(Fault::Reset) => return reset(client),
        _ => {}
    }
    gate.pass(&format!("{} {}", request.method, request.target));
    let answer = forward(&request, port)?;
    match fault {
        Some(Fault::LostAnswer) => reset(client),
        Some(Fault::Truncate) => {
            client.write_all(&answer[..answer.len() / 2])?;
            client.shutdown(Shutdown::Both)
        }
        _ => client.write_all(&answer),
    }
}

/// The whole answer of the server at a port of 127.0.0.1.
///
/// # Errors
///
/// The connection broke.
pub fn forward(request: &Request, port: u16) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    server.set_read_timeout(Some(Duration::from_secs(90)))?;
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !matches!(name.as_str(), "connection" | "transfer-encoding" | "content-length" | "expect") {
            head.extend([name, ": ", value, "\r\n"]);
        }
    }
    if request.header("content-length").is_some() || !request.body.is_empty() {
        head.extend(["content-length: ", &request.body.len().to_string(), "\r\n"]);
    }
    head.push_str("connection: close\r\n\r\n");
    server.write_all(head.as_bytes())?;
    server.write_all(&request.body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Ends a connection so that the other side gets an error at once.
fn reset(client: TcpStream) -> std::io::Result<()> {
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    drop(client);
    Ok(())
}
