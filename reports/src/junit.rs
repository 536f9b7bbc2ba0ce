//! The suite as JUnit XML: a suite per scenario, a case per world and seed.

use std::{io, time::Duration};

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::{failure::failure_text, record::Record, suite::Suite};

/// `time` is simulated time, so that equal suites give equal files.
pub fn write_junit(suite: &Suite, out: &mut impl io::Write) -> io::Result<()> {
    let mut report = Report::new("stormglass");
    for runs in suite.runs().chunk_by(|a, b| a.scenario == b.scenario) {
        let mut scenario = TestSuite::new(runs[0].scenario.as_str());
        scenario.add_test_cases(runs.iter().map(test_case));
        report.add_test_suite(scenario);
    }
    report.serialize(out).map_err(io::Error::other)
}

fn test_case(record: &Record) -> TestCase {
    let status = match record.first_broken() {
        None if record.passed() => TestCaseStatus::success(),
        broken => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let (kind, message) = match broken {
                Some((verdict, violation)) => (verdict.title(), violation.message.clone()),
                None => ("no verdict".to_string(), "nothing was judged".to_string()),
            };
            status.set_type(kind).set_message(message).set_description(failure_text(record));
            status
        }
    };
    let mut case = TestCase::new(format!("{} seed {}", record.world, record.seed), status);
    case.set_classname(record.scenario.as_str());
    case.set_time(Duration::from_micros(record.ended_us));
    case
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;

    fn xml(runs: Vec<Record>) -> String {
        let mut xml = Vec::new();
        write_junit(&Suite::new(runs), &mut xml).unwrap();
        String::from_utf8(xml).unwrap()
    }

    #[test]
    fn a_scenario_is_a_suite_and_a_run_is_a_case() {
        let mut failing = sample::failing("crash", 7, "madsim", 4);
        failing.trim(0);
        failing.plan.clear();
        insta::assert_snapshot!(xml(vec![failing, sample::passing("crash", 1, "turmoil", 4)]), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="stormglass" tests="2" skipped="0" failures="1" errors="0">
            <testsuite name="crash" tests="2" skipped="0" errors="0" failures="1">
                <testcase name="madsim seed 7" classname="crash" time="40.000">
                    <failure message="m1 was answered OK, and group billing never acknowledged it" type="1 no loss">cargo sim replay crash --seed 7 --world madsim

        1 no loss is broken at 5.005019s (crash, seed 7, madsim):
          m1 was answered OK, and group billing never acknowledged it

        The promise: What was answered OK is acknowledged by every group.

        The values:
          message               m1
          shard                 orders/1
          offset                0
          may be lost           nothing: flush is sync

        All verdicts:
           1  no loss                   BROKEN  m1 was answered OK, and group billing never acknowledged it
           2  no phantom                holds
           3  honest replies            holds
           4  slot agreement            holds
          16  liveness                  holds
        </failure>
                </testcase>
                <testcase name="turmoil seed 1" classname="crash" time="40.000"/>
            </testsuite>
        </testsuites>
        "#);
    }

    #[test]
    fn hostile_names_stay_text() {
        let xml = xml(vec![sample::hostile()]);
        assert!(!xml.contains("<img"));
        assert!(!xml.contains('\u{1b}'), "XML 1.0 has no place for this character");
    }
}
