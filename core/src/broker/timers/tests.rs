use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What can happen to the timers of one broker, in a small world of times and
/// places so that things meet.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        due_wall: i64,
        /// How far behind the last one its record lies, and what it shows
        /// before that.
        ahead: u64,
        shows: u64,
    },
    RemoveNth(usize),
    Due {
        now_wall: i64,
        limit: usize,
        budget: usize,
    },
    Restart,
    Clamp {
        start: u64,
        end: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wall = -100_000i64..400_000;
    let step = prop_oneof![
        6 => (wall.clone(), 1u64..100_000, 0u64..500_000)
            .prop_map(|(due_wall, ahead, shows)| Step::Insert { due_wall, ahead, shows }),
        2 => any::<usize>().prop_map(Step::RemoveNth),
        2 => (wall, 0usize..10, 1usize..20)
            .prop_map(|(now_wall, limit, budget)| Step::Due { now_wall, limit, budget }),
        1 => Just(Step::Restart),
        1 => (0u64..1_000_000, 500_000u64..5_000_000)
            .prop_map(|(start, end)| Step::Clamp { start, end }),
    ];
    prop::collection::vec(step, 1..120)
}

fn restarted(timers: &Timers) -> Timers {
    let bytes = postcard::to_allocvec(&timers.snapshot()).unwrap();
    Timers::restore(postcard::from_bytes(&bytes).unwrap()).unwrap()
}

proptest! {
    /// The index is a sorted map, at any time and after any restart.
    #[test]
    fn the_index_is_a_sorted_map(steps in steps()) {
        let mut timers = Timers::default();
        let mut model: BTreeMap<Timer, Position> = BTreeMap::new();
        let mut end = 1;
        for step in steps {
            match step {
                Step::Insert { due_wall, ahead, shows } => {
                    end += ahead;
                    let timer = Timer { due_wall, at: Position(end) };
                    let needs = Position(end.saturating_sub(shows));
                    timers.insert(timer, needs);
                    model.insert(timer, needs);
                }
                Step::RemoveNth(nth) if !model.is_empty() => {
                    let timer = *model.keys().nth(nth % model.len()).unwrap();
                    prop_assert!(timers.contains(timer));
                    prop_assert!(timers.remove(timer));
                    prop_assert!(!timers.contains(timer) && !timers.remove(timer));
                    model.remove(&timer);
                }
                Step::RemoveNth(_) => {}
                Step::Due { now_wall, limit, budget } => {
                    let is_wanted = |timer: Timer| !timer.at.0.is_multiple_of(7);
                    let wanted = || model.keys().copied().filter(|timer| is_wanted(*timer));
                    let due = wanted().take_while(|timer| timer.due_wall <= now_wall);
                    let due: Vec<Timer> = due.take(limit).collect();
                    // Each call puts more in order, until all is said that is due.
                    for _ in 0..2 * model.len() {
                        let told = timers.due(now_wall, limit, budget, is_wanted);
                        prop_assert!(due.starts_with(&told), "{told:?} of {due:?}");
                        if told.len() < due.len() {
                            prop_assert!(timers.next_due(is_wanted).unwrap() <= now_wall);
                        }
                    }
                    prop_assert_eq!(timers.due(now_wall, limit, budget, is_wanted), due);
                    let next = timers.next_due(is_wanted);
                    if let Some(first) = wanted().next() {
                        prop_assert!(next.unwrap() <= first.due_wall);
                    }
                }
                Step::Restart => timers = restarted(&timers),
                Step::Clamp { start, end } => {
                    let inside = |timer: &Timer| start <= timer.at.0 && timer.at.0 < end;
                    let gone = model.keys().filter(|timer| !inside(timer)).count();
                    prop_assert_eq!(timers.clamp(Position(start), Position(end)), gone);
                    model.retain(|timer, _| inside(timer));
                    model.values_mut().for_each(|needs| *needs = (*needs).max(Position(start)));
                }
            }
            prop_assert_eq!(timers.len(), model.len());
            prop_assert_eq!(timers.low_water().is_none(), model.is_empty());
            if let (Some(low), Some(needed)) = (timers.low_water(), model.values().min()) {
                prop_assert!(low <= *needed);
            }
        }
        let all = timers.due(i64::MAX, usize::MAX, usize::MAX, |_| true);
        prop_assert_eq!(all, model.into_keys().collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_snapshot_is_refused_or_read_but_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut timers = Timers::default();
        for n in 1..100u64 {
            let timer = Timer { due_wall: n as i64 * 3_000, at: Position(n * 1_000) };
            timers.insert(timer, Position(n));
        }
        let mut bytes = postcard::to_allocvec(&timers.snapshot()).unwrap();
        for (at, to) in flips {
            *at.get_mut(&mut bytes) = to;
        }
        if let Ok(snapshot) = postcard::from_bytes(&bytes)
            && let Ok(mut restored) = Timers::restore(snapshot)
        {
            restored.due(i64::MAX, usize::MAX, usize::MAX, |_| true);
        }
    }
}

#[test]
fn what_a_timer_shows_is_needed_until_it_is_over() {
    let mut timers = Timers::default();
    assert_eq!(timers.low_water(), None);
    let retry = Timer { due_wall: 10_000, at: Position(9_000) };
    let delayed = Timer { due_wall: 900_000, at: Position(5_000) };
    timers.insert(retry, Position(100));
    timers.insert(delayed, delayed.at);
    assert_eq!(restarted(&timers).low_water(), Some(Position(100)));
    timers.remove(retry);
    assert_eq!(timers.low_water(), Some(Position(5_000)));
    timers.remove(delayed);
    assert_eq!(timers.low_water(), None);
}

/// A million messages of about a kilobyte, whatever their delays.
#[test]
fn a_million_timers_take_a_few_bytes_each() {
    const COUNT: u64 = 1_000_000;
    const DAY: u64 = 24 * 3_600_000;
    for (what, longest, most) in [("at once", 1, 6), ("a day", DAY, 8), ("3 days", 3 * DAY, 8)] {
        let mut rng = crate::rng::Rng::new(1);
        let mut timers = Timers::default();
        for n in 1..=COUNT {
            let due_wall = 1_700_000_000_000 + (rng.below(longest)) as i64;
            let at = Position(n * 1_200);
            timers.insert(Timer { due_wall, at }, at);
        }
        let saved = postcard::to_allocvec(&timers.snapshot()).unwrap().len() as u64;
        let held = timers.footprint() as u64;
        assert!(held <= most * COUNT + (1 << 20), "{what}: {held} bytes");
        assert!(saved <= 6 * COUNT, "{what}: {saved} bytes in a snapshot");
        assert_eq!(restarted(&timers).len() as u64, COUNT);
    }
}

/// However many are due at once: what one call puts in order is bounded, and so
/// is the time for which everybody else waits.
#[test]
fn a_million_timers_of_one_moment_are_told_of_in_bounded_steps() {
    const COUNT: u64 = 1_000_000;
    const BUDGET: usize = 8192;
    let (moment, mut timers) = (1_700_000_000_123, Timers::default());
    for n in 1..=COUNT {
        let at = Position(n * 1_200);
        timers.insert(Timer { due_wall: moment, at }, at);
    }
    let open = |timers: &Timers| -> usize {
        timers.calendars().iter().flat_map(|all| all.buckets.values()).map(|b| b.open.len()).sum()
    };
    let (mut told, mut calls) = (0, 0);
    while timers.len() > 0 {
        let before = open(&timers);
        let due = timers.due(moment, 256, BUDGET, |_| true);
        assert!(open(&timers) <= before + BUDGET);
        let is_next = |(n, timer): (u64, &Timer)| timer.at == Position(n * 1_200);
        assert!((told + 1..).zip(&due).all(is_next));
        told += due.len() as u64;
        due.into_iter().for_each(|timer| _ = timers.remove(timer));
        calls += 1;
        assert!(calls < 10_000, "it goes on and on");
    }
    assert_eq!(told, COUNT);
}
