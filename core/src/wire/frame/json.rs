//! Headers in JSON, as liberal as the clients that write them need it.

use std::borrow::Cow;

use super::*;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

pub fn encode(frame: &Frame, out: &mut BytesMut) {
    use fmt::Write;
    const LANGUAGES: [&str; 14] = [
        "JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO",
        "PHP", "OMS", "RUST", "NODE_JS",
    ];
    let language = LANGUAGES.get(usize::from(frame.language)).unwrap_or(&"OTHER");
    write!(
        out,
        "{{\"code\":{},\"flag\":{},\"language\":\"{language}\",\"opaque\":{},\
         \"serializeTypeCurrentRPC\":\"JSON\",\"version\":{}",
        frame.code, frame.flag, frame.opaque, frame.version
    )
    .expect("memory takes any text");
    if !frame.remark.is_empty() {
        out.put_slice(b",\"remark\":");
        put_string(out, &frame.remark);
    }
    out.put_slice(b",\"extFields\":{");
    for (n, (key, value)) in frame.fields.iter().enumerate() {
        if n > 0 {
            out.put_u8(b',');
        }
        put_string(out, key);
        out.put_u8(b':');
        put_string(out, value);
    }
    out.put_slice(b"}}");
}

fn put_string(out: &mut BytesMut, text: &str) {
    let is_plain = |b: u8| b >= 0x20 && b != b'"' && b != b'\\';
    if text.bytes().all(is_plain) {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        serde_json::to_writer(out.writer(), text).expect("memory takes any text");
    }
}

pub fn decode(header: &[u8]) -> Result<Frame, String> {
    let Header(frame) = serde_json::from_slice(header).map_err(|e| e.to_string())?;
    Ok(frame)
}

struct Header(Frame);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a remoting header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut frame = Frame::request(-1, 0, Fields::default(), Bytes::new());
        frame.version = 0;
        let mut has_code = false;
        while let Some(key) = map.next_key::<Text>()? {
            match &*key.0 {
                "code" => {
                    frame.code = number(&mut map, "code")?;
                    has_code = true;
                }
                "flag" => frame.flag = number(&mut map, "flag")?,
                "opaque" => frame.opaque = number(&mut map, "opaque")?,
                "version" => frame.version = number(&mut map, "version")?,
                "language" => frame.language = language(&map.next_value::<Text>()?.0),
                "remark" => frame.remark = map.next_value::<Text>()?.0.into_owned(),
                "extFields" => frame.fields = map.next_value::<FieldsValue>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !has_code {
            return Err(serde::de::Error::missing_field("code"));
        }
        Ok(Header(frame))
    }
}

fn number<'de, A: MapAccess<'de>>(map: &mut A, field: &str) -> Result<i32, A::Error> {
    let text = map.next_value::<Text>()?.0;
    let unusable = || serde::de::Error::custom(format!("{field} is {text:?}, not an i32"));
    text.parse().map_err(|_| unusable())
}

fn language(name: &str) -> u8 {
    match name {
        "JAVA" => 0,
        "CPP" => 1,
        "DOTNET" => 2,
        "PYTHON" => 3,
        "DELPHI" => 4,
        "ERLANG" => 5,
        "RUBY" => 6,
        "HTTP" => 8,
        "GO" => 9,
        "PHP" => 10,
        "OMS" => 11,
        "RUST" => 12,
        "NODE_JS" => 13,
        _ => 7,
    }
}

struct FieldsValue(Fields);

impl<'de> Deserialize<'de> for FieldsValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of header fields, or null")
            }
            fn visit_unit<E>(self) -> Result<Fields, E> {
                Ok(Fields::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::builder();
                while let Some(key) = map.next_key::<Text>()? {
                    if key.0.len() > usize::from(u16::MAX) {
                        return Err(serde::de::Error::custom("a field's name is too long"));
                    }
                    let value = map.next_value::<Text>()?;
                    // A null field means an absent one to every client.
                    if !value.1 {
                        fields.put(&key.0, &value.0);
                    }
                }
                Ok(fields.finish())
            }
        }
        deserializer.deserialize_any(FieldsVisitor).map(FieldsValue)
    }
}

/// Any scalar as its text, because clients write numbers and booleans with
/// and without quotes; and whether it was null.
struct Text<'de>(Cow<'de, str>, bool);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number, a boolean or null")
            }
            fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(v), false))
            }
            fn visit_str<E: Error>(self, v: &str) -> Result<Text<'de>, E> {
                self.visit_string(v.to_owned())
            }
            fn visit_string<E: Error>(self, v: String) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(v), false))
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Text<'de>, E> {
                self.visit_string(v.to_string())
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Text<'de>, E> {
                self.visit_string(v.to_string())
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Text<'de>, E> {
                self.visit_string(v.to_string())
            }
            fn visit_bool<E: Error>(self, v: bool) -> Result<Text<'de>, E> {
                self.visit_string(v.to_string())
            }
            fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(""), true))
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}
