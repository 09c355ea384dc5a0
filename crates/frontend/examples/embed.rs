//! The engine as a library: builds the Dockerfile of a directory into an OCI archive, as root, without any daemon.
//!
//! `cargo run -p cooper-frontend --example embed -- CONTEXT ARCHIVE`

use cooper_engine::{BuildLog, BuildRequest, Engine, EngineConfig, ExporterSpec};
use cooper_session::client::{Files, LocalDir, Outputs, SessionBuilder};
use cooper_wire::control::StatusResponse;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (context, archive) = arguments.next().zip(arguments.next()).ok_or("usage: embed CONTEXT ARCHIVE")?;
    let root = std::env::temp_dir().join("cooper-embed");

    let engine = Engine::open(EngineConfig { root, ..EngineConfig::default() }, cooper_frontend::builtin())?;
    let files = ["context", "dockerfile"].map(|name| (name, LocalDir::context(&context)));
    let files = files.into_iter().fold(Files::new(), |files, (name, dir)| files.with(name, dir));
    let outputs = Outputs::new().with_file(0, archive);
    let session = SessionBuilder::new().files(files).outputs(outputs).build().attach(engine.sessions()).await?;
    let id = cooper_engine::random_id();
    let request = BuildRequest {
        id: id.clone(),
        session: session.session().id().into(),
        frontend: "dockerfile.v0".into(),
        exporters: vec![ExporterSpec { kind: "oci".into(), ..ExporterSpec::default() }],
        ..BuildRequest::default()
    };
    let follow = async {
        if let Ok(BuildLog::Live(mut progress)) = engine.status(&id).await {
            while let Some(news) = progress.next().await {
                show(&news);
            }
        }
    };
    let ((), built) = tokio::join!(follow, engine.build(request));
    println!("{}", built?.metadata["containerimage.digest"]);
    Ok(())
}

fn show(news: &StatusResponse) {
    for log in &news.logs {
        print!("  {}", String::from_utf8_lossy(&log.msg));
    }
    for vertex in news.vertexes.iter().filter(|vertex| vertex.completed.is_some()) {
        println!("{}", vertex.name);
    }
}
