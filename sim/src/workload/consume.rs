//! Push consumers: members that join and leave, work fast or slowly, answer,
//! hand back or forget.

use std::{rc::Rc, sync::Arc, time::Duration};

use stormglass_core::{
    client::{ConsumerConfig, Received, StartAt},
    rng::Rng,
    runtime::Runtime,
    shell::client::{Changes, Consumer, Delivery},
};
use stormglass_scenarios::{Consume, DurationRange, From, Model};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    GLANCE, Stage, beside, draw,
    member::{Joining, Member},
    race,
};
use crate::history::{self, Body, DeliveryId};

const SUBSCRIBE_AGAIN: DurationRange = DurationRange::millis(200, 800);
/// How long a member that leaves waits for its handlers.
const LAST_WORK: DurationRange = DurationRange::millis(2_000, 2_000);

pub async fn run<R: Runtime>(stage: &Stage<R>, consume: &Consume) {
    let mut rng = Rng::new(stage.rt.entropy());
    let member = Rc::new(Member::start(stage, &joining(stage, consume)));
    let config = config(stage, consume);
    let mut consumer = loop {
        match stage.unless_over(stage.client.subscribe(config.clone())).await {
            Some(Ok(consumer)) => break consumer,
            Some(Err(_)) => stage.sleep(draw(&mut rng, SUBSCRIBE_AGAIN)).await,
            None => return member.stopped(),
        }
    };
    let Some(mut changes) = consumer.changes() else { return member.stopped() };
    let broadcasts = consume.model == Model::Broadcasting;
    let hands = Arc::new(Semaphore::new(consume.concurrency as usize));
    let mut reader = Reader { stage, member: &member, consumer, changes: &mut changes, broadcasts };
    while let Some((hand, message)) = reader.next(&hands).await {
        let delivery = member.received(&message);
        let handling = Handling {
            stage: stage.clone(),
            member: member.clone(),
            delivery,
            work: draw(&mut rng, consume.work),
            answer: match is_poison(consume.poison, &message) {
                true => Answer::HandBack(draw(&mut rng, consume.again)),
                false => Answer::draw(&mut rng, consume),
            },
        };
        stage.rt.spawn(async move {
            handling.run(message).await;
            drop(hand);
        });
    }
    let all = consume.concurrency;
    let _ = race(hands.acquire_many(all), stage.sleep(LAST_WORK.max)).await;
    if broadcasts {
        reader.keep_offsets().await;
    }
    reader.consumer.close().await;
    while let Some(change) = changes.next().await {
        member.changed(change);
    }
    member.stopped();
}

fn joining<'a, R: Runtime>(stage: &Stage<R>, consume: &'a Consume) -> Joining<'a> {
    let groups = &stage.shared.scenario.cluster.groups;
    let group = groups.iter().find(|group| group.name == consume.group);
    Joining {
        group: &consume.group,
        topics: &consume.topics,
        filter: &consume.filter,
        mode: match consume.model {
            Model::Clustering => history::Mode::Clustering,
            Model::Broadcasting => history::Mode::Broadcasting,
        },
        access: history::Access::Push,
        orderly: consume.orderly,
        from: match consume.from {
            From::First => history::From::First,
            From::Last => history::From::Last,
        },
        max_attempts: consume.max_attempts.or(group.map(|group| group.max_attempts)),
    }
}

fn config<R: Runtime>(stage: &Stage<R>, consume: &Consume) -> ConsumerConfig {
    let mut config = ConsumerConfig::new(&consume.group).start_at(match consume.from {
        From::First => StartAt::First,
        From::Last => StartAt::Last,
    });
    for topic in &consume.topics {
        config = config.topic(topic, &consume.filter);
    }
    if consume.orderly {
        config = config.orderly();
    }
    if consume.model == Model::Broadcasting {
        config = config.broadcasting();
        config.local_offsets = stage.machine().offsets.borrow().clone();
    }
    config.max_retries = consume.max_attempts.map(|attempts| attempts - 1);
    if let Some(timeout) = consume.consume_timeout {
        config.consume_timeout = timeout;
    }
    if let Some(renewal) = consume.lock_renewal {
        (config.lock_renewal, config.lock_validity) = (renewal, renewal * 3 / 2);
    }
    // Nothing waits in the client for a hand to be free, unless some messages
    // are never answered and keep theirs.
    if consume.never_ack == 0.0 {
        config.max_outstanding = consume.concurrency as usize;
    }
    config
}

/// What the client hands over: messages, and changes of what the member owns.
struct Reader<'a, R> {
    stage: &'a Stage<R>,
    member: &'a Member<R>,
    consumer: Consumer,
    changes: &'a mut Changes,
    broadcasts: bool,
}

impl<R: Runtime> Reader<'_, R> {
    /// The next message, and the free hand that takes it; none when the member is
    /// to stop. Meanwhile says how fast it works, and keeps its own offsets.
    async fn next(&mut self, hands: &Arc<Semaphore>) -> Option<(OwnedSemaphorePermit, Delivery)> {
        while !self.stage.is_over() {
            self.stage.shared.tell_pace(self.stage.machine());
            if self.broadcasts {
                self.keep_offsets().await;
            }
            let Reader { stage, member, consumer, changes, .. } = self;
            // A change that came before a message is told before it.
            let telling = async {
                while let Some(change) = changes.next().await {
                    member.changed(change);
                }
            };
            let delivery = async {
                let hand = hands.clone().acquire_owned().await.ok()?;
                Some((hand, consumer.next().await?))
            };
            if let Some(taken) = race(beside(telling, delivery), stage.sleep(GLANCE)).await {
                return taken;
            }
        }
        None
    }

    /// A broadcasting member's offsets outlive its process, on its own disk.
    async fn keep_offsets(&self) {
        let offsets = self.consumer.offsets().await;
        *self.stage.machine().offsets.borrow_mut() = offsets;
    }
}

#[derive(Clone, Copy)]
enum Answer {
    Ack,
    HandBack(Duration),
    /// When the group's back-off says.
    Retry,
    Forget,
}

impl Answer {
    fn draw(rng: &mut Rng, consume: &Consume) -> Answer {
        let back = draw(rng, consume.again);
        let drawn = rng.below(1_000_000) as f64 / 1e6;
        let retry = consume.nack + consume.retry;
        match drawn {
            _ if drawn < consume.nack => Answer::HandBack(back),
            _ if drawn < retry => Answer::Retry,
            _ if drawn < retry + consume.never_ack => Answer::Forget,
            _ => Answer::Ack,
        }
    }
}

/// Whether nobody can ever handle this message: every member finds the same.
pub fn is_poison(share: f64, message: &Received) -> bool {
    let body = Body::decode(&message.record.body);
    body.is_ok_and(|body| Rng::new(u64::from(body.message.number())).chance(share))
}

/// The work on one message.
struct Handling<R> {
    stage: Stage<R>,
    member: Rc<Member<R>>,
    delivery: DeliveryId,
    work: Duration,
    answer: Answer,
}

impl<R: Runtime> Handling<R> {
    async fn run(self, message: Delivery) {
        let Handling { stage, member, delivery, work, answer } = self;
        let pacer = &stage.machine().pacer;
        stage.sleep(pacer.handling(work)).await;
        while let Some(left) = pacer.stall(stage.shared.time.now_us()) {
            stage.sleep(left).await;
        }
        match answer {
            Answer::Ack => {
                member.acked(delivery);
                message.ack();
            }
            Answer::HandBack(delay) => {
                member.nacked(delivery, Some(delay));
                message.nack(delay);
            }
            Answer::Retry => {
                member.nacked(delivery, None);
                message.retry();
            }
            Answer::Forget => {
                member.forgot(delivery, message);
            }
        }
    }
}
