//! Builds a definition that an input holds (LLB build op), as a part of the same build.

use crate::{
    domain::{Build, StepError},
    gateway::bridge::{Bridge, WeakBridge},
    layers::tree::Tree,
    worker::Worker,
};
use async_trait::async_trait;
use cooper_fileop::index::Selector;
use cooper_llb::{OpDigest, attrs, pb};
use cooper_oci::{Digest, Digester};
use cooper_solver::{CacheMap, Dependency, Op, OpContext};
use prost::Message as _;
use std::{path::PathBuf, sync::Arc};

/// The builder that reads LLB: the only one.
const LLB_BUILDER: i64 = -1;
/// Largest definition that is read, in bytes.
const MAX_DEFINITION: u64 = 256 << 20;

/// A build op bound to a worker and the build that it is a part of.
pub struct BuildOp {
    worker: Arc<Worker>,
    /// The build must be able to end while its graph is here.
    bridge: WeakBridge,
    /// The op's own identity, for finding circles.
    own: OpDigest,
    op: pb::BuildOp,
    place: Place,
    inputs: usize,
}

/// Where the definition is.
enum Place {
    /// In a file of an input.
    File(usize, String),
    /// In the op.
    Inline(pb::Definition),
}

impl BuildOp {
    /// Reads the op.
    pub fn new(
        worker: &Arc<Worker>,
        bridge: WeakBridge,
        vertex: &cooper_llb::Vertex,
        op: &pb::BuildOp,
    ) -> Result<Self, String> {
        if op.builder != LLB_BUILDER {
            return Err("only LLB builder is currently allowed".to_owned());
        }
        let input = op.inputs.get(attrs::BUILD_DEFAULT_FILENAME);
        let place = match (input.map(|i| usize::try_from(i.input)), &op.def) {
            (Some(Ok(input)), _) => {
                let file = op.attrs.get(attrs::BUILD_FILENAME);
                Place::File(input, file.cloned().unwrap_or_else(|| attrs::BUILD_DEFAULT_FILENAME.to_owned()))
            }
            (Some(Err(_)), _) => return Err("the definition of a nested build lies in an empty input".to_owned()),
            (None, Some(definition)) => Place::Inline(definition.clone()),
            (None, None) => return Err(format!("no llb definition input {} found", attrs::BUILD_DEFAULT_FILENAME)),
        };
        let (worker, own) = (worker.clone(), vertex.digest.clone());
        Ok(Self { worker, bridge, own, op: op.clone(), place, inputs: vertex.inputs.len() })
    }

    async fn definition(&self, inputs: &[Tree], cx: &OpContext<Build>) -> Result<pb::Definition, StepError> {
        let (input, file) = match &self.place {
            Place::Inline(definition) => return Ok(definition.clone()),
            Place::File(input, file) => (*input, PathBuf::from(file)),
        };
        let tree = inputs.get(input).ok_or_else(|| StepError::refused(format!("invalid index {input}")))?.clone();
        self.worker.bring(&tree, cx).await?;
        let worker = self.worker.clone();
        let read = move || {
            let failed = || format!("failed to open {}", file.display());
            let root = worker.read(&tree)?.root()?;
            if !root.stat(&file).map_err(StepError::while_doing(failed()))?.is_file() {
                return Err(StepError::refused(format!("{} is not a regular file", file.display())));
            }
            let bytes = root.read(&file, MAX_DEFINITION).map_err(StepError::while_doing(failed()))?;
            let invalid = format!("{} is no LLB definition", file.display());
            pb::Definition::decode(bytes.as_slice()).map_err(StepError::while_doing(invalid))
        };
        let definition = tokio::task::spawn_blocking(read).await;
        definition.map_err(StepError::while_doing("cannot read the definition of a nested build"))?
    }
}

#[async_trait]
impl Op<Build> for BuildOp {
    async fn cache_map(&self, _: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let mut digester = Digester::default();
        digester.update_field("build");
        digester.update_field(self.op.encode_to_vec());
        let mut dependencies = vec![Dependency::default(); self.inputs];
        if let Place::File(input, file) = &self.place
            && let Some(dependency) = dependencies.get_mut(*input)
        {
            *dependency = Dependency { selector: file.clone(), content: true };
        }
        Ok(CacheMap { digest: digester.finish(), dependencies, volatile: false })
    }

    async fn content_digest(&self, input: usize, tree: &Tree, cx: &OpContext<Build>) -> Result<Digest, StepError> {
        let Place::File(_, file) = &self.place else {
            return Err(StepError::refused("a definition in the op has no content"));
        };
        let selector = Selector { follow_links: true, ..Selector::path(file) };
        self.worker.content_digest(tree, vec![selector], cx).await.map_err(|e| e.digesting(input, tree))
    }

    async fn run(&self, inputs: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        let definition = self.definition(&inputs, cx).await?;
        let gone = || StepError::refused("the build that a nested build belongs to has ended");
        let bridge: Bridge = self.bridge.upgrade().ok_or_else(gone)?;
        let nested = Box::pin(async {
            match bridge.load_within(Some(&self.own), definition, &[]).await? {
                Some(root) => root.evaluate().await,
                None => Ok(Tree::default()),
            }
        });
        Ok(vec![Some(nested.await.map_err(StepError::while_doing(""))?)])
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Bench;
    use cooper_llb::{Action, Build, Meta, Mkfile, Output, file, pb};
    use prost::Message as _;

    fn holding(path: &str, data: Vec<u8>) -> Output {
        let mkfile = Mkfile { path: path.to_owned(), mode: 0o644, data, ..Mkfile::default() };
        file(&Output::scratch(), vec![Action::Mkfile(mkfile)], Meta::default())
    }

    /// Builds what `input` holds; the content of `/out`, or the error.
    async fn built(input: Option<Output>, filename: Option<&str>, definition: Option<pb::Definition>) -> String {
        let inputs = input.map(|i| ("buildkit.llb.definition".to_owned(), i)).into_iter().collect();
        let op = Build { builder: None, inputs, definition, filename: filename.map(str::to_owned) };
        let bench = Bench::new();
        let outcome = async {
            let loaded = bench.bridge.load(op.output(Meta::default()).marshal().unwrap()).await?;
            loaded.unwrap().open().await
        };
        match outcome.await {
            Ok(tree) => String::from_utf8(tree.root().unwrap().read("out", 100).unwrap()).unwrap(),
            Err(error) => error.to_string(),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nested_builds() {
        let usual = "/buildkit.llb.definition";
        let definition = || holding("/out", b"made".to_vec()).marshal().unwrap();
        let bytes = || definition().encode_to_vec();
        assert_eq!(built(Some(holding(usual, bytes())), None, None).await, "made");
        assert_eq!(built(Some(holding("/sub.pb", bytes())), Some("sub.pb"), None).await, "made");
        assert_eq!(built(None, None, Some(definition())).await, "made");
        // A nested build in a nested build.
        let inner = Build { inputs: [(usual[1..].to_owned(), holding(usual, bytes()))].into(), ..Build::default() };
        let inner = inner.output(Meta::default()).marshal().unwrap().encode_to_vec();
        assert_eq!(built(Some(holding(usual, inner)), None, None).await, "made");
        for (input, filename, expected) in [
            (Some(holding("/other", bytes())), None, "not found"),
            (Some(holding(usual, vec![0xff, 0xff])), None, "is no LLB definition"),
            (Some(holding(usual, bytes())), Some("."), "is not a regular file"),
            (None, None, "no llb definition input buildkit.llb.definition found"),
        ] {
            let error = built(input, filename, None).await;
            assert!(error.contains(expected), "{error} lacks {expected:?}");
        }
    }
}
