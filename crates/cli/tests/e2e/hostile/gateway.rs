//! Clients that drive their builds themselves, and badly.

use std::time::Duration;

use cooper_testkit::process::until;
use cooper_wire::control::SolveResponse;
use cooper_wire::gateway::exec_message::Input;
use cooper_wire::gateway::llb_bridge_client::LlbBridgeClient;
use cooper_wire::gateway::{
    CacheOptionsEntry, EvaluateRequest, ExecMessage, FdMessage, FileRange, InitMessage, NewContainerRequest,
    ReadDirRequest, ReadFileRequest, Ref, ReleaseContainerRequest, ResizeMessage, ReturnRequest, SignalMessage,
    SolveRequest, StatFileRequest, WarnRequest, result,
};
use cooper_wire::{gateway, pb, rpc};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::{PATIENCE, Site};

/// A build that waits for what its client does.
pub(super) struct Driven {
    id: String,
    pub bridge: LlbBridgeClient<Channel>,
    solve: AbortOnDropHandle<Result<Response<SolveResponse>, Status>>,
}

impl Driven {
    pub async fn begin(site: &Site) -> Self {
        Self::with(site, site.request()).await
    }

    pub async fn with(site: &Site, request: cooper_wire::control::SolveRequest) -> Self {
        let id = request.r#ref.clone();
        let mut control = site.control().await;
        let solve = AbortOnDropHandle::new(tokio::spawn(async move { control.solve(request).await }));
        let bridge = LlbBridgeClient::new(site.channel().await);
        let mut driven = Self { id, bridge, solve };
        let ping = driven.tag(gateway::PingRequest {});
        driven.bridge.ping(ping).await.expect("the build waits");
        driven
    }

    pub fn tag<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("buildkit-controlapi-buildid", self.id.parse().expect("a header"));
        request
    }

    pub async fn give_back(&mut self, answer: ReturnRequest) -> Result<(), Status> {
        let request = self.tag(answer);
        self.bridge.r#return(request).await.map(drop)
    }

    /// How the build ended.
    pub async fn end(self) -> Result<(), Status> {
        let solved = tokio::time::timeout(PATIENCE, self.solve).await.expect("the build hangs");
        solved.expect("no panic").map(drop)
    }

    /// A ref with a static busybox in it.
    pub async fn busybox(&mut self) -> String {
        let data = std::fs::read(cooper_testkit::image::busybox_binary()).expect("busybox");
        let make = pb::FileActionMkFile { path: "/busybox".into(), mode: 0o755, data, timestamp: -1, owner: None };
        let action = pb::FileAction {
            input: -1,
            secondary_input: -1,
            output: 0,
            action: Some(pb::file_action::Action::Mkfile(make)),
        };
        let op = pb::Op { op: Some(pb::op::Op::File(pb::FileOp { actions: vec![action] })), ..pb::Op::default() };
        let op = op.encode_to_vec();
        let input = pb::Input { digest: cooper_llb::OpDigest::of(&op).to_string(), index: 0 };
        let root = pb::Op { inputs: vec![input], ..pb::Op::default() }.encode_to_vec();
        let definition = Some(pb::Definition { def: vec![op, root], ..pb::Definition::default() });
        let request = SolveRequest { definition, allow_result_return: true, ..SolveRequest::default() };
        let request = self.tag(request);
        let solved = self.bridge.solve(request).await.expect("solved").into_inner();
        match solved.result.and_then(|r| r.result) {
            Some(result::Result::Ref(found)) => found.id,
            other => panic!("{other:?}"),
        }
    }

    /// A container of this name with a static busybox in it.
    pub async fn container(&mut self, id: &str) {
        let root = self.busybox().await;
        let mounts = vec![pb::Mount { dest: "/".into(), result_id: root, ..pb::Mount::default() }];
        let request = NewContainerRequest { container_id: id.into(), mounts, ..NewContainerRequest::default() };
        let request = self.tag(request);
        self.bridge.new_container(request).await.expect("a container");
    }

    /// A container with a program that sleeps: what it says, and the way to talk to it.
    async fn sleeper(&mut self) -> (tonic::Streaming<ExecMessage>, mpsc::Sender<ExecMessage>) {
        self.container("c").await;
        let meta = pb::Meta {
            args: ["/busybox", "sleep", "10000"].map(str::to_owned).to_vec(),
            cwd: "/".into(),
            ..pb::Meta::default()
        };
        let init = InitMessage { container_id: "c".into(), meta: Some(meta), fds: vec![0, 1, 2], ..Default::default() };
        let (send, receive) = mpsc::channel(4);
        send.send(ExecMessage { process_id: "p".into(), input: Some(Input::Init(init)) }).await.expect("room");
        let request = self.tag(ReceiverStream::new(receive));
        let mut answers = self.bridge.exec_process(request).await.expect("a process").into_inner();
        let first = answers.message().await.expect("an answer").expect("an answer").input;
        assert!(matches!(first, Some(Input::Started(_))), "{first:?}");
        (answers, send)
    }
}

#[track_caller]
fn fails<T: std::fmt::Debug>(outcome: Result<T, Status>, codes: &[Code], what: &str) -> Status {
    let status = outcome.expect_err(what);
    assert!(codes.contains(&status.code()) && !status.message().contains("panic"), "{what}: {status:?}");
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_none() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        // Twice: the second comes too late, the first counts.
        let mut driven = Driven::begin(site).await;
        driven.give_back(ReturnRequest::default()).await.expect("taken");
        let second = driven.give_back(ReturnRequest::default()).await;
        assert!(second.is_err(), "a build returned twice");
        driven.end().await.expect("the first result counts");
        // A ref of nobody.
        let mut driven = Driven::begin(site).await;
        let of_nobody = Ref { id: "nosuch".into(), def: None };
        let nobody = gateway::Result { result: Some(result::Result::Ref(of_nobody)), ..gateway::Result::default() };
        let answer = driven.give_back(ReturnRequest { result: Some(nobody), error: None }).await;
        fails(answer.and(driven.end().await), &[Code::NotFound, Code::Unknown], "a ref of nobody");
        // An error, with details that nobody knows.
        let mut driven = Driven::begin(site).await;
        let detail = prost_types::Any { type_url: "x".into(), value: vec![0xff; 100] };
        let error = rpc::Status { code: 77, message: "own words".into(), details: vec![detail] };
        driven.give_back(ReturnRequest { result: None, error: Some(error) }).await.expect("taken");
        assert!(driven.end().await.expect_err("failed").message().contains("own words"));
        // Statements that are none.
        let mut driven = Driven::begin(site).await;
        let statement = gateway::Attestation { kind: 77, path: "../../x".into(), ..gateway::Attestation::default() };
        let list = gateway::Attestations { attestation: vec![statement] };
        let result = gateway::Result { attestations: [("x".to_owned(), list)].into(), ..gateway::Result::default() };
        let answer = driven.give_back(ReturnRequest { result: Some(result), error: None }).await;
        let ended = driven.end().await;
        assert!(answer.is_err() || ended.is_err() || ended.is_ok());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        drop(Driven::begin(site).await);
        let mut driven = Driven::begin(site).await;
        driven.busybox().await;
        drop(driven);
        // With a process under way: by the build's end, …
        let mut driven = Driven::begin(site).await;
        let answers = driven.sleeper().await;
        drop(driven);
        assert!(until(PATIENCE, || site.held().kernel.processes == 0), "the process outlives its build");
        drop(answers);
        // … by the container's release, …
        let mut driven = Driven::begin(site).await;
        let (mut answers, _input) = driven.sleeper().await;
        let release = driven.tag(ReleaseContainerRequest { container_id: "c".into() });
        // Whose process was cut short is told so.
        fails(driven.bridge.release_container(release).await, &[Code::Cancelled], "a release that ends a process");
        let over = async {
            while let Ok(Some(answer)) = answers.message().await {
                if matches!(answer.input, Some(Input::Done(_))) {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, over).await.expect("the process is told to be over");
        driven.give_back(ReturnRequest::default()).await.expect("taken");
        driven.end().await.expect("built");
        // … and by the return.
        let mut driven = Driven::begin(site).await;
        let _answers = driven.sleeper().await;
        driven.give_back(ReturnRequest::default()).await.expect("taken");
        driven.end().await.expect("built");
        // What is asked after the end is nobody's.
        let mut late = Driven::begin(site).await;
        late.give_back(ReturnRequest::default()).await.expect("taken");
        let ping = late.tag(gateway::PingRequest {});
        let mut bridge = late.bridge.clone();
        late.end().await.expect("built");
        let answer = tokio::time::timeout(Duration::from_secs(10), bridge.ping(ping)).await.expect("an answer");
        fails(answer, &[Code::NotFound, Code::Unknown], "a build that has ended");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        let mut driven = Driven::begin(site).await;
        let root = driven.busybox().await;
        let outside = "../../../../../etc/passwd";
        let read = |r: &str, path: &str, range| ReadFileRequest {
            r#ref: r.into(),
            file_path: path.into(),
            range,
            mount_index: 0,
        };
        let range = |offset, length| Some(FileRange { offset, length });
        for request in [
            read("nosuch", "/f", None),
            read("", "/f", None),
            read(&root, outside, None),
            read(&root, "/", None),
            read(&root, "/busybox/x", None),
            read(&root, "a\0b", None),
            read(&root, "/busybox", range(-1, 5)),
            read(&root, "/busybox", range(i64::MIN, i64::MIN)),
        ] {
            let shown = format!("{request:?}");
            let request = driven.tag(request);
            let known = [Code::NotFound, Code::InvalidArgument, Code::Unknown, Code::OutOfRange];
            fails(driven.bridge.read_file(request).await, &known, &shown);
        }
        let request = driven.tag(read(&root, "/busybox", range(i64::MAX, i64::MAX)));
        driven.bridge.read_file(request).await.map(drop).unwrap_or_default();
        for (path, pattern) in [("/nosuch", ""), (outside, ""), ("/", "["), ("/busybox", "")] {
            let request = ReadDirRequest {
                r#ref: root.clone(),
                dir_path: path.into(),
                include_pattern: pattern.into(),
                mount_index: 0,
            };
            let request = driven.tag(request);
            assert!(driven.bridge.read_dir(request).await.is_err(), "{path} {pattern}");
        }
        for path in [outside, "/nosuch"] {
            let request = driven.tag(StatFileRequest { r#ref: root.clone(), path: path.into(), mount_index: -7 });
            fails(driven.bridge.stat_file(request).await, &[Code::NotFound, Code::Unknown], path);
        }
        let request = driven.tag(EvaluateRequest { r#ref: "nosuch".into() });
        fails(driven.bridge.evaluate(request).await, &[Code::NotFound, Code::Unknown], "nothing to evaluate");
        let solves = [
            SolveRequest { frontend: "nosuch.v0".into(), ..SolveRequest::default() },
            SolveRequest { frontend: "gateway.v0".into(), ..SolveRequest::default() },
            SolveRequest {
                frontend: "gateway.v0".into(),
                frontend_opt: [("source".to_owned(), "UPPER CASE".to_owned())].into(),
                ..SolveRequest::default()
            },
            SolveRequest {
                definition: Some(pb::Definition { def: vec![vec![7; 30]], ..pb::Definition::default() }),
                cache_imports: vec![CacheOptionsEntry { r#type: "nosuch".into(), ..CacheOptionsEntry::default() }],
                ..SolveRequest::default()
            },
        ];
        for request in solves {
            let shown = format!("{request:?}");
            let request = driven.tag(request);
            assert!(driven.bridge.solve(request).await.is_err(), "{shown}");
        }
        let warn =
            WarnRequest { digest: "nosuch".into(), level: i64::MIN, short: vec![0xff; 9], ..WarnRequest::default() };
        let warn = driven.tag(warn);
        driven.bridge.warn(warn).await.map(drop).unwrap_or_default();
        containers(&mut driven, &root).await;
        driven.give_back(ReturnRequest::default()).await.expect("taken");
        driven.end().await.expect("built");
    })
    .await;
}

async fn containers(driven: &mut Driven, root: &str) {
    let release = driven.tag(ReleaseContainerRequest { container_id: "nosuch".into() });
    fails(driven.bridge.release_container(release).await, &[Code::NotFound], "no container to release");
    let mount = |dest: &str, r: &str| pb::Mount { dest: dest.into(), result_id: r.into(), ..pb::Mount::default() };
    let container = |mounts| NewContainerRequest { container_id: "c".into(), mounts, ..NewContainerRequest::default() };
    for mounts in [vec![], vec![mount("/m", root)], vec![mount("/", "nosuch")]] {
        let shown = format!("{mounts:?}");
        let request = driven.tag(container(mounts));
        assert!(driven.bridge.new_container(request).await.is_err(), "{shown}");
    }
    let request = driven.tag(container(vec![mount("/", root)]));
    driven.bridge.new_container(request).await.expect("a container");
    let request = driven.tag(container(vec![mount("/", root)]));
    fails(driven.bridge.new_container(request).await, &[Code::AlreadyExists], "a container twice");
    let message = |input: Option<Input>| ExecMessage { process_id: "p".into(), input };
    let init = |container: &str, args: &[&str]| {
        let args = args.iter().map(|&word| word.to_owned()).collect();
        let meta = Some(pb::Meta { args, cwd: "/".into(), ..pb::Meta::default() });
        Input::Init(InitMessage { container_id: container.into(), meta, fds: vec![0, 1, 2], ..Default::default() })
    };
    for messages in [
        vec![],
        vec![message(None)],
        vec![message(Some(Input::File(FdMessage { fd: 9, eof: false, data: vec![1] })))],
        vec![message(Some(init("nosuch", &["/busybox"])))],
        vec![message(Some(init("c", &[])))],
        vec![message(Some(init("c", &["/nosuch"])))],
        vec![message(Some(init("c", &["/busybox", "sleep", "1000"]))); 2],
        vec![
            message(Some(init("c", &["/busybox", "sleep", "1000"]))),
            message(Some(Input::Resize(ResizeMessage { rows: u32::MAX, cols: u32::MAX }))),
            message(Some(Input::File(FdMessage { fd: 77, eof: true, data: vec![0; 100_000] }))),
            message(Some(Input::Signal(SignalMessage { name: "NOSUCH".into() }))),
        ],
    ] {
        let shown = format!("{messages:?}");
        let request = driven.tag(tokio_stream::iter(messages));
        let Ok(answers) = driven.bridge.exec_process(request).await else { continue };
        let mut answers = answers.into_inner();
        let ended = async { while let Ok(Some(_)) = answers.message().await {} };
        tokio::time::timeout(PATIENCE, ended).await.unwrap_or_else(|_| panic!("{shown} hangs"));
    }
}
