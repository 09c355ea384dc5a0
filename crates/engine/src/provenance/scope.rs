//! Who asks: every request to a frontend within a build is a scope, in which refs are made and images are looked up.

use super::Origins;
use crate::gateway::bridge::FrontendRequest;
use cooper_attest::{ImageSource, Origin, Request, Sources, filter_args};
use cooper_llb::pb;
use cooper_solver::Edge;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

/// A request to a frontend.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    frontend: String,
    opts: BTreeMap<String, String>,
    inputs: BTreeMap<String, pb::Definition>,
}

/// A ref that was made, without what keeps a build alive.
#[derive(Debug, Clone)]
pub struct Made {
    pub id: String,
    pub edge: Edge,
    /// Whether it was built.
    pub evaluated: Arc<AtomicBool>,
}

/// A request within a build, and what came of it. The outermost has none: there the client itself builds.
#[derive(Debug, Default)]
pub struct Scope {
    asked: Option<Asked>,
    /// What the client asked for first.
    root: Option<Arc<Asked>>,
    images: Mutex<Vec<ImageSource>>,
    made: Mutex<Vec<Made>>,
    within: Mutex<Vec<Arc<Self>>>,
}

impl Asked {
    /// A request to `frontend`.
    pub fn new(frontend: &str, request: &FrontendRequest) -> Self {
        Self { frontend: frontend.to_owned(), opts: request.opts.clone(), inputs: request.inputs.clone() }
    }

    fn is_empty(&self) -> bool {
        self.frontend.is_empty() && self.opts.is_empty() && self.inputs.is_empty()
    }

    fn inputs(&self, origins: &Origins) -> BTreeMap<String, Origin> {
        let found = |(name, definition): (&String, &pb::Definition)| Some((name.clone(), origins.find(definition)?));
        self.inputs.iter().filter_map(found).collect()
    }

    fn origin(&self, sources: &Sources, origins: &Origins) -> Origin {
        let mut origin = Origin::new(&self.frontend, filter_args(&self.opts), sources);
        origin.request.inputs = self.inputs(origins);
        origin
    }
}

impl Scope {
    /// The scope of a client that asked for `asked`.
    pub fn outermost(asked: Asked) -> Self {
        Self { root: Some(Arc::new(asked)).filter(|asked| !asked.is_empty()), ..Self::default() }
    }

    /// A scope for another request. What the client asked first stays known; a client that asked for nothing asked
    /// for what encloses this.
    pub fn enter(self: &Arc<Self>, asked: Asked) -> Arc<Self> {
        let root = self.root.clone().or_else(|| self.asked.clone().map(Arc::new));
        let inner = Arc::new(Self { asked: Some(asked), root, ..Self::default() });
        self.within.lock().push(inner.clone());
        inner
    }

    /// Notes that an image was looked up.
    pub fn add_image(&self, image: ImageSource) {
        self.images.lock().push(image);
    }

    /// Notes that a ref was made.
    pub fn add_made(&self, made: Made) {
        self.made.lock().push(made);
    }

    /// Every image that was looked up here or within.
    pub fn images(&self) -> Vec<ImageSource> {
        let mut images = self.images.lock().clone();
        let within = self.within.lock().clone();
        images.extend(within.iter().flat_map(|scope| scope.images()));
        images
    }

    /// Every ref that was made here or within.
    pub fn made(&self) -> Vec<Made> {
        let mut made = self.made.lock().clone();
        let within = self.within.lock().clone();
        made.extend(within.iter().flat_map(|scope| scope.made()));
        made
    }

    /// The request, as provenance of a result with these sources tells it.
    pub fn request(&self, sources: &Sources, origins: &Origins) -> Request {
        let Some(asked) = &self.asked else { return Request::default() };
        let mut request = Request {
            frontend: asked.frontend.clone(),
            args: filter_args(&asked.opts),
            inputs: asked.inputs(origins),
            ..Request::default()
        };
        request.root = self.root(asked, sources, origins);
        request
    }

    /// The request as the origin of a result; none when the client built it itself.
    pub fn origin(&self, sources: &Sources, origins: &Origins) -> Option<Origin> {
        let asked = self.asked.as_ref()?;
        let mut origin = asked.origin(sources, origins);
        origin.request.root = self.root(asked, sources, origins);
        Some(origin)
    }

    /// What the client asked first, when that was something else.
    fn root(&self, asked: &Asked, sources: &Sources, origins: &Origins) -> Option<Box<Origin>> {
        let root = self.root.as_ref()?.origin(sources, origins);
        (!root.is_empty() && root != asked.origin(sources, origins)).then(|| Box::new(root))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(frontend: &str, opts: &[(&str, &str)]) -> Asked {
        let opts = opts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Asked::new(frontend, &FrontendRequest { opts, inputs: BTreeMap::new() })
    }

    fn root_of(scope: &Scope) -> Option<String> {
        let request = scope.request(&Sources::default(), &Origins::default());
        request.root.map(|root| format!("{} {:?}", root.request.frontend, root.request.args))
    }

    #[test]
    fn the_client_s_request_is_told_when_it_was_another() {
        let direct = Arc::new(Scope::outermost(asked("dockerfile.v0", &[("a", "1")])));
        let same = direct.enter(asked("dockerfile.v0", &[("a", "1"), ("platform", "linux/arm64")]));
        assert_eq!(root_of(&same), None);
        let other = same.enter(asked("gateway.v0", &[("source", "x")]));
        assert_eq!(root_of(&other).as_deref(), Some(r#"dockerfile.v0 {"a": "1"}"#));
        let silent = Arc::new(Scope::outermost(asked("", &[])));
        let first = silent.enter(asked("f", &[]));
        assert_eq!((root_of(&silent), root_of(&first)), (None, None));
        assert_eq!(root_of(&first.enter(asked("g", &[]))).as_deref(), Some("f {}"));
    }
}
