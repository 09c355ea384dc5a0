//! `dockerfile.v0`: fetch the file, lower it once per platform, hand back trees and image configs.
//!
//! Lives here: everything about a Dockerfile build that needs the engine. The language itself is another crate's.

mod build;
mod caches;
mod caps;
mod context;
mod error;
mod files;
mod limits;
mod named;
mod options;
mod requests;
mod resolver;
mod syntax;
mod timestamp;
mod warnings;

use crate::images::{self, Policy};
use async_trait::async_trait;
use build::Prepared;
use context::MainContext;
use cooper_dockerfile::{Problem, Source, parser};
use cooper_engine::{Bridge, BuildError, BuildResult, Frontend, FrontendRequest};
use error::Origin;
use options::Request;
use std::sync::Arc;

pub(crate) use context::load;
pub(crate) use named::{exists as has_named_context, open as open_named_context};
pub(crate) use options::Request as Options;

/// The name of the built-in frontend, which is also an address that the gateway takes.
pub const NAME: &str = "dockerfile.v0";

/// The built-in Dockerfile frontend.
#[derive(Debug, Clone, Default)]
pub struct Dockerfile {
    /// Which other frontends it answers for.
    pub policy: Policy,
}

#[async_trait]
impl Frontend for Dockerfile {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn solve(&self, bridge: &Bridge, asked: FrontendRequest) -> Result<BuildResult, BuildError> {
        let forwardable = caps::check(&asked.opts);
        if let Err(unknown) = &forwardable
            && !unknown.may_forward
        {
            return Err(unknown.error());
        }
        let request = Request::parse(asked.clone(), bridge)?;
        if let Some(answer) = requests::without_file(&request) {
            return Ok(answer);
        }
        let main = MainContext::open(bridge, &request).await?;
        let files = files::fetch(bridge, &request, &main).await?;
        let source = Arc::new(Source::from_bytes(&main.filename, &files.dockerfile));
        let origin = Origin { source: &source, files: &files };
        if let Some(syntax) = syntax::wanted(&request, &source) {
            if !self.policy.stands_in_for(&syntax.image)
                || has_named_context(&request, &syntax.image, &images::platform(bridge))
                || uses_unknown_features(&source)
            {
                return syntax.forward(bridge, asked, &origin).await;
            }
            images::announce(bridge, &syntax.image).await?;
        }
        if let Err(unknown) = forwardable {
            return Err(unknown.error());
        }
        bridge.import_caches(caches::imports(&request.opts)?);
        let ignore = files.ignore(bridge, &request, &main).await?;
        let prepared = Prepared { ignore, bridge, request: &request, main: &main, files: &files, source: &source };
        match request.opts.get(requests::KEY) {
            Some(id) => requests::answer(&prepared, id).await,
            None => prepared.build().await,
        }
    }
}

/// Whether a file has instructions or flags that are not known here and are no misspellings: another version of the
/// language may know them.
fn uses_unknown_features(source: &Arc<Source>) -> bool {
    let Err(errors) = parser::parse(Arc::clone(source)).into_result() else { return false };
    let unknown = |problem: &Problem| matches!(problem, Problem::UnknownInstruction(_) | Problem::UnknownFlag(_));
    errors.all().iter().any(|error| error.suggestion.is_none() && unknown(&error.problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_features_are_told_from_misspellings() {
        for (text, unknown) in [
            ("FROM a\nRUN b\n", false),
            ("FROM a\nCOPPY b c\n", false),
            ("FROM a\nCOPY --chwon=1 b c\n", false),
            ("FROM a\nCOPY --from b\n", false),
            ("FROM a\nTELEPORT b\n", true),
            ("FROM a\nCOPY --quantum=1 b c\n", true),
        ] {
            assert_eq!(uses_unknown_features(&Arc::new(Source::new("Dockerfile", text))), unknown, "{text:?}");
        }
    }
}
