//! Runs side by side on a bounded number of threads.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc,
    },
    thread,
};

use super::interrupt::Interrupt;

/// Works on every job, `threads` at a time, and hands each result with its
/// job's index to `done` on this thread, in the order in which they end. After
/// an interrupt, jobs under way are finished and no more are begun.
pub fn work_on<J: Sync, T: Send>(
    jobs: &[J],
    threads: usize,
    interrupt: &Interrupt,
    work: impl Fn(&J) -> T + Sync,
    mut done: impl FnMut(usize, T),
) {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::sync_channel(threads);
    thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                while !interrupt.came() {
                    let index = next.fetch_add(1, Relaxed);
                    let Some(job) = jobs.get(index) else { break };
                    if sender.send((index, work(job))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (index, result) in results {
            done(index, result);
        }
    });
}

/// Takes results in any order and gives them on in the order of their indexes.
pub struct InOrder<T> {
    waiting: std::collections::BTreeMap<usize, T>,
    next: usize,
}

impl<T> InOrder<T> {
    pub fn new() -> InOrder<T> {
        InOrder { waiting: Default::default(), next: 0 }
    }

    /// What can be given on now that this one is here.
    pub fn add(&mut self, index: usize, item: T) -> Vec<T> {
        self.waiting.insert(index, item);
        let mut ready = Vec::new();
        while let Some(item) = self.waiting.remove(&self.next) {
            ready.push(item);
            self.next += 1;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once_and_reported_in_order() {
        let jobs: Vec<u64> = (0..100).collect();
        let mut in_order = InOrder::new();
        let mut reported = Vec::new();
        let work = |job: &u64| {
            thread::sleep(std::time::Duration::from_micros(job * 7919 % 500));
            *job
        };
        work_on(&jobs, 7, &Interrupt::none(), work, |index, job| {
            reported.extend(in_order.add(index, job));
        });
        assert_eq!(reported, jobs);
    }

    #[test]
    fn after_an_interrupt_no_job_is_begun() {
        let interrupt = Interrupt::none();
        let mut done = 0;
        let work = |job: &u64| {
            if *job == 3 {
                interrupt.raise();
            }
        };
        let jobs: Vec<u64> = (0..100).collect();
        work_on(&jobs, 1, &interrupt, work, |_, ()| done += 1);
        assert_eq!(done, 4);
    }
}
