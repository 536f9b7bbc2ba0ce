//! The handle by which a delayed message is recalled, in the form that RocketMQ's
//! clients take apart to find the broker: `v1 topic broker due id` in URL-safe
//! Base64.

/// Names one delayed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    pub topic: String,
    /// RocketMQ's brokerName.
    pub broker: String,
    /// Milliseconds since the epoch on the broker's clock.
    pub due_wall: i64,
    /// The offset message id.
    pub message_id: String,
}

impl RecallHandle {
    pub fn encode(&self) -> String {
        let RecallHandle { topic, broker, due_wall, message_id } = self;
        base64(format!("v1 {topic} {broker} {due_wall} {message_id}").as_bytes())
    }

    /// None if this is not a handle of the version that we know.
    pub fn decode(text: &str) -> Option<RecallHandle> {
        let text = String::from_utf8(from_base64(text)?).ok()?;
        let mut words = text.split(' ');
        let [version, topic, broker, due, message_id] = std::array::from_fn(|_| words.next());
        if version? != "v1" || words.next().is_some() {
            return None;
        }
        Some(RecallHandle {
            topic: topic?.to_owned(),
            broker: broker?.to_owned(),
            due_wall: due?.parse().ok()?,
            message_id: message_id?.to_owned(),
        })
    }
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0u32, |group, at| {
            group << 8 | u32::from(chunk.get(at).copied().unwrap_or_default())
        });
        for digit in 0..4 {
            let value = group >> (18 - 6 * digit) & 63;
            text.push(if digit > chunk.len() { '=' } else { char::from(DIGITS[value as usize]) });
        }
    }
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    let (mut group, mut bits) = (0u32, 0);
    for digit in text.bytes() {
        let value = DIGITS.iter().position(|known| *known == digit)?;
        group = group << 6 | value as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((group >> bits) as u8);
            group &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_handle_reads_as_javas_encoder_writes_it() {
        let handle = RecallHandle {
            topic: "orders".into(),
            broker: "broker-a".into(),
            due_wall: 1_700_000_000_000,
            message_id: "0A000001".into(),
        };
        let text = "djEgb3JkZXJzIGJyb2tlci1hIDE3MDAwMDAwMDAwMDAgMEEwMDAwMDE=";
        assert_eq!(handle.encode(), text);
        assert_eq!(RecallHandle::decode(text), Some(handle));
        assert_eq!(RecallHandle::decode("bm90IGEgaGFuZGxl"), None);
        assert_eq!(RecallHandle::decode("!"), None);
    }

    proptest! {
        #[test]
        fn base64_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            prop_assert_eq!(from_base64(&base64(&bytes)), Some(bytes));
        }
    }
}
