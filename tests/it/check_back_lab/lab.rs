//! The transaction, its producers and its broker, driven by hand.

use std::time::Duration;

use stormglass_core::{
    broker::Input,
    replication::Flush,
    wire::{code, header::Resolution},
};
use stormglass_tests::by_hand::{ByHand, small_config};

use super::judge::Tale;
use crate::transactions::{Half, Producing};

/// How producers decide and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    AtOnce,
    /// They send no decision, and answer a check after the next one is due.
    Late,
    /// They do not know yet, and say so, also to so many checks.
    Unknown {
        rounds: u32,
    },
    /// Every decision and every answer comes twice.
    Twice,
    /// Every decision is followed by the contrary one.
    Contrary,
    /// The one that sent it never decides; another one answers the checks.
    ThroughAnother,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Its process ends and its connection closes.
    ProducerDies,
    /// Its machine loses power: nothing closes, nothing comes.
    ProducerVanishes,
    BrokerKill,
    PowerLoss,
}

/// A fault at the step of this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    pub at: usize,
    pub fault: Fault,
}

/// What a fault can strike at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    BeforeHalf,
    /// The broker has the request, and has done nothing.
    HalfHanded,
    /// Given to the disk; nothing is durable.
    HalfWritten,
    /// Durable; nobody has read the answer.
    HalfStored,
    BeforeLocal,
    AfterLocal,
    EndHanded,
    EndWritten,
    EndStored,
    CheckArrived,
    AnswerHanded,
    AnswerWritten,
    AnswerStored,
}

const TICK: Duration = Duration::from_secs(2);
/// A dead producer comes back after so many ticks, with its database.
const DEAD_FOR: u32 = 10;
const HEARTBEAT_EVERY: u32 = 12;
/// A late answer comes so many ticks after its check.
const LATE: u32 = 20;
/// By then everything has to be decided, in ticks.
const GIVE_UP: u32 = 3000;
/// How long a decided transaction is watched, in ticks.
const WATCHED: u32 = 20;

struct Lab<'a> {
    by_hand: ByHand,
    answering: Answering,
    plan: &'a [Strike],
    steps: Vec<Step>,
    tale: Tale,
    /// The one that runs the transaction; none while it is dead.
    producer: Option<Producing>,
    back_in: u32,
    next_conn: u64,
    /// Another member of its group, with the same database.
    other: Option<Producing>,
    /// Whether the transaction may still be on its way in the producer's memory.
    is_running: bool,
    /// Answers that are not due yet: after so many ticks, to this check.
    late: Vec<(u32, Half)>,
    unknowns: u32,
    is_settled: bool,
    most_copies: usize,
}

/// Plays the plan to its end. The steps that it came to are returned in order.
pub fn run(answering: Answering, truth: Resolution, plan: &[Strike]) -> (Tale, Vec<Step>) {
    let mut config = small_config(Flush::Sync);
    config.log.segment_bytes = 16 << 10;
    let mut by_hand = ByHand::with(config);
    by_hand.start().expect("an empty disk opens");
    by_hand.send("orders", 1, "the topic exists");
    let other = Producing::new(2, "p");
    let mut lab = Lab {
        by_hand,
        answering,
        plan,
        steps: Vec::new(),
        tale: Tale::default(),
        producer: Some(Producing::new(3, "p").acknowledging()),
        back_in: 0,
        next_conn: 4,
        other: (answering == Answering::ThroughAnother).then_some(other),
        is_running: true,
        late: Vec::new(),
        unknowns: 0,
        is_settled: false,
        most_copies: 0,
    };
    lab.heartbeats();
    lab.transact(truth);
    lab.is_running = false;
    lab.check_back();
    (lab.tale, lab.steps)
}

impl Lab<'_> {
    /// Comes to a step; true if nothing happens there.
    fn passes(&mut self, step: Step) -> bool {
        let number = self.steps.len();
        self.steps.push(step);
        let strike = self.plan.iter().find(|strike| strike.at == number);
        let Some(Strike { fault, .. }) = strike else { return true };
        match fault {
            Fault::ProducerDies => self.producer_dies(true),
            Fault::ProducerVanishes => self.producer_dies(false),
            Fault::BrokerKill => {
                self.by_hand.kill();
                self.by_hand.start().expect("a killed broker opens its store");
            }
            Fault::PowerLoss => {
                self.by_hand.power_loss();
                self.by_hand.start().expect("a broker without power opens its store");
            }
        }
        self.look();
        false
    }

    fn producer_dies(&mut self, closes: bool) {
        let Some(producer) = self.producer.take() else { return };
        if closes {
            self.by_hand.input(Input::Closed { conn: producer.conn });
        }
        self.back_in = DEAD_FOR;
        self.late.clear();
    }

    /// Sends the half, runs the local transaction, and decides, as far as
    /// nothing stops it. An answer that does not come is no answer: the local
    /// transaction is not even begun.
    fn transact(&mut self, truth: Resolution) {
        if !self.passes(Step::BeforeHalf) && self.producer.is_none() {
            return;
        }
        let Some(half) = self.send_half() else { return };
        if !self.passes(Step::BeforeLocal) && self.producer.is_none() {
            return;
        }
        self.tale.truth = Some(truth);
        if !self.passes(Step::AfterLocal) && self.producer.is_none() {
            return;
        }
        let steps = [Step::EndHanded, Step::EndWritten, Step::EndStored];
        let decisions = match self.answering {
            Answering::Late | Answering::ThroughAnother => vec![],
            Answering::Unknown { .. } => vec![Resolution::Unknown],
            _ => self.said(truth),
        };
        for decision in decisions {
            let Some(producer) = self.producer.clone() else { return };
            let opaque = producer.request_end(&mut self.by_hand, &half, decision);
            self.follow(decision, opaque, steps);
        }
    }

    fn send_half(&mut self) -> Option<Half> {
        let producer = self.producer.clone()?;
        let opaque = producer.request_half(&mut self.by_hand, "half", "");
        for step in [Step::HalfHanded, Step::HalfWritten, Step::HalfStored] {
            match step {
                Step::HalfHanded => {}
                Step::HalfWritten => self.write(),
                _ => self.by_hand.settle(),
            }
            if !self.passes(step) {
                return None;
            }
        }
        let answer = self.by_hand.answer(opaque)?;
        (answer.code == code::SUCCESS).then(|| Half::of_answer(&answer)).flatten()
    }

    /// What a member says that knows.
    fn said(&self, truth: Resolution) -> Vec<Resolution> {
        let contrary = match truth {
            Resolution::Commit => Resolution::Rollback,
            _ => Resolution::Commit,
        };
        match self.answering {
            Answering::Twice => vec![truth, truth],
            Answering::Contrary => vec![truth, contrary],
            _ => vec![truth],
        }
    }

    /// Takes a decision through the broker, and notes what came of it.
    fn follow(&mut self, decision: Resolution, opaque: i32, steps: [Step; 3]) {
        let number = self.tale.decisions.len();
        self.tale.decisions.push((decision, None));
        let [handed, written, stored] = steps;
        if !self.passes(handed) {
            return;
        }
        self.write();
        if !self.passes(written) {
            return;
        }
        self.by_hand.settle();
        self.look();
        if !self.passes(stored) {
            return;
        }
        let stands = match self.by_hand.answer(opaque).map(|answer| answer.code) {
            Some(code::SUCCESS) => Some(true),
            Some(code::ILLEGAL_OPERATION) => Some(false),
            _ => None,
        };
        self.tale.decisions[number].1 = stands;
        self.is_settled |= decision != Resolution::Unknown && stands.is_some();
    }

    /// Gives to the disk what is appended; no sync begins or ends.
    fn write(&mut self) {
        if let Some(broker) = &mut self.by_hand.broker {
            broker.advance(self.by_hand.now);
        }
    }

    /// What a consumer sees now.
    fn look(&mut self) {
        let copies = self.by_hand.contents("orders", 0).len();
        let is_allowed = self.tale.decisions.iter().any(|(said, _)| *said == Resolution::Commit);
        if !is_allowed {
            self.tale.seen_early = self.tale.seen_early.max(copies);
        }
        self.most_copies = self.most_copies.max(copies);
        self.tale.copies = copies;
        self.tale.vanished = self.most_copies - copies;
    }

    fn heartbeats(&mut self) {
        for member in self.producer.iter().chain(&self.other) {
            member.heartbeat(&mut self.by_hand);
        }
    }

    /// Lets time go by until everything is decided, and a while longer.
    fn check_back(&mut self) {
        let mut watched = 0;
        for tick in 0..GIVE_UP {
            self.by_hand.pass(TICK);
            if self.producer.is_none() {
                self.back_in -= 1;
                if self.back_in == 0 {
                    let member = Producing::new(self.next_conn, "p");
                    self.next_conn += 1;
                    member.heartbeat(&mut self.by_hand);
                    self.producer = Some(member.acknowledging());
                }
            }
            if tick % HEARTBEAT_EVERY == 0 {
                self.heartbeats();
            }
            self.take_checks();
            self.answer_late();
            self.tale.open = self.open();
            let is_over = self.tale.open == 0 && self.late.is_empty();
            watched = if is_over { watched + 1 } else { 0 };
            if watched == WATCHED {
                break;
            }
        }
        self.look();
    }

    fn open(&self) -> usize {
        self.by_hand.broker.as_ref().map_or(0, |broker| broker.view().transactions().0)
    }

    fn take_checks(&mut self) {
        let members: Vec<Producing> = self.producer.iter().chain(&self.other).cloned().collect();
        for member in members {
            for half in member.checks(&mut self.by_hand) {
                self.tale.checks += 1;
                self.tale.checks_after += usize::from(self.is_settled);
                let is_producer =
                    self.producer.as_ref().is_some_and(|producer| producer.conn == member.conn);
                if !self.passes(Step::CheckArrived) && is_producer && self.producer.is_none() {
                    return;
                }
                match self.answering {
                    Answering::Late => self.late.push((LATE, half)),
                    Answering::ThroughAnother => {
                        if let Some(other) = self.other.clone() {
                            self.answer(&other, &half);
                        }
                    }
                    _ => self.answer(&member, &half),
                }
            }
        }
    }

    fn answer_late(&mut self) {
        for (left, _) in &mut self.late {
            *left -= 1;
        }
        let due: Vec<Half> =
            self.late.extract_if(.., |(left, _)| *left == 0).map(|(_, h)| h).collect();
        for half in due {
            if let Some(producer) = self.producer.clone() {
                self.answer(&producer, &half);
            }
        }
    }

    /// Answers from the database: what is not in it was rolled back, because
    /// nobody runs it any more.
    fn answer(&mut self, member: &Producing, half: &Half) {
        let truth = self.tale.truth.unwrap_or(Resolution::Rollback);
        let is_unsure =
            matches!(self.answering, Answering::Unknown { rounds } if self.unknowns < rounds);
        let answers = if is_unsure {
            self.unknowns += 1;
            vec![Resolution::Unknown]
        } else {
            self.said(truth)
        };
        for answer in answers {
            let lives = [&self.producer, &self.other];
            if !lives.into_iter().flatten().any(|alive| alive.conn == member.conn) {
                return;
            }
            let opaque = member.request_answer(&mut self.by_hand, half, answer);
            self.follow(
                answer,
                opaque,
                [Step::AnswerHanded, Step::AnswerWritten, Step::AnswerStored],
            );
        }
    }
}
