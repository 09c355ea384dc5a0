//! Images: from a reference or digest to manifest, config and layers of one platform.

mod choose;
mod error;
mod names;
mod origin;
mod resolve;
#[cfg(test)]
mod tests;

pub use error::ImageError;
pub use names::{NameError, NameFiles, Names};
pub use resolve::{ImageRequest, ImageSource, ResolveMode, ResolvedImage};
