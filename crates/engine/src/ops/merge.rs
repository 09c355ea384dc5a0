//! Merge and diff: list operations on stacks of layers, no files touched unless trees have nothing in common.

use crate::{
    domain::{Build, StepError},
    layers::{splice::Form, tree::Tree},
    worker::Worker,
};
use async_trait::async_trait;
use cooper_oci::{Digest, Digester};
use cooper_solver::{CacheMap, Dependency, Op, OpContext};
use std::sync::Arc;

/// How trees are put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Combine {
    /// All inputs on top of each other.
    Merge,
    /// What `upper` has over `lower`; each names an input, or an empty tree.
    Diff {
        /// Input index of the tree that is taken away.
        lower: Option<usize>,
        /// Input index of the tree that stays.
        upper: Option<usize>,
    },
    /// The inputs themselves, output `i` being input `outputs[i]`.
    Pass {
        /// Input index per output.
        outputs: Vec<usize>,
    },
}

/// A merge, diff or passthrough op.
pub struct CombineOp {
    pub(crate) worker: Arc<Worker>,
    pub(crate) combine: Combine,
    pub(crate) inputs: usize,
}

#[async_trait]
impl Op<Build> for CombineOp {
    async fn cache_map(&self, _: &OpContext<Build>) -> Result<CacheMap, StepError> {
        let mut digester = Digester::default();
        digester.update_field(format!("{:?}", self.combine));
        let dependencies = vec![Dependency::default(); self.inputs];
        Ok(CacheMap { digest: digester.finish(), dependencies, volatile: false })
    }

    async fn content_digest(&self, _: usize, _: &Tree, _: &OpContext<Build>) -> Result<Digest, StepError> {
        Err(StepError::refused("a merge is not keyed by content"))
    }

    async fn run(&self, inputs: Vec<Tree>, cx: &OpContext<Build>) -> Result<Vec<Option<Tree>>, StepError> {
        let get = |i: Option<usize>, inputs: &[Tree]| i.and_then(|i| inputs.get(i)).cloned().unwrap_or_default();
        Ok(match &self.combine {
            Combine::Merge => {
                let worker = self.worker.clone();
                let merge = move || {
                    let mut parts = Vec::with_capacity(inputs.len());
                    for (i, input) in inputs.iter().enumerate() {
                        // The first input lies where it lay; the others lie on it now.
                        let part = worker.own(input)?;
                        let kept = if i == 0 { usize::MAX } else { 0 };
                        parts.push(worker.portable(&part, kept, Form::Whole)?);
                    }
                    Ok::<_, StepError>(Tree::merge(&parts))
                };
                let merged = tokio::task::spawn_blocking(merge).await;
                vec![Some(merged.map_err(StepError::while_doing("cannot merge file trees"))??)]
            }
            Combine::Diff { lower, upper } => {
                vec![Some(self.worker.diff(&get(*lower, &inputs), &get(*upper, &inputs), cx).await?)]
            }
            Combine::Pass { outputs } => outputs.iter().map(|&i| inputs.get(i).cloned()).collect(),
        })
    }
}
