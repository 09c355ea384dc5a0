//! Both ends of a session against each other: in one process and through a gRPC call.

use bytes::Bytes;
use cooper_content::BlobSource;
use cooper_fsmatch::FilterSpec;
use cooper_oci::{Descriptor, Digest};
use cooper_session::{
    Credentials, Error, Session, SessionParams, Sessions, SyncRequest, Token, TokenRequest,
    client::{
        Agent, Agents, Attached, AuthProvider, Authorization, Files, LocalDir, Outputs, Secret, Secrets,
        SessionBuilder, Store, Stores, Uploads, new_session_id,
    },
    transfer::{ReceiveOptions, SendOptions, Source},
};
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::AbortOnDropHandle;
use tonic::async_trait;

async fn attach(builder: SessionBuilder) -> (Sessions, Attached) {
    let sessions = Sessions::new();
    let attached = builder.build().attach(&sessions).await.expect("attached");
    (sessions, attached)
}

/// The same without the shortcut for directories in one process: everything goes through HTTP/2.
async fn wire(builder: SessionBuilder) -> (Sessions, Session, Vec<AbortOnDropHandle<Result<(), Error>>>) {
    let (sessions, client) = (Sessions::new(), builder.build());
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let params = client.params().clone();
    let id = params.id.clone();
    let client = AbortOnDropHandle::new(tokio::spawn(client.serve(ours)));
    let daemon = sessions.clone();
    let daemon = AbortOnDropHandle::new(tokio::spawn(async move { daemon.serve(params, theirs).await }));
    let session = sessions.get(&id, Duration::from_secs(60)).await.expect("session");
    (sessions, session, vec![client, daemon])
}

async fn collect(stream: cooper_content::ByteStream) -> Vec<u8> {
    let pieces: Vec<Bytes> = stream.try_collect().await.expect("bytes");
    pieces.concat()
}

#[tokio::test]
async fn sessions_are_found_by_id() {
    let (sessions, attached) = attach(SessionBuilder::new().id("one").shared_key("dir:node").name("n")).await;
    let session = attached.session().clone();
    assert_eq!((session.id(), session.shared_key(), session.name()), ("one", "dir:node", "n"));
    assert!(session.supports("/grpc.health.v1.health/CHECK") && !session.supports("/moby.upload.v1.Upload/Pull"));
    for id in ["one", "local:one", "x:one"] {
        assert_eq!(sessions.get(id, Duration::ZERO).await.expect(id).id(), "one");
    }
    let missing = sessions.get("p:two", Duration::from_millis(20)).await.expect_err("missing");
    assert_eq!(missing.to_string(), "no active session for two");

    let waiting = tokio::spawn({
        let sessions = sessions.clone();
        async move { sessions.get("two", Duration::from_secs(40)).await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let second = SessionBuilder::new().id("two").build().attach(&sessions).await.expect("attached");
    assert_eq!(waiting.await.expect("no panic").expect("found").id(), "two");
    let twice = SessionBuilder::new().id("two").build().attach(&sessions).await.expect_err("twice");
    assert_eq!(twice.to_string(), "session two already exists");

    let (ended, session) = (session.ended().clone(), second.session().clone());
    drop(attached);
    tokio::time::timeout(Duration::from_secs(60), ended.cancelled()).await.expect("ended");
    assert!(sessions.find("one").is_none() && !session.is_ended());
    let error = sessions.any(["one", "two"], |s| async move { s.check_agent("").await }).await.expect_err("no agent");
    assert!(matches!(error, Error::Call(_)), "{error}");
    let none: Result<(), Error> = sessions.any(Vec::<String>::new(), |_| async { Ok(()) }).await;
    assert_eq!(none.expect_err("none").to_string(), "no active sessions");
}

#[test]
fn ids() {
    let id = new_session_id();
    assert!(id.len() == 25 && id.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()), "{id}");
    assert_ne!(id, new_session_id());
}

#[test]
fn params_travel_as_headers() {
    let params = SessionParams {
        id: "id".into(),
        name: String::new(),
        shared_key: "k".into(),
        methods: vec!["/a.B/C".into(), "/a.B/D".into()],
        health: Some(Duration::from_millis(1500)),
    };
    assert_eq!(SessionParams::from_metadata(&params.to_metadata()).expect("valid"), params);
    assert!(matches!(SessionParams::from_metadata(&tonic::metadata::MetadataMap::new()), Err(Error::MissingId)));
}

#[tokio::test]
async fn secrets() {
    let dir = TempDir::new().expect("temp");
    fs::write(dir.path().join("s"), "from file").expect("write");
    fs::write(dir.path().join("big"), vec![0; 600 * 1024]).expect("write");
    let secrets = Secrets::new()
        .with("file", Secret::File(dir.path().join("s")))
        .with("bytes", Secret::Bytes(b"\0\xff".to_vec()))
        .with("path", Secret::Env("PATH".into()))
        .with("unset", Secret::Env("COOPER_TEST_NOT_SET".into()))
        .with("big", Secret::File(dir.path().join("big")))
        .with("gone", Secret::File(dir.path().join("gone")));
    let (_sessions, attached) = attach(SessionBuilder::new().secrets(secrets)).await;
    let session = attached.session();
    assert_eq!(session.secret("file").await.expect("ok"), Some(b"from file".to_vec()));
    assert_eq!(session.secret("bytes").await.expect("ok"), Some(b"\0\xff".to_vec()));
    assert!(session.secret("path").await.expect("ok").is_some());
    assert_eq!(session.secret("unset").await.expect("ok"), None);
    assert_eq!(session.secret("other").await.expect("ok"), None);
    assert!(session.secret("big").await.expect_err("big").to_string().contains("bigger than"));
    assert!(session.secret("gone").await.expect_err("gone").to_string().contains("No such file"));
    let (_sessions, bare) = attach(SessionBuilder::new()).await;
    assert_eq!(bare.session().secret("file").await.expect("ok"), None);
}

struct Provider;

#[async_trait]
impl AuthProvider for Provider {
    async fn authorization(&self, host: &str) -> Result<Authorization, String> {
        Ok(match host {
            "secret.example" => {
                Authorization::Credentials(Credentials { username: "me".into(), secret: "password".into() })
            }
            "token.example" => Authorization::Token("fixed".into()),
            "broken.example" => return Err("helper failed".into()),
            _ => Authorization::Anonymous,
        })
    }

    async fn fetch_token(&self, request: &TokenRequest) -> Result<Token, String> {
        Ok(Token { token: format!("{}|{:?}", request.realm, request.scopes), expires_in: 300, issued_at: 5 })
    }
}

#[tokio::test]
async fn credentials_and_tokens() {
    let dir = TempDir::new().expect("temp");
    let with_seeds = || SessionBuilder::new().auth(Arc::new(Provider), Some(dir.path().join("docker")));
    let (_sessions, attached) = attach(with_seeds()).await;
    let session = attached.session();
    let found = session.credentials("secret.example").await.expect("ok").expect("some");
    assert_eq!((found.username.as_str(), found.secret.as_str()), ("me", "password"));
    assert_eq!(session.credentials("other.example").await.expect("ok"), None);
    assert_eq!(session.credentials("broken.example").await.expect_err("broken").to_string(), "helper failed");

    let authority = session.token_authority("secret.example").await.expect("ok").expect("some");
    let anonymous = session.token_authority("other.example").await.expect("ok").expect("some");
    assert_ne!(authority, anonymous);
    let request = TokenRequest {
        host: "secret.example".into(),
        realm: "r".into(),
        scopes: vec!["s".into()],
        ..TokenRequest::default()
    };
    let token = session.fetch_token(&request).await.expect("token");
    assert_eq!((token.token.as_str(), token.expires_in, token.issued_at), ("r|[\"s\"]", 300, 5));
    let fixed = TokenRequest { host: "token.example".into(), ..TokenRequest::default() };
    assert_eq!(session.fetch_token(&fixed).await.expect("token").expires_in, 60);

    // Another session of the same user proves to be the same authority, another user's doesn't.
    let (_sessions, same) = attach(with_seeds()).await;
    assert!(same.session().verify_token_authority("secret.example", &authority).await.expect("ok"));
    assert!(!same.session().verify_token_authority("other.example", &authority).await.expect("ok"));
    let elsewhere = dir.path().join("elsewhere");
    let (_sessions, other) = attach(SessionBuilder::new().auth(Arc::new(Provider), Some(elsewhere))).await;
    assert!(!other.session().verify_token_authority("secret.example", &authority).await.expect("ok"));
    assert_eq!(other.session().token_authority("other.example").await.expect("ok"), Some(anonymous));

    let (_sessions, plain) = attach(SessionBuilder::new().auth(Arc::new(Provider), None)).await;
    assert_eq!(plain.session().token_authority("secret.example").await.expect("ok"), None);
}

async fn sync(session: &Session, name: &str, filter: FilterSpec, to: &Path) -> Result<Vec<String>, Error> {
    let request = SyncRequest { name: name.into(), filter };
    let received = session.sync_dir(&request, to, None, ReceiveOptions::default()).await?;
    Ok(received.listing.entries().iter().map(|e| format!("{} {}:{}", e.path, e.uid, e.gid)).collect())
}

#[tokio::test]
async fn contexts() {
    let (from, to) = (TempDir::new().expect("temp"), TempDir::new().expect("temp"));
    fs::create_dir(from.path().join("dür")).expect("mkdir");
    fs::write(from.path().join("dür/f"), "x").expect("write");
    fs::write(from.path().join("g"), "y").expect("write");
    std::os::unix::fs::chown(from.path().join("g"), Some(12), Some(13)).expect("chown");
    let files = Files::new().with("context", LocalDir::context(from.path()));
    let (_sessions, attached) = attach(SessionBuilder::new().files(files.clone())).await;
    check_contexts(attached.session(), to.path()).await;
    let (_sessions, session, _open) = wire(SessionBuilder::new().files(files)).await;
    check_contexts(&session, to.path()).await;
    let (_sessions, bare) = attach(SessionBuilder::new()).await;
    let unsupported = sync(bare.session(), "context", FilterSpec::default(), to.path()).await.expect_err("unsupported");
    assert_eq!(unsupported.to_string(), "method /moby.filesync.v1.FileSync/DiffCopy not supported by the client");
}

async fn check_contexts(session: &Session, to: &Path) {
    let all = sync(session, "context", FilterSpec::default(), to).await.expect("synced");
    assert_eq!(all, ["dür 0:0", "dür/f 0:0", "g 0:0"]);
    let exclude = vec!["dür/**".to_owned(), "a b".to_owned()];
    let some = sync(session, "context", FilterSpec { exclude, ..FilterSpec::default() }, to).await.expect("synced");
    assert_eq!(some, ["dür 0:0", "g 0:0"]);
    let refused = sync(session, "other", FilterSpec::default(), to).await.expect_err("refused");
    assert_eq!(refused.code(), Some(tonic::Code::NotFound));
    assert_eq!(refused.to_string(), "no access allowed to dir \"other\"");
    let bad = FilterSpec { include: vec!["[".into()], ..FilterSpec::default() };
    let bad = sync(session, "context", bad, to).await.expect_err("bad pattern").to_string();
    assert_eq!(bad, "error from sender: invalid transfer pattern: syntax error in pattern \"[\"");
}

/// A writer into shared memory that notes its end.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<(Vec<u8>, bool)>>);

impl tokio::io::AsyncWrite for Memory {
    fn poll_write(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        self.0.lock().0.extend_from_slice(data);
        std::task::Poll::Ready(Ok(data.len()))
    }
    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
    fn poll_shutdown(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        self.0.lock().1 = true;
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn archives_go_back() {
    let (memory, metadata) = (Memory::default(), Arc::new(Mutex::new(BTreeMap::new())));
    let outputs = Outputs::new()
        .with_tar(3, {
            let (memory, metadata) = (memory.clone(), metadata.clone());
            Arc::new(move |md| {
                *metadata.lock() = md;
                Ok(Some(Box::new(memory.clone()) as _))
            })
        })
        .with_tar(4, Arc::new(|_| Ok(None)))
        .with_tar(5, Arc::new(|_| Err(io::Error::other("disk full"))));
    let (_sessions, attached) = attach(SessionBuilder::new().outputs(outputs)).await;
    let session = attached.session();
    let entries = BTreeMap::from([("image.name".to_owned(), "a/b".to_owned()), ("bad".to_owned(), "\n".to_owned())]);
    let mut sink = session.send_tar(3, &entries).expect("sink");
    let data: Vec<u8> = (0..10_000_000u32).map(|i| (i % 251) as u8).collect();
    sink.write_all(&data[..5_000_000]).await.expect("written");
    sink.write_bytes(Bytes::copy_from_slice(&data[5_000_000..])).await.expect("written");
    sink.finish().await.expect("finished");
    assert!(memory.0.lock().0 == data && memory.0.lock().1);
    assert_eq!(*metadata.lock(), BTreeMap::from([("image.name".to_owned(), "a/b".to_owned())]));
    for (exporter, want) in [(4, "target already exists"), (5, "disk full"), (9, "exporter 9 not found")] {
        let sink = session.send_tar(exporter, &BTreeMap::new()).expect("sink");
        assert_eq!(sink.finish().await.expect_err("refused").to_string(), want);
        let mut sink = session.send_tar(exporter, &BTreeMap::new()).expect("sink");
        let error = sink.write_all(&vec![0; 20_000_000]).await.expect_err("refused");
        assert_eq!(error.to_string(), want);
    }
}

#[tokio::test]
async fn directories_go_back() {
    for wired in [false, true] {
        let to = TempDir::new().expect("temp");
        fs::create_dir_all(to.path().join("clean")).expect("mkdir");
        fs::write(to.path().join("clean/old"), "old").expect("write");
        fs::write(to.path().join("file"), "in the way").expect("write");
        let outputs = Outputs::new()
            .with_dir(0, to.path().join("made/here"), false)
            .with_dir(1, to.path().join("clean"), true)
            .with_dir(2, to.path().join("file"), true);
        let builder = SessionBuilder::new().outputs(outputs);
        if wired {
            let (_sessions, session, _open) = wire(builder).await;
            check_directories(&session, to.path()).await;
        } else {
            let (_sessions, attached) = attach(builder).await;
            check_directories(attached.session(), to.path()).await;
        }
    }
}

async fn check_directories(session: &Session, to: &Path) {
    let from = TempDir::new().expect("temp");
    fs::write(from.path().join("f"), "new").expect("write");
    let source = || Source::dir(from.path()).with_file(None, "note", "n");
    let sent = session.send_dir(0, source(), SendOptions::default(), true).await.expect("sent");
    assert_eq!(sent.entries, 2);
    assert_eq!(fs::read_to_string(to.join("made/here/f")).expect("read"), "new");
    assert_eq!(to.join("made/here").metadata().expect("stat").mode() & 0o777, 0o700);
    let refused = session.send_dir(1, source(), SendOptions::default(), false).await.expect_err("refused");
    assert!(refused.to_string().contains("mode=delete requires"), "{refused}");
    session.send_dir(1, source(), SendOptions::default(), true).await.expect("sent");
    let mut names: Vec<_> =
        fs::read_dir(to.join("clean")).expect("dir").map(|e| e.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["f", "note"]);
    let failed = session.send_dir(2, source(), SendOptions::default(), true).await.expect_err("failed");
    assert!(failed.to_string().starts_with("cannot create "), "{failed}");
    let missing = session.send_dir(7, source(), SendOptions::default(), true).await.expect_err("missing");
    assert_eq!(missing.to_string(), "exporter 7 not found");
}

#[tokio::test]
async fn content_stores() {
    let dir = TempDir::new().expect("temp");
    let stores = Stores::new()
        .with("oci:base", Store { root: dir.path().join("layout"), writable: false })
        .with("export", Store { root: dir.path().join("out"), writable: true });
    let (_sessions, attached) = attach(SessionBuilder::new().stores(stores)).await;
    let session = attached.session();
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 253) as u8).collect();
    let digest = Digest::of(&content);
    let pieces =
        || futures::stream::iter(content.chunks(700_000).map(|c| Ok(Bytes::copy_from_slice(c))).collect::<Vec<_>>());

    let out = session.content_store("export");
    assert_eq!(out.info(&digest).await.expect("ok"), None);
    for _ in 0..2 {
        out.write(&digest, content.len() as u64, BTreeMap::new(), pieces()).await.expect("written");
    }
    assert_eq!(out.info(&digest).await.expect("ok").expect("some").size, 3_000_000);
    assert_eq!(out.list().await.expect("ok").len(), 1);
    assert_eq!(collect(out.read(&digest, 0).await.expect("read")).await, content);
    assert_eq!(collect(out.read(&digest, 2_999_990).await.expect("read")).await, content[2_999_990..]);
    let desc = Descriptor::new("application/octet-stream", digest.clone(), 3_000_000);
    assert_eq!(collect(out.stream(&desc, 1).await.expect("read")).await, content[1..]);

    let wrong = out.write(&Digest::of(b"other"), 3_000_000, BTreeMap::new(), pieces()).await.expect_err("wrong");
    assert!(wrong.to_string().starts_with("unexpected commit digest"), "{wrong}");
    let short = out.write(&Digest::of(b"other"), 4_000_000, BTreeMap::new(), pieces()).await.expect_err("short");
    assert!(short.to_string().starts_with("unexpected commit size"), "{short}");
    assert!(
        !dir.path().join("out/ingest").exists()
            || fs::read_dir(dir.path().join("out/ingest")).expect("dir").count() == 0
    );

    let base = session.content_store("oci:base");
    assert!(matches!(base.read(&digest, 0).await.err().expect("missing"), Error::NoContent { .. }));
    let refused = base.write(&digest, 3_000_000, BTreeMap::new(), pieces()).await.expect_err("refused");
    assert_eq!(refused.code(), Some(tonic::Code::PermissionDenied));
    assert!(base.list().await.expect("ok").is_empty());
    let unknown = session.content_store("oci:none").list().await.expect_err("unknown");
    assert_eq!(unknown.to_string(), "unknown store oci:none");
}

#[tokio::test]
async fn uploads_are_pulled_once() {
    let uploads = Uploads::new();
    let url = uploads.add(std::io::Cursor::new(vec![7; 3_000_000]));
    let (_sessions, attached) = attach(SessionBuilder::new().uploads(uploads)).await;
    let path = url.strip_prefix("http://buildkit-session").expect("prefix");
    let pulled = attached.session().pull_upload("buildkit-session", path).await.expect("pulled");
    assert_eq!(collect(pulled).await, vec![7; 3_000_000]);
    let again = attached.session().pull_upload("buildkit-session", path).await;
    assert!(again.err().expect("gone").to_string().starts_with("no http response from session"));
}

/// An agent that answers each message with its type and length.
fn fake_agent(dir: &Path) -> std::path::PathBuf {
    let socket = dir.join("agent.sock");
    let listener = tokio::net::UnixListener::bind(&socket).expect("bind");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(len) = stream.read_u32().await {
                    let mut frame = vec![0; len as usize];
                    stream.read_exact(&mut frame).await.expect("frame");
                    stream.write_all(&[0, 0, 0, 2, frame[0], len as u8]).await.expect("answer");
                }
            });
        }
    });
    socket
}

#[tokio::test]
async fn agents() {
    let dir = TempDir::new().expect("temp");
    let socket = fake_agent(dir.path());
    let agent = |raw| Agent { socket: socket.clone(), raw };
    let agents = Agents::new().with("", agent(false)).expect("new").with("raw", agent(true)).expect("new");
    assert!(agents.clone().with("default", agent(false)).is_err());
    let (_sessions, attached) = attach(SessionBuilder::new().agents(agents)).await;
    let session = attached.session();
    session.check_agent("").await.expect("there");
    let unset = session.check_agent("x").await.expect_err("unset");
    assert_eq!(unset.to_string(), "unset ssh forward key x");
    // Listing and signing pass; adding a key (17) and extensions (27) don't, but for a raw connection.
    for (id, kind, want) in [("", 11, [11, 1]), ("", 13, [13, 1]), ("raw", 17, [17, 1])] {
        let mut stream = session.forward_agent(id);
        stream.write_all(&[0, 0, 0, 1, kind]).await.expect("sent");
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).await.expect("answer");
        assert_eq!(answer[4..], want, "{id} {kind}");
    }
    let mut stream = session.forward_agent("default");
    for kind in [17, 27] {
        stream.write_all(&[0, 0, 0, 1, kind]).await.expect("sent");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.expect("answer");
        assert_eq!(answer, [0, 0, 0, 1, 5]);
    }
    stream.shutdown().await.expect("closed");
    assert_eq!(stream.read(&mut [0]).await.expect("end"), 0);
}

#[tokio::test]
async fn what_nobody_decides_has_no_effect() {
    let (_sessions, attached) = attach(SessionBuilder::new()).await;
    assert!(attached.session().find_exporters(BTreeMap::new(), vec![]).await.expect("ok").is_empty());
    attached.session().finalize_export(BTreeMap::new()).await.expect("ok");
}

#[tokio::test]
async fn a_lost_client_cancels_what_runs() {
    let dir = TempDir::new().expect("temp");
    let to = TempDir::new().expect("temp");
    // Reading this file never ends: its content is a pipe's.
    let (reader, _writer) = tokio::io::duplex(16);
    let uploads = Uploads::new();
    let url = uploads.add(reader);
    let files = Files::new().with("context", LocalDir::context(dir.path()));
    let (_sessions, attached) = attach(SessionBuilder::new().uploads(uploads).files(files)).await;
    let session = attached.session().clone();
    let path = url.strip_prefix("http://buildkit-session").expect("prefix").to_owned();
    let mut pulled = session.pull_upload("buildkit-session", &path).await.expect("pulled");
    let started = Instant::now();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(attached);
    });
    let end = tokio::time::timeout(Duration::from_secs(60), pulled.next()).await.expect("ends");
    assert!(!matches!(end, Some(Ok(_))) && started.elapsed() < Duration::from_secs(30));
    session.ended().cancelled().await;
    let late = sync(&session, "context", FilterSpec::default(), to.path()).await;
    assert!(late.is_err());
}

#[tokio::test]
async fn a_client_that_stops_answering_is_given_up() {
    let sessions = Sessions::new();
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let params = SessionParams { id: "mute".into(), health: Some(Duration::from_secs(1)), ..SessionParams::default() };
    let ended = sessions.serve(params, theirs);
    let error = tokio::time::timeout(Duration::from_secs(40), ended).await.expect("given up").expect_err("unhealthy");
    assert_eq!(error.to_string(), "session healthcheck failed fatally");
    drop(ours);
}

/// A session through a real `Control.Session` call over TCP, as buildctl and the daemon have it.
mod over_grpc {
    use super::*;
    use cooper_wire::control::{
        BytesMessage,
        control_server::{Control, ControlServer},
        *,
    };
    use std::pin::Pin;
    use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
    use tonic::{Request, Response, Status, Streaming};

    struct Daemon(Sessions);
    type Answer<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

    #[async_trait]
    impl Control for Daemon {
        type PruneStream = Answer<UsageRecord>;
        type StatusStream = Answer<StatusResponse>;
        type SessionStream = Answer<BytesMessage>;
        type ListenBuildHistoryStream = Answer<BuildHistoryEvent>;

        async fn session(
            &self,
            request: Request<Streaming<BytesMessage>>,
        ) -> Result<Response<Self::SessionStream>, Status> {
            let (metadata, _, incoming) = request.into_parts();
            let params = SessionParams::from_metadata(&metadata).map_err(|e| e.to_status())?;
            let (sender, outgoing) = tokio::sync::mpsc::channel(16);
            let sessions = self.0.clone();
            tokio::spawn(async move { sessions.serve_stream(params, incoming, sender).await });
            Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(Ok))))
        }
        async fn disk_usage(&self, _: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn prune(&self, _: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn solve(&self, _: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn status(&self, _: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn listen_build_history(
            &self,
            _: Request<BuildHistoryRequest>,
        ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
            Err(Status::unimplemented(""))
        }
        async fn update_build_history(
            &self,
            _: Request<UpdateBuildHistoryRequest>,
        ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
            Err(Status::unimplemented(""))
        }
    }

    #[tokio::test]
    async fn files_there_and_back() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let sessions = Sessions::new();
        let server = tonic::transport::Server::builder()
            .add_service(ControlServer::new(Daemon(sessions.clone())).max_decoding_message_size(16 << 20))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server);
        let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .expect("uri")
            .connect()
            .await
            .expect("up");

        let (from, to, back) =
            (TempDir::new().expect("temp"), TempDir::new().expect("temp"), TempDir::new().expect("temp"));
        let big: Vec<u8> = (0..20_000_000u32).map(|i| (i % 241) as u8).collect();
        fs::write(from.path().join("big"), &big).expect("write");
        for i in 0..500 {
            fs::write(from.path().join(format!("small{i}")), format!("{i}")).expect("write");
        }
        let client = SessionBuilder::new()
            .files(Files::new().with("context", LocalDir::context(from.path())))
            .outputs(Outputs::new().with_dir(0, back.path(), false))
            .build();
        let id = client.id().to_owned();
        let client = tokio::spawn(client.connect(channel));
        let session = sessions.get(&id, Duration::from_secs(60)).await.expect("session");
        let names = sync(&session, "context", FilterSpec::default(), to.path()).await.expect("synced");
        assert_eq!(names.len(), 501);
        assert_eq!(fs::read(to.path().join("big")).expect("read"), big);
        session.send_dir(0, Source::dir(to.path()), SendOptions::default(), false).await.expect("sent");
        assert_eq!(fs::read(back.path().join("big")).expect("read"), big);
        assert_eq!(fs::read(back.path().join("small499")).expect("read"), b"499");

        client.abort();
        tokio::time::timeout(Duration::from_secs(60), session.ended().cancelled()).await.expect("ended");
        server.abort();
    }
}

#[tokio::test]
async fn ended_sessions_are_not_waited_for() {
    let (sessions, attached) = attach(SessionBuilder::new().id("one")).await;
    let session = attached.session().clone();
    drop(attached);
    session.ended().cancelled().await;
    let begun = std::time::Instant::now();
    let error = sessions.get("one", Duration::from_secs(60)).await.expect_err("ended");
    assert_eq!(error.to_string(), "no active session for one");
    assert!(begun.elapsed() < Duration::from_secs(40), "waited {:?}", begun.elapsed());
}
