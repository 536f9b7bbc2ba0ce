//! What a run of the testbed leaves behind, and how people and machines read it.
//!
//! A [`Record`](record::Record) is the only input: the renderers never ask the
//! testbed. No record and no report holds wall-clock time or a path of the
//! machine, so that one seed gives one text.

mod encoding;
pub mod record;
pub mod suite;

pub mod failure;
pub mod html;
pub mod json;
pub mod junit;
pub mod summary;
pub mod transcript;

#[cfg(test)]
mod sample;
