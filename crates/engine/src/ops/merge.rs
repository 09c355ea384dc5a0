//! Merge and diff: list operations on stacks of layers, no files touched unless trees have nothing in common.

use crate::{
    domain::{Build, StepError},
    tree::Tree,
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
        let get = |i: Option<usize>| i.and_then(|i| inputs.get(i)).cloned().unwrap_or_default();
        Ok(match &self.combine {
            Combine::Merge => {
                let mut parts = Vec::with_capacity(inputs.len());
                for input in &inputs {
                    parts.push(self.worker.own(input)?);
                }
                vec![Some(Tree::merge(&parts))]
            }
            Combine::Diff { lower, upper } => vec![Some(self.worker.diff(&get(*lower), &get(*upper), cx).await?)],
            Combine::Pass { outputs } => outputs.iter().map(|&i| inputs.get(i).cloned()).collect(),
        })
    }
}
