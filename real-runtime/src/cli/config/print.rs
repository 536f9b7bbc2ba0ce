//! `stormglass config`.

use clap::{Args, Subcommand};

use super::{Flags, keys};
use crate::cli::{
    Usage,
    output::{Format, Table},
};

#[derive(Debug, Subcommand)]
pub enum Config {
    /// What `serve` with the same flags would go by, and where each value comes
    /// from: default < --config FILE < STORMGLASS_… variable < flag.
    Print(Print),
}

#[derive(Debug, Args)]
pub struct Print {
    #[command(flatten)]
    flags: Flags,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Config {
    pub fn run(self) -> Result<(), Usage> {
        let Config::Print(print) = self;
        let settings = print.flags.settings()?;
        let mut table = Table::new(&["key", "value", "from"]);
        for (key, setting) in &settings.0 {
            let is_secret = keys::find(key).is_some_and(keys::Key::is_secret);
            let shown = if is_secret { "(not shown)" } else { &setting.text };
            table.row([key.as_str().into(), shown.into(), setting.source.to_string().into()]);
        }
        table.print(print.output);
        // What every value allows can still not fit together.
        settings.plan().map(drop)
    }
}
