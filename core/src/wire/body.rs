//! Bodies of requests and responses that are JSON or records. Reading is
//! liberal, because each client library writes its own dialect; writing is
//! strict (fact sheet, sections 2, 4, 5 and 13).

mod batch;
mod cluster;
mod connections;
mod dialect;
mod group;
mod halves;
mod heartbeat;
mod locks;
mod queues;
mod route;
mod subscription;

pub use batch::{BatchRecord, BatchRecords, put_batch_record};
pub use cluster::{
    ClusterStatus, MemberChange, OwnStatus, ReplicaProgress, ReplicaRole, ReplicaStatus,
};
pub use connections::{ConsumerConnections, MemberConnection, MemberDisagreement, language_name};
pub use group::{RetryPolicy, SubscriptionGroup};
pub use halves::{HalfInfo, HalfList, HalfState, ProducerGroup};
pub use heartbeat::{
    ConsumeFrom, ConsumeType, ConsumerData, ConsumerIds, HeartbeatData, MessageModel,
};
pub use locks::{LockReply, LockRequest, MessageQueue};
pub use queues::{AckRun, BatchAck, ResetOffset, ResetOffsets};
pub use route::{
    BrokerData, ClusterInfo, OrderList, QueueData, RegisterBody, TopicConfig, TopicList,
    TopicRoute, perm,
};
pub use subscription::{Subscription, TagFilter};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{error::Rejected, wire::code};

/// The longest remark about an unusable body, in characters: a parser's
/// complaint can quote a hostile body at any length.
const MAX_COMPLAINT: usize = 200;

fn parse_json<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Rejected> {
    serde_json::from_slice(&dialect::quote_bare_keys(bytes)).map_err(|error| {
        let complaint: String = error.to_string().chars().take(MAX_COMPLAINT).collect();
        Rejected::new(code::SYSTEM_ERROR, format!("the {what} is unusable: {complaint}"))
    })
}

fn json_bytes<T: Serialize>(body: &T) -> Bytes {
    serde_json::to_vec(body).expect("bodies hold nothing that JSON cannot say").into()
}

macro_rules! json_body {
    ($($name:ident = $what:literal),* $(,)?) => {$(
        impl $name {
            /// Reads the body; the refusal says what is wrong with it.
            pub fn parse(bytes: &[u8]) -> Result<$name, Rejected> {
                parse_json($what, bytes)
            }

            /// The body as strict JSON.
            pub fn to_bytes(&self) -> Bytes {
                json_bytes(self)
            }
        }
    )*};
}
json_body!(
    HalfInfo = "half message",
    HalfList = "list of half messages",
    HeartbeatData = "heartbeat",
    ConsumerIds = "list of consumers",
    TopicRoute = "route",
    ClusterInfo = "cluster info",
    TopicList = "list of topics",
    RegisterBody = "registration",
    SubscriptionGroup = "group configuration",
    LockRequest = "list of queues to lock",
    LockReply = "list of locked queues",
    ConsumerConnections = "list of connections",
    ResetOffsets = "table of offsets",
    BatchAck = "batch of acknowledgements",
    ClusterStatus = "status of a replica set",
    MemberChange = "change of members",
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the C++ clients send it: enums as numbers, the version as text, no
    /// tags, a newline at the end.
    const CPP_HEARTBEAT: &str = "{\"clientID\":\"10.0.0.1@7#DEFAULT\",\"consumerDataSet\":\
        [{\"consumeFromWhere\":4,\"consumeType\":1,\"groupName\":\"g\",\"messageModel\":1,\
        \"subscriptionDataSet\":[{\"subString\":\"a || b\",\"subVersion\":\"1795000000000\",\
        \"topic\":\"orders\"}]}],\"producerDataSet\":[{\"groupName\":\"p\"}]}\n";

    const JAVA_HEARTBEAT: &str = r#"{"clientID":"10.0.0.1@7#9","consumerDataSet":[{
        "consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY",
        "groupName":"g","messageModel":"CLUSTERING","unitMode":false,"subscriptionDataSet":[{
        "classFilterMode":false,"codeSet":[97,98],"expressionType":"TAG","subString":"a || b",
        "subVersion":1795000000000,"tagsSet":["a","b"],"topic":"orders"}]}],
        "heartbeatFingerprint":0,"producerDataSet":[{"groupName":"p"}],"withoutSub":false}"#;

    #[test]
    fn every_dialect_of_a_heartbeat_says_the_same() {
        let cpp = HeartbeatData::parse(CPP_HEARTBEAT.as_bytes()).unwrap();
        let mut java = HeartbeatData::parse(JAVA_HEARTBEAT.as_bytes()).unwrap();
        assert_eq!(cpp.consumers, java.consumers);
        assert_eq!(cpp.producer_groups, ["p"]);
        java.client_id = cpp.client_id.clone();
        assert_eq!(HeartbeatData::parse(&java.to_bytes()).unwrap(), cpp);
    }

    #[test]
    fn a_heartbeat_of_a_producer_alone_needs_no_consumers() {
        for body in [r#"{"clientID":"c","consumerDataSet":null}"#, r#"{"clientID":"c"}"#] {
            let heartbeat = HeartbeatData::parse(body.as_bytes()).unwrap();
            assert_eq!((heartbeat.client_id.as_str(), heartbeat.consumers.len()), ("c", 0));
        }
        let error = HeartbeatData::parse(br#"{"consumerDataSet":[]}"#).unwrap_err();
        assert!(error.remark.contains("clientID"), "{error}");
    }

    fn route() -> TopicRoute {
        TopicRoute {
            order_topic_conf: None,
            queues: vec![QueueData {
                broker_name: "broker-a".into(),
                read_queues: 4,
                write_queues: 8,
                perm: perm::READ | perm::WRITE,
                topic_sys_flag: 0,
            }],
            brokers: vec![BrokerData {
                cluster: "DefaultCluster".into(),
                broker_name: "broker-a".into(),
                addrs: [(0, "10.0.0.1:10911".into()), (1, "10.0.0.2:10911".into())].into(),
            }],
        }
    }

    #[test]
    fn a_route_says_everything_that_some_client_insists_on() {
        let text = String::from_utf8(route().to_bytes().to_vec()).unwrap();
        for part in [
            r#""topicSysFlag":0"#,
            r#""topicSynFlag":0"#,
            r#""enableActingMaster":false"#,
            r#""filterServerTable":{}"#,
            r#""orderTopicConf":null"#,
            r#""brokerAddrs":{"0":"10.0.0.1:10911","1":"10.0.0.2:10911"}"#,
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        assert_eq!(TopicRoute::parse(text.as_bytes()).unwrap(), route());
    }

    #[test]
    fn a_route_with_bare_keys_is_read() {
        let fastjson = r#"{"brokerDatas":[{"brokerAddrs":{0:"10.0.0.1:10911",1 :"10.0.0.2:10911"},
            "brokerName":"broker-a","cluster":"DefaultCluster"}],"queueDatas":[{"brokerName":
            "broker-a","perm":6,"readQueueNums":4,"topicSynFlag":0,"writeQueueNums":8}]}"#;
        assert_eq!(TopicRoute::parse(fastjson.as_bytes()).unwrap(), route());
    }

    #[test]
    fn a_complaint_does_not_carry_the_body_back() {
        let body = format!(r#"{{"clientID":"c","producerDataSet":"{}"}}"#, "x".repeat(100_000));
        let error = HeartbeatData::parse(body.as_bytes()).unwrap_err();
        assert!(error.remark.len() < 300, "{} bytes", error.remark.len());
    }

    #[test]
    fn registrations_and_lists_come_back() {
        let topic = TopicConfig {
            name: "orders".into(),
            read_queues: 4,
            write_queues: 4,
            perm: perm::READ | perm::WRITE,
            order: true,
            order_list: Some(OrderList { version: 7, queues: "a:4;b:4".into() }),
        };
        let register = RegisterBody { topics: vec![topic] };
        assert_eq!(RegisterBody::parse(&register.to_bytes()).unwrap(), register);

        let ids = ConsumerIds { ids: vec!["a".into(), "b".into()] };
        assert_eq!(&ids.to_bytes()[..], br#"{"consumerIdList":["a","b"]}"#);
        assert_eq!(ConsumerIds::parse(&ids.to_bytes()).unwrap(), ids);

        let topics = TopicList { topics: vec!["orders".into()] };
        assert_eq!(&topics.to_bytes()[..], br#"{"topicList":["orders"],"brokerAddr":null}"#);
        assert_eq!(TopicList::parse(&topics.to_bytes()).unwrap(), topics);

        let broker = route().brokers.remove(0);
        let cluster = ClusterInfo {
            clusters: [(broker.cluster.clone(), vec![broker.broker_name.clone()])].into(),
            brokers: [(broker.broker_name.clone(), broker)].into(),
        };
        assert_eq!(ClusterInfo::parse(&cluster.to_bytes()).unwrap(), cluster);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = HeartbeatData::parse(&bytes);
            let _ = TopicRoute::parse(&bytes);
            let _ = BatchRecords::new(&bytes).count();
        }

        #[test]
        fn a_damaged_body_never_panics(at in 0..400usize, to: u8) {
            let mut body = CPP_HEARTBEAT.as_bytes().to_vec();
            let at = at % body.len();
            body[at] = to;
            let _ = HeartbeatData::parse(&body);
            let _ = RegisterBody::parse(&body);
        }
    }
}
