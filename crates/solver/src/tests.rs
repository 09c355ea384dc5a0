//! The scheduler against fake operations that count what is asked of them.

use crate::*;
use async_trait::async_trait;
use cooper_oci::Digest;
use parking_lot::Mutex;
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::sync::Semaphore;

struct Fake;
impl Domain for Fake {
    type Result = String;
    type Job = ();
    type Error = Failure;
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

/// Joins its inputs' texts. `content` ops are keyed by what they read.
struct Join {
    text: String,
    content: bool,
    fail: bool,
    runs: Arc<Mutex<BTreeMap<String, usize>>>,
    gate: Option<Arc<Semaphore>>,
    stopped: Arc<AtomicUsize>,
}

struct CountOnDrop(Arc<AtomicUsize>);
impl Drop for CountOnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[async_trait]
impl Op<Fake> for Join {
    async fn cache_map(&self, _: &OpContext<Fake>) -> Result<CacheMap, Failure> {
        let dependency = Dependency { selector: String::new(), content: self.content };
        Ok(CacheMap { digest: Digest::of(&self.text), dependencies: vec![dependency; 8], volatile: false })
    }
    async fn content_digest(&self, _: usize, result: &String, _: &OpContext<Fake>) -> Result<Digest, Failure> {
        // Reads only what is in front of the first '#'.
        Ok(Digest::of(result.split('#').next().unwrap_or_default()))
    }
    async fn run(&self, inputs: Vec<String>, cx: &OpContext<Fake>) -> Result<Vec<Option<String>>, Failure> {
        *self.runs.lock().entry(self.text.clone()).or_default() += 1;
        cx.log(1, self.text.clone());
        if let Some(gate) = &self.gate {
            let stopped = CountOnDrop(self.stopped.clone());
            gate.acquire().await.unwrap().forget();
            std::mem::forget(stopped);
        }
        tokio::task::yield_now().await;
        if self.fail {
            return Err(Failure(format!("{} failed", self.text)));
        }
        let text = if self.content { self.text.clone() } else { format!("{}({})", self.text, inputs.join(",")) };
        Ok(vec![Some(text)])
    }
}

/// Remembers the ends of vertices: `name`, `name*` when cached, `name!` when failed.
#[derive(Default)]
struct Log(Mutex<Vec<String>>, Mutex<BTreeMap<Digest, String>>);
impl Observer for Log {
    fn vertex(&self, update: VertexUpdate) {
        let name = self.1.lock()[&update.vertex].clone();
        if update.completed.is_some() {
            let mark = if update.error.is_some() {
                "!"
            } else if update.cached {
                "*"
            } else {
                ""
            };
            self.0.lock().push(format!("{name}{mark}"));
        }
    }
    fn event(&self, _: &Digest, _: Event) {}
}

struct Kit {
    solver: Solver<Fake>,
    store: Arc<MemoryStore<Fake>>,
    runs: Arc<Mutex<BTreeMap<String, usize>>>,
    stopped: Arc<AtomicUsize>,
}

impl Kit {
    fn new() -> Self {
        let store = Arc::new(MemoryStore::default());
        let solver = Solver::new(store.clone() as Arc<dyn KeyStore<Fake>>, SolverOptions::default());
        Self { solver, store, runs: Arc::default(), stopped: Arc::default() }
    }

    /// Graph text: `name[:text][~][!][^]=input,input` per line; `~` content, `!` fails, `^` ignores the cache.
    fn vertices(&self, graph: &str, gate: Option<&Arc<Semaphore>>) -> Vec<Vertex<Fake>> {
        graph
            .split_whitespace()
            .map(|line| {
                let (head, inputs) = line.split_once('=').unwrap_or((line, ""));
                let flags: String = head.chars().filter(|c| "~!^".contains(*c)).collect();
                let head = head.trim_end_matches(['~', '!', '^']);
                let (name, text) = head.split_once(':').unwrap_or((head, head));
                let inputs: Vec<&str> = inputs.split(',').filter(|s| !s.is_empty()).collect();
                let op = Join {
                    text: text.into(),
                    content: flags.contains('~'),
                    fail: flags.contains('!'),
                    runs: self.runs.clone(),
                    gate: gate.cloned(),
                    stopped: self.stopped.clone(),
                };
                Vertex {
                    digest: Digest::of(name),
                    name: name.into(),
                    op: Arc::new(op),
                    ignore_cache: flags.contains('^'),
                    inputs: inputs.iter().map(|i| Edge { vertex: Digest::of(i), output: 0 }).collect(),
                }
            })
            .collect()
    }

    fn job(&self, graph: &str, gate: Option<&Arc<Semaphore>>) -> (Job<Fake>, Arc<Log>) {
        let log = Arc::new(Log::default());
        let vertices = self.vertices(graph, gate);
        *log.1.lock() = vertices.iter().map(|v| (v.digest.clone(), v.name.clone())).collect();
        let job = self.solver.job(Arc::new(()), log.clone());
        job.load(vertices);
        (job, log)
    }

    /// Builds `root` and says: its result, what ran, and what the observer heard.
    async fn build(&self, graph: &str, root: &str) -> String {
        self.runs.lock().clear();
        let (job, log) = self.job(graph, None);
        let outcome = job.solve(&edge(root)).await;
        let ran: Vec<String> =
            self.runs.lock().iter().map(|(k, n)| if *n == 1 { k.clone() } else { format!("{k}x{n}") }).collect();
        let mut heard = log.0.lock().clone();
        heard.sort();
        format!("{} | ran {} | {}", outcome.unwrap_or_else(|e| format!("error: {e}")), ran.join(" "), heard.join(" "))
    }
}

fn edge(name: &str) -> Edge {
    Edge { vertex: Digest::of(name), output: 0 }
}

#[tokio::test]
async fn a_repeated_build_runs_nothing() {
    let kit = Kit::new();
    insta::assert_snapshot!(kit.build("a b=a c=a,b unused", "c").await, @"c(a(),b(a())) | ran a b c | a b c");
    insta::assert_snapshot!(kit.build("a b=a c=a,b unused", "c").await, @"c(a(),b(a())) | ran  | a* b* c*");
    insta::assert_snapshot!(kit.build("a b=a c=a,b d=c", "d").await, @"d(c(a(),b(a()))) | ran d | a* b* c* d");
}

#[tokio::test]
async fn unchanged_content_cuts_off() {
    let kit = Kit::new();
    kit.build("src:x#1 copy~=src run=copy", "run").await;
    // The source changed in a part that the copy does not read.
    insta::assert_snapshot!(kit.build("src:x#2 copy~=src run=copy", "run").await, @"run(copy) | ran x#2 | copy* run* src");
    // Now by the alias, without touching the source's result.
    insta::assert_snapshot!(kit.build("src:x#2 copy~=src run=copy", "run").await, @"run(copy) | ran  | copy* run* src*");
}

#[tokio::test]
async fn stages_that_copies_gather_run_at_once() {
    let kit = Kit::new();
    let gate = Arc::new(Semaphore::new(0));
    let (job, _) = kit.job("left right copy1~=left copy2~=copy1,right", Some(&gate));
    let build = tokio::spawn(async move { job.solve(&edge("copy2")).await });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(kit.runs.lock().keys().map(String::as_str).collect::<Vec<_>>(), ["left", "right"]);
    gate.add_permits(10);
    assert_eq!(build.await.unwrap().unwrap(), "copy2");
    assert!(kit.runs.lock().values().all(|times| *times == 1), "{:?}", kit.runs.lock());
}

#[tokio::test]
async fn a_lost_result_is_a_miss() {
    let kit = Kit::new();
    kit.build("a b=a", "b").await;
    kit.store.retain(|_| false);
    insta::assert_snapshot!(kit.build("a b=a", "b").await, @"b(a()) | ran a b | a b");
}

#[tokio::test]
async fn an_ignored_cache_reaches_what_is_behind() {
    let kit = Kit::new();
    kit.build("a b=a c=b", "c").await;
    insta::assert_snapshot!(kit.build("a b^=a c=b", "c").await, @"c(b(a())) | ran b c | a* b c");
    // The newest outcome is the one that later builds see.
    insta::assert_snapshot!(kit.build("a b=a c=b", "c").await, @"c(b(a())) | ran  | a* b* c*");
}

#[tokio::test]
async fn builds_that_live_together_share_what_ignores_the_cache() {
    let kit = Kit::new();
    let runs = || kit.runs.lock().get("b").copied().unwrap_or(0);
    kit.build("a b=a c=b", "c").await;
    let (one, _) = kit.job("a b^=a c=b", None);
    one.solve(&edge("c")).await.unwrap();
    let (two, _) = kit.job("a b^=a c=b", None);
    two.solve(&edge("c")).await.unwrap();
    assert_eq!(runs(), 2, "once for each of them would be three");
    drop(one);
    let (three, _) = kit.job("a b^=a", None);
    three.solve(&edge("b")).await.unwrap();
    assert_eq!(runs(), 2, "the second build still lives");
    drop((two, three));
    let (four, _) = kit.job("a b^=a", None);
    four.solve(&edge("b")).await.unwrap();
    assert_eq!(runs(), 3, "nobody is left to share with");
}

#[tokio::test]
async fn work_may_ask_every_build_that_has_its_vertex() {
    let kit = Kit::new();
    let (one, _) = kit.job("a b=a", None);
    let (two, _) = kit.job("a", None);
    let asked = |job: &Job<_>, vertex: &str| job.context(edge(vertex).vertex).askable().len();
    assert_eq!((asked(&one, "a"), asked(&one, "b"), asked(&two, "b")), (2, 1, 2));
    drop(one);
    assert_eq!(asked(&two, "b"), 1);
}

#[tokio::test]
async fn a_failure_is_reported_where_it_happens() {
    let kit = Kit::new();
    insta::assert_snapshot!(kit.build("a b!=a c=b", "c").await, @"error: b failed | ran a b | a b!");
    insta::assert_snapshot!(kit.build("a b=a c=b", "c").await, @"c(b(a())) | ran b c | a* b c");
}

#[tokio::test]
async fn equal_work_of_two_builds_runs_once_and_ends_with_the_last() {
    let kit = Kit::new();
    let gate = Arc::new(Semaphore::new(0));
    // Other vertex names, same ops: what counts is the key.
    let (one, _) = kit.job("a", Some(&gate));
    let (two, _) = kit.job("other:a", Some(&gate));
    let one = tokio::spawn(async move { one.solve(&edge("a")).await });
    let two_task = tokio::spawn(async move { two.solve(&edge("other")).await });
    while kit.runs.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    one.abort();
    assert!(one.await.is_err());
    assert_eq!(kit.stopped.load(SeqCst), 0, "somebody still wants it");
    gate.add_permits(1);
    assert_eq!(two_task.await.unwrap().unwrap(), "a()");
    assert_eq!(kit.runs.lock()["a"], 1);
}

#[tokio::test]
async fn work_stops_when_nobody_is_left() {
    let kit = Kit::new();
    let gate = Arc::new(Semaphore::new(0));
    let (job, _) = kit.job("a b=a", Some(&gate));
    let task = tokio::spawn(async move { job.solve(&edge("b")).await });
    while kit.runs.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    task.abort();
    for _ in 0..1000 {
        if kit.stopped.load(SeqCst) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the operation was not stopped");
}

#[tokio::test]
async fn deep_graphs_do_not_nest() {
    let kit = Kit::new();
    let graph: String =
        (0..20_000).map(|i| if i == 0 { "v0 ".into() } else { format!("v{i}:x{i}~=v{} ", i - 1) }).collect();
    let said = kit.build(&graph, "v19999").await;
    assert!(said.starts_with("x19999 |"), "{}", &said[..200]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Random graphs, three builds at once: every op runs at most once per distinct key, results agree, nothing hangs.
    #[test]
    fn random_graphs_run_each_op_once(edges in prop::collection::vec(prop::collection::vec(0usize..64, 0..4), 1..40), content in any::<u64>()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let graph: Vec<String> = edges.iter().enumerate().map(|(i, ins)| {
                let ins: Vec<String> = if i == 0 { vec![] } else { ins.iter().map(|n| format!("v{}", n % i)).collect() };
                format!("v{i}{}={}", if content >> (i % 64) & 1 == 1 { "~" } else { "" }, ins.join(","))
            }).collect();
            let graph = graph.join(" ");
            let root = format!("v{}", edges.len() - 1);
            let kit = Kit::new();
            let jobs = [kit.job(&graph, None).0, kit.job(&graph, None).0, kit.job(&graph, None).0];
            let root = edge(&root);
            let all = tokio::time::timeout(Duration::from_secs(20), futures::future::join_all(jobs.iter().map(|j| j.solve(&root)))).await.expect("no deadlock");
            let first = all[0].as_ref().unwrap();
            assert!(all.iter().all(|r| r.as_ref().unwrap() == first));
            assert!(kit.runs.lock().values().all(|n| *n == 1), "{:?}", kit.runs.lock());
        });
    }
}
