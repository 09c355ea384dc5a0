//! `gateway.v0`: builds with a frontend that is named by its image.

use crate::{
    dockerfile::{self, Options, has_named_context},
    images::{self, Policy},
};
use async_trait::async_trait;
use cooper_engine::{Bridge, BuildError, BuildResult, FailureClass, Frontend, FrontendRequest, bridge::SolveRequest};

/// The name of this frontend.
pub const NAME: &str = "gateway.v0";
/// The option with the frontend's image.
pub const SOURCE: &str = "source";
/// The option with the image and what a file says behind it.
pub const CMDLINE: &str = "cmdline";

/// Finds the frontend that an image stands for.
#[derive(Debug, Clone, Default)]
pub struct Gateway {
    /// Which images.
    pub policy: Policy,
}

#[async_trait]
impl Frontend for Gateway {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn solve(&self, bridge: &Bridge, mut request: FrontendRequest) -> Result<BuildResult, BuildError> {
        let invalid = |message: &str| BuildError::new(FailureClass::InvalidArgument, message);
        if request.opts.contains_key("gateway-devel") {
            return Err(invalid("development gateway is no longer supported"));
        }
        let source = request.opts.get(SOURCE).cloned().ok_or_else(|| invalid("no source specified for gateway"))?;
        self.policy.check(&source)?;
        let builtin = source == dockerfile::NAME || {
            let options = Options::parse(request.clone(), bridge)?;
            self.policy.stands_in_for(&source) && !has_named_context(&options, &source, &images::platform(bridge))
        };
        if !builtin {
            let image = images::open(bridge, &request, &source).await?;
            return bridge.run_frontend(image, request).await;
        }
        if source != dockerfile::NAME {
            images::announce(bridge, &source).await?;
        }
        // The choice is made: a syntax line in the file changes nothing.
        request.opts.entry(CMDLINE.to_owned()).or_insert(source);
        request.opts.remove(SOURCE);
        let frontend = dockerfile::NAME.to_owned();
        bridge.solve(SolveRequest { frontend, request, ..SolveRequest::default() }).await
    }
}
