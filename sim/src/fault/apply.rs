//! A fault strikes: from the plan's words to what the world does.

use std::fmt;

use stormglass_core::ids::Name;

use super::{Fault, Unsynced};
use crate::world::{Cluster, MachineNo, State, World};

/// What runs on the machines, as far as a fault wants something of it.
pub trait Processes {
    /// The handlers of this node do not return before `for_ms` have passed.
    fn stall(&self, node: &Name, for_ms: u64);

    /// The handlers of this node take `handling_ms` for a message; 0 for as
    /// long as they normally do.
    fn slow(&self, node: &Name, handling_ms: u64);

    /// The server of this node is to stop in order.
    fn stop(&self, node: &Name);

    /// Whether it was told so in this life.
    fn is_stopping(&self, node: &Name) -> bool;
}

/// A plan names a node that the run does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownNode(pub Name);

impl fmt::Display for UnknownNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the plan names {}, which is no node of this run", self.0)
    }
}

impl std::error::Error for UnknownNode {}

/// Whether `fault` would do anything now: a node that is down cannot be killed,
/// one that runs cannot be started.
pub fn can_strike<W: World>(
    cluster: &Cluster<W>,
    processes: &impl Processes,
    fault: &Fault,
) -> bool {
    let state = |node: &Name| cluster.find(node).map(|no| cluster.machine(no).state());
    match fault {
        Fault::Kill { node } | Fault::Pause { node } | Fault::Stop { node } => {
            state(node) == Some(State::Running)
        }
        Fault::PowerLoss { node, .. } | Fault::TailLoss { node, .. } | Fault::DiskLoss { node } => {
            state(node) != Some(State::NoPower)
        }
        Fault::Restart { node } => {
            state(node) != Some(State::Running) || processes.is_stopping(node)
        }
        _ => true,
    }
}

/// Makes `fault` happen now.
///
/// # Errors
/// When it names a node that does not exist; then nothing has happened.
pub fn apply<W: World>(
    cluster: &mut Cluster<W>,
    processes: &impl Processes,
    fault: &Fault,
) -> Result<(), UnknownNode> {
    let no = |name: &Name| cluster.find(name).ok_or_else(|| UnknownNode(name.clone()));
    let nos = |names: &[Name]| names.iter().map(no).collect::<Result<Vec<MachineNo>, _>>();
    let now_us = cluster.world.now_us();
    match fault {
        Fault::Kill { node } => {
            let no = no(node)?;
            cluster.kill(no);
        }
        Fault::PowerLoss { node, unsynced } => {
            let no = no(node)?;
            cluster.power_loss(no, *unsynced);
        }
        Fault::Stop { node } => {
            no(node)?;
            processes.stop(node);
        }
        Fault::TailLoss { node, last_ms } => {
            let no = no(node)?;
            cluster.power_loss(no, Unsynced::Lost);
            cluster.machine(no).drive.lose_tail((now_us / 1000).saturating_sub(*last_ms));
        }
        Fault::DiskLoss { node } => {
            let no = no(node)?;
            cluster.power_loss(no, Unsynced::Lost);
            cluster.machine(no).drive.wipe();
        }
        Fault::Restart { node } => {
            let no = no(node)?;
            cluster.kill(no);
            cluster.start(no);
        }
        Fault::Pause { node } => {
            let no = no(node)?;
            cluster.pause(no);
        }
        Fault::Resume { node } => {
            let no = no(node)?;
            cluster.resume(no);
        }
        Fault::Partition { a, b, one_way } => {
            let (a, b) = (nos(a)?, nos(b)?);
            cluster.partition(&a, &b, *one_way);
        }
        Fault::Heal { a, b, one_way } => {
            let (a, b) = (nos(a)?, nos(b)?);
            cluster.heal(&a, &b, *one_way);
        }
        Fault::Latency { a, b, extra_ms } => {
            let (a, b) = (nos(a)?, nos(b)?);
            cluster.set_extra_latency(&a, &b, extra_ms * 1000);
        }
        Fault::DropConnections { a, b } => {
            let (a, b) = (nos(a)?, nos(b)?);
            cluster.drop_connections(&a, &b);
        }
        Fault::SilenceConnections { a, b } => {
            let (a, b) = (nos(a)?, nos(b)?);
            cluster.silence_connections(&a, &b);
        }
        Fault::ClockJump { node, by_ms } => {
            cluster.machine(no(node)?).clock.borrow_mut().jump(*by_ms);
        }
        Fault::ClockDrift { node, ppm } => {
            cluster.machine(no(node)?).clock.borrow_mut().set_drift(now_us, *ppm);
        }
        Fault::DiskFull { node } => cluster.machine(no(node)?).drive.set_full(true),
        Fault::DiskFree { node } => cluster.machine(no(node)?).drive.set_full(false),
        Fault::DiskSlow { node, min_ms, max_ms } => {
            cluster.machine(no(node)?).drive.set_slow(min_ms * 1000..=max_ms * 1000);
        }
        Fault::DiskReadError { node, count } => {
            cluster.machine(no(node)?).drive.fail_reads(*count);
        }
        Fault::DiskWriteError { node, count } => {
            cluster.machine(no(node)?).drive.fail_writes(*count);
        }
        Fault::DiskSyncError { node, count } => {
            cluster.machine(no(node)?).drive.fail_syncs(*count);
        }
        Fault::BitRot { node, flips, older_than_ms } => {
            // What became durable before the run was older than everything.
            let until_ms = (now_us / 1000).saturating_sub(*older_than_ms);
            cluster.machine(no(node)?).drive.rot(*flips, until_ms);
        }
        Fault::MisdirectedRead { node, count } => {
            cluster.machine(no(node)?).drive.misdirect_reads(*count);
        }
        Fault::LatentError { node, pages, older_than_ms } => {
            let until_ms = (now_us / 1000).saturating_sub(*older_than_ms);
            cluster.machine(no(node)?).drive.spoil(*pages, until_ms);
        }
        Fault::MisdirectedWrite { node, count } => {
            cluster.machine(no(node)?).drive.misdirect_writes(*count);
        }
        Fault::ConsumerStall { node, for_ms } => {
            no(node)?;
            processes.stall(node, *for_ms);
        }
        Fault::ConsumerSlow { node, handling_ms } => {
            no(node)?;
            processes.slow(node, *handling_ms);
        }
    }
    Ok(())
}
