//! Statements about build results: which are asked for, what provenance says, how statements are written.
//!
//! Lives here: the parameters of attestations, what a build notes of its sources ([`Capture`]), the provenance
//! predicates made of it, package URLs, in-toto statements. Must never live here: builds, files, scanners, the image
//! formats that carry statements.

mod error;
mod params;

pub use error::{Error, Result};
pub use params::{Params, Wanted};
