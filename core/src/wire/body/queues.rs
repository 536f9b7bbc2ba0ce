//! Bodies about messages and queues by name: resets (220, 222), and which popped
//! messages are done (200151).

use serde::{Deserialize, Serialize, Serializer};

use super::{MessageQueue, dialect::null_as_default};

/// The body of 220, and of the answer to 222: where each queue of a topic was
/// set to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetOffsets {
    #[serde(rename = "offsetTable", default, deserialize_with = "null_as_default")]
    pub offsets: Vec<ResetOffset>,
}

/// One queue of [`ResetOffsets`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetOffset {
    #[serde(flatten)]
    pub queue: MessageQueue,
    pub offset: i64,
    /// Stormglass's own: what later updates shall say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset_epoch: Option<u64>,
}

impl ResetOffsets {
    /// As Java reads it: a map with queues as keys, which JSON does not have.
    pub fn to_java_bytes(&self) -> bytes::Bytes {
        let mut text = String::from("{\"offsetTable\":{");
        for (nth, entry) in self.offsets.iter().enumerate() {
            let key = serde_json::to_string(&entry.queue).expect("names and a number");
            let comma = if nth == 0 { "" } else { "," };
            text.push_str(&format!("{comma}{key}:{}", entry.offset));
        }
        text.push_str("}}");
        text.into()
    }
}

/// The body of 200151.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchAck {
    #[serde(default, deserialize_with = "null_as_default")]
    pub broker_name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub acks: Vec<AckRun>,
}

/// Some messages of one answer to a pop, in RocketMQ's short names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AckRun {
    #[serde(rename = "c")]
    pub group: String,
    #[serde(rename = "t")]
    pub topic: String,
    /// The retry flag of the receipt.
    #[serde(rename = "r", default, deserialize_with = "null_as_default")]
    pub retry: String,
    #[serde(rename = "so")]
    pub start_offset: u64,
    #[serde(rename = "q")]
    pub queue: u32,
    #[serde(rename = "rq")]
    pub revive_queue: i32,
    #[serde(rename = "pt")]
    pub pop_wall: i64,
    #[serde(rename = "it")]
    pub invisible_time: i64,
    /// Bit n stands for the offset `start_offset` + n; lowest bit of the first
    /// byte first.
    #[serde(rename = "b", serialize_with = "base64_text", deserialize_with = "from_base64_text")]
    pub bits: Vec<u8>,
}

impl AckRun {
    pub fn offsets(&self) -> impl Iterator<Item = u64> {
        let bits = self.bits.iter().enumerate();
        bits.flat_map(|(at, byte)| (0..8).filter(move |n| byte >> n & 1 == 1).map(move |n| (at, n)))
            .map(|(at, n)| self.start_offset.saturating_add(at as u64 * 8 + n))
    }

    pub fn set(&mut self, offset: u64) {
        let bit = offset.saturating_sub(self.start_offset) as usize;
        if self.bits.len() <= bit / 8 {
            self.bits.resize(bit / 8 + 1, 0);
        }
        self.bits[bit / 8] |= 1 << (bit % 8);
    }
}

fn base64_text<S: Serializer>(bits: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&crate::wire::base64::encode(bits))
}

fn from_base64_text<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(d)?;
    crate::wire::base64::decode(&text).ok_or_else(|| serde::de::Error::custom("not Base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_gets_queues_as_keys() {
        let queue = MessageQueue::new("t", "b", 0);
        let offset = ResetOffset { queue, offset: 7, reset_epoch: Some(1) };
        let reset = ResetOffsets { offsets: vec![offset] };
        assert_eq!(
            &reset.to_java_bytes()[..],
            br#"{"offsetTable":{{"topic":"t","brokerName":"b","queueId":0}:7}}"#
        );
        assert_eq!(ResetOffsets::parse(&reset.to_bytes()).unwrap(), reset);
    }

    #[test]
    fn a_batch_of_acks_names_offsets_by_bits() {
        let text = br#"{"brokerName":"b","acks":[{"c":"g","t":"t","r":"0","so":10,"q":1,
            "rq":2,"pt":5,"it":60000,"b":"AwE="}]}"#;
        let batch = BatchAck::parse(text).unwrap();
        assert_eq!(batch.acks[0].offsets().collect::<Vec<_>>(), [10, 11, 18]);
        let mut again = AckRun { bits: Vec::new(), ..batch.acks[0].clone() };
        for offset in [10, 11, 18] {
            again.set(offset);
        }
        assert_eq!(again, batch.acks[0]);
        assert_eq!(BatchAck::parse(&batch.to_bytes()).unwrap(), batch);
    }
}
