//! Files from HTTP(S) URLs.
//!
//! The content goes into the content store; name, owner, mode and time are values beside it, applied when the file
//! is written out. What was downloaded before is asked for conditionally (`ETag`, `Last-Modified`).

mod download;
mod error;
mod file;
mod name;
mod records;
#[cfg(test)]
mod tests;

pub use download::HttpSource;
pub use error::HttpError;
pub use file::{HttpFile, HttpRequest, HttpSignature};
