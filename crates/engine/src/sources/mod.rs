//! Sources as the engine sees them: resolved once per build, fetched when read.

pub mod access;
pub mod image_names;
pub mod images;
pub mod locals;
pub mod meta;
