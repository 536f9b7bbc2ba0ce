//! Consumers that lease messages: they finish in time or too late, ask for more
//! time, hand back, or forget.

use std::{rc::Rc, sync::Arc, time::Duration};

use stormglass_core::{
    client::{ClientError, Lease, Popped},
    rng::Rng,
    runtime::Runtime,
    shell::client::PopConsumer,
};
use stormglass_scenarios::{DurationRange, Pop};
use tokio::sync::Semaphore;

use super::{
    GLANCE, Stage,
    consume::is_poison,
    draw,
    member::{Joining, Member},
    race,
    transact::refusal,
};
use crate::{
    clock,
    history::{self, Answered, DeliveryId, EventKind},
};

const ASK_AGAIN: DurationRange = DurationRange::millis(200, 800);
/// The longest that it waits at one of several replica sets.
const TURN: Duration = Duration::from_millis(500);
/// How long a member that leaves waits for its handlers.
const LAST_WORK: Duration = Duration::from_secs(2);

pub async fn run<R: Runtime>(stage: &Stage<R>, pop: &Pop) {
    let mut rng = Rng::new(stage.rt.entropy());
    let topics = [pop.topic.clone()];
    let groups = &stage.shared.scenario.cluster.groups;
    let group = groups.iter().find(|group| group.name == pop.group);
    let member = Rc::new(Member::start(
        stage,
        &Joining {
            group: &pop.group,
            topics: &topics,
            filter: &pop.filter,
            mode: history::Mode::Clustering,
            access: history::Access::Pop,
            orderly: false,
            from: history::From::First,
            max_attempts: group.map(|group| group.max_attempts),
        },
    ));
    let consumer = stage.client.pop_consumer(&pop.group, &pop.topic, &pop.filter);
    let hands = Arc::new(Semaphore::new(pop.batch as usize));
    // The client asks one replica set after the other.
    let is_only = stage.shared.scenario.sets().len() == 1;
    let wait = if is_only { pop.wait } else { pop.wait.min(TURN) };
    while !stage.is_over() {
        stage.shared.tell_pace(stage.machine());
        // Only as many as there are hands: a lease that waits runs out.
        let free = hands.available_permits() as u32;
        if free == 0 {
            stage.sleep(GLANCE / 10).await;
            continue;
        }
        let Ok(batch) = consumer.receive(free, pop.invisible, wait).await else {
            stage.sleep(draw(&mut rng, ASK_AGAIN)).await;
            continue;
        };
        for popped in batch {
            let Ok(hand) = hands.clone().try_acquire_owned() else { break };
            let handling = Handling::begin(stage, pop, &member, &consumer, popped, &mut rng);
            stage.rt.spawn(async move {
                handling.run().await;
                drop(hand);
            });
        }
    }
    let _ = race(hands.acquire_many(pop.batch), stage.sleep(LAST_WORK)).await;
    member.stopped();
}

#[derive(Clone, Copy)]
enum Answer {
    Ack,
    HandBack(Duration),
    Forget,
}

/// The work on one message.
struct Handling<R> {
    stage: Stage<R>,
    member: Rc<Member<R>>,
    consumer: PopConsumer,
    lease: Lease,
    delivery: DeliveryId,
    work: Duration,
    /// Halfway, the handler asks for this much more time.
    extension: Option<Duration>,
    answer: Answer,
}

impl<R: Runtime> Handling<R> {
    fn begin(
        stage: &Stage<R>,
        pop: &Pop,
        member: &Rc<Member<R>>,
        consumer: &PopConsumer,
        Popped { message, lease }: Popped,
        rng: &mut Rng,
    ) -> Handling<R> {
        let back = draw(rng, pop.again);
        let drawn = rng.below(1_000_000) as f64 / 1e6;
        Handling {
            stage: stage.clone(),
            member: member.clone(),
            consumer: consumer.clone(),
            delivery: member.leased(&message, clock::true_us_of(lease.until)),
            lease,
            work: draw(rng, pop.work),
            extension: rng.chance(pop.extend).then_some(pop.invisible),
            answer: match drawn {
                _ if is_poison(pop.poison, &message) => Answer::HandBack(back),
                _ if drawn < pop.nack => Answer::HandBack(back),
                _ if drawn < pop.nack + pop.never_ack => Answer::Forget,
                _ => Answer::Ack,
            },
        }
    }

    async fn run(mut self) {
        let pacer = &self.stage.machine().pacer;
        let work = pacer.handling(self.work);
        if let Some(extension) = self.extension {
            self.stage.sleep(work / 2).await;
            self.ask(extension).await;
            self.stage.sleep(work / 2).await;
        } else {
            self.stage.sleep(work).await;
        }
        let pacer = &self.stage.machine().pacer;
        while let Some(left) = pacer.stall(self.stage.shared.time.now_us()) {
            self.stage.sleep(left).await;
        }
        match self.answer {
            Answer::Ack => {
                self.member.acked(self.delivery);
                let answered = answered(&self.consumer.ack(&self.lease).await);
                let delivery = self.delivery;
                self.stage.push(EventKind::AckAnswered { delivery, answered });
            }
            Answer::HandBack(again) => {
                self.member.nacked(self.delivery, Some(again));
                self.ask(again).await;
            }
            Answer::Forget => self.stage.push(EventKind::Forgotten { delivery: self.delivery }),
        }
    }

    /// Another lease, from now on.
    async fn ask(&mut self, invisible: Duration) {
        let (delivery, for_us) = (self.delivery, invisible.as_micros() as u64);
        self.stage.push(EventKind::LeaseAsked { delivery, for_us });
        let result = self.consumer.change_invisible(&mut self.lease, invisible).await;
        let until = result.is_ok().then(|| clock::true_us_of(self.lease.until));
        let answered = answered(&result);
        self.stage.push(EventKind::LeaseAnswered { delivery, answered, until });
    }
}

fn answered(result: &Result<(), ClientError>) -> Answered {
    match result {
        Ok(()) => Answered::Ok,
        Err(error) => refusal(error),
    }
}
