//! What is wrong with a scenario file, and where.

use std::fmt;

use toml::de::{DeTable, DeValue};

/// The first thing wrong with a scenario file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError {
    pub file: String,
    /// From 1; 0 if the file could not be read at all.
    pub line: usize,
    /// The key, as in `fault.restart_after`; empty if it is the whole file.
    pub key: String,
    /// What was found, and what is allowed.
    pub problem: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for ScenarioError {}

pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// The innermost key that lies at `offset` or whose value does, with all keys
/// around it.
pub(crate) fn key_at(table: &DeTable<'_>, offset: usize) -> String {
    let mut keys = Vec::new();
    let mut inside = Some(table);
    while let Some(table) = inside.take() {
        let found = table
            .iter()
            .flat_map(|(key, value)| match value.get_ref() {
                DeValue::Array(items) if items.iter().all(|i| i.get_ref().is_table()) => {
                    items.iter().map(|item| (key, item)).collect()
                }
                _ => vec![(key, value)],
            })
            .find(|(key, value)| {
                key.span().contains(&offset)
                    || value.span().contains(&offset)
                    || holds(value.get_ref(), offset)
            });
        if let Some((key, value)) = found {
            keys.push(key.get_ref().to_string());
            inside = value.get_ref().as_table();
        }
    }
    keys.join(".")
}

/// A table's own span is its header; its keys lie below.
fn holds(value: &DeValue<'_>, offset: usize) -> bool {
    let Some(table) = value.as_table() else { return false };
    table.iter().any(|(key, value)| {
        key.span().contains(&offset)
            || value.span().contains(&offset)
            || holds(value.get_ref(), offset)
    })
}

/// Where the value at `path` starts (`fault.1.at`), or the nearest thing
/// around it that is in the file.
pub(crate) fn offset_of(table: &DeTable<'_>, path: &str) -> usize {
    let mut offset = 0;
    let mut inside: Option<&DeValue<'_>> = None;
    for step in path.split('.') {
        let next = match (inside, step.parse::<usize>()) {
            (Some(value), Ok(index)) => value.get(index),
            (Some(value), Err(_)) => value.get(step),
            (None, _) => table.get(step),
        };
        let Some(next) = next else { break };
        offset = next.span().start;
        inside = Some(next.get_ref());
    }
    offset
}
