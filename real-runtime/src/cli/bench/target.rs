//! Where the load goes: the topic's queues and the brokers that hold them.

use std::{collections::BTreeMap, io, net::SocketAddr};

use bytes::Bytes;
use stormglass_core::wire::{
    Encoding, Frame,
    body::{ClusterInfo, TopicRoute, perm},
    code,
    header::{CreateTopicHeader, TopicHeader},
    request,
};

use super::link::Link;

/// One queue and the address of its broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    pub broker: SocketAddr,
    pub queue: u32,
}

/// The topic's queues; the topic is created if it does not exist.
pub async fn find(name_server: SocketAddr, topic: &str, queues: u32) -> io::Result<Vec<Queue>> {
    let mut link = Link::connect(name_server).await?;
    if let Some(found) = route(&mut link, topic).await? {
        return Ok(found);
    }
    create(&mut link, topic, queues).await?;
    // A broker registers a new topic a moment later.
    for _ in 0..50 {
        if let Some(found) = route(&mut link, topic).await? {
            return Ok(found);
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(io::Error::other(format!("the name server does not know {topic} 5 s after its creation")))
}

async fn route(link: &mut Link, topic: &str) -> io::Result<Option<Vec<Queue>>> {
    let fields = TopicHeader { topic }.fields();
    let answer = link.ask(&ask(request::GET_ROUTEINFO_BY_TOPIC, fields)).await?;
    if answer.code == code::TOPIC_NOT_EXIST {
        return Ok(None);
    }
    let route = TopicRoute::parse(&succeeded(answer)?).map_err(io::Error::other)?;
    let masters = masters(route.brokers.iter().map(|b| (&b.broker_name, &b.addrs)))?;
    let mut queues = Vec::new();
    for data in route.queues.iter().filter(|data| data.perm & perm::WRITE != 0) {
        if let Some(broker) = masters.get(&data.broker_name) {
            queues.extend((0..data.write_queues).map(|queue| Queue { broker: *broker, queue }));
        }
    }
    Ok((!queues.is_empty()).then_some(queues))
}

async fn create(link: &mut Link, topic: &str, queues: u32) -> io::Result<()> {
    let answer = link.ask(&ask(request::GET_BROKER_CLUSTER_INFO, Default::default())).await?;
    let cluster = ClusterInfo::parse(&succeeded(answer)?).map_err(io::Error::other)?;
    let masters = masters(cluster.brokers.iter().map(|(name, b)| (name, &b.addrs)))?;
    if masters.is_empty() {
        return Err(io::Error::other("no broker has registered with the name server"));
    }
    for broker in masters.values() {
        let header = CreateTopicHeader {
            topic,
            read_queues: queues,
            write_queues: queues,
            perm: perm::READ | perm::WRITE,
            topic_sys_flag: Some(0),
            order: Some(false),
        };
        // What Java's broker insists on besides.
        let mut fields = stormglass_core::wire::Fields::builder();
        header.fields().iter().for_each(|(key, value)| {
            fields.put(key, value);
        });
        fields.put("defaultTopic", "TBW102").put("topicFilterType", "SINGLE_TAG");
        let create = ask(request::UPDATE_AND_CREATE_TOPIC, fields.finish());
        succeeded(Link::connect(*broker).await?.ask(&create).await?)?;
    }
    Ok(())
}

fn masters<'a>(
    brokers: impl Iterator<Item = (&'a String, &'a BTreeMap<i64, String>)>,
) -> io::Result<BTreeMap<String, SocketAddr>> {
    let masters = brokers.filter_map(|(name, addrs)| Some((name, addrs.get(&0)?)));
    masters
        .map(|(name, addr)| match addr.parse() {
            Ok(addr) => Ok((name.clone(), addr)),
            Err(_) => Err(io::Error::other(format!("{name} has the unusable address {addr:?}"))),
        })
        .collect()
}

fn ask(code: i32, fields: stormglass_core::wire::Fields) -> Frame {
    Frame::request(code, 1, fields, Bytes::new()).encoding(Encoding::Binary)
}

fn succeeded(answer: Frame) -> io::Result<Bytes> {
    match answer.code {
        code::SUCCESS => Ok(answer.body),
        code => Err(io::Error::other(format!("code {code}: {}", answer.remark))),
    }
}
