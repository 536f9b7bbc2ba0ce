//! Scenarios: storms written down as TOML, one file each, under
//! `scenarios/<area>/`. This crate reads and checks them; what they mean in a
//! run is the testbed's business.

mod error;
mod fault;
mod names;
mod node;
mod operation;
mod role_word;
mod scenario;
#[cfg(test)]
mod tests;
mod validate;
mod value;
mod workload;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

pub use error::ScenarioError;
pub use fault::*;
pub use names::{FAULTS, MARKS, RECOVERABLE};
pub use node::{Node, ReplicaSet, Role, tags_of};
pub use operation::*;
pub use role_word::{Part, RoleWord};
pub use scenario::*;
pub use value::{DurationRange, SizeRange};
pub use workload::*;

/// Where the committed scenarios lie.
pub fn committed_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every `*.toml` below `dir/<area>/`, ordered by area and name.
///
/// # Errors
/// The first file that is not a valid scenario, or that takes another's name.
pub fn load_dir(dir: &Path) -> Result<Vec<Scenario>, ScenarioError> {
    let mut scenarios: Vec<Scenario> = Vec::new();
    for area in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&area)? {
            if path.extension().is_some_and(|extension| extension == "toml") {
                let scenario = load(&path)?;
                if let Some(other) = scenarios.iter().find(|s| s.name == scenario.name) {
                    return Err(ScenarioError {
                        file: scenario.file,
                        line: 0,
                        key: "name".to_owned(),
                        problem: format!("`{}` is already the name of {}", other.name, other.file),
                    });
                }
                scenarios.push(scenario);
            }
        }
    }
    Ok(scenarios)
}

/// One scenario from its file.
///
/// # Errors
/// When the file cannot be read or is not a valid scenario.
pub fn load(path: &Path) -> Result<Scenario, ScenarioError> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    parse(&path.display().to_string(), &text)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, ScenarioError> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    };
    let mut paths = read().map_err(|error| unreadable(dir, &error))?;
    paths.sort();
    Ok(paths)
}

fn unreadable(path: &Path, error: &std::io::Error) -> ScenarioError {
    ScenarioError {
        file: path.display().to_string(),
        line: 0,
        key: String::new(),
        problem: format!("cannot be read: {error}"),
    }
}

/// Reads and checks one scenario. `file` is what errors and reports call it;
/// the area is its folder's name unless the text gives one.
///
/// # Errors
/// The first thing wrong: the syntax, a key, a value, or a plan that cannot
/// happen (a fault after the end, a node that does not exist).
pub fn parse(file: &str, text: &str) -> Result<Scenario, ScenarioError> {
    let wrong = |offset: usize, key: String, problem: String| ScenarioError {
        file: file.to_owned(),
        line: error::line_of(text, offset),
        key,
        problem,
    };
    let start_of = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let document = DeTable::parse(text)
        .map_err(|error| wrong(start_of(&error), String::new(), error.message().to_owned()))?;
    let keys = document.get_ref();

    let mut scenario =
        Scenario::deserialize(toml::Deserializer::from(with_nested_kinds(document.clone())))
            .map_err(|error| {
                let at = start_of(&error);
                let key = error::key_at(keys, at);
                let problem = format!("{}{}", error.message(), hint(&key, error.message()));
                wrong(at, key, problem)
            })?;
    scenario.file = file.to_owned();
    scenario.about = leading_comment(text);
    if scenario.area.is_empty() {
        let folder = Path::new(file).parent().and_then(Path::file_name);
        scenario.area = folder.map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    }
    validate::check(&scenario).map_err(|problem| {
        let key = problem.key.split('.').filter(|step| step.parse::<usize>().is_err());
        let key = key.collect::<Vec<_>>().join(".");
        wrong(error::offset_of(keys, &problem.key), key, problem.what)
    })?;
    Ok(scenario)
}

/// Keys of a workload, a fault or an operation that do not depend on its kind.
const OF_ANY_WORKLOAD: [&str; 6] = ["kind", "name", "members", "start_at", "stop_at", "stagger"];
const OF_ANY_FAULT: [&str; 4] = ["kind", "at", "every", "times"];
const OF_ANY_OPERATION: [&str; 2] = ["kind", "at"];

/// What serde cannot know: the keys that every kind takes, and all kinds.
fn hint(key: &str, message: &str) -> String {
    let (shared, kinds) = match key.split('.').next() {
        Some("workload") => (&OF_ANY_WORKLOAD[..], &names::WORKLOADS[..]),
        Some("fault") => (&OF_ANY_FAULT[..], &FAULTS[..]),
        Some("operation") => (&OF_ANY_OPERATION[..], &names::OPERATIONS[..]),
        _ => return String::new(),
    };
    if message.starts_with("unknown field") {
        format!(", or as everywhere {}", shared.join(", "))
    } else if message.starts_with("missing field `kind`") {
        format!(", allowed: {}", kinds.join(", "))
    } else {
        String::new()
    }
}

/// Turns `{ kind = "kill", at = "5s", node = "broker" }` into
/// `{ at = "5s", kind = { kill = { node = "broker" } } }`: the form in which
/// serde checks each kind's own keys and still knows where they stand.
fn with_nested_kinds(mut document: Spanned<DeTable<'_>>) -> Spanned<DeTable<'_>> {
    let sections = [
        ("workload", &OF_ANY_WORKLOAD[..]),
        ("fault", &OF_ANY_FAULT[..]),
        ("operation", &OF_ANY_OPERATION[..]),
    ];
    for (section, shared) in sections {
        let Some(DeValue::Array(items)) = document.get_mut().get_mut(section).map(Spanned::get_mut)
        else {
            continue;
        };
        for item in items.iter_mut() {
            let whole = item.span();
            if let DeValue::Table(table) = item.get_mut() {
                nest_kind(table, shared, whole);
            }
        }
    }
    document
}

fn nest_kind(table: &mut DeTable<'_>, shared: &[&str], whole: std::ops::Range<usize>) {
    let (kept, own) = std::mem::take(table)
        .into_iter()
        .partition(|(key, _)| shared.contains(&key.get_ref().as_ref()));
    *table = kept;
    let Some((key, kind)) = table.remove_entry("kind") else { return };
    let at = kind.span();
    let DeValue::String(kind) = kind.into_inner() else { return };
    let mut nested = DeTable::new();
    nested.insert(Spanned::new(at.clone(), kind), Spanned::new(whole, DeValue::Table(own)));
    table.insert(key, Spanned::new(at, DeValue::Table(nested)));
}

fn leading_comment(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix('#')).map(str::trim);
    lines.collect::<Vec<_>>().join(" ")
}
