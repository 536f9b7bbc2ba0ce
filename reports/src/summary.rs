//! The suite as a table: for a terminal, and in Markdown for a pull request.

use std::fmt::Write;

use crate::{
    failure::failure_text,
    suite::{Row, Suite},
    transcript::OneLine,
};

/// How many of the things that happened a row names.
const FIRED: usize = 4;

/// One line per scenario and world, and a line that sums up.
pub fn terminal_table(suite: &Suite) -> String {
    let rows = suite.rows();
    let width = rows.iter().map(|row| row.scenario.chars().count()).max().unwrap_or(0).max(8);
    let mut table = format!(
        "{:<width$}  {:<7}  {:>5}  {:>9}  {:<7}  what happened\n",
        "scenario", "world", "seeds", "simulated", "verdict"
    );
    let mut last = "";
    for row in &rows {
        let name = if row.scenario == last { "" } else { row.scenario };
        last = row.scenario;
        let verdict = row.verdict();
        let (word, broken) = match verdict.split_once(": ") {
            Some((word, broken)) => (word, Some(broken)),
            None => (verdict.as_str(), None),
        };
        let _ = writeln!(
            table,
            "{:<width$}  {:<7}  {:>5}  {:>9}  {word:<7}  {}",
            OneLine(name),
            row.world,
            row.runs.len(),
            seconds(row.simulated_us()),
            fired(row),
        );
        if let Some(broken) = broken {
            let _ = writeln!(table, "{:<width$}  └ {}", "", OneLine(broken));
        }
    }
    table + "\n" + &bottom_line(suite) + "\n"
}

/// `84 runs, 2 broken; 3 360 simulated seconds, 1 204 113 events`.
pub fn bottom_line(suite: &Suite) -> String {
    let broken = match suite.failures().count() {
        0 if suite.runs().is_empty() => "nothing ran".to_string(),
        0 => "every promise held".to_string(),
        broken => format!("{broken} broken"),
    };
    let runs = suite.runs().len();
    format!(
        "{runs} run{}, {broken}; {} simulated, {} events",
        if runs == 1 { "" } else { "s" },
        seconds(suite.simulated_us()),
        suite.events()
    )
}

/// A table and the text of each failure, folded.
pub fn markdown(suite: &Suite) -> String {
    let mut text = format!("### Stormglass: {}\n\n", bottom_line(suite));
    text.push_str("| scenario | world | seeds | simulated | verdict | what happened |\n");
    text.push_str("|---|---|---:|---:|---|---|\n");
    for row in suite.rows() {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            cell(row.scenario),
            row.world,
            row.runs.len(),
            seconds(row.simulated_us()),
            cell(&row.verdict()),
            cell(&fired(&row)),
        );
    }
    for record in suite.failures() {
        let fence = "`".repeat(longest_fence(record) + 1);
        let _ = write!(
            text,
            "\n<details><summary><code>{}</code></summary>\n\n{fence}text\n{}{fence}\n\n</details>\n",
            cell(&record.repro_line()),
            failure_text(record)
        );
    }
    text
}

fn fired(row: &Row<'_>) -> String {
    let fired = row.fired();
    let mut text: Vec<String> =
        fired.iter().take(FIRED).map(|(mark, count)| format!("{mark} {count}")).collect();
    if fired.len() > FIRED {
        text.push(format!("+{}", fired.len() - FIRED));
    }
    if text.is_empty() { "nothing".to_string() } else { text.join(", ") }
}

fn seconds(us: u64) -> String {
    format!("{:.1}s", us as f64 / 1e6)
}

/// Text inside a Markdown table: nothing of it may end the cell or start a tag.
fn cell(text: &str) -> String {
    OneLine(text)
        .to_string()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('|', "\\|")
}

fn longest_fence(record: &crate::record::Record) -> usize {
    let text = failure_text(record);
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn suite() -> Suite {
        Suite::new(vec![
            sample::passing("power-loss", 3, "turmoil", 40),
            sample::failing("crash-in-a-batch", 7, "madsim", 40),
            sample::passing("crash-in-a-batch", 1, "turmoil", 40),
            sample::passing("crash-in-a-batch", 1, "madsim", 40),
        ])
    }

    #[test]
    fn a_table_has_a_row_per_scenario_and_world() {
        insta::assert_snapshot!(terminal_table(&suite()), @r#"
        scenario          world    seeds  simulated  verdict  what happened
        crash-in-a-batch  madsim       2      80.0s  BROKEN   consumer-stall 2, kill 2, restart 2, redelivery 8, +1
                          └ 1 no loss (seed 7)
                          turmoil      1      40.0s  holds    consumer-stall 1, kill 1, restart 1, redelivery 4, +1
        power-loss        turmoil      1      40.0s  holds    consumer-stall 1, kill 1, restart 1, redelivery 4, +1

        4 runs, 1 broken; 160.0s simulated, 654 events
        "#);
    }

    #[test]
    fn nothing_ran_is_said_and_does_not_pass() {
        let suite = Suite::new(Vec::new());
        assert!(terminal_table(&suite).contains("nothing ran"));
        assert!(!suite.passed());
    }

    #[test]
    fn markdown_survives_hostile_names() {
        let text = markdown(&Suite::new(vec![sample::hostile()]));
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| &lt;")).collect();
        assert_eq!(rows.len(), 1);
        let unescaped = rows[0].replace("\\|", "");
        assert_eq!(unescaped.matches('|').count(), 7, "{}", rows[0]);
        assert!(!rows[0].contains('<'));
    }
}
