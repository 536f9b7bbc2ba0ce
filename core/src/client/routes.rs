//! Which broker holds which queue: asked of the name servers, refreshed, and
//! kept when they do not know better (N2).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use super::{
    MessageQueue,
    context::{CallFailed, Context, Purpose, Reply, Timer},
    leaders::Leaders,
};
use crate::{
    ids::Name,
    message::tag_hash,
    time::Time,
    wire::{
        body::{TopicRoute, perm},
        code,
        header::TopicHeader,
        request,
    },
};

/// Topics that one client may use.
const MAX_TOPICS: usize = 4096;
/// Queues of one broker's share of a topic; a route with more is damaged.
const MAX_QUEUES: u32 = 4096;
/// A name server that takes longer is passed over, so that a send with 3 s has
/// time for the next one.
const SERVER_TIMEOUT: Duration = Duration::from_secs(1);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// A topic that nobody used for this long is no longer refreshed.
const UNUSED: Duration = Duration::from_secs(300);

/// A topic's queues and where they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Writable queues on brokers that can be written to, sorted.
    pub writable: Vec<MessageQueue>,
    /// The list over which keys are hashed, sorted. It keeps the queues of a
    /// broker that dropped out: a key must not move while its broker is away (R2).
    pub fixed: Vec<MessageQueue>,
    /// Readable queues, sorted.
    pub readable: Vec<MessageQueue>,
    /// Who leads each set, as far as we know: see `leaders`.
    pub(super) masters: BTreeMap<Name, SocketAddr>,
    /// All replicas of each set by broker id, as name servers have them.
    pub(super) replicas: BTreeMap<Name, BTreeMap<i64, SocketAddr>>,
}

impl Route {
    fn of(topic: &Name, wire: &TopicRoute, before: Option<&Route>) -> Result<Route, String> {
        let mut route = Route::default();
        for broker in &wire.brokers {
            let mut replicas = BTreeMap::new();
            for (id, addr) in &broker.addrs {
                let addr = addr.parse().map_err(|_| format!("unusable address {addr:.60?}"))?;
                replicas.insert(*id, addr);
            }
            // Without a leader any replica will do: it tells when there is one.
            let Some(addr) = replicas.values().next() else { continue };
            let name = Name::from(broker.broker_name.as_str());
            route.masters.insert(name.clone(), *addr);
            route.replicas.insert(name, replicas);
        }
        for data in &wire.queues {
            if data.read_queues.max(data.write_queues) > MAX_QUEUES {
                return Err(format!("more than {MAX_QUEUES} queues on {:.60}", data.broker_name));
            }
            let broker: Name = data.broker_name.as_str().into();
            let queue =
                |queue| MessageQueue { topic: topic.clone(), broker: broker.clone(), queue };
            if data.perm & perm::READ != 0 {
                route.readable.extend((0..data.read_queues).map(queue));
            }
            if data.perm & perm::WRITE != 0 {
                route.fixed.extend((0..data.write_queues).map(queue));
            }
        }
        let named = |broker: &Name| wire.queues.iter().any(|data| *data.broker_name == **broker);
        if let Some(fixed) = wire.order_topic_conf.as_deref().and_then(|c| ordered(topic, c)) {
            route.fixed = fixed;
        } else if let Some(before) = before {
            let gone = before.fixed.iter().filter(|queue| !named(&queue.broker));
            route.fixed.extend(gone.cloned());
        }
        route.readable.sort();
        route.fixed.sort();
        let reachable = |queue: &&MessageQueue| {
            route.masters.contains_key(&queue.broker) && named(&queue.broker)
        };
        route.writable = route.fixed.iter().filter(reachable).cloned().collect();
        Ok(route)
    }

    /// What `topic` will look like once a broker has made it after this model: on
    /// one broker, the same for all clients, lest its keys move as one after the
    /// other gets its first message and makes the topic, too (R2).
    fn for_new_topic(&self, topic: &Name, max_queues: u32) -> Route {
        let brokers: BTreeSet<&Name> = self.writable.iter().map(|queue| &queue.broker).collect();
        let turn = tag_hash(topic).unsigned_abs() as usize;
        let chosen = turn.checked_rem(brokers.len()).and_then(|nth| brokers.into_iter().nth(nth));
        let rename = |queues: &[MessageQueue]| {
            let kept = queues
                .iter()
                .filter(|queue| queue.queue < max_queues && Some(&queue.broker) == chosen);
            kept.map(|queue| MessageQueue { topic: topic.clone(), ..queue.clone() }).collect()
        };
        Route {
            writable: rename(&self.writable),
            fixed: rename(&self.fixed),
            readable: Vec::new(),
            masters: self.masters.clone(),
            replicas: self.replicas.clone(),
        }
    }

    /// Where requests about this queue go; none while its broker is away.
    pub fn master(&self, broker: &Name) -> Option<SocketAddr> {
        self.masters.get(broker).copied()
    }

    pub fn masters(&self) -> impl Iterator<Item = SocketAddr> {
        self.masters.values().copied()
    }

    /// Another replica of this broker, by its id.
    pub fn replica(&self, broker: &Name, id: i64) -> Option<SocketAddr> {
        self.replicas.get(broker)?.get(&id).copied()
    }
}

/// The queue list of an ordered topic: `broker:queues;…`.
fn ordered(topic: &Name, conf: &str) -> Option<Vec<MessageQueue>> {
    let mut queues = Vec::new();
    for part in conf.split(';').filter(|part| !part.is_empty()) {
        let (broker, count) = part.split_once(':')?;
        let count = count.parse().ok().filter(|count| *count <= MAX_QUEUES)?;
        let broker: Name = broker.into();
        queues.extend((0..count).map(|queue| MessageQueue {
            topic: topic.clone(),
            broker: broker.clone(),
            queue,
        }));
    }
    (!queues.is_empty()).then_some(queues)
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A route is there, for the first time or changed.
    Found,
    /// Nothing changed.
    Same,
    /// Every name server says that there is no such topic.
    Missing,
    /// No name server could say.
    Failed(String),
}

#[derive(Default)]
pub struct Routes {
    /// The name server that answered last.
    current: usize,
    pub(super) topics: BTreeMap<Name, Topic>,
    pub(super) leaders: Leaders,
}

#[derive(Default)]
pub struct Topic {
    pub(super) route: Option<Arc<Route>>,
    /// What it will look like once it is created by sending to it.
    pub(super) expected: Option<Arc<Route>>,
    fetch: Option<Fetch>,
    /// A send waits: the default topic's route would do.
    for_sending: bool,
    failures: u32,
    used: Time,
    fetched: Time,
}

/// One round over the name servers.
#[derive(Clone, Debug)]
struct Fetch {
    asked: usize,
    missing: usize,
}

impl Routes {
    /// The route, real or expected, if one is known.
    pub fn get(&self, topic: &str) -> Option<&Arc<Route>> {
        let topic = self.topics.get(topic)?;
        topic.route.as_ref().or(topic.expected.as_ref())
    }

    pub fn is_broker(&self, addr: SocketAddr) -> bool {
        self.set_of(addr).is_some()
    }

    /// The name of the broker at this address; empty if no route knows it.
    pub fn name_of(&self, addr: SocketAddr) -> Name {
        self.set_of(addr).cloned().unwrap_or_else(|| "".into())
    }

    fn set_of(&self, addr: SocketAddr) -> Option<&Name> {
        let mut sets = self.routes().flat_map(|route| &route.replicas);
        sets.find(|(_, replicas)| replicas.values().any(|replica| *replica == addr))
            .map(|(name, _)| name)
    }

    /// The leaders of all brokers of topics in use, sorted.
    pub fn brokers(&self) -> Vec<SocketAddr> {
        let mut brokers: Vec<_> = self.routes().flat_map(|route| route.masters()).collect();
        brokers.sort();
        brokers.dedup();
        brokers
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.topics.values().filter_map(|topic| topic.route.as_ref().or(topic.expected.as_ref()))
    }
}

impl Context {
    /// The name server to try as the `nth` of one request.
    pub fn name_server(&self, nth: usize) -> Option<SocketAddr> {
        let servers = &self.config.name_servers;
        servers.get((self.routes.current + nth) % servers.len().max(1)).copied()
    }

    /// The route if it is known; otherwise it is being asked for, and `News`
    /// will come.
    pub fn route(&mut self, topic: &Name, for_sending: bool) -> Option<Arc<Route>> {
        let now = self.now.mono;
        if let Some(known) = self.routes.topics.get_mut(topic) {
            known.used = now;
            known.for_sending |= for_sending;
            if let Some(route) = &known.route {
                return Some(route.clone());
            }
            if let Some(route) = known.expected.as_ref().filter(|_| for_sending) {
                return Some(route.clone());
            }
        } else if self.routes.topics.len() < MAX_TOPICS {
            let new = Topic { used: now, for_sending, ..Topic::default() };
            self.routes.topics.insert(topic.clone(), new);
        }
        self.fetch_route(topic);
        None
    }

    /// Asks again for a route that seems to be wrong, but not all the time.
    pub fn refresh_route(&mut self, topic: &Name) {
        let Some(known) = self.routes.topics.get(topic) else { return };
        if self.now.mono.since(known.fetched) >= FIRST_RETRY {
            self.fetch_route(topic);
        }
    }

    fn fetch_route(&mut self, topic: &Name) {
        let Some(known) = self.routes.topics.get_mut(topic) else { return };
        if known.fetch.is_none() {
            known.fetch = Some(Fetch { asked: 0, missing: 0 });
            known.fetched = self.now.mono;
            self.ask_for_route(topic, 0);
        }
    }

    fn ask_for_route(&mut self, topic: &Name, nth: usize) {
        let Some(server) = self.name_server(nth) else { return };
        let fields = TopicHeader { topic }.fields();
        let timeout = self.config.request_timeout.min(SERVER_TIMEOUT);
        let purpose = Purpose::Route { topic: topic.clone() };
        self.call(
            server,
            request::GET_ROUTEINFO_BY_TOPIC,
            fields,
            Default::default(),
            timeout,
            purpose,
        );
    }

    /// The periodic refresh, or the next attempt after a failure.
    pub fn on_route_timer(&mut self, topic: &Name) {
        let Some(known) = self.routes.topics.get(topic) else { return };
        if self.now.mono.since(known.used) < UNUSED {
            self.fetch_route(topic);
        }
    }

    /// A name server answered or failed. Returns news of topics, of this one
    /// and of those that would be created after its model.
    pub fn on_route_reply(&mut self, topic: &Name, reply: Reply) -> Vec<(Name, News)> {
        let servers = self.config.name_servers.len();
        let Some(known) = self.routes.topics.get_mut(topic) else { return Vec::new() };
        let Some(fetch) = &mut known.fetch else { return Vec::new() };
        fetch.asked += 1;
        let failed = match reply {
            Ok(frame) if frame.code == code::SUCCESS => {
                let wire = TopicRoute::parse(&frame.body).map_err(|error| error.remark);
                let route = wire.and_then(|wire| Route::of(topic, &wire, known.route.as_deref()));
                match route {
                    Ok(route) => {
                        self.routes.current = (self.routes.current + fetch.asked - 1) % servers;
                        return self.on_route_found(topic, route);
                    }
                    Err(why) => why,
                }
            }
            Ok(frame) => {
                if frame.code == code::TOPIC_NOT_EXIST {
                    fetch.missing += 1;
                }
                frame.remark
            }
            Err(CallFailed::NotSent(why) | CallFailed::Lost(why)) => why,
        };
        if fetch.asked < servers {
            let nth = fetch.asked;
            self.ask_for_route(topic, nth);
            return Vec::new();
        }
        let missing = fetch.missing == servers;
        known.fetch = None;
        known.failures += 1;
        let (failures, is_known) = (known.failures, known.route.is_some());
        let for_sending = known.for_sending;
        let retry = self.backoff(FIRST_RETRY, failures - 1, LAST_RETRY);
        self.timers.set(self.now.mono + retry, Timer::Route(topic.clone()));
        if is_known {
            // A name server that forgot the topic knows less than our cache does.
            return vec![(topic.clone(), News::Same)];
        }
        let default = self.config.default_topic.as_deref().map(Name::from);
        match default {
            Some(default) if missing && for_sending && default != *topic => {
                match self.route(&default, false) {
                    Some(model) => self.expect_topic(topic, &model),
                    None => Vec::new(),
                }
            }
            Some(default) if default == *topic => {
                // Those who waited for the default topic learn their own fate.
                let verdict = if missing { News::Missing } else { News::Failed(failed) };
                let waiting = self.waiting_for_default();
                waiting.into_iter().map(|topic| (topic, verdict.clone())).collect()
            }
            _ if missing => vec![(topic.clone(), News::Missing)],
            _ => vec![(topic.clone(), News::Failed(failed))],
        }
    }

    fn on_route_found(&mut self, topic: &Name, mut route: Route) -> Vec<(Name, News)> {
        self.routes.leaders.correct(&mut route);
        let refresh = self.now.mono + self.config.route_refresh;
        self.timers.set(refresh, Timer::Route(topic.clone()));
        let Some(known) = self.routes.topics.get_mut(topic) else { return Vec::new() };
        known.fetch = None;
        known.failures = 0;
        known.expected = None;
        let changed = known.route.as_deref() != Some(&route);
        let route = Arc::new(route);
        known.route = Some(route.clone());
        let mut news = vec![(topic.clone(), if changed { News::Found } else { News::Same })];
        if self.config.default_topic.as_deref() == Some(topic) {
            for waiting in self.waiting_for_default() {
                news.extend(self.expect_topic(&waiting, &route));
            }
        }
        news
    }

    fn waiting_for_default(&self) -> Vec<Name> {
        let default = self.config.default_topic.as_deref();
        let waits = |name: &Name, topic: &Topic| {
            let unknown = topic.route.is_none() && topic.expected.is_none();
            topic.for_sending && unknown && Some(&**name) != default && topic.fetch.is_none()
        };
        let topics = self.routes.topics.iter();
        topics.filter(|(name, topic)| waits(name, topic)).map(|(name, _)| name.clone()).collect()
    }

    fn expect_topic(&mut self, topic: &Name, model: &Route) -> Vec<(Name, News)> {
        let expected = model.for_new_topic(topic, self.config.default_topic_queues);
        if let Some(known) = self.routes.topics.get_mut(topic) {
            known.expected = Some(Arc::new(expected));
        }
        vec![(topic.clone(), News::Found)]
    }
}
