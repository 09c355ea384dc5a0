//! LLB ops over the capabilities. Each is bound to a worker and knows only its own protobuf message.

pub mod blob;
pub mod build;
pub(crate) mod devices;
pub mod exec;
pub mod file;
pub mod git;
pub mod http;
pub mod image;
pub mod local;
pub mod merge;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod spans;
pub mod ssh;
mod trust;
pub mod vertex;

use crate::{domain::Build, layers::tree::Tree};
use cooper_attest::Capture;
use cooper_llb::pb;
use cooper_solver::Op;

/// An op that brings something from outside.
pub trait SourceOp: Op<Build> {
    /// Notes what it stands for. Before it has been asked for its key nothing is known.
    fn capture(&self, capture: &mut Capture);

    /// Its files, when they are known by now.
    fn known_tree(&self) -> Option<Tree> {
        None
    }
}

/// The variables that a proxy setting stands for, in both spellings.
fn proxy_env(proxy: Option<&pb::ProxyEnv>) -> Vec<(String, String)> {
    let Some(proxy) = proxy else { return Vec::new() };
    let pairs = [
        ("HTTP_PROXY", &proxy.http_proxy),
        ("HTTPS_PROXY", &proxy.https_proxy),
        ("FTP_PROXY", &proxy.ftp_proxy),
        ("NO_PROXY", &proxy.no_proxy),
        ("ALL_PROXY", &proxy.all_proxy),
    ];
    let set = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    set.flat_map(|(name, value)| [(name.to_owned(), value.clone()), (name.to_lowercase(), value.clone())]).collect()
}
