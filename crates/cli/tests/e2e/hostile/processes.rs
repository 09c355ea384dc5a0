//! Processes of one stream that are in each other's way: what one does or leaves undone must not stop another.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use cooper_session::client::{Secret, Secrets, SessionBuilder};
use cooper_testkit::leftovers::{Holdings, descendants};
use cooper_testkit::process::until;
use cooper_wire::control::SolveRequest;
use cooper_wire::gateway::exec_message::Input;
use cooper_wire::gateway::{
    ExecMessage, FdMessage, InitMessage, NewContainerRequest, ReleaseContainerRequest, ResizeMessage, ReturnRequest,
    SignalMessage,
};
use cooper_wire::pb;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::gateway::Driven;
use super::{PATIENCE, Site};

/// More than all buffers on the way of a process' input and output.
const MUCH: usize = 24 << 20;
/// As much as the protocol's clients send at a time.
const CHUNK: usize = 32 << 10;

/// One stream of processes, of which the client hears only what it asks for.
struct Talk {
    answers: tonic::Streaming<ExecMessage>,
    /// Has no room to spare: what is sent has been taken, or waits in the transport.
    send: mpsc::Sender<ExecMessage>,
    /// How processes ended: that may be said before the last of their output.
    exits: BTreeMap<String, u32>,
}

impl Talk {
    async fn begin(driven: &mut Driven) -> Self {
        let (send, receive) = mpsc::channel(1);
        let request = driven.tag(ReceiverStream::new(receive));
        let answers = driven.bridge.exec_process(request).await.expect("a stream").into_inner();
        Self { answers, send, exits: BTreeMap::new() }
    }

    async fn say(&self, process: &str, input: Input) {
        let message = ExecMessage { process_id: process.into(), input: Some(input) };
        let sent = tokio::time::timeout(PATIENCE, self.send.send(message)).await;
        sent.expect("what is sent is taken").expect("the stream goes on");
    }

    async fn write(&self, process: &str, data: Vec<u8>, eof: bool) {
        self.say(process, Input::File(FdMessage { fd: 0, eof, data })).await;
    }

    /// What comes next, of whichever process; none at the end of the stream.
    async fn next(&mut self) -> Option<(String, Input)> {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await.expect("an answer in time");
        let answer = answer.expect("the stream does not fail")?;
        let input = answer.input.expect("an answer that says something");
        if let Input::Exit(exit) = &input {
            self.exits.insert(answer.process_id.clone(), exit.code);
        }
        Some((answer.process_id, input))
    }

    /// Reads on until this process has said something that `wanted` takes; what it made of it.
    async fn until<T>(&mut self, process: &str, wanted: impl Fn(Input) -> Option<T>) -> T {
        loop {
            let (id, input) = self.next().await.expect("more answers");
            if id == process
                && let Some(found) = wanted(input)
            {
                return found;
            }
        }
    }

    async fn started(&mut self, process: &str) {
        self.until(process, |input| matches!(input, Input::Started(_)).then_some(())).await;
    }

    /// Starts a process, and hears that it was taken on before anything else of it.
    async fn start(&mut self, process: &str, words: &[&str], fds: &[u32]) {
        self.say(process, init("c", words, fds)).await;
        self.started(process).await;
    }

    async fn output(&mut self, process: &str) -> Vec<u8> {
        self.until(process, |input| match input {
            Input::File(file) if !file.data.is_empty() => Some(file.data),
            _ => None,
        })
        .await
    }

    async fn exit(&mut self, process: &str) -> u32 {
        while !self.exits.contains_key(process) {
            self.next().await.expect("more answers");
        }
        self.exits[process]
    }
}

fn message(container: &str, words: &[&str], fds: &[u32]) -> InitMessage {
    let args = std::iter::once("/busybox").chain(words.iter().copied()).map(str::to_owned).collect();
    let meta = Some(pb::Meta { args, cwd: "/".into(), ..pb::Meta::default() });
    InitMessage { container_id: container.into(), meta, fds: fds.to_vec(), ..InitMessage::default() }
}

fn init(container: &str, words: &[&str], fds: &[u32]) -> Input {
    Input::Init(message(container, words, fds))
}

fn kill() -> Input {
    Input::Signal(SignalMessage { name: "KILL".into() })
}

/// A build with a container `c`.
async fn with_container(site: &Site) -> Driven {
    let mut driven = Driven::begin(site).await;
    driven.container("c").await;
    driven
}

async fn finish(mut driven: Driven) {
    driven.give_back(ReturnRequest::default()).await.expect("taken");
    driven.end().await.expect("built");
}

/// Nothing is read of what a process writes until everything has been sent to it.
async fn echo_of_much(talk: &mut Talk) {
    talk.start("cat", &["cat"], &[0, 1]).await;
    let byte = |at: usize| (at % 251) as u8;
    for at in (0..MUCH).step_by(CHUNK) {
        talk.write("cat", (at..at + CHUNK).map(byte).collect(), at + CHUNK == MUCH).await;
    }
    let mut at = 0;
    while at < MUCH {
        let data = talk.output("cat").await;
        assert!(data.iter().enumerate().all(|(i, found)| *found == byte(at + i)), "around {at}");
        at += data.len();
    }
    assert_eq!(talk.exit("cat").await, 0);
}

/// A client like those of the protocol: what arrives is passed on before the next message is looked at.
async fn pipeline(talk: &mut Talk) {
    let (block, count) = (format!("bs={CHUNK}"), format!("count={}", MUCH / CHUNK));
    talk.say("from", init("c", &["dd", "if=/dev/zero", &block, &count], &[1])).await;
    talk.say("by", init("c", &["cat"], &[0, 1])).await;
    talk.say("to", init("c", &["wc", "-c"], &[0, 1])).await;
    let mut told = Vec::new();
    loop {
        let (id, input) = talk.next().await.expect("more answers");
        match (id.as_str(), input) {
            ("from", Input::File(file)) => talk.write("by", file.data, file.eof).await,
            ("by", Input::File(file)) => talk.write("to", file.data, file.eof).await,
            ("to", Input::File(file)) => told.extend(file.data),
            ("to", Input::Done(_)) => break,
            _ => {}
        }
    }
    assert_eq!(String::from_utf8_lossy(&told).trim(), MUCH.to_string());
}

/// A process that never reads, and one whose output nobody takes.
async fn deaf_and_loud(talk: &mut Talk) {
    talk.start("deaf", &["sleep", "10000"], &[0]).await;
    for _ in (0..MUCH).step_by(1 << 20) {
        talk.write("deaf", vec![7; 1 << 20], false).await;
    }
    talk.start("loud", &["yes"], &[1]).await;
    talk.say("deaf", Input::Resize(ResizeMessage { rows: 5, cols: 5 })).await;
    talk.say("loud", kill()).await;
    assert_eq!(talk.exit("loud").await, 137);
    talk.say("deaf", kill()).await;
    assert_eq!(talk.exit("deaf").await, 137);
    talk.write("deaf", vec![7; CHUNK], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_waits_for_the_input_or_output_of_another() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        let mut driven = with_container(site).await;
        let mut talk = Talk::begin(&mut driven).await;
        talk.start("first", &["sleep", "10000"], &[]).await;
        pipeline(&mut talk).await;
        deaf_and_loud(&mut talk).await;
        echo_of_much(&mut talk).await;
        finish(driven).await;
    })
    .await;
}

/// What one process said, in order.
fn shown(input: &Input) -> String {
    match input {
        Input::Started(_) => "Started".into(),
        Input::Exit(exit) => format!("Exit {}", exit.code),
        Input::Done(_) => "Done".into(),
        Input::File(file) if file.eof => format!("end of {}", file.fd),
        Input::File(file) => format!("{}: {}", file.fd, String::from_utf8_lossy(&file.data).trim()),
        other => format!("{other:?}"),
    }
}

/// Asks for all processes at once, the first of which is the container's own, and checks what each says.
async fn at_once(talk: &mut Talk, processes: &[(String, Vec<&str>, u32)]) {
    for (id, words, _) in processes {
        talk.say(id, init("c", words, &[1, 2])).await;
    }
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut done = 0;
    while done < processes.len() {
        let (id, input) = talk.next().await.expect("more answers");
        if !processes.iter().any(|(known, ..)| *known == id) {
            continue;
        }
        done += usize::from(matches!(input, Input::Done(_)));
        said.entry(id).or_default().push(shown(&input));
    }
    for (id, words, code) in processes {
        let said = &said[id];
        assert_eq!(said.first().map(String::as_str), Some("Started"), "{id}: {said:?}");
        assert_eq!(said.last().map(String::as_str), Some("Done"), "{id}: {said:?}");
        for expected in [format!("Exit {code}"), "end of 1".into(), "end of 2".into()] {
            assert_eq!(said.iter().filter(|one| **one == expected).count(), 1, "{expected} of {id}: {said:?}");
        }
        if words[0] == "echo" {
            assert!(said.contains(&format!("1: {}", words[1])), "{id}: {said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_start_at_once() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        let mut driven = with_container(site).await;
        let mut talk = Talk::begin(&mut driven).await;
        let own = |id: &str, words: &[&'static str], code| (id.to_owned(), words.to_vec(), code);
        let mut processes = vec![own("own", &["sleep", "2"], 0)];
        processes.extend((0..14).map(|n| own(&format!("e{n}"), &["echo", "word"], 0)));
        processes.extend([own("fails", &["sh", "-c", "exit 42"], 42), own("nothing", &["nosuch"], 127)]);
        at_once(&mut talk, &processes).await;
        // The container has ended with its own process.
        talk.start("late", &["true"], &[]).await;
        assert_eq!(talk.exit("late").await, 255);
        finish(driven).await;
        // Of a first process that cannot start those behind it are told; the next is the container's own then.
        let mut driven = with_container(site).await;
        let mut talk = Talk::begin(&mut driven).await;
        let mut bad = message("c", &["true"], &[]);
        bad.meta.get_or_insert_default().args = vec!["/nosuch".into()];
        talk.say("bad", Input::Init(bad)).await;
        talk.say("behind", init("c", &["true"], &[])).await;
        assert_eq!(talk.exit("bad").await, 255);
        let behind = talk.exit("behind").await;
        talk.start("good", &["true"], &[]).await;
        // The other may have come after the failure, and was the first itself.
        let expected = if behind == 255 { 0 } else { 255 };
        assert_eq!(talk.exit("good").await, expected, "{behind}");
        // Those that have ended keep nothing open.
        let mut driven2 = with_container(site).await;
        let mut talk = Talk::begin(&mut driven2).await;
        talk.start("own", &["sleep", "10000"], &[]).await;
        let before = Holdings::of(site.daemon.id()).files;
        for n in 0..40 {
            let id = n.to_string();
            let mut one = message("c", &["true"], &[0, 1, 2]);
            one.tty = n % 2 == 0;
            talk.say(&id, Input::Init(one)).await;
            assert_eq!(talk.exit(&id).await, 0);
        }
        let few = || Holdings::of(site.daemon.id()).files < before + 20;
        assert!(until(PATIENCE, few), "{before} open files before");
        finish(driven).await;
        finish(driven2).await;
    })
    .await;
}

/// A secret whose content comes when the test says so, as a pipe with a name.
struct Pending(PathBuf);

impl Pending {
    fn new(site: &Site) -> Self {
        let path = site.shop.path(&format!("secret{}", site.number()));
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        Self(path)
    }

    async fn give(&self, content: &'static str) {
        let path = self.0.clone();
        tokio::task::spawn_blocking(move || std::fs::write(path, content)).await.unwrap().expect("written");
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Whoever still waits gets nothing, and nobody waits from now on.
        let _end = rustix::fs::open(&self.0, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty());
        std::fs::remove_file(&self.0).ok();
    }
}

/// A build with a container `c` whose session has the secret `s`.
async fn with_secret(site: &Site, secret: &Pending) -> (Driven, AbortOnDropHandle<()>) {
    let secrets = Secrets::new().with("s", Secret::File(secret.0.clone()));
    let session = SessionBuilder::new().id(format!("secretive{}", site.number())).secrets(secrets).build();
    let request = SolveRequest { session: session.id().to_owned(), ..site.request() };
    let channel = site.channel().await;
    let connected = AbortOnDropHandle::new(tokio::spawn(async move { drop(session.connect(channel).await) }));
    let mut driven = Driven::with(site, request).await;
    driven.container("c").await;
    (driven, connected)
}

fn secretive(words: &[&str]) -> Input {
    let mut message = message("c", words, &[0, 1]);
    message.secretenv = vec![pb::SecretEnv { id: "s".into(), name: "S".into(), optional: false }];
    Input::Init(message)
}

/// The start of one process takes as long as it likes.
async fn slow_start(site: &Site) {
    let secret = Pending::new(site);
    let (mut driven, _session) = with_secret(site, &secret).await;
    let mut talk = Talk::begin(&mut driven).await;
    talk.start("own", &["sleep", "10000"], &[]).await;
    talk.start("quick", &["cat"], &[0, 1]).await;
    talk.say("slow", secretive(&["sh", "-c", "read x; echo $S $x; /busybox sleep 10000"])).await;
    // Who was taken on is told so at once, …
    talk.started("slow").await;
    // … and takes input already, while others go on.
    talk.write("slow", b"word\n".to_vec(), false).await;
    talk.write("quick", b"hello".to_vec(), false).await;
    assert_eq!(talk.output("quick").await, b"hello");
    talk.start("next", &["true"], &[]).await;
    assert_eq!(talk.exit("next").await, 0);
    secret.give("hidden").await;
    assert_eq!(talk.output("slow").await, b"hidden word\n");
    finish(driven).await;
}

/// What is ordered of a process before it runs reaches it.
async fn early_orders(site: &Site) {
    let secret = Pending::new(site);
    let (mut driven, _session) = with_secret(site, &secret).await;
    let mut talk = Talk::begin(&mut driven).await;
    talk.start("own", &["sleep", "10000"], &[]).await;
    talk.say("doomed", secretive(&["sleep", "10000"])).await;
    talk.say("doomed", kill()).await;
    talk.start("another", &["true"], &[]).await;
    secret.give("x").await;
    assert_eq!(talk.exit("doomed").await, 137);
    let Input::Init(mut sized) = secretive(&["stty", "size"]) else { unreachable!("that is what it makes") };
    sized.tty = true;
    talk.say("sized", Input::Init(sized)).await;
    talk.say("sized", Input::Resize(ResizeMessage { rows: 17, cols: 71 })).await;
    // What comes behind it was heard.
    talk.start("other", &["true"], &[]).await;
    secret.give("x").await;
    assert_eq!(talk.output("sized").await, b"17 71\r\n");
    finish(driven).await;
}

/// A build with a process that does not get beyond its start, the container's first or a further one.
async fn stalled(site: &Site, first: bool) -> (Driven, Talk, impl Sized) {
    let secret = Pending::new(site);
    let (mut driven, session) = with_secret(site, &secret).await;
    let mut talk = Talk::begin(&mut driven).await;
    if !first {
        talk.start("own", &["sleep", "10000"], &[]).await;
    }
    talk.say("slow", secretive(&["sleep", "10000"])).await;
    talk.started("slow").await;
    (driven, talk, (secret, session))
}

/// The container is released, the build ends or the client goes while a process starts.
async fn ends_during_a_start(site: &Site) {
    for first in [true, false] {
        let (mut driven, mut talk, _held) = stalled(site, first).await;
        let release = driven.tag(ReleaseContainerRequest { container_id: "c".into() });
        let released = tokio::time::timeout(PATIENCE, driven.bridge.release_container(release)).await;
        assert!(released.expect("released").is_err(), "a process of the container was cut short");
        assert_eq!(talk.exit("slow").await, 255);
        finish(driven).await;

        let (driven, mut talk, _held) = stalled(site, first).await;
        finish(driven).await;
        assert_eq!(talk.exit("slow").await, 255);
        // The stream ends with the build, whether its client has said everything or not.
        while talk.next().await.is_some() {}

        let (driven, talk, _held) = stalled(site, true).await;
        drop((talk, driven));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_waits_for_the_start_of_another() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        slow_start(site).await;
        early_orders(site).await;
        ends_during_a_start(site).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_vanish_in_the_middle() {
    let site = Site::new();
    site.survives(async |site: &Site| {
        for words in [&["yes"][..], &["sleep", "10000"], &["cat"]] {
            let mut driven = with_container(site).await;
            let mut talk = Talk::begin(&mut driven).await;
            talk.start("own", &["sleep", "10000"], &[]).await;
            talk.start("one", words, &[0, 1]).await;
            for _ in 0..8 {
                talk.write("one", vec![7; 1 << 20], false).await;
            }
            talk.say("two", init("c", &["cat"], &[0, 1])).await;
            drop((talk, driven));
        }
        // Honest builds run beside.
        let ours = |line: &String| line.contains("sleep 10000") || line.contains("yes");
        let gone = || !descendants(site.daemon.id()).values().any(ours);
        assert!(until(PATIENCE, gone), "a process outlives its client");
        // What is asked for after the end of the build is refused, on whatever stream.
        let mut driven = with_container(site).await;
        let root = driven.busybox().await;
        let mut bridge = driven.bridge.clone();
        let mounts = vec![pb::Mount { dest: "/".into(), result_id: root, ..pb::Mount::default() }];
        let late = NewContainerRequest { container_id: "late".into(), mounts, ..NewContainerRequest::default() };
        let late = driven.tag(late);
        finish(driven).await;
        let refused = tokio::time::timeout(Duration::from_secs(10), bridge.new_container(late)).await;
        assert!(refused.expect("an answer").is_err());
    })
    .await;
}

/// Says sizes as soon as it is taken on, and hears when the last of them has reached it.
async fn sized(talk: &mut Talk, process: &str) {
    let script = "until [ \"$(/busybox stty size 2>/dev/null)\" = '17 71' ]; do :; done; echo sized; read x; echo got $x; exit 42";
    let mut one = message("c", &["sh", "-c", script], &[0, 1, 2]);
    one.tty = true;
    talk.say(process, Input::Init(one)).await;
    for rows in [5, 50, 17] {
        talk.say(process, Input::Resize(ResizeMessage { rows, cols: 71 })).await;
    }
    let mut text = String::new();
    while !text.contains("sized\r\n") {
        text.push_str(&String::from_utf8_lossy(&talk.output(process).await));
    }
    talk.write(process, b"word\n".to_vec(), false).await;
    while !text.contains("got word\r\n") {
        text.push_str(&String::from_utf8_lossy(&talk.output(process).await));
    }
    assert_eq!(text, "sized\r\nword\r\ngot word\r\n");
    assert_eq!(talk.exit(process).await, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_runs_processes() {
    for runtime in ["", "runc", "crun"] {
        let shop = crate::workshop();
        shop.configure(&format!("binary = {runtime:?}\n"));
        let site = Site::of(shop);
        let mut driven = with_container(&site).await;
        let mut talk = Talk::begin(&mut driven).await;
        talk.start("own", &["sleep", "10000"], &[]).await;
        for n in 0..5 {
            sized(&mut talk, &format!("{runtime} tty {n}")).await;
        }
        let many: Vec<_> = (0..8).map(|n| (format!("many{n}"), vec!["echo", "word"], 0)).collect();
        at_once(&mut talk, &many).await;
        deaf_and_loud(&mut talk).await;
        talk.start("other", &["cat"], &[0, 1]).await;
        talk.write("other", b"x".to_vec(), false).await;
        assert_eq!(talk.output("other").await, b"x", "{runtime}");
        talk.say("own", kill()).await;
        assert_eq!([talk.exit("own").await, talk.exit("other").await], [137, 137], "{runtime}");
        finish(driven).await;
        // A terminal for the container's own process.
        let mut driven = with_container(&site).await;
        let mut talk = Talk::begin(&mut driven).await;
        sized(&mut talk, "own").await;
        finish(driven).await;
        assert!(until(PATIENCE, || Holdings::of(site.daemon.id()).processes == 0), "{runtime}");
    }
}
