//! Which queues a member of an orderly group locks (41) or gives up (42).

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::dialect::{self, null_as_default};

/// The body of 41 and 42.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockRequest {
    #[serde(rename = "consumerGroup")]
    pub group: String,
    pub client_id: String,
    #[serde(default)]
    pub only_this_broker: bool,
    #[serde(rename = "mqSet", default, deserialize_with = "null_as_default")]
    pub queues: Vec<MessageQueue>,
}

/// A queue as clients name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageQueue {
    pub topic: String,
    pub broker_name: String,
    #[serde(rename = "queueId", deserialize_with = "queue_number")]
    pub queue: u32,
    /// Ours, in answers to 41: grows with each change of owner; what is committed
    /// under an older one is refused (R1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

impl MessageQueue {
    pub fn new(topic: &str, broker_name: &str, queue: u32) -> MessageQueue {
        let (topic, broker_name) = (topic.to_owned(), broker_name.to_owned());
        MessageQueue { topic, broker_name, queue, epoch: None }
    }
}

fn queue_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let number = dialect::number(deserializer)?;
    u32::try_from(number).map_err(|_| D::Error::custom("not the number of a queue"))
}

/// The body of the answer to 41: what this client holds now of what it asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockReply {
    #[serde(rename = "lockOKMQSet", default, deserialize_with = "null_as_default")]
    pub locked: Vec<MessageQueue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_clients_request_is_read_and_an_answer_tells_the_epoch() {
        let body = br#"{"clientId":"c","consumerGroup":"g","mqSet":[
            {"brokerName":"b","queueId":"3","topic":"t"}]}"#;
        let mut request = LockRequest::parse(body).unwrap();
        assert_eq!((request.queues[0].queue, request.queues[0].epoch), (3, None));
        request.queues[0].epoch = Some(7);
        let reply = LockReply { locked: request.queues };
        let text = reply.to_bytes();
        assert_eq!(
            &text[..],
            br#"{"lockOKMQSet":[{"topic":"t","brokerName":"b","queueId":3,"epoch":7}]}"#
        );
        assert_eq!(LockReply::parse(&text).unwrap(), reply);
    }
}
