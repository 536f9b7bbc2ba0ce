//! The history is told which clocks are wrong, and by how much: what is due is
//! due by the clock of the broker that holds it.

use crate::{
    history::{EventKind, Recorder},
    world::{Cluster, World},
};

/// The setting of each machine's clock that was told last.
#[derive(Default)]
pub struct Clocks {
    told: Vec<(i64, i64)>,
}

impl Clocks {
    /// Tells of the clocks that somebody has set since the last call.
    pub fn tell<W: World>(&mut self, cluster: &Cluster<W>, recorder: &Recorder) {
        let now_us = cluster.world.now_us();
        self.told.resize(cluster.machines().count(), (0, 0));
        for (machine, told) in cluster.machines().zip(&mut self.told) {
            let clock = machine.clock.borrow();
            if *told == clock.setting() {
                continue;
            }
            *told = clock.setting();
            let (ahead_us, drift_ppm) = (clock.ahead_us(now_us), told.1);
            let lane = recorder.name(|names| names.lane(&machine.name));
            recorder.push(lane, EventKind::ClockIs { ahead_us, drift_ppm });
        }
    }
}
