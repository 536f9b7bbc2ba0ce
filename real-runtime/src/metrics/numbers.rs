//! The numbers of one broker, read on its thread: it waits meanwhile, so this
//! copies and adds, and leaves sorting and writing to others.
//!
//! Names are RocketMQ 5's where it has one for the same thing. What a replica set
//! shares (topics, groups, transactions) only its leader tells, so that sums over
//! the replicas are right.

mod groups;

use std::time::Duration;

use stormglass_core::{
    broker::{Phase, View},
    ids::Name,
    replication::Role,
    runtime::Disk,
};

use super::text::{
    Greatest,
    Kind::{self, Counter, Gauge},
    Labels, Metric,
};

/// Numbers as they are gathered.
#[derive(Default)]
pub struct Numbers {
    pub metrics: Vec<Metric>,
}

pub fn of_broker<D: Disk>(view: &View<'_, D>) -> Numbers {
    let mut all = Numbers::default();
    all.log(view);
    all.replica(view);
    all.requests(view);
    if matches!(view.phase(), Phase::Serving | Phase::Full) {
        all.permission(view);
        all.transactions(view);
        all.delays(view);
        all.retention(view);
        groups::tell(&mut all, view);
    }
    all
}

impl Numbers {
    fn one(&mut self, kind: Kind, name: &'static str, help: &'static str, value: f64) {
        self.each(kind, name, help, &[], [(Labels::None, value)]);
    }

    fn counted<const N: usize>(&mut self, all: [(&'static str, &'static str, u64); N]) {
        for (name, help, count) in all {
            self.one(Counter, name, help, count as f64);
        }
    }

    fn each(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) {
        self.push(kind, name, help, labels, values.into_iter().collect());
    }

    fn push(
        &mut self,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        values: Greatest,
    ) {
        self.metrics.push(Metric { name, kind, help, labels, values });
    }

    fn log<D: Disk>(&mut self, view: &View<'_, D>) {
        let log = view.log();
        let positions = [
            ("start", log.start()),
            ("applied", view.applied()),
            ("committed", view.committed()),
            ("durable", log.durable()),
            ("written", log.written()),
            ("end", log.end()),
        ];
        let (start, end) = (log.start().0, log.end().0);
        self.each(
            Gauge,
            "stormglass_log_position_bytes",
            "How far the log is what: bytes since it began.",
            &["position"],
            positions.map(|(which, at)| (Labels::Word(which), at.0 as f64)),
        );
        self.one(
            Gauge,
            "rocketmq_storage_size",
            "Bytes of the log that are kept.",
            (end - start) as f64,
        );
        self.one(
            Gauge,
            "rocketmq_storage_flush_behind_bytes",
            "Bytes of the log that a power failure could take.",
            (end - log.durable().0) as f64,
        );
    }

    fn replica<D: Disk>(&mut self, view: &View<'_, D>) {
        let Some((is, term, index)) = view.membership() else { return };
        let is = match is {
            Role::Leader => "leader",
            Role::Follower(_) => "follower",
            Role::Candidate => "candidate",
        };
        let roles = ["leader", "follower", "candidate"];
        self.each(
            Gauge,
            "stormglass_replica_role",
            "1 for what this replica is to its set.",
            &["role"],
            roles.map(|role| (Labels::Word(role), f64::from(u8::from(role == is)))),
        );
        self.one(Gauge, "stormglass_replica_term", "The term of its leader.", term.0 as f64);
        self.one(
            Gauge,
            "stormglass_replica_commit_index",
            "The last entry that this replica knows to be committed.",
            index.0 as f64,
        );
        self.one(
            Gauge,
            "stormglass_replica_distrusted",
            "1 while its disk does not count: it is repaired from the others.",
            f64::from(u8::from(view.log().is_distrusted() || view.log().is_damaged())),
        );
        self.each(
            Gauge,
            "stormglass_replica_behind_bytes",
            "How much of the leader's log another replica has not confirmed; told by the leader.",
            &["replica"],
            view.progress().map(|(id, of)| (Labels::Number(id.0), of.bytes_behind as f64)),
        );
    }

    /// Since this process, or its reign, began.
    fn requests<D: Disk>(&mut self, view: &View<'_, D>) {
        let counters = view.counters();
        let counted = [
            ("rocketmq_messages_out_total", "Messages served to readers.", counters.served),
            ("stormglass_refused_total", "Requests refused.", counters.refused),
            ("stormglass_sent_back_total", "Messages sent back by consumers.", counters.sent_back),
            (
                "stormglass_repeated_sends_total",
                "Numbered sends that were repetitions, and stored once.",
                counters.repeated,
            ),
            (
                "stormglass_outdated_pulls_total",
                "Pulls refused because they would pass over what newer members want.",
                counters.outdated_pulls,
            ),
            (
                "stormglass_disagreements_total",
                "Times that members of a group began to want different things.",
                counters.disagreements,
            ),
            (
                "stormglass_leases_expired_total",
                "Popped messages whose lease ended before they were acknowledged.",
                counters.revived,
            ),
            (
                "stormglass_leases_lost_total",
                "Of these, the ones that retention had taken.",
                counters.leases_lost,
            ),
            (
                "stormglass_corrupt_reads_total",
                "Reads that found something else than was written.",
                counters.corrupt_reads,
            ),
            ("stormglass_snapshots_total", "Snapshots written.", counters.snapshots),
            (
                "stormglass_checks_sent_total",
                "Questions to producers about transactions.",
                counters.checks_sent,
            ),
            (
                "stormglass_unreachable_producers_total",
                "Times that due checks found no member of a producer group.",
                counters.unreachable_groups,
            ),
            (
                "stormglass_transaction_conflicts_total",
                "Decisions about transactions that were decided otherwise before.",
                counters.conflicts,
            ),
        ];
        self.counted(counted);
        self.one(
            Gauge,
            "stormglass_held_pulls",
            "Pulls that wait for a message.",
            view.parked_pulls() as f64,
        );
        self.one(
            Gauge,
            "stormglass_unwritten_bytes",
            "Bytes of messages in memory that the disk was not given.",
            view.unwritten() as f64,
        );
    }

    pub fn connections(&mut self, open: usize, unsent_bytes: usize) {
        self.one(Gauge, "stormglass_connections", "Open connections.", open as f64);
        self.one(
            Gauge,
            "stormglass_unsent_bytes",
            "Bytes that wait for clients to take them.",
            unsent_bytes as f64,
        );
    }

    pub fn took(&mut self, time: Duration) {
        self.one(
            Gauge,
            "stormglass_metrics_pause_seconds",
            "How long the broker stood still for these numbers.",
            time.as_secs_f64(),
        );
    }

    fn permission<D: Disk>(&mut self, view: &View<'_, D>) {
        let is_writable = view.phase() == Phase::Serving && !view.waits_for_groups();
        self.one(
            Gauge,
            "rocketmq_broker_permission",
            "6 if it takes messages and is read, 4 if it is only read.",
            if is_writable { 6.0 } else { 4.0 },
        );
    }

    fn transactions<D: Disk>(&mut self, view: &View<'_, D>) {
        let (open, totals) = view.transactions();
        self.one(Gauge, "rocketmq_half_messages", "Undecided half messages.", open as f64);
        let counted = [
            ("rocketmq_commit_messages_total", "Transactions committed.", totals.committed),
            ("rocketmq_rollback_messages_total", "Transactions rolled back.", totals.rolled_back),
            ("stormglass_checks_received_total", "Checks that reached a producer.", totals.checks),
            ("stormglass_halves_parked_total", "Half messages given up checking.", totals.parked),
            (
                "stormglass_halves_expired_total",
                "Undecided half messages that retention took.",
                totals.expired,
            ),
        ];
        self.counted(counted);
        let named = |group: &Name| Labels::Name(group.clone());
        self.each(
            Gauge,
            "stormglass_undecided_halves",
            "Undecided half messages of a producer group.",
            &["producer_group"],
            view.producers().map(|(group, open, _)| (named(group), f64::from(open))),
        );
        self.each(
            Gauge,
            "stormglass_parked_halves",
            "Of these, the ones that wait for an operator.",
            &["producer_group"],
            view.producers().map(|(group, _, parked)| (named(group), f64::from(parked))),
        );
        self.each(
            Gauge,
            "stormglass_unreachable_producer_halves",
            "Undecided half messages of a producer group that should be asked and has no member.",
            &["producer_group"],
            view.unreachable_producers().map(|(group, open)| (named(group), f64::from(open))),
        );
    }

    fn delays<D: Disk>(&mut self, view: &View<'_, D>) {
        let (waiting, bytes) = view.timers();
        let (recalled, lost, unreadable) = view.undelivered();
        let help = "Delayed messages and retries that wait for their time.";
        self.one(Gauge, "rocketmq_timing_messages", help, waiting as f64);
        let help = "Memory that these take.";
        self.one(Gauge, "stormglass_timing_memory_bytes", help, bytes as f64);
        let help = "Delayed messages that were taken back.";
        self.one(Counter, "stormglass_recalled_total", help, recalled as f64);
        let help = "Delayed messages that were gone from the log when they were due.";
        self.one(Counter, "stormglass_timing_lost_total", help, lost as f64);
        let help = "Delayed messages that are due and cannot be read.";
        self.one(Gauge, "stormglass_timing_unreadable", help, unreadable as f64);
    }

    fn retention<D: Disk>(&mut self, view: &View<'_, D>) {
        let help = "Messages that retention took, read or not.";
        self.one(Counter, "stormglass_expired_messages_total", help, view.expired() as f64);
    }
}
