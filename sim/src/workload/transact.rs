//! Producers of transactions: a half, a decision in their own database, and
//! word of it to the broker, which gets lost, comes twice, or is contradicted.
//! Any member of the group answers what brokers ask, early or late.

use std::{rc::Rc, sync::Arc, time::Duration};

use stormglass_core::{
    client::{ClientError, Half, SendError},
    rng::Rng,
    runtime::Runtime,
    shell::client::{Check, Checks, Transactions},
    wire::{code, header::Resolution},
};
use stormglass_scenarios::{DurationRange, Transact};
use tokio::sync::Semaphore;

use super::{
    GLANCE, Stage,
    database::{Database, Found},
    draft::{Draft, Pattern, Way, shard_of},
    draw,
    produce::{few, pause, unanswered},
};
use crate::history::{
    Answered, Body, CheckId, Decision, EndId, EventKind, MessageId, Stored, Told,
};

const TAKE_PART_AGAIN: DurationRange = DurationRange::millis(200, 800);
/// From the first word to the broker to the second or the contrary one.
const SECOND_WORD: DurationRange = DurationRange::millis(0, 500);

pub async fn run<R: Runtime>(stage: &Stage<R>, transact: &Transact) {
    let mut rng = Rng::new(stage.rt.entropy());
    let group = group(transact);
    let group_id = stage.shared.recorder.name(|names| names.group(&group));
    stage.push(EventKind::ProducerJoined { group: group_id });
    let (transactions, checks) = loop {
        match stage.client.transactions([&*transact.topic]).await {
            Ok(open) => break open,
            Err(_) => stage.sleep(draw(&mut rng, TAKE_PART_AGAIN)).await,
        }
    };
    let member = Rc::new(Member {
        stage: stage.clone(),
        transact: transact.clone(),
        database: stage.shared.database(&group),
        transactions,
    });
    let listener = member.clone();
    stage.rt.spawn(async move { listener.listen(checks).await });

    let in_flight = Arc::new(Semaphore::new(transact.in_flight as usize));
    let mut turn = 0;
    while !stage.is_over() {
        stage.sleep(pause(1.0 / transact.rate, &mut rng)).await;
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        if stage.is_over() {
            break;
        }
        let transaction = Transaction::begin(&member, &mut rng, turn);
        turn += 1;
        let member = member.clone();
        stage.rt.spawn(async move {
            transaction.run(&member).await;
            drop(permit);
        });
    }
    let _ = in_flight.acquire_many(transact.in_flight).await;
    // Nothing new; but brokers may still ask, until the run is over.
    stage.machine().produces.set(false);
    while !stage.has_left() {
        stage.sleep(GLANCE).await;
    }
}

/// The producer group of a workload's members.
pub fn group(transact: &Transact) -> String {
    transact.group.clone().unwrap_or_else(|| format!("{}-producers", transact.topic))
}

/// One member of the group, in one life.
struct Member<R> {
    stage: Stage<R>,
    transact: Transact,
    database: Rc<Database>,
    transactions: Transactions,
}

/// What will happen to one transaction, drawn when it begins.
struct Transaction {
    draft: Draft,
    work: Duration,
    linger: Duration,
    fate: Decision,
    hangs: bool,
    word: Word,
    second: Duration,
}

/// What the broker is told of a decision, unasked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Once,
    Never,
    Twice,
    Contrary,
}

impl Transaction {
    fn begin<R: Runtime>(member: &Member<R>, rng: &mut Rng, turn: u64) -> Transaction {
        let Member { stage, transact, database, .. } = member;
        let pattern = Pattern {
            topic: &transact.topic,
            keys: transact.keys,
            tags: &transact.tags,
            size: transact.size,
        };
        let way = Way { turn, seq: turn, half: true, ..Way::default() };
        let mut draft = Draft::begin(stage, &pattern, rng, way);
        if let Some(immunity) = transact.immunity {
            let seconds = immunity.as_secs().to_string();
            draft.message = draft.message.property("CHECK_IMMUNITY_TIME_IN_SECONDS", seconds);
        }
        stage.machine().open.borrow_mut().insert(draft.op);
        database.begin(draft.id, stage.process());
        Transaction {
            draft,
            work: draw(rng, transact.work),
            linger: draw(rng, transact.linger),
            fate: match rng.chance(transact.rollback) {
                true => Decision::Rollback,
                false => Decision::Commit,
            },
            hangs: rng.chance(transact.undecided),
            word: Word::draw(rng, transact),
            second: draw(rng, SECOND_WORD),
        }
    }

    async fn run<R: Runtime>(self, member: &Member<R>) {
        let Member { stage, transact, database, transactions } = member;
        let Transaction { draft: Draft { op, id, message }, fate, .. } = self;
        let begun = stage.rt.now().mono;
        let half = transactions.begin(message).await;
        stage.machine().open.borrow_mut().remove(&op);
        let half = match half {
            Ok(half) => half,
            Err(error) => {
                stage.push(match error {
                    SendError::Refused(rejected) => {
                        EventKind::SendRefused { op, code: rejected.code, tries: 1 }
                    }
                    SendError::Unknown { tries, .. } => EventKind::SendUnknown {
                        op,
                        why: unanswered(stage.rt.now().mono.since(begun)),
                        tries: few(tries),
                    },
                });
                // What it reports must not be done.
                if database.end(id, Decision::Rollback) {
                    stage.push(EventKind::Decided { message: id, decision: Decision::Rollback });
                }
                return;
            }
        };
        stage.push(EventKind::SendHeld {
            op,
            shard: shard_of(stage, &half.broker_name, &half.shard.topic, half.shard.queue),
            position: u64::try_from(half.position).ok(),
            status: Stored::AsPromised,
            tries: 1,
        });
        if self.hangs {
            database.hang(id, transact.unknown_rounds, fate);
            return;
        }
        stage.sleep(self.work).await;
        // A member that was asked meanwhile may have given it up.
        if !database.end(id, fate) {
            return;
        }
        stage.push(EventKind::Decided { message: id, decision: fate });
        stage.sleep(self.linger).await;
        let (first, contrary) = match fate {
            Decision::Commit => (Told::Commit, Told::Rollback),
            Decision::Rollback => (Told::Rollback, Told::Commit),
        };
        if self.word == Word::Never {
            member.word(id, first, None, true);
            return;
        }
        member.tell(id, &half, first).await;
        let second = match self.word {
            Word::Twice => first,
            Word::Contrary => contrary,
            Word::Once | Word::Never => return,
        };
        stage.sleep(self.second).await;
        member.tell(id, &half, second).await;
    }
}

impl<R: Runtime> Member<R> {
    /// Records what the broker is about to be told.
    fn word(&self, message: MessageId, told: Told, check: Option<CheckId>, lost: bool) -> EndId {
        let end = self.stage.shared.recorder.next_end();
        self.stage.push(EventKind::EndBegun { end, message, told, check, lost });
        end
    }

    fn answered(&self, end: EndId, result: Result<(), ClientError>) {
        let answered = match result {
            Ok(()) => Answered::Ok,
            Err(error) => refusal(&error),
        };
        self.stage.push(EventKind::EndAnswered { end, answered });
    }

    async fn tell(&self, message: MessageId, half: &Half, told: Told) {
        let end = self.word(message, told, None, false);
        let result = self.transactions.end(half, resolution(told)).await;
        self.answered(end, result);
    }

    /// Answers what brokers ask, each check at its own time.
    async fn listen(self: Rc<Self>, mut checks: Checks) {
        let mut rng = Rng::new(self.stage.rt.entropy());
        while let Some(check) = checks.next().await {
            let id = self.stage.shared.recorder.next_check();
            let message = Body::decode(&check.message.record.body).ok().map(|body| body.message);
            let position = u64::try_from(check.half.position).ok();
            self.stage.push(EventKind::CheckReceived { check: id, message, position });
            let after = draw(&mut rng, self.transact.answer);
            let is_answered = !rng.chance(self.transact.never_answer);
            if let (true, Some(message)) = (is_answered, message) {
                let member = self.clone();
                self.stage.rt.spawn(async move {
                    member.stage.sleep(after).await;
                    member.answer(id, message, check).await;
                });
            }
        }
    }

    async fn answer(&self, id: CheckId, message: MessageId, check: Check) {
        let found = self.database.look_up(message, |process| self.stage.shared.is_alive(process));
        if let Found::EndsNow(decision) = found {
            self.stage.push(EventKind::Decided { message, decision });
        }
        let told = match found {
            Found::Open => Told::Unknown,
            Found::Ended(Decision::Commit) | Found::EndsNow(Decision::Commit) => Told::Commit,
            Found::Ended(Decision::Rollback) | Found::EndsNow(Decision::Rollback) => Told::Rollback,
        };
        let end = self.word(message, told, Some(id), false);
        let result = check.answer(resolution(told)).await;
        self.answered(end, result);
    }
}

impl Word {
    fn draw(rng: &mut Rng, transact: &Transact) -> Word {
        let drawn = rng.below(1_000_000) as f64 / 1e6;
        let (lost, twice) = (transact.lose_end, transact.lose_end + transact.end_twice);
        match drawn {
            _ if drawn < lost => Word::Never,
            _ if drawn < twice => Word::Twice,
            _ if drawn < twice + transact.contrary => Word::Contrary,
            _ => Word::Once,
        }
    }
}

fn resolution(told: Told) -> Resolution {
    match told {
        Told::Commit => Resolution::Commit,
        Told::Rollback => Resolution::Rollback,
        Told::Unknown => Resolution::Unknown,
    }
}

/// What a request that was not granted came to.
pub fn refusal(error: &ClientError) -> Answered {
    match error {
        ClientError::Refused(rejected) if rejected.code == code::ILLEGAL_OPERATION => {
            Answered::Conflict
        }
        ClientError::Refused(rejected) => Answered::Refused { code: rejected.code },
        ClientError::Unavailable { .. } | ClientError::Closed => Answered::Unknown,
    }
}
