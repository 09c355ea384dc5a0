//! Sessions that stall or vanish, at every point of a build that needs them.

use std::time::Duration;

use cooper_session::client::{ClientSession, Files, LocalDir, Outputs, SessionBuilder};
use cooper_wire::control::{BytesMessage, SolveRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Status};

use super::{Site, exporter};

/// What becomes of a session after so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The call is cancelled.
    Vanish,
    /// It says nothing any more, and stays.
    Stall,
}

/// The session's health is asked for at this interval, and waited for as long.
const HEALTH: Duration = Duration::from_secs(1);

/// A lost session is found out within the time of a health check, on a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// Runs a session in a call of its own; what it says is passed on up to `limit` bytes.
async fn run(site: &Site, session: ClientSession, limit: usize, fate: Fate) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let metadata = session.params().to_metadata();
    let _session = AbortOnDropHandle::new(tokio::spawn(session.serve(ours)));
    let (mut said, mut told) = tokio::io::split(theirs);
    let (send, receive) = mpsc::channel(16);
    let mut control = site.control().await;
    let request = Request::from_parts(metadata, tonic::Extensions::default(), ReceiverStream::new(receive));
    let Ok(answer) = control.session(request).await else { return };
    let mut answer = answer.into_inner();
    let _down = AbortOnDropHandle::new(tokio::spawn(async move {
        while let Ok(Some(message)) = answer.message().await {
            if told.write_all(&message.data).await.is_err() {
                return;
            }
        }
    }));
    let mut left = limit;
    let mut buffer = vec![0; 4096];
    while left > 0 {
        let most = left.min(buffer.len());
        let Ok(count @ 1..) = said.read(&mut buffer[..most]).await else { return };
        left -= count;
        if send.send(BytesMessage { data: buffer[..count].to_vec().into() }).await.is_err() {
            return;
        }
    }
    if fate == Fate::Stall {
        std::future::pending::<()>().await;
    }
}

/// A build of one copied file, back into a directory, over a session of this fate.
async fn build(site: &Site, limit: usize, fate: Fate) -> Result<(), Status> {
    let number = site.number();
    let (context, out) = (site.shop.path(&format!("in{number}")), site.shop.path(&format!("out{number}")));
    std::fs::create_dir_all(&context).expect("mkdir");
    std::fs::write(context.join("f"), number.to_string().repeat(20_000)).expect("write");
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY f /f\n").expect("write");
    let mut files = Files::new();
    for name in ["context", "dockerfile"] {
        files = files.with(name, LocalDir::context(&context));
    }
    let session = SessionBuilder::new().health(HEALTH).files(files).outputs(Outputs::new().with_dir(0, &out, false));
    let session = session.build();
    let request = SolveRequest {
        session: session.id().to_owned(),
        frontend: "dockerfile.v0".into(),
        exporters: vec![exporter("local")],
        ..site.request()
    };
    // The session ends after the build, unless it ended before.
    let (over, ended) = tokio::sync::oneshot::channel::<()>();
    let session = async {
        tokio::select! {
            () = run(site, session, limit, fate) => {}
            _ = ended => {}
        }
    };
    let solved = async {
        let solved = site.solve(request).await;
        drop(over);
        solved
    };
    tokio::join!(session, solved).1
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_at_any_point() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        let limits = [0, 1, 9, 24, 40, 70, 110, 180, 300, 450, 700, 1000, 2000, 5000, 20_000, 60_000];
        let builds = limits.iter().flat_map(|limit| [(*limit, Fate::Vanish), (*limit, Fate::Stall)]);
        let ended = futures::future::join_all(builds.map(async |(limit, fate)| {
            let began = std::time::Instant::now();
            (limit, fate, build(site, limit, fate).await, began.elapsed())
        }));
        for (limit, fate, outcome, took) in ended.await {
            let Err(status) = outcome else { continue };
            assert!(took < SOON, "{limit} {fate:?} took {took:?}");
            let said = status.message();
            let typed = [Code::NotFound, Code::Unavailable, Code::Cancelled, Code::Unknown].contains(&status.code());
            assert!(typed && said.contains("session"), "{limit} {fate:?}: {status:?}");
        }
    })
    .await;
    build(&site, usize::MAX, Fate::Stall).await.expect("an honest session");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_none() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        let mut control = site.control().await;
        let nameless = control.session(tokio_stream::pending::<BytesMessage>()).await.expect_err("no id");
        assert_eq!(nameless.code(), Code::InvalidArgument, "{nameless:?}");
        let absent = SolveRequest { session: "nosuch".into(), frontend: "dockerfile.v0".into(), ..site.request() };
        let absent = site.solve(absent).await.expect_err("no session");
        assert!(absent.message().contains("no active session for nosuch"), "{absent:?}");
        // Two of one name: the second is refused, and the first goes on.
        let before = site.held().sessions;
        let first = SessionBuilder::new().id(format!("twin{}", site.number())).build();
        let params = first.params().clone();
        let channel = site.channel().await;
        let first = AbortOnDropHandle::new(tokio::spawn(first.connect(channel)));
        for _ in 0..50 {
            if site.held().sessions > before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let twin = SessionBuilder::new().id(params.id).build();
        let channel = site.channel().await;
        tokio::time::timeout(Duration::from_secs(60), twin.connect(channel)).await.expect("refused").ok();
        assert!(!first.is_finished());
    })
    .await;
}
