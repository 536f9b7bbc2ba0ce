//! What commands print: a table for people, JSON for programs.

use std::fmt::Write;

use clap::ValueEnum;
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    /// One array of objects.
    Json,
}

/// Rows under named columns.
pub struct Table {
    columns: &'static [&'static str],
    rows: Vec<Vec<Value>>,
}

impl Table {
    pub fn new(columns: &'static [&'static str]) -> Table {
        Table { columns, rows: Vec::new() }
    }

    /// Takes one value for each column.
    pub fn row(&mut self, values: impl IntoIterator<Item = Value>) {
        let row: Vec<Value> = values.into_iter().collect();
        assert_eq!(row.len(), self.columns.len(), "a value for each column");
        self.rows.push(row);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn print(&self, format: Format) {
        match format {
            Format::Table => print!("{}", self.as_table()),
            Format::Json => println!("{}", self.as_json()),
        }
    }

    fn as_json(&self) -> Value {
        let object = |row: &Vec<Value>| {
            let fields = self.columns.iter().zip(row);
            fields.map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>()
        };
        self.rows.iter().map(|row| Value::Object(object(row))).collect()
    }

    fn as_table(&self) -> String {
        let heads = self.columns.iter().map(|name| name.to_uppercase()).collect();
        let cells = self.rows.iter().map(|row| row.iter().map(shown).collect());
        let lines: Vec<Vec<String>> = std::iter::once(heads).chain(cells).collect();
        let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max();
        let widths: Vec<usize> = (0..self.columns.len()).filter_map(width).collect();
        let mut out = String::new();
        for line in &lines {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                write!(text, "{cell:<width$}  ").expect("memory takes any text");
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let mut table = Table::new(&["topic", "lag"]);
        table.row(["orders".into(), 12.into()]);
        table.row(["%RETRY%g".into(), Value::Null]);
        assert_eq!(table.as_table(), "TOPIC     LAG\norders    12\n%RETRY%g  -\n");
        let json = r#"[{"lag":12,"topic":"orders"},{"lag":null,"topic":"%RETRY%g"}]"#;
        assert_eq!(table.as_json().to_string(), json);
    }
}
