//! What a run of the testbed leaves behind, and how people and machines read it.
//!
//! A [`record::Record`] is the only input: the renderers never ask the testbed.
//! No record and no report holds wall-clock time or a path of the machine, so
//! that one seed gives one text.

pub mod record;
