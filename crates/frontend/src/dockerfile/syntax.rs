//! The frontend that a file or an argument asks for.

use super::{error::Origin, options::Request};
use crate::gateway;
use cooper_dockerfile::{Range, Source, parser::detect_syntax};
use cooper_engine::{Bridge, BuildError, BuildResult, FrontendRequest, bridge::SolveRequest};

/// The argument that takes the place of the directive.
const ARGUMENT: &str = "BUILDKIT_SYNTAX";

/// A frontend image that is asked for.
pub struct Wanted {
    /// Its reference.
    pub image: String,
    /// The reference and what follows it.
    cmdline: String,
    /// Where the file says so; none when an argument does.
    line: Option<u32>,
}

/// The frontend that is asked for. None once a choice was made: then the command line is an option already.
pub fn wanted(request: &Request, source: &Source) -> Option<Wanted> {
    if request.opts.contains_key(gateway::CMDLINE) {
        return None;
    }
    if let Some(cmdline) = request.build_arg(ARGUMENT) {
        let image = cmdline.trim().split(' ').next().unwrap_or_default().to_owned();
        return Some(Wanted { image, cmdline: cmdline.to_owned(), line: None });
    }
    let found = detect_syntax(source.text())?;
    Some(Wanted { image: found.image, cmdline: found.cmdline, line: Some(found.line) })
}

impl Wanted {
    /// Lets that frontend build.
    pub async fn forward(
        self,
        bridge: &Bridge,
        mut request: FrontendRequest,
        origin: &Origin<'_>,
    ) -> Result<BuildResult, BuildError> {
        request.opts.insert(gateway::CMDLINE.to_owned(), self.cmdline.clone());
        request.opts.insert(gateway::SOURCE.to_owned(), self.image);
        let solve = SolveRequest { frontend: gateway::NAME.to_owned(), request, ..SolveRequest::default() };
        bridge.solve(solve).await.map_err(|mut error| {
            // A frontend that ran has said where; one that did not is wanted here.
            if !error.has_source() {
                match self.line {
                    Some(line) => error.sources.push(origin.ranges(&[Range::line(line)])),
                    None => return error.context(format!("failed with build-arg:{ARGUMENT} = {}", self.cmdline)),
                }
            }
            error
        })
    }
}
