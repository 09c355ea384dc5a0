//! Real object stores on ports of their own: moto for S3, Azurite for Azure.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::ports::serve;

/// The account of every Azurite here.
pub const ACCOUNT: &str = "cooperage";
/// Its key.
pub const ACCOUNT_KEY: &str = "Y29vcGVyYWdlLXRlc3Qta2V5LW9mLW5vLXdvcnRo";
/// The bucket that every S3 server here has.
pub const BUCKET: &str = "caches";

/// An object store that runs, and ends when dropped.
#[derive(Debug)]
pub struct ObjectServer {
    _dir: TempDir,
    child: Child,
    port: u16,
}

impl ObjectServer {
    /// Starts an S3 server with an empty [`BUCKET`].
    #[track_caller]
    pub fn s3() -> Self {
        let server = Self::start(|port| {
            let mut command = Command::new(tool("moto/bin/moto_server"));
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
            command
        });
        let answer = server.ask(&format!("PUT /{BUCKET} HTTP/1.1"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server
    }

    /// Starts an empty Azure storage with [`ACCOUNT`].
    #[track_caller]
    pub fn azure() -> Self {
        Self::start(|port| {
            let mut command = Command::new(tool("azurite/node_modules/.bin/azurite-blob"));
            command.args(["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"]);
            command.args(["--disableProductStyleUrl", "--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
            command.env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{ACCOUNT_KEY}"));
            command
        })
    }

    #[track_caller]
    fn start(command: impl Fn(u16) -> Command) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let log = fs::File::create(dir.path().join("log")).expect("log");
        let (child, port) = serve(|port| {
            let mut command = command(port);
            command.current_dir(dir.path()).stdin(Stdio::null());
            command.stdout(log.try_clone().expect("log")).stderr(log.try_clone().expect("log"));
            command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
        });
        Self { _dir: dir, child, port }
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a request without a body; the answer as text.
    #[track_caller]
    pub fn ask(&self, first_line: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connection");
        let request = format!("{first_line}\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answer");
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for ObjectServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program below `tools` in the target directory, where `cargo xtask test` puts what Debian has not.
#[track_caller]
fn tool(path: &str) -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let found = own.ancestors().map(|dir| dir.join("tools").join(path)).find(|tool| tool.is_file());
    found.unwrap_or_else(|| panic!("no tools/{path} above {}: run `cargo xtask setup`", own.display()))
}
