//! The people of a run: who sets the cluster up, who changes it while it runs,
//! and who reads the dead letters once the chaos is over.

mod members;

use std::{collections::BTreeSet, net::SocketAddr, rc::Rc, time::Duration};

use stormglass_core::{
    client::{Answer, Ask, ClientConfig, ClientError, MessageQueue},
    message::{Properties, Record, property},
    rng::Rng,
    runtime::Runtime,
    shell::client::{self, Client, PullConsumer},
    wire::body::{RetryPolicy, SubscriptionGroup},
};
use stormglass_scenarios::{Group, OperationKind, ResetOffset, Scenario, Workload};

use crate::{
    clock,
    history::{Answered, Body, EventKind, GroupId, LaneId, Mark, Recorder, Stop, body_hash},
    probe::Set,
};

/// All brokers of a run belong to this cluster.
pub const CLUSTER: &str = "sim";

/// How long people wait before they ask again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How often dead letters are looked for.
const READ_EVERY: Duration = Duration::from_millis(500);
/// Dead letters read at once.
const BATCH: u32 = 32;

/// What the people of a run know of it.
#[derive(Clone)]
pub struct Office {
    pub scenario: Rc<Scenario>,
    pub name_servers: Vec<SocketAddr>,
    pub recorder: Recorder,
    pub sets: Vec<Rc<Set>>,
}

impl Office {
    fn client<R: Runtime>(&self, rt: &R) -> Client {
        client::start(rt.clone(), ClientConfig::new(self.name_servers.clone()))
    }

    /// Creates the topics and configures the groups, before the run begins.
    pub async fn set_up<R: Runtime>(self, rt: R) -> Stop {
        let client = self.client(&rt);
        let cluster = &self.scenario.cluster;
        for topic in &cluster.topics {
            insist(&rt, || client.create_topic(CLUSTER, &topic.name, topic.queues)).await;
        }
        for group in &cluster.groups {
            let ask = Ask::ConfigureGroup { cluster: CLUSTER.to_owned(), group: settings(group) };
            insist(&rt, async || client.ask(ask.clone()).await.map(drop)).await;
        }
        client.close().await;
        Stop::Graceful
    }

    /// Does what the file says, each thing at its time.
    pub async fn operate<R: Runtime>(self, rt: R) -> Stop {
        let mut rng = Rng::new(rt.entropy());
        let lane = self.recorder.name(|names| names.lane("admin"));
        let mut agenda: Vec<(Duration, &OperationKind)> = Vec::new();
        for operation in &self.scenario.operations {
            let spread = operation.at.max.saturating_sub(operation.at.min).as_micros() as u64;
            let at = operation.at.min + Duration::from_micros(rng.below(spread + 1));
            agenda.push((at, &operation.kind));
        }
        agenda.sort_by_key(|(at, _)| *at);
        let client = self.client(&rt);
        for (at, kind) in agenda {
            let now = Duration::from_micros(clock::true_now_us());
            rt.sleep_until(rt.now().mono + at.saturating_sub(now)).await;
            match kind {
                OperationKind::GrowTopic(grow) => {
                    insist(&rt, || client.create_topic(CLUSTER, &grow.topic, grow.queues)).await;
                }
                OperationKind::ResetOffset(reset) => self.reset(&rt, &client, lane, reset).await,
                OperationKind::ResumeParked(_) => self.resume(&rt, &client).await,
                OperationKind::TransferLeader(_) => self.transfer(&rt, &client, lane).await,
                OperationKind::AddReplica(_)
                | OperationKind::RemoveReplica(_)
                | OperationKind::ReplaceReplica(_) => {
                    self.change_members(&rt, &mut rng, lane, kind).await;
                }
            }
        }
        client.close().await;
        Stop::Graceful
    }

    async fn reset<R: Runtime>(&self, rt: &R, client: &Client, lane: LaneId, reset: &ResetOffset) {
        let (group, topic) =
            self.recorder.name(|names| (names.group(&reset.group), names.topic(&reset.topic)));
        let to = clock::true_now_us().saturating_sub(reset.back.as_micros() as u64);
        let wall = clock::right_wall(to);
        loop {
            self.recorder.push(lane, EventKind::ResetBegun { group, topic, to });
            let ask =
                Ask::ResetOffset { group: reset.group.clone(), topic: reset.topic.clone(), wall };
            let answered = match client.ask(ask).await {
                Ok(_) => Answered::Ok,
                Err(ClientError::Refused(rejected)) => Answered::Refused { code: rejected.code },
                Err(_) => Answered::Unknown,
            };
            self.recorder.push(lane, EventKind::ResetAnswered { group, topic, answered });
            if answered.is_ok() {
                return;
            }
            rt.sleep_until(rt.now().mono + ASK_AGAIN).await;
        }
    }

    /// Has every half checked again that brokers gave up.
    async fn resume<R: Runtime>(&self, rt: &R, client: &Client) {
        let topic = &self.scenario.cluster.topics[0].name;
        for broker in self.scenario.sets().into_iter().map(|set| set.name) {
            let parked = loop {
                let ask = Ask::ParkedHalves { topic: topic.clone(), broker: broker.clone() };
                match client.ask(ask).await {
                    Ok(Answer::Halves(parked)) => break parked,
                    _ => rt.sleep_until(rt.now().mono + ASK_AGAIN).await,
                }
            };
            for half in parked {
                let (topic, broker) = (topic.clone(), broker.clone());
                let ask = Ask::ResumeChecks { topic, broker, message_id: half.message_id };
                // One that was decided meanwhile is refused, and that is that.
                while let Err(ClientError::Unavailable { .. }) = client.ask(ask.clone()).await {
                    rt.sleep_until(rt.now().mono + ASK_AGAIN).await;
                }
            }
        }
    }

    /// Has the leader of each set hand over, as soon as another one can lead.
    async fn transfer<R: Runtime>(&self, rt: &R, client: &Client, lane: LaneId) {
        let topic = &self.scenario.cluster.topics[0].name;
        for broker in self.scenario.sets().into_iter().map(|set| set.name) {
            let ask = Ask::TransferLeader { topic: topic.clone(), broker };
            insist(rt, async || client.ask(ask.clone()).await.map(drop)).await;
            let mark = Mark::LeadershipTransferred;
            self.recorder.push(lane, EventKind::Mark { mark });
        }
    }

    /// Reads every group's dead letters, until the run is over.
    pub async fn audit<R: Runtime>(self, rt: R) -> Stop {
        let lane = self.recorder.name(|names| names.lane("auditor"));
        let groups: BTreeSet<&str> =
            self.scenario.workloads.iter().filter_map(Workload::consumer_group).collect();
        let client = self.client(&rt);
        for group in groups {
            let group_id = self.recorder.name(|names| names.group(group));
            let auditor = Auditor {
                lane,
                group: group_id,
                topic: format!("%DLQ%{group}"),
                reader: client.pull_consumer("auditors"),
                recorder: self.recorder.clone(),
            };
            let runtime = rt.clone();
            rt.spawn(async move { auditor.read(runtime).await });
        }
        std::future::pending().await
    }
}

/// Asks until it is granted.
async fn insist<R: Runtime>(rt: &R, mut ask: impl AsyncFnMut() -> Result<(), ClientError>) {
    while let Err(error) = ask().await {
        tracing::debug!(%error, "not done yet");
        rt.sleep_until(rt.now().mono + ASK_AGAIN).await;
    }
}

fn settings(group: &Group) -> SubscriptionGroup {
    SubscriptionGroup {
        name: group.name.clone(),
        retry_queues: 1,
        retry_max: group.max_attempts as i32 - 1,
        policy: RetryPolicy::Steps(
            group.back_off.iter().map(|wait| wait.as_millis() as u64).collect(),
        ),
    }
}

/// Whoever reads the dead letters of one group.
struct Auditor {
    lane: LaneId,
    group: GroupId,
    topic: String,
    reader: PullConsumer,
    recorder: Recorder,
}

impl Auditor {
    async fn read<R: Runtime>(&self, rt: R) {
        let mut places: Vec<(MessageQueue, i64)> = Vec::new();
        loop {
            if places.is_empty() {
                let queues = self.reader.queues(&self.topic).await.unwrap_or_default();
                places = queues.into_iter().map(|queue| (queue, 0)).collect();
            }
            for (queue, offset) in &mut places {
                self.read_on(queue, offset).await;
            }
            rt.sleep_until(rt.now().mono + READ_EVERY).await;
        }
    }

    /// What has come to this queue since; what fails is read the next time.
    async fn read_on(&self, queue: &MessageQueue, offset: &mut i64) {
        while let Ok(pulled) = self.reader.pull(queue, *offset, BATCH, "*", Duration::ZERO).await {
            pulled.records.iter().for_each(|record| self.found(queue, record));
            if pulled.next_offset <= *offset {
                return;
            }
            *offset = pulled.next_offset;
        }
    }

    fn found(&self, queue: &MessageQueue, record: &Record) {
        let properties = Properties(&record.properties);
        let origin = properties.get(property::RETRY_TOPIC);
        let (shard, origin) = self.recorder.name(|names| {
            let (topic, broker) = (names.topic(&queue.topic), names.lane(&queue.broker));
            let origin = origin.map(|origin| names.topic(origin));
            (names.shard(topic, broker, queue.queue), origin)
        });
        let letter = EventKind::DeadLetter {
            group: self.group,
            shard,
            queue_offset: record.queue_offset,
            position: record.position.0,
            message: Body::decode(&record.body).ok().map(|body| body.message),
            body_hash: body_hash(&record.body),
            attempts: u32::try_from(record.reconsume_times).unwrap_or(0),
            origin,
        };
        self.recorder.push(self.lane, letter);
    }
}
