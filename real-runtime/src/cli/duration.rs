//! Lengths of time on the command line.

use std::time::Duration;

/// A number and a unit: `500ms`, `30s`, `5m`, `2h`, `3d`.
pub fn parse(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("not a time like 500ms, 30s, 5m, 2h or 3d".to_owned()),
    };
    let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis));
    number.map(Duration::from_millis).ok_or_else(|| "not a number that a time can have".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("3d"), Ok(Duration::from_secs(3 * 86_400)));
        for bad in ["", "5", "s", "-5s", "5 s", "5y", "99999999999999999999s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
