//! The values a scenario writes as text: durations, sizes and ranges of them.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de::Error};

/// A length of time: `"250us"`, `"10ms"`, `"1.5s"`, `"2m"`, `"1h"`.
pub(crate) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
}

pub(crate) fn optional_duration<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

pub(crate) fn durations<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Duration>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| parse_duration(text).map_err(D::Error::custom)).collect()
}

/// A length of time with a sign, in milliseconds: `"-3s"`, `"+250ms"`.
pub(crate) fn signed_millis<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let text = String::deserialize(from)?;
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    Ok(sign * parse_duration(rest).map_err(D::Error::custom)?.as_millis() as i64)
}

/// A number of bytes: `"512"`, `"64KiB"`, `"1MiB"`.
pub(crate) fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(from)?).map_err(D::Error::custom)
}

pub(crate) fn optional_size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    size(from).map(Some)
}

pub(crate) fn one() -> u32 {
    1
}

pub(crate) fn four() -> u32 {
    4
}

/// A number between 0 and 1.
pub(crate) fn probability<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let p = f64::deserialize(from)?;
    if (0.0..=1.0).contains(&p) {
        Ok(p)
    } else {
        Err(D::Error::custom(format!("{p} is not a probability, allowed: 0.0 to 1.0")))
    }
}

/// A duration, or a range from which each use draws anew: `"10ms"`, `"1ms..20ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationRange {
    pub min: Duration,
    /// Never below `min`.
    pub max: Duration,
}

impl DurationRange {
    pub const fn millis(min: u64, max: u64) -> DurationRange {
        DurationRange { min: Duration::from_millis(min), max: Duration::from_millis(max) }
    }
}

impl<'de> Deserialize<'de> for DurationRange {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<DurationRange, D::Error> {
        let (min, max) = range(&String::deserialize(from)?, parse_duration, "durations")
            .map_err(D::Error::custom)?;
        Ok(DurationRange { min, max })
    }
}

impl fmt::Display for DurationRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{:?}", self.min),
            false => write!(f, "{:?}..{:?}", self.min, self.max),
        }
    }
}

/// A size in bytes, or a range from which each use draws anew: `"1KiB"`, `"64..4KiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeRange {
    pub min: u64,
    /// Never below `min`.
    pub max: u64,
}

impl<'de> Deserialize<'de> for SizeRange {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<SizeRange, D::Error> {
        let (min, max) =
            range(&String::deserialize(from)?, parse_size, "sizes").map_err(D::Error::custom)?;
        Ok(SizeRange { min, max })
    }
}

fn range<T: PartialOrd + Copy>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    what: &str,
) -> Result<(T, T), String> {
    let Some((min, max)) = text.split_once("..") else {
        return parse(text).map(|value| (value, value));
    };
    let (min, max) = (parse(min)?, parse(max)?);
    if min > max {
        return Err(format!("`{text}` runs backwards, allowed: two {what} in ascending order"));
    }
    Ok((min, max))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let unknown = || {
        format!(
            "`{text}` is not a duration, allowed: a number and one of us, ms, s, m, h, as in \"10s\""
        )
    };
    let (number, unit) = number_and_unit(text);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(unknown()),
    };
    let number: f64 = number.parse().map_err(|_| unknown())?;
    let micros = (number * seconds * 1e6).round();
    // A year: longer than any run, and far from overflow.
    if micros > 366.0 * 86_400.0 * 1e6 {
        return Err(format!("`{text}` is longer than a year"));
    }
    Ok(Duration::from_micros(micros as u64))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let unknown = || {
        format!(
            "`{text}` is not a size, allowed: bytes, or a number and KiB, MiB or GiB, as in \"64KiB\""
        )
    };
    let (number, unit) = number_and_unit(text);
    let factor = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(unknown()),
    };
    let number: u64 = number.parse().map_err(|_| unknown())?;
    number.checked_mul(factor).filter(|bytes| *bytes <= 1 << 40).ok_or_else(unknown)
}

fn number_and_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len()))
}
