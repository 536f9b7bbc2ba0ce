//! A consumer group's configuration as RocketMQ's admin tools write it.

use serde::{Deserialize, Serialize};

use super::dialect::null_as_default;

/// The body of 200 and of the answer to 352; what Stormglass does not know of
/// it is written with RocketMQ's defaults and ignored when read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireGroup", into = "WireGroup")]
pub struct SubscriptionGroup {
    pub name: String,
    /// Queues of the group's retry topic.
    pub retry_queues: i32,
    /// Deliveries again before a message goes to the dead-letter queue.
    pub retry_max: i32,
    pub policy: RetryPolicy,
}

/// How long a message that was sent back waits, in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    /// One delay for each time that it was consumed again; the last one stays.
    /// Empty: the delay levels from the third on.
    Steps(Vec<u64>),
    /// From `initial`, each `multiplier` times the one before, up to `max`.
    Exponential { initial: u64, max: u64, multiplier: u64 },
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy::Steps(Vec::new())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireGroup {
    group_name: String,
    #[serde(default = "yes")]
    consume_enable: bool,
    #[serde(default = "yes")]
    consume_from_min_enable: bool,
    #[serde(default = "yes")]
    consume_broadcast_enable: bool,
    #[serde(default)]
    consume_message_orderly: bool,
    #[serde(default = "one")]
    retry_queue_nums: i32,
    #[serde(default = "sixteen")]
    retry_max_times: i32,
    #[serde(default, deserialize_with = "null_as_default")]
    group_retry_policy: WirePolicy,
    #[serde(default)]
    broker_id: i64,
    #[serde(default = "one")]
    which_broker_when_consume_slowly: i32,
    #[serde(default = "yes")]
    notify_consumer_ids_changed_enable: bool,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WirePolicy {
    #[serde(rename = "type", default)]
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exponential_retry_policy: Option<WireExponential>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    customized_retry_policy: Option<WireSteps>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    #[default]
    Customized,
    Exponential,
}

#[derive(Serialize, Deserialize)]
struct WireExponential {
    initial: u64,
    max: u64,
    multiplier: u64,
}

#[derive(Serialize, Deserialize)]
struct WireSteps {
    #[serde(default, deserialize_with = "null_as_default")]
    next: Vec<u64>,
}

fn yes() -> bool {
    true
}

fn one() -> i32 {
    1
}

fn sixteen() -> i32 {
    16
}

/// RocketMQ starts its customized steps two before the first that it uses.
const UNUSED_STEPS: [u64; 2] = [1_000, 5_000];

impl From<WireGroup> for SubscriptionGroup {
    fn from(wire: WireGroup) -> SubscriptionGroup {
        let WirePolicy { kind, exponential_retry_policy, customized_retry_policy } =
            wire.group_retry_policy;
        let policy = match (kind, exponential_retry_policy, customized_retry_policy) {
            (Kind::Exponential, Some(policy), _) => RetryPolicy::Exponential {
                initial: policy.initial,
                max: policy.max,
                multiplier: policy.multiplier,
            },
            // RocketMQ's defaults.
            (Kind::Exponential, None, _) => {
                RetryPolicy::Exponential { initial: 5_000, max: 7_200_000, multiplier: 2 }
            }
            (Kind::Customized, _, Some(steps)) => {
                RetryPolicy::Steps(steps.next.into_iter().skip(UNUSED_STEPS.len()).collect())
            }
            (Kind::Customized, _, None) => RetryPolicy::default(),
        };
        SubscriptionGroup {
            name: wire.group_name,
            retry_queues: wire.retry_queue_nums,
            retry_max: wire.retry_max_times,
            policy,
        }
    }
}

impl From<SubscriptionGroup> for WireGroup {
    fn from(group: SubscriptionGroup) -> WireGroup {
        let policy = match group.policy {
            RetryPolicy::Steps(steps) if steps.is_empty() => WirePolicy::default(),
            RetryPolicy::Steps(steps) => {
                let next = UNUSED_STEPS.into_iter().chain(steps).collect();
                WirePolicy {
                    customized_retry_policy: Some(WireSteps { next }),
                    ..WirePolicy::default()
                }
            }
            RetryPolicy::Exponential { initial, max, multiplier } => WirePolicy {
                kind: Kind::Exponential,
                exponential_retry_policy: Some(WireExponential { initial, max, multiplier }),
                customized_retry_policy: None,
            },
        };
        WireGroup {
            group_name: group.name,
            consume_enable: true,
            consume_from_min_enable: true,
            consume_broadcast_enable: true,
            consume_message_orderly: false,
            retry_queue_nums: group.retry_queues,
            retry_max_times: group.retry_max,
            group_retry_policy: policy,
            broker_id: 0,
            which_broker_when_consume_slowly: 1,
            notify_consumer_ids_changed_enable: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_back_whatever_their_policy() {
        for policy in [
            RetryPolicy::default(),
            RetryPolicy::Steps(vec![10, 20]),
            RetryPolicy::Exponential { initial: 5, max: 500, multiplier: 3 },
        ] {
            let name = "g".to_owned();
            let group = SubscriptionGroup { name, retry_queues: 1, retry_max: 3, policy };
            assert_eq!(SubscriptionGroup::parse(&group.to_bytes()).unwrap(), group);
        }
    }

    #[test]
    fn what_is_absent_has_rocketmqs_defaults() {
        let group = SubscriptionGroup::parse(br#"{"groupName":"g","groupRetryPolicy":null}"#);
        let group = group.unwrap();
        assert_eq!((group.retry_queues, group.retry_max), (1, 16));
        assert_eq!(group.policy, RetryPolicy::default());
        // As RocketMQ 5 writes a group with steps: the first two are not used.
        let steps = br#"{"groupName":"g","groupRetryPolicy":{"type":"CUSTOMIZED",
            "customizedRetryPolicy":{"next":[1000,5000,10000,30000]}}}"#;
        let group = SubscriptionGroup::parse(steps).unwrap();
        assert_eq!(group.policy, RetryPolicy::Steps(vec![10_000, 30_000]));
    }
}
