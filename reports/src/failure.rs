//! A failing run, told so that a reader can start from the first line.

use std::fmt::Write;

use crate::{
    record::{Record, Violation},
    transcript::{OneLine, Seconds, event_line, plan_line, verdict_table},
};

/// How many events before the violating one are shown, and how many after it.
const BEFORE: usize = 12;
const AFTER: usize = 8;

/// The command that repeats the run, the broken promise with its values, the
/// events around it, the planned faults and all verdicts. For a run that
/// passed, only the command and the verdicts.
pub fn failure_text(record: &Record) -> String {
    let mut text = record.repro_line() + "\n";
    if let Some((verdict, violation)) = record.first_broken() {
        let Record { scenario, seed, world, .. } = record;
        let _ = writeln!(
            text,
            "\n{} is broken at {} ({}, seed {seed}, {world}):\n  {}",
            OneLine(&verdict.title()),
            Seconds(violation.at_us),
            OneLine(scenario),
            OneLine(&violation.message)
        );
        if !verdict.promise.is_empty() {
            let _ = writeln!(text, "\nThe promise: {}", OneLine(&verdict.promise));
        }
        if !violation.values.is_empty() {
            text.push_str("\nThe values:\n");
            for (name, value) in &violation.values {
                let _ = writeln!(text, "  {:<20}  {}", OneLine(name), OneLine(value));
            }
        }
        text.push_str(&events_around(record, violation));
    }
    if !record.plan.is_empty() {
        text.push_str("\nThe plan:\n");
        for line in &record.plan {
            let _ = writeln!(text, "  {}", plan_line(line));
        }
    }
    let _ = write!(text, "\nAll verdicts:\n{}", verdict_table(record));
    text
}

/// Marks the violating event with `>` and what else the verdict cites with `*`.
fn events_around(record: &Record, violation: &Violation) -> String {
    if record.events.is_empty() {
        return String::new();
    }
    let centre = record.violating_event(violation);
    let near = centre.saturating_sub(BEFORE)..(centre + AFTER + 1).min(record.events.len());
    let cited = violation.cites.iter().map(|index| *index as usize);
    let mut shown: Vec<usize> = near.chain(cited).filter(|i| *i < record.events.len()).collect();
    shown.sort_unstable();
    shown.dedup();

    let mut text = String::from("\nAround it:\n");
    let mut next = shown[0];
    for index in shown {
        if index > next {
            let _ = writeln!(text, "    … {} more …", index - next);
        }
        next = index + 1;
        let mark = match index {
            index if index == centre => '>',
            index if violation.cites.contains(&(index as u64)) => '*',
            _ => ' ',
        };
        let _ = writeln!(text, "{mark} {}", event_line(record, &record.events[index]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    #[test]
    fn a_failure_starts_with_its_command_and_marks_what_broke_the_promise() {
        insta::assert_snapshot!(failure_text(&sample::failing("crash", 7, "madsim", 60)), @r#"
        cargo sim replay crash --seed 7 --world madsim

        1 no loss is broken at 6.672140s (crash, seed 7, madsim):
          m20 was answered OK, and group billing never acknowledged it

        The promise: What was answered OK is acknowledged by every group.

        The values:
          message               m20
          shard                 orders/0
          offset                5
          may be lost           nothing: flush is sync

        Around it:
            5.672384s  producer-orders-2              send #17 stored at orders/1[4]
            5.674484s  broker-1 → consumer-billing-1  billing gets m17 from orders/1[4]
            5.678284s  consumer-billing-1             acks m17
            6.001536s  producer-orders-1 → broker-1   send #18 m18 to orders/2
            6.004636s  producer-orders-1              send #18 stored at orders/2[4]
            6.006736s  broker-1 → consumer-billing-2  billing gets m18 from orders/2[4]
            6.010536s  consumer-billing-2             acks m18
            6.333788s  producer-orders-2 → broker-1   send #19 m19 to orders/3
            6.336888s  producer-orders-2              send #19 stored at orders/3[4]
            6.338988s  broker-1 → consumer-billing-2  billing gets m19 from orders/3[4]
            6.342788s  consumer-billing-2             acks m19
        *   6.669040s  producer-orders-1 → broker-1   send #20 m20 to orders/0
        >   6.672140s  producer-orders-1              send #20 stored at orders/0[5]
            7.001292s  producer-orders-2 → broker-1   send #21 m21 to orders/1
            7.004392s  producer-orders-2              send #21 stored at orders/1[5]
            7.006492s  broker-1 → consumer-billing-1  billing gets m21 from orders/1[5]
            7.010292s  consumer-billing-1             acks m21
            7.333544s  producer-orders-1 → broker-1   send #22 m22 to orders/2
            7.336644s  producer-orders-1              send #22 stored at orders/2[5]
            7.338744s  broker-1 → consumer-billing-2  billing gets m22 from orders/2[5]
            7.342544s  consumer-billing-2             acks m22

        The plan:
            8.000000s  kill broker-1
           14.000000s  consumer-billing-2 stalls for 3000 ms

        All verdicts:
           1  no loss                   BROKEN  m20 was answered OK, and group billing never acknowledged it
           2  no phantom                holds
           3  honest replies            holds
           4  slot agreement            holds
          16  liveness                  holds
        "#);
    }

    #[test]
    fn cited_events_far_away_are_shown_with_the_gap() {
        let mut record = sample::failing("crash", 7, "madsim", 60);
        for verdict in &mut record.verdicts {
            if let crate::record::Finding::Broken(violation) = &mut verdict.finding {
                violation.cites.push(1);
            }
        }
        let text = failure_text(&record);
        let around: Vec<&str> = text.lines().skip_while(|line| *line != "Around it:").collect();
        assert!(around[1].starts_with("*   0.001000s"), "{}", around[1]);
        assert!(around[2].trim().starts_with("… 65 more"), "{}", around[2]);
    }

    #[test]
    fn names_cannot_break_a_line_or_move_the_cursor() {
        let text = failure_text(&sample::hostile());
        let after_the_command = text.split_once(" --world madsim\n").unwrap().1;
        assert!(!after_the_command.contains('\u{1b}'));
        assert!(!after_the_command.contains("\nnext"));
    }
}
