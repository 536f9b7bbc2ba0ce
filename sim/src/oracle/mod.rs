//! The judges. Each file states one promise and what breaks it; all of them
//! read the same [`Facts`], folded from the history alone, and share no code
//! with the broker.

mod debts;
mod facts;
mod fold;
mod held;
mod lateness;
mod readers;
mod replicas;
mod sparse;
mod wall_clock;

pub mod backlog_isolation;
pub mod broadcast_and_filter;
pub mod check_back;
pub mod delay_accuracy;
pub mod durability_contract;
pub mod durable_visibility;
pub mod exclusivity;
pub mod fault_honesty;
pub mod honest_replies;
pub mod lease;
pub mod licensed_duplicates;
pub mod liveness;
pub mod no_loss;
pub mod no_metastable_collapse;
pub mod no_phantom;
pub mod no_resurrection;
pub mod offsets;
pub mod producer_order;
pub mod replica_agreement;
pub mod retry_and_dlq;
pub mod shard_order;
pub mod slot_agreement;
pub mod transaction_atomicity;

use std::collections::BTreeMap;

use crate::history::{Event, History, Names};

pub use facts::{EventIndex, Facts};
pub use replicas::NotAllowed;

/// What the run was set up to promise. Times are microseconds of the world.
#[derive(Clone, Debug, PartialEq)]
pub struct Context {
    /// Whether OK means on the platter, or in the page cache.
    pub sync_flush: bool,
    pub replicas: u32,
    /// Under async flush: how old what power loss takes may be. The flush
    /// interval and the longest that a sync may take.
    pub flush_window: u64,
    /// The scenario allows no loss at all, whatever the mode would excuse.
    pub may_lose_nothing: bool,
    /// Whether the cluster must serve again once healed. If not, damage must
    /// be refused, and nobody waits for deliveries.
    pub recovers: bool,
    /// After the chaos, everything resolves within this.
    pub settle: u64,
    /// How long two members may own one shard while a group rebalances.
    pub rebalance: u64,
    /// The same for orderly groups: less once the broker locks shards.
    pub orderly_rebalance: u64,
    /// How many times its own latency a group may see beside a stalled one.
    pub isolation_factor: f64,
    /// Bytes of messages that a node or client may hold in memory.
    pub memory_limit: u64,
    /// How old an undecided half is when it is asked about first, how long after
    /// that again, how long at most after each further check, twice as long each
    /// time, and how many times in all.
    pub check_after: u64,
    pub check_every: u64,
    pub check_longest: u64,
    pub max_checks: u32,
    /// By the names of groups: what they ask for that is not RocketMQ's default.
    pub groups: BTreeMap<String, GroupRules>,
    /// How long a replica set may be without a leader that serves, once a
    /// majority of it lives and is connected.
    pub fail_over: u64,
    /// How late what was due may come to a member that waits.
    pub delay_slack: u64,
    /// How late after the end of a lease a message may come again.
    pub lease_slack: u64,
}

/// What a group asks for. Times are microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRules {
    /// Deliveries of one message, after which it is a dead letter.
    pub max_attempts: u32,
    /// How long after each attempt the next may come; the last one for all
    /// further attempts.
    pub back_offs: Vec<u64>,
    /// Of producers: how long their halves ask not to be checked.
    pub immunity: u64,
}

impl GroupRules {
    fn back_off(&self, attempt: u32) -> u64 {
        let index = (attempt.max(1) - 1) as usize;
        self.back_offs.get(index).or(self.back_offs.last()).copied().unwrap_or(0)
    }
}

impl Default for GroupRules {
    fn default() -> GroupRules {
        let back_offs = BACK_OFFS.iter().map(|secs| secs * 1_000_000).collect();
        GroupRules { max_attempts: 17, back_offs, immunity: 0 }
    }
}

/// RocketMQ's delay levels from the third on, in seconds.
const BACK_OFFS: [u64; 16] =
    [10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];

impl Default for Context {
    fn default() -> Context {
        Context {
            sync_flush: true,
            replicas: 1,
            flush_window: 600_000,
            may_lose_nothing: false,
            recovers: true,
            settle: 30_000_000,
            rebalance: 25_000_000,
            orderly_rebalance: 25_000_000,
            isolation_factor: 3.0,
            memory_limit: 256 << 20,
            check_after: 6_000_000,
            check_every: 30_000_000,
            check_longest: 960_000_000,
            max_checks: 15,
            groups: BTreeMap::new(),
            fail_over: 15_000_000,
            delay_slack: 3_000_000,
            lease_slack: 15_000_000,
        }
    }
}

/// One promise, judged event by event.
pub trait Oracle {
    /// Judges an event by what was known before it.
    ///
    /// # Errors
    /// The event breaks the promise.
    fn event(&mut self, event: &Event, facts: &Facts) -> Verdict;

    /// Judges what is missing at the end.
    ///
    /// # Errors
    /// Something that the promise demands never happened.
    fn finish(&mut self, _facts: &Facts) -> Verdict {
        Ok(())
    }
}

pub type Verdict = Result<(), Box<Violation>>;

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    pub breach: Breach,
    /// The event that broke it; for what never happened, the run's last.
    pub at: EventIndex,
    /// The events that prove it, in order, the breaking one included.
    pub cites: Vec<EventIndex>,
}

impl Violation {
    fn new(
        breach: impl Into<Breach>,
        facts: &Facts,
        cites: impl IntoIterator<Item = EventIndex>,
    ) -> Box<Violation> {
        let mut cites: Vec<EventIndex> = cites.into_iter().chain([facts.index]).collect();
        cites.sort_unstable();
        cites.dedup();
        Box::new(Violation { breach: breach.into(), at: facts.index, cites })
    }

    pub fn promise(&self) -> &'static Promise {
        self.breach.promise()
    }

    /// What happened, as a sentence.
    pub fn tell(&self, names: &Names) -> String {
        self.breach.tell(names)
    }
}

/// A row of the table of promises.
#[derive(Debug, PartialEq, Eq)]
pub struct Promise {
    /// Its number in the design.
    pub number: u32,
    /// Its file, and its name in reports.
    pub name: &'static str,
    pub says: &'static str,
    /// Where it comes from: a guarantee, or the failure stories it guards.
    pub source: &'static str,
}

macro_rules! promises {
    ($($number:literal $module:ident $oracle:ident: $says:literal, $source:literal;)*) => {
        /// Every promise that is judged, in the design's order.
        pub static PROMISES: &[Promise] = &[$(Promise {
            number: $number,
            name: stringify!($module),
            says: $says,
            source: $source,
        },)*];

        /// How a promise was broken, with the values that show it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Breach {
            $($oracle($module::Breach),)*
        }

        $(impl From<$module::Breach> for Breach {
            fn from(breach: $module::Breach) -> Breach {
                Breach::$oracle(breach)
            }
        })*

        impl Breach {
            pub fn promise(&self) -> &'static Promise {
                let number = match self { $(Breach::$oracle(_) => $number,)* };
                let found = PROMISES.iter().find(|promise| promise.number == number);
                found.expect("the table holds every promise")
            }

            fn tell(&self, names: &Names) -> String {
                match self { $(Breach::$oracle(breach) => breach.tell(names),)* }
            }
        }

        /// The oracles that have not found anything yet.
        struct Bench {
            $($module: Option<$module::$oracle>,)*
        }

        impl Bench {
            fn full() -> Bench {
                Bench { $($module: Some($module::$oracle::default()),)* }
            }

            fn event(&mut self, event: &Event, facts: &Facts, found: &mut Vec<Violation>) {
                $(ask(&mut self.$module, found, |oracle| oracle.event(event, facts));)*
            }

            fn finish(&mut self, facts: &Facts, found: &mut Vec<Violation>) {
                $(ask(&mut self.$module, found, |oracle| oracle.finish(facts));)*
            }
        }
    };
}

promises! {
    1 no_loss NoLoss:
        "What was answered OK is acknowledged by every subscribed group, or expires and is counted.",
        "at least once; L1-L3, L11, L12, L14";
    2 no_phantom NoPhantom:
        "What is delivered was sent: same message, same bytes, key, tag and shard.",
        "at least once";
    3 honest_replies HonestReplies:
        "What was refused is never visible; OK names the place that was asked for; what exists is not denied.",
        "at least once; L2, L17, N2";
    4 slot_agreement SlotAgreement:
        "A queue offset of a shard means one message, for ever.",
        "durability; L3, L9, R5";
    5 licensed_duplicates LicensedDuplicates:
        "Every extra copy has a cause, and there are no more copies than causes.",
        "at least once; D1-D3, D6";
    6 producer_order ProducerOrder:
        "What a producer sent to a shard after an OK comes after it; a key stays in its shard.",
        "order per shard; R2, R3";
    7 shard_order ShardOrder:
        "A group first sees a shard in log order; an orderly one, one message at a time.",
        "order per shard; R1, R5";
    8 exclusivity Exclusivity:
        "A shard has one owner in a group, but for the time of a rebalance.",
        "order per shard; R1, D2";
    9 offsets Offsets:
        "Committed offsets go forward, cover only what was acknowledged, and survive restarts.",
        "at least once; O1-O4, L20";
    10 durable_visibility DurableVisibility:
        "Under sync flush, nothing is seen that a crash can take back.",
        "durability; L3, L10";
    11 no_resurrection NoResurrection:
        "What was cut off the log or has expired never comes back.",
        "durability; L3, L8";
    12 replica_agreement ReplicaAgreement:
        "Replicas commit the same entries, never less than before, under one leader for each term.",
        "durability; L4, L5, L7-L9, O2";
    13 durability_contract DurabilityContract:
        "A crash takes what the mode allows and nothing else.",
        "durability; L1, L2";
    14 transaction_atomicity TransactionAtomicity:
        "A half is invisible; the first confirmed decision stands: committed once, or never seen.",
        "transactions; T1-T4, T6, T10";
    15 check_back CheckBack:
        "What is undecided is asked about in time, of its producers, never once decided, and parked once.",
        "transactions; T5, T7, T8, T11-T13";
    16 liveness Liveness:
        "Once healed, everything pending resolves in time; in calm, who waits is served soon.",
        "testbed; L12, N1, N2, P1";
    17 no_metastable_collapse NoMetastableCollapse:
        "Soon after an overload ends, as much is stored and consumed as before it.",
        "flow control; P1";
    18 backlog_isolation BacklogIsolation:
        "A slow group costs neither the others' latency nor unbounded memory.",
        "flow control; D3, P1";
    19 delay_accuracy DelayAccuracy:
        "A delayed message comes when it is due by its broker's clock, or never if it was taken back.",
        "delay; D7, D8, L21, L22";
    20 retry_and_dlq RetryAndDlq:
        "What is sent back comes again after its back-off, counted right; then it is one dead letter.",
        "at least once; L17, L18, D5, R6, R7";
    21 lease Lease:
        "A leased message comes again when the lease has ended, not before, and never once acknowledged.",
        "at least once; L19";
    22 broadcast_and_filter BroadcastAndFilter:
        "Members get what they subscribed to and nothing else; in broadcasting, each gets all of it.",
        "routing; L15, L16";
    23 fault_honesty FaultHonesty:
        "A damaged disk means repair or refusal: no wrong bytes, no false OK, no silence.",
        "durability; L2";
}

/// Judges a history as it grows. An oracle that has found a violation rests;
/// the others go on.
pub struct Judge {
    facts: Facts,
    bench: Bench,
    violations: Vec<Violation>,
}

impl Judge {
    pub fn new(context: Context) -> Judge {
        Judge { facts: Facts::new(context), bench: Bench::full(), violations: Vec::new() }
    }

    /// Judges the events that were added since the last call.
    pub fn follow(&mut self, history: &History) {
        self.facts.learn(&history.names);
        for event in &history.events[self.facts.index as usize..] {
            self.facts.now = event.at;
            self.bench.event(event, &self.facts, &mut self.violations);
            self.facts.absorb(event);
            self.facts.index += 1;
        }
    }

    /// The run is over: what broke, in order of the breaking events.
    pub fn finish(mut self) -> Vec<Violation> {
        self.facts.index = self.facts.index.saturating_sub(1);
        self.bench.finish(&self.facts, &mut self.violations);
        self.violations.sort_by_key(|violation| violation.at);
        self.violations
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }
}

fn ask<O>(seat: &mut Option<O>, found: &mut Vec<Violation>, judge: impl FnOnce(&mut O) -> Verdict) {
    let Some(oracle) = seat else { return };
    if let Err(violation) = judge(oracle) {
        found.push(*violation);
        *seat = None;
    }
}

/// Judges a whole run.
pub fn judge(history: &History, context: Context) -> Vec<Violation> {
    let mut judge = Judge::new(context);
    judge.follow(history);
    judge.finish()
}
