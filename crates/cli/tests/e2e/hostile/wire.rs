//! Bytes that are no messages, and connections that are none.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use super::{PATIENCE, Site};

/// Every method, by service.
const METHODS: &[(&str, &[&str])] = &[
    (
        "moby.buildkit.v1.Control",
        &[
            "DiskUsage",
            "Prune",
            "Solve",
            "Status",
            "Session",
            "ListWorkers",
            "Info",
            "ListenBuildHistory",
            "UpdateBuildHistory",
            "NoSuchMethod",
        ],
    ),
    (
        "moby.buildkit.v1.frontend.LLBBridge",
        &[
            "ResolveImageConfig",
            "ResolveSourceMeta",
            "Solve",
            "ReadFile",
            "ReadDir",
            "StatFile",
            "Evaluate",
            "Ping",
            "Return",
            "Inputs",
            "NewContainer",
            "ReleaseContainer",
            "ExecProcess",
            "ReadFileContainer",
            "ReadDirContainer",
            "StatFileContainer",
            "Warn",
        ],
    ),
    (
        "containerd.services.content.v1.Content",
        &["Info", "Update", "List", "Delete", "Read", "Status", "ListStatuses", "Write", "Abort"],
    ),
    ("opentelemetry.proto.collector.trace.v1.TraceService", &["Export"]),
    ("grpc.health.v1.Health", &["Check"]),
    ("no.such.Service", &["Method"]),
];

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Bare;

impl Codec for Bare {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bare {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; bytes.remaining()];
        bytes.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// Calls a method with these bytes as its message. Returns how the call ended.
async fn call(site: &Site, path: &str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = Grpc::new(site.channel().await).max_encoding_message_size(64 << 20);
    grpc.ready().await.expect("ready");
    let request = Request::new(tokio_stream::iter([message]));
    let path = PathAndQuery::try_from(path).expect("a path");
    let mut answers = grpc.streaming(request, path, Bare).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_none() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        let messages = [vec![0xff; 20], vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![0x0b; 9], vec![0; 17 << 20]];
        for (service, methods) in METHODS {
            for method in *methods {
                for message in &messages {
                    let path = format!("/{service}/{method}");
                    let ended = tokio::time::timeout(PATIENCE, call(site, &path, message.clone())).await;
                    let status = ended.unwrap_or_else(|_| panic!("{path} hangs")).expect_err(&path);
                    assert!(!status.message().contains("panic"), "{path}: {status:?}");
                }
            }
        }
    })
    .await;
}

/// Says something to the socket, and hears it out for a moment.
async fn say(site: &Site, words: &[u8]) {
    let mut stream = UnixStream::connect(site.daemon.socket()).await.expect("connected");
    // The daemon may have hung up before all is said.
    stream.write_all(words).await.ok();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_millis(100), stream.read_to_end(&mut answer)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_none() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let site = Site::new();
    site.survives(async |site: &Site| {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let endless = [0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1];
        for words in [
            &b""[..],
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            &[0x16, 3, 1, 0, 200, 1, 0, 0, 196],
            &PREFACE[..10],
            PREFACE,
            &[PREFACE, &settings].concat(),
            &[PREFACE, &settings, &endless].concat(),
            &[PREFACE, &settings, &[0, 0, 4, 8, 0, 0, 0, 0, 7, 0, 0, 0, 0]].concat(),
            &[PREFACE, &settings, &[0xff; 5000]].concat(),
            &[0; 16_000],
        ] {
            say(site, words).await;
        }
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(UnixStream::connect(site.daemon.socket()).await.expect("connected"));
        }
    })
    .await;
}
