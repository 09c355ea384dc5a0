//! Clients and frontends that keep no rule. Each gets a typed error, and when they are gone nothing of theirs is left in
//! the daemon: no file, mount, process, control group, build, session, task or lease, and no memory. Builds of others
//! go on meanwhile.

mod definitions;
mod frontends;
mod gateway;
mod processes;
mod sessions;
mod wire;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cooper_testkit::leftovers::{Holdings, resident};
use cooper_testkit::process::until;
use cooper_testkit::{Daemon, Registry, Running, Workshop, outcome};
use cooper_wire::control::control_client::ControlClient;
use cooper_wire::control::{Exporter, SolveRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::observe::get;

/// Longer than any refusal may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// Rounds of mischief between the two countings.
const ROUNDS: usize = 3;
/// What allocators keep, and what is remembered of ended builds.
const SLACK: u64 = 96 << 20;

/// A daemon and somewhere to count what it holds.
struct Site {
    shop: Workshop,
    daemon: Daemon,
    debug: PathBuf,
    made: AtomicU32,
}

/// Everything that a daemon holds for others.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    kernel: Holdings,
    groups: usize,
    builds: u64,
    sessions: u64,
    tasks: u64,
    leases: usize,
}

impl Held {
    /// Whether nothing has become more. Connections to registries that were kept for a while may have gone.
    fn within(&self, before: &Self) -> bool {
        let figures = |held: &Self| {
            let Holdings { files, mounts, processes } = held.kernel;
            [files, mounts, processes, held.groups, held.leases]
        };
        let counts = |held: &Self| [held.builds, held.sessions, held.tasks];
        figures(self).iter().zip(figures(before)).all(|(now, then)| *now <= then)
            && counts(self).iter().zip(counts(before)).all(|(now, then)| *now <= then)
    }
}

/// A connection to what listens on a socket.
pub async fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost").http2_max_header_list_size(16 << 20);
    endpoint.connect_with_connector(connector).await.expect("connected")
}

impl Site {
    fn new() -> Self {
        Self::of(crate::workshop())
    }

    fn with_registry(registry: &Registry) -> Self {
        Self::of(crate::workshop_with(registry))
    }

    fn of(shop: Workshop) -> Self {
        let (socket, debug) = (shop.path("d.sock"), shop.path("debug.sock"));
        let mut command = shop.daemon_command(&shop.path("state"), &socket);
        command.arg("--debugaddr").arg(format!("unix://{}", debug.display()));
        let daemon = Daemon::start(command, socket, shop.path("daemon.log"));
        Self { shop, daemon, debug, made: AtomicU32::new(0) }
    }

    fn number(&self) -> u32 {
        self.made.fetch_add(1, Ordering::Relaxed)
    }

    /// A connection of its own.
    async fn channel(&self) -> Channel {
        channel(self.daemon.socket()).await
    }

    async fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel().await).max_encoding_message_size(64 << 20)
    }

    /// A request for a build whose id nobody else has.
    fn request(&self) -> SolveRequest {
        SolveRequest { r#ref: format!("hostile{}x{}", std::process::id(), self.number()), ..SolveRequest::default() }
    }

    /// What a build comes to.
    async fn solve(&self, request: SolveRequest) -> Result<(), Status> {
        let mut control = self.control().await;
        let solved = tokio::time::timeout(PATIENCE, control.solve(request)).await.expect("the build hangs");
        solved.map(drop).inspect_err(|status| {
            assert!(!status.message().is_empty() && !status.message().contains("panic"), "{status:?}");
        })
    }

    /// A build that must come to its end whatever others do meanwhile.
    fn honest_build(&self) -> Running {
        let lines = format!("RUN echo {} && sleep 1\n", self.number());
        Running::start(&mut self.shop.build_with(&self.daemon, &self.shop.dockerfile(&lines)))
    }

    fn held(&self) -> Held {
        let usage = outcome(&mut self.shop.buildctl(&self.daemon, &["du", "--format", "{{json .}}"])).ok().text();
        let count: Value = serde_json::from_str(&get(&self.debug, "/debug/vars")).expect("figures");
        let count = |name: &str| count[name].as_u64().unwrap_or_else(|| panic!("{name} is not counted"));
        Held {
            kernel: Holdings::of(self.daemon.id()),
            groups: self.shop.groups().len(),
            builds: count("builds"),
            sessions: count("sessions"),
            tasks: count("tasks"),
            leases: usage.matches("\"InUse\":true").count() + usage.matches("\"inUse\":true").count(),
        }
    }

    /// What is held once nothing changes any more.
    fn settled(&self) -> Held {
        let mut last = self.held();
        until(PATIENCE, || {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.held();
            std::mem::replace(&mut last, now) == last
        });
        last
    }

    /// Lets `mischief` happen several times beside honest builds, and counts.
    async fn survives(&self, mischief: impl AsyncFn(&Self)) {
        // What is opened once and kept is opened now.
        self.honest_build().wait().ok();
        mischief(self).await;
        let (before, memory) = (self.settled(), resident(self.daemon.id()));
        for _ in 0..ROUNDS {
            let honest = self.honest_build();
            mischief(self).await;
            honest.wait().ok();
        }
        let mut after = self.held();
        until(PATIENCE, || {
            after = self.held();
            after.within(&before)
        });
        assert!(after.within(&before), "before: {before:?}\nafter: {after:?}\n{}", self.daemon.log());
        let grown = resident(self.daemon.id()).saturating_sub(memory);
        assert!(grown < SLACK, "{} MiB more than before", grown >> 20);
    }
}

fn exporter(kind: &str) -> Exporter {
    Exporter { r#type: kind.into(), ..Exporter::default() }
}
