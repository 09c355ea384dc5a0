//! Scheduling and cache keys over abstract operations; knows nothing of containers, files or wires.
//!
//! Two facts decide what a vertex is:
//! - its **definition key**: the hash of its op's cache digest and its inputs' canonical keys, computed
//!   without running anything;
//! - its **content key**: the same with the digest of exactly the content that the op reads in place of an
//!   input's key, which needs that input's result, once.
//!
//! The store keeps `definition key -> canonical keys` (aliases) and `canonical key -> results`. A vertex whose
//! definition key is known goes on with the alias and never touches its inputs. Otherwise its content key is
//! looked up (early cut-off). Otherwise it runs, once for all builds that want it at the same time, and stops
//! only when the last of them is gone.

mod context;
mod flight;
mod job;
mod key;
mod op;
mod progress;
mod store;
#[cfg(test)]
mod tests;
mod unkept;

pub use context::OpContext;
pub use job::{Identity, Job, Solved, Solver, SolverOptions};
pub use key::{Key, KeyInput, KeyRecord};
pub use op::{CacheMap, Dependency, Domain, Edge, Op, SolveError, Vertex};
pub use progress::{Event, LogAudience, Observer, StatusUpdate, VertexUpdate, Warning};
pub use store::{KeyStore, MemoryStore};
