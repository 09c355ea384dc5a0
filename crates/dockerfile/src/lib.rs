//! The Dockerfile language: text and metadata in; instructions, diagnostics and LLB out.
//!
//! Reading goes in three steps, each a module: [`parser`] turns text into typed [`instruction`]s in which every word
//! keeps its place, [`lint`] finds what works but should be written otherwise, and lowering gives the instructions
//! meaning as an LLB graph. No I/O lives here: what lowering needs to know from outside is asked through a trait.

pub mod diagnostic;
pub mod expand;
pub mod instruction;
pub mod language;
pub mod lint;
pub mod lower;
pub mod parser;
pub mod source;
pub mod subrequest;
pub mod value;

pub use diagnostic::{Diagnostic, Problem};
pub use instruction::{Dockerfile, Instruction, Stage};
pub use source::{Position, Range, Source, Span, Word};
