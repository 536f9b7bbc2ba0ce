//! Questions to name servers and brokers, one at a time. They are RocketMQ's
//! own, so that the commands work with its servers as well.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use clap::Args;
use stormglass_core::wire::{
    Encoding, Fields, Frame,
    body::{
        ClusterInfo, ConsumerConnections, ConsumerIds, OrderList, ResetOffsets, SubscriptionGroup,
        TopicList, TopicRoute, perm,
    },
    code,
    header::{
        CommittedReply, CreateTopicHeader, GroupConfigHeader, GroupHeader, OffsetReply,
        QueryOffsetHeader, QueueHeader, ResetOffsetHeader, TopicHeader,
    },
    request,
};

use super::link::Link;

/// Where to ask, the same for every command.
#[derive(Clone, Debug, Args)]
pub struct Server {
    /// Name server.
    #[arg(short, long, default_value = "127.0.0.1:9876", value_name = "HOST:PORT")]
    #[arg(value_parser = host_and_port)]
    pub name_server: String,
    /// Milliseconds to wait for an answer.
    #[arg(long, default_value_t = 5000, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub timeout: u64,
}

impl Server {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout)
    }
}

fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("not HOST:PORT, like 127.0.0.1:9876".to_owned()),
    }
}

/// One queue and the broker that holds it.
#[derive(Clone, Debug)]
pub struct Queue {
    pub topic: String,
    pub broker: String,
    pub addr: SocketAddr,
    pub queue: u32,
}

/// Connections to a name server and to the brokers that it names.
pub struct Admin {
    name_server: SocketAddr,
    links: BTreeMap<SocketAddr, Link>,
    timeout: Duration,
}

impl Admin {
    pub async fn connect(server: &Server) -> io::Result<Admin> {
        let name = &server.name_server;
        let unresolved = |error| io::Error::other(format!("name server {name}: {error}"));
        let addr = tokio::net::lookup_host(name).await.map_err(unresolved)?.next();
        let name_server = addr.ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))?;
        Ok(Admin { name_server, links: BTreeMap::new(), timeout: server.timeout() })
    }

    pub async fn topics(&mut self) -> io::Result<Vec<String>> {
        let code = request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER;
        let answer = self.ask_name_server(code, Fields::default()).await?;
        let mut topics = parsed(TopicList::parse(&succeeded(answer)?.body))?.topics;
        topics.sort();
        Ok(topics)
    }

    /// None if there is no such topic.
    pub async fn route(&mut self, topic: &str) -> io::Result<Option<TopicRoute>> {
        let fields = TopicHeader { topic }.fields();
        let answer = self.ask_name_server(request::GET_ROUTEINFO_BY_TOPIC, fields).await?;
        if answer.code == code::TOPIC_NOT_EXIST {
            return Ok(None);
        }
        parsed(TopicRoute::parse(&succeeded(answer)?.body)).map(Some)
    }

    /// The queues of a topic that exists, in the order of brokers and numbers.
    pub async fn queues(&mut self, topic: &str) -> io::Result<Vec<Queue>> {
        match self.route(topic).await? {
            Some(route) => queues_of(topic, &route),
            None => Err(io::Error::other(format!("there is no topic {topic}"))),
        }
    }

    /// Creates the topic on every broker, or changes its number of queues, and
    /// waits until the name server knows it. If it is ordered, the list of queues
    /// over which keys are spread is fixed until this is done again (R2).
    pub async fn create_topic(
        &mut self,
        topic: &str,
        queues: u32,
        ordered: bool,
    ) -> io::Result<()> {
        let cluster = self.cluster().await?;
        let mut brokers = cluster.brokers.iter();
        if let Some((name, _)) = brokers.find(|(_, broker)| !broker.addrs.contains_key(&0)) {
            return Err(io::Error::other(format!("nobody leads {name}: nothing was created")));
        }
        let masters = self.brokers().await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let names = masters.keys().map(String::as_str);
        let order = OrderList::over(names, queues, now.as_millis() as i64);
        let order = Some(order).filter(|_| ordered);
        let header = CreateTopicHeader {
            topic,
            read_queues: queues,
            write_queues: queues,
            perm: perm::READ | perm::WRITE,
            topic_sys_flag: Some(0),
            order: Some(order.is_some()),
            order_queues: order.as_ref().map(|list| list.queues.as_str()),
            order_version: order.as_ref().map(|list| list.version),
        };
        let mut fields = Fields::builder();
        for (key, value) in header.fields().iter() {
            fields.put(key, value);
        }
        // What Java's broker insists on besides.
        fields.put("defaultTopic", "TBW102").put("topicFilterType", "SINGLE_TAG");
        let fields = fields.finish();
        for addr in masters.values() {
            succeeded(self.ask(*addr, request::UPDATE_AND_CREATE_TOPIC, fields.clone()).await?)?;
        }
        self.wait_for(topic, masters.len()).await
    }

    /// All brokers by name; there is at least one.
    pub async fn brokers(&mut self) -> io::Result<BTreeMap<String, SocketAddr>> {
        let cluster = self.cluster().await?;
        let brokers = cluster.brokers.iter().map(|(name, broker)| (name, &broker.addrs));
        let masters = masters(brokers)?;
        if masters.is_empty() {
            let why = format!("no broker has registered with {}", self.name_server);
            return Err(io::Error::other(why));
        }
        Ok(masters)
    }

    /// Where the replicas of each set are that the name server knows, the leader
    /// first.
    pub async fn replicas(&mut self) -> io::Result<BTreeMap<String, Vec<SocketAddr>>> {
        let mut sets = BTreeMap::new();
        for (name, broker) in self.cluster().await?.brokers {
            let addrs = broker.addrs.values().map(|addr| usable(&name, addr));
            sets.insert(name.clone(), addrs.collect::<io::Result<_>>()?);
        }
        Ok(sets)
    }

    async fn cluster(&mut self) -> io::Result<ClusterInfo> {
        let answer = self.ask_name_server(request::GET_BROKER_CLUSTER_INFO, Fields::default());
        parsed(ClusterInfo::parse(&succeeded(answer.await?)?.body))
    }

    /// A broker registers a new topic a moment after it has it.
    async fn wait_for(&mut self, topic: &str, brokers: usize) -> io::Result<()> {
        const TRIES: u32 = 50;
        for _ in 0..TRIES {
            let route = self.route(topic).await?;
            if route.is_some_and(|route| route.queues.len() >= brokers) {
                return Ok(());
            }
            tokio::time::sleep(self.timeout / TRIES).await;
        }
        let why = format!("{topic} was created, but the name server does not know it yet");
        Err(io::Error::new(io::ErrorKind::TimedOut, why))
    }

    /// Of the first message that is still there.
    pub async fn min_offset(&mut self, queue: &Queue) -> io::Result<i64> {
        self.offset(request::GET_MIN_OFFSET, queue).await
    }

    /// Of the next message to come.
    pub async fn max_offset(&mut self, queue: &Queue) -> io::Result<i64> {
        self.offset(request::GET_MAX_OFFSET, queue).await
    }

    async fn offset(&mut self, code: i32, queue: &Queue) -> io::Result<i64> {
        let fields = QueueHeader { topic: &queue.topic, queue: queue.queue }.fields();
        let answer = succeeded(self.ask(queue.addr, code, fields).await?)?;
        Ok(parsed(OffsetReply::parse(&answer.fields))?.offset)
    }

    /// Where the group goes on; none if it never said.
    pub async fn committed(
        &mut self,
        group: &str,
        queue: &Queue,
    ) -> io::Result<Option<CommittedReply>> {
        let header = QueryOffsetHeader {
            group,
            topic: &queue.topic,
            queue: queue.queue,
            set_zero_if_not_found: Some(false),
        };
        let fields = header.fields();
        let answer = self.ask(queue.addr, request::QUERY_CONSUMER_OFFSET, fields).await?;
        if answer.code == code::QUERY_NOT_FOUND {
            return Ok(None);
        }
        parsed(CommittedReply::parse(&succeeded(answer)?.fields)).map(Some)
    }

    /// The client ids of the members that this broker knows.
    pub async fn members(&mut self, addr: SocketAddr, group: &str) -> io::Result<Vec<String>> {
        let fields = GroupHeader { group }.fields();
        let answer = self.ask(addr, request::GET_CONSUMER_LIST_BY_GROUP, fields).await?;
        match answer.code {
            // What brokers say of a group without members.
            code::SYSTEM_ERROR => Ok(Vec::new()),
            _ => Ok(parsed(ConsumerIds::parse(&succeeded(answer)?.body))?.ids),
        }
    }

    async fn ask_name_server(&mut self, code: i32, fields: Fields) -> io::Result<Frame> {
        let addr = self.name_server;
        let give_up = Instant::now() + self.timeout;
        loop {
            let answer = self.ask(addr, code, fields.clone()).await.map_err(|error| {
                io::Error::new(error.kind(), format!("name server {addr}: {error}"))
            })?;
            // Just started, and does not know its brokers yet (N2).
            if answer.code != code::SYSTEM_BUSY || Instant::now() >= give_up {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How a group retries; none if the broker does not know it.
    pub async fn group(
        &mut self,
        addr: SocketAddr,
        group: &str,
    ) -> io::Result<Option<SubscriptionGroup>> {
        let fields = GroupConfigHeader { group }.fields();
        let answer = self.ask(addr, request::GET_SUBSCRIPTIONGROUP_CONFIG, fields).await?;
        if answer.code == code::SUBSCRIPTION_GROUP_NOT_EXIST {
            return Ok(None);
        }
        parsed(SubscriptionGroup::parse(&succeeded(answer)?.body)).map(Some)
    }

    /// Sets a group elsewhere; where to, queue by queue.
    pub async fn reset(
        &mut self,
        addr: SocketAddr,
        header: &ResetOffsetHeader<'_>,
    ) -> io::Result<ResetOffsets> {
        let code = request::INVOKE_BROKER_TO_RESET_OFFSET;
        let answer = self.ask(addr, code, header.fields()).await?;
        parsed(ResetOffsets::parse(&succeeded(answer)?.body))
    }

    /// Who the members of a group are; none if there are none.
    pub async fn connections(
        &mut self,
        addr: SocketAddr,
        group: &str,
    ) -> io::Result<Option<ConsumerConnections>> {
        let fields = GroupHeader { group }.fields();
        let answer = self.ask(addr, request::GET_CONSUMER_CONNECTION_LIST, fields).await?;
        if answer.code == code::CONSUMER_NOT_ONLINE {
            return Ok(None);
        }
        parsed(ConsumerConnections::parse(&succeeded(answer)?.body)).map(Some)
    }

    pub async fn set_group(
        &mut self,
        addr: SocketAddr,
        group: &SubscriptionGroup,
    ) -> io::Result<()> {
        let code = request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
        let answer = self.ask_with(addr, code, Fields::default(), group.to_bytes()).await?;
        succeeded(answer).map(drop)
    }

    /// One request to one broker; the answer may be a refusal.
    pub async fn ask(&mut self, addr: SocketAddr, code: i32, fields: Fields) -> io::Result<Frame> {
        self.ask_with(addr, code, fields, Bytes::new()).await
    }

    pub async fn ask_with(
        &mut self,
        addr: SocketAddr,
        code: i32,
        fields: Fields,
        body: Bytes,
    ) -> io::Result<Frame> {
        let mut link = match self.links.remove(&addr) {
            Some(link) => link,
            None => in_time(self.timeout, Link::connect(addr)).await?,
        };
        let request = Frame::request(code, 1, fields, body).encoding(Encoding::Binary);
        let answer = in_time(self.timeout, link.ask(&request)).await?;
        // Not kept after a failure: a late answer would be taken for the next one.
        self.links.insert(addr, link);
        Ok(answer)
    }
}

/// The readable queues that a route names.
pub fn queues_of(topic: &str, route: &TopicRoute) -> io::Result<Vec<Queue>> {
    let masters = masters(route.brokers.iter().map(|b| (&b.broker_name, &b.addrs)))?;
    let mut queues = Vec::new();
    for data in route.queues.iter().filter(|data| data.perm & perm::READ != 0) {
        let Some(addr) = masters.get(&data.broker_name) else { continue };
        queues.extend((0..data.read_queues).map(|queue| Queue {
            topic: topic.to_owned(),
            broker: data.broker_name.clone(),
            addr: *addr,
            queue,
        }));
    }
    queues.sort_by(|a, b| (&a.broker, a.queue).cmp(&(&b.broker, b.queue)));
    Ok(queues)
}

fn masters<'a>(
    brokers: impl Iterator<Item = (&'a String, &'a BTreeMap<i64, String>)>,
) -> io::Result<BTreeMap<String, SocketAddr>> {
    let masters = brokers.filter_map(|(name, addrs)| Some((name, addrs.get(&0)?)));
    masters.map(|(name, addr)| Ok((name.clone(), usable(name, addr)?))).collect()
}

fn usable(name: &str, addr: &str) -> io::Result<SocketAddr> {
    addr.parse().map_err(|_| io::Error::other(format!("{name} has the unusable address {addr:?}")))
}

async fn in_time<T>(
    timeout: Duration,
    asked: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let silence = |_| {
        let why = format!("no answer within {} ms", timeout.as_millis());
        io::Error::new(io::ErrorKind::TimedOut, why)
    };
    tokio::time::timeout(timeout, asked).await.map_err(silence)?
}

pub fn succeeded(answer: Frame) -> io::Result<Frame> {
    match answer.code {
        code::SUCCESS => Ok(answer),
        code => Err(io::Error::other(format!("refused with code {code}: {}", answer.remark))),
    }
}

pub fn parsed<T>(parsed: Result<T, stormglass_core::error::Rejected>) -> io::Result<T> {
    parsed.map_err(|why| io::Error::other(format!("an answer that makes no sense: {why}")))
}
