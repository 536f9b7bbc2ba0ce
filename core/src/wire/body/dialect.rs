//! The JSON dialects that RocketMQ peers write.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// fastjson writes maps with integer keys bare: `{0:"a"}`. Returns the body
/// with such keys quoted; other bytes, valid or not, pass through.
pub fn quote_bare_keys(body: &[u8]) -> Cow<'_, [u8]> {
    let mut quoted: Option<Vec<u8>> = None;
    let mut copied = 0;
    let mut in_string = false;
    let mut key_may_start = false;
    // One bit for each open bracket, innermost lowest: set for an object.
    // serde_json refuses anything nested deeper than these 128 levels.
    let mut objects = 0u128;
    let mut at = 0;
    while at < body.len() {
        let byte = body[at];
        if in_string {
            match byte {
                b'\\' => at += 1,
                b'"' => in_string = false,
                _ => {}
            }
            at += 1;
            continue;
        }
        match byte {
            b'0'..=b'9' | b'-' if key_may_start => {
                let len = body[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count() + 1;
                let out = quoted.get_or_insert_with(|| Vec::with_capacity(body.len() + 16));
                out.extend_from_slice(&body[copied..at]);
                out.push(b'"');
                out.extend_from_slice(&body[at..at + len]);
                out.push(b'"');
                at += len;
                copied = at;
                key_may_start = false;
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' => {
                objects = objects << 1 | 1;
                key_may_start = true;
            }
            b'[' => {
                objects <<= 1;
                key_may_start = false;
            }
            b'}' | b']' => {
                objects >>= 1;
                key_may_start = false;
            }
            b',' => key_may_start = objects & 1 == 1,
            _ => {
                in_string = byte == b'"';
                key_may_start = false;
            }
        }
        at += 1;
    }
    match quoted {
        Some(mut out) => {
            out.extend_from_slice(&body[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(body),
    }
}

/// An absent value that was written as null.
pub fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A number, with or without quotes.
pub fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match scalar(deserializer)? {
        Scalar::Number(n) => Ok(n),
        Scalar::Text(text) => text.trim().parse().map_err(|_| D::Error::custom("not a number")),
    }
}

/// What stands for an enum: its name, or its ordinal with or without quotes.
pub enum Scalar {
    Number(i64),
    Text(String),
}

impl Scalar {
    /// The ordinal, looking names up in `names`.
    pub fn ordinal(&self, names: &[&str]) -> Option<usize> {
        let ordinal = match self {
            Scalar::Number(n) => usize::try_from(*n).ok(),
            Scalar::Text(text) => {
                names.iter().position(|name| name == text).or_else(|| text.parse().ok())
            }
        };
        ordinal.filter(|n| *n < names.len())
    }
}

pub fn scalar<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
    struct ScalarVisitor;
    impl Visitor<'_> for ScalarVisitor {
        type Value = Scalar;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or a string")
        }
        fn visit_i64<E>(self, n: i64) -> Result<Scalar, E> {
            Ok(Scalar::Number(n))
        }
        fn visit_u64<E: Error>(self, n: u64) -> Result<Scalar, E> {
            i64::try_from(n).map(Scalar::Number).map_err(|_| E::custom("a number beyond i64"))
        }
        fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
            Ok(Scalar::Text(text.to_owned()))
        }
    }
    deserializer.deserialize_any(ScalarVisitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bare_keys_are_quoted() {
        for (given, expected) in [
            (r#"{0:"a",-1:[1,2,{3:4}]}"#, r#"{"0":"a","-1":[1,2,{"3":4}]}"#),
            (r#"{ 7 : 8 , "x" : [ 1 , 2 ] }"#, r#"{ "7" : 8 , "x" : [ 1 , 2 ] }"#),
            (r#"{"s":"{0:\"1,2:","n":5}"#, r#"{"s":"{0:\"1,2:","n":5}"#),
            (r#"[1,2]"#, r#"[1,2]"#),
        ] {
            assert_eq!(std::str::from_utf8(&quote_bare_keys(given.as_bytes())), Ok(expected));
        }
    }
}
