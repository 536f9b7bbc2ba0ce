//! Which brokers hold a topic (105), a cluster (106), and what a broker tells
//! its name servers (103).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::dialect::null_as_default;

/// Bits of a topic's `perm`.
pub mod perm {
    pub const INHERIT: u32 = 1;
    pub const WRITE: u32 = 2;
    pub const READ: u32 = 4;
}

/// The body of the answer to 105.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "WireRoute", into = "WireRoute")]
pub struct TopicRoute {
    /// `broker:queues;…` of a topic whose queue list is fixed for order.
    pub order_topic_conf: Option<String>,
    pub queues: Vec<QueueData>,
    pub brokers: Vec<BrokerData>,
}

/// The queues that one broker holds of a topic.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "WireQueues", into = "WireQueues")]
pub struct QueueData {
    pub broker_name: String,
    pub read_queues: u32,
    pub write_queues: u32,
    /// See [`perm`].
    pub perm: u32,
    pub topic_sys_flag: i32,
}

/// A broker's replicas: id 0 is the master.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "WireBroker", into = "WireBroker")]
pub struct BrokerData {
    pub cluster: String,
    pub broker_name: String,
    /// Broker id → `ip:port`.
    pub addrs: BTreeMap<i64, String>,
}

/// The body of the answer to 106.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// By broker name.
    #[serde(rename = "brokerAddrTable", default, deserialize_with = "null_as_default")]
    pub brokers: BTreeMap<String, BrokerData>,
    /// Cluster → broker names.
    #[serde(rename = "clusterAddrTable", default, deserialize_with = "null_as_default")]
    pub clusters: BTreeMap<String, Vec<String>>,
}

/// The body of the answer to 206.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireTopicList", into = "WireTopicList")]
pub struct TopicList {
    pub topics: Vec<String>,
}

/// The uncompressed body of 103.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WireRegister", into = "WireRegister")]
pub struct RegisterBody {
    pub topics: Vec<TopicConfig>,
}

/// One topic as its broker knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicConfig {
    #[serde(rename = "topicName")]
    pub name: String,
    #[serde(rename = "readQueueNums")]
    pub read_queues: u32,
    #[serde(rename = "writeQueueNums")]
    pub write_queues: u32,
    /// See [`perm`].
    pub perm: u32,
    #[serde(default)]
    pub order: bool,
    /// Ours: see [`OrderList`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_list: Option<OrderList>,
}

/// The queues over which the keys of an ordered topic are spread, as an operator
/// fixed them: each broker of the topic keeps the whole list, and neither a
/// broker that is away nor one that joins changes it (R2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrderList {
    /// When it was fixed, in milliseconds: the newest list counts.
    pub version: i64,
    /// RocketMQ's orderTopicConf: `broker:queues;…`.
    pub queues: String,
}

impl OrderList {
    /// So many queues on each of these brokers, fixed at this wall time.
    pub fn over<'a>(brokers: impl Iterator<Item = &'a str>, queues: u32, wall: i64) -> OrderList {
        let parts: Vec<String> = brokers.map(|broker| format!("{broker}:{queues}")).collect();
        OrderList { version: wall, queues: parts.join(";") }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRoute {
    #[serde(default)]
    order_topic_conf: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    queue_datas: Vec<QueueData>,
    #[serde(default, deserialize_with = "null_as_default")]
    broker_datas: Vec<BrokerData>,
    /// Rust and 4.x clients refuse a route without it; nobody fills it today.
    #[serde(default, skip_deserializing)]
    filter_server_table: BTreeMap<String, Vec<String>>,
}

impl From<WireRoute> for TopicRoute {
    fn from(wire: WireRoute) -> TopicRoute {
        TopicRoute {
            order_topic_conf: wire.order_topic_conf,
            queues: wire.queue_datas,
            brokers: wire.broker_datas,
        }
    }
}

impl From<TopicRoute> for WireRoute {
    fn from(route: TopicRoute) -> WireRoute {
        WireRoute {
            order_topic_conf: route.order_topic_conf,
            queue_datas: route.queues,
            broker_datas: route.brokers,
            filter_server_table: BTreeMap::new(),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireQueues {
    broker_name: String,
    read_queue_nums: u32,
    write_queue_nums: u32,
    perm: u32,
    #[serde(default)]
    topic_sys_flag: Option<i32>,
    /// How 3.x and early 4.x spell the former.
    #[serde(default)]
    topic_syn_flag: Option<i32>,
}

impl From<WireQueues> for QueueData {
    fn from(wire: WireQueues) -> QueueData {
        QueueData {
            broker_name: wire.broker_name,
            read_queues: wire.read_queue_nums,
            write_queues: wire.write_queue_nums,
            perm: wire.perm,
            topic_sys_flag: wire.topic_sys_flag.or(wire.topic_syn_flag).unwrap_or(0),
        }
    }
}

impl From<QueueData> for WireQueues {
    fn from(queues: QueueData) -> WireQueues {
        WireQueues {
            broker_name: queues.broker_name,
            read_queue_nums: queues.read_queues,
            write_queue_nums: queues.write_queues,
            perm: queues.perm,
            topic_sys_flag: Some(queues.topic_sys_flag),
            topic_syn_flag: Some(queues.topic_sys_flag),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireBroker {
    #[serde(default, deserialize_with = "null_as_default")]
    cluster: String,
    broker_name: String,
    broker_addrs: BTreeMap<i64, String>,
    #[serde(default)]
    enable_acting_master: bool,
}

impl From<WireBroker> for BrokerData {
    fn from(wire: WireBroker) -> BrokerData {
        BrokerData {
            cluster: wire.cluster,
            broker_name: wire.broker_name,
            addrs: wire.broker_addrs,
        }
    }
}

impl From<BrokerData> for WireBroker {
    fn from(broker: BrokerData) -> WireBroker {
        WireBroker {
            cluster: broker.cluster,
            broker_name: broker.broker_name,
            broker_addrs: broker.addrs,
            enable_acting_master: false,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireTopicList {
    #[serde(default, deserialize_with = "null_as_default")]
    topic_list: Vec<String>,
    #[serde(default)]
    broker_addr: Option<String>,
}

impl From<WireTopicList> for TopicList {
    fn from(wire: WireTopicList) -> TopicList {
        TopicList { topics: wire.topic_list }
    }
}

impl From<TopicList> for WireTopicList {
    fn from(list: TopicList) -> WireTopicList {
        WireTopicList { topic_list: list.topics, broker_addr: None }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireRegister {
    #[serde(default, deserialize_with = "null_as_default")]
    filter_server_list: Vec<String>,
    topic_config_serialize_wrapper: WireTopics,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireTopics {
    #[serde(default, deserialize_with = "null_as_default")]
    topic_config_table: BTreeMap<String, TopicConfig>,
}

impl From<WireRegister> for RegisterBody {
    fn from(wire: WireRegister) -> RegisterBody {
        let topics = wire.topic_config_serialize_wrapper.topic_config_table;
        RegisterBody { topics: topics.into_values().collect() }
    }
}

impl From<RegisterBody> for WireRegister {
    fn from(body: RegisterBody) -> WireRegister {
        let table = body.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        WireRegister {
            filter_server_list: Vec::new(),
            topic_config_serialize_wrapper: WireTopics { topic_config_table: table },
        }
    }
}
