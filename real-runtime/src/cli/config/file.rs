//! The layer of the TOML file.

use std::{fs, path::Path};

use toml::de::{DeTable, DeValue};

use super::{Settings, Source, problem};
use crate::cli::Usage;

pub fn read(path: &Path, settings: &mut Settings) -> Result<(), Usage> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| Usage(format!("{file}: {error}")))?;
    let line_at = |offset: usize| {
        1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    };
    let source = |offset: usize| Source::File { file: file.clone(), line: line_at(offset) };
    let table = DeTable::parse(&text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        problem(&source(offset), error.message())
    })?;
    let mut found = Vec::new();
    flatten("", table.get_ref(), &mut found);
    for (key, offset, value) in found {
        settings.set(&key, &value, source(offset))?;
    }
    Ok(())
}

/// Every value with its whole key and where in the file that stands. Tables of
/// an array are numbered from 1.
fn flatten(prefix: &str, table: &DeTable<'_>, found: &mut Vec<(String, usize, String)>) {
    for (key, value) in table {
        let whole = match prefix {
            "" => key.get_ref().to_string(),
            prefix => format!("{prefix}.{}", key.get_ref()),
        };
        match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() => flatten(&whole, inner, found),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for (number, item) in (1..).zip(items.iter()) {
                    match item.get_ref().as_table() {
                        Some(inner) => flatten(&format!("{whole}.{number}"), inner, found),
                        None => {
                            found.push((whole.clone(), item.span().start, text(item.get_ref())))
                        }
                    }
                }
            }
            other => found.push((whole, key.span().start, text(other))),
        }
    }
}

fn text(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| text(item.get_ref())).collect();
            items.join(",")
        }
        DeValue::Table(_) => "an empty table".to_owned(),
    }
}
