//! What keys can be set to.

use std::time::Duration;

use crate::cli::duration;

/// What a key accepts; bounds are included.
pub enum Kind {
    /// A name on the wire and of a directory.
    Name,
    Text,
    /// At least this long, and not shown.
    Secret,
    /// `HOST:PORT`; a name is resolved when the node starts.
    Address,
    /// Several, with commas between them; in the file, an array.
    Addresses,
    Switch,
    OneOf(&'static [&'static str]),
    Number(u64, u64),
    /// In milliseconds.
    Time(u64, u64),
    /// In bytes.
    Size(u64, u64),
    /// The same, in whole pages of 4 KiB.
    Pages(u64, u64),
}

/// A shorter secret can be guessed by whoever reaches the port.
pub const SECRET_BYTES: usize = 16;
const NAME_BYTES: usize = 64;
const PAGE: u64 = 4096;

impl Kind {
    /// Says what is allowed if this is not.
    pub fn check(&self, text: &str) -> Result<(), String> {
        let (is_allowed, allowed) = match self {
            Kind::Name => (
                (1..=NAME_BYTES).contains(&text.len()) && text.bytes().all(is_of_name),
                format!("1 to {NAME_BYTES} letters, digits, - and _"),
            ),
            Kind::Text => (!text.is_empty(), "any text but none".to_owned()),
            Kind::Secret => (text.len() >= SECRET_BYTES, format!("at least {SECRET_BYTES} bytes")),
            Kind::Address => (is_address(text), "HOST:PORT, like 127.0.0.1:9876".to_owned()),
            Kind::Addresses => (
                text.split(',').all(|one| is_address(one.trim())),
                "HOST:PORT of one or more, like 10.0.0.1:9876,10.0.0.2:9876".to_owned(),
            ),
            Kind::Switch => (matches!(text, "true" | "false"), "true or false".to_owned()),
            Kind::OneOf(words) => (words.contains(&text), words.join(" or ")),
            Kind::Number(min, max) => {
                let number = text.parse().is_ok_and(|n| (*min..=*max).contains(&n));
                (number, format!("a number from {min} to {max}"))
            }
            Kind::Time(min, max) => {
                let millis = time(text).map(|time| time.as_millis());
                let range = u128::from(*min)..=u128::from(*max);
                let (min, max) = (Duration::from_millis(*min), Duration::from_millis(*max));
                let allowed = format!("a time like 500ms, 30s, 5m, 2h or 3d, {min:?} to {max:?}");
                (millis.is_some_and(|millis| range.contains(&millis)), allowed)
            }
            Kind::Size(min, max) => (
                size(text).is_some_and(|bytes| (*min..=*max).contains(&bytes)),
                format!("a size like 64MiB or 1GiB, {} to {} KiB", min >> 10, max >> 10),
            ),
            Kind::Pages(min, max) => {
                let is_whole = size(text).is_some_and(|bytes| bytes % PAGE == 0);
                let Err(allowed) = Kind::Size(*min, *max).check(text) else {
                    return if is_whole { Ok(()) } else { Err("a multiple of 4KiB".to_owned()) };
                };
                (false, allowed)
            }
        };
        if is_allowed { Ok(()) } else { Err(allowed) }
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

pub fn time(text: &str) -> Option<Duration> {
    duration::parse(text).ok()
}

/// A number of bytes: `512`, `64KiB`, `1MiB`, `2GiB`.
pub fn size(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let factor: u64 = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}
