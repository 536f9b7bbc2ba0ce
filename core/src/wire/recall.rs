//! The handle by which a delayed message is recalled, in the form that RocketMQ's
//! clients take apart to find the broker: `v1 topic broker due id` in URL-safe
//! Base64.

use super::base64;

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
        base64::encode_url(format!("v1 {topic} {broker} {due_wall} {message_id}").as_bytes())
    }

    /// None if this is not a handle of the version that we know.
    pub fn decode(text: &str) -> Option<RecallHandle> {
        let text = String::from_utf8(base64::decode(text)?).ok()?;
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

#[cfg(test)]
mod tests {
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
}
