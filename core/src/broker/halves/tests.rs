//! The sub-state against a simple model, with restarts in between.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Hold {
        group: usize,
        immunity: Option<u64>,
    },
    Commit(usize),
    RollBack(usize),
    Check(Vec<usize>),
    Park(Vec<usize>),
    Resume(usize),
    Jump,
    Expire(usize),
    /// Snapshot, bytes, and back.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let some = || prop::collection::vec(0..40usize, 0..6);
    prop_oneof![
        6 => (0..3usize, prop::option::of(0..90_000u64))
            .prop_map(|(group, immunity)| Step::Hold { group, immunity }),
        3 => (0..40usize).prop_map(Step::Commit),
        2 => (0..40usize).prop_map(Step::RollBack),
        2 => some().prop_map(Step::Check),
        1 => some().prop_map(Step::Park),
        1 => (0..40usize).prop_map(Step::Resume),
        1 => Just(Step::Jump),
        1 => (0..12usize).prop_map(Step::Expire),
        2 => Just(Step::Restart),
    ]
}

/// A half as the model has it: everything in plain sight, nothing compact.
#[derive(Clone, Debug)]
struct Plain {
    at: Position,
    number: u64,
    group: Name,
    fate: Option<Fate>,
    checks: u8,
    parked: bool,
    since: i64,
    gone: bool,
}

impl Plain {
    fn is_open(&self) -> bool {
        self.fate.is_none() && !self.gone
    }
}

fn positions(model: &[Plain], picked: &[usize]) -> Positions {
    let mut found: Vec<_> = picked.iter().filter_map(|n| Some(model.get(*n)?.at)).collect();
    found.sort();
    found.dedup();
    Positions::new(found)
}

proptest! {
    #[test]
    fn it_says_what_the_model_says(steps in prop::collection::vec(step(), 0..80)) {
        let names: [Name; 3] = ["a".into(), "b".into(), "c".into()];
        let (mut halves, mut model) = (Halves::default(), Vec::<Plain>::new());
        let (mut end, mut number, mut wall) = (0, 0, 1_000);
        for step in steps {
            wall += 7;
            let open = |model: &mut Vec<Plain>, n: usize| {
                model.get(n).filter(|plain| plain.is_open()).map(|_| n)
            };
            match step {
                Step::Hold { group, immunity } => {
                    let (at, group) = (Position(end), names[group].clone());
                    halves.hold(at, number, &group, immunity, wall);
                    let since = wall;
                    let fate = None;
                    model.push(Plain {
                        at, number, group, fate, checks: 0, parked: false, since, gone: false,
                    });
                    (end, number) = (end + 1_000, number + 1);
                }
                Step::Commit(n) => {
                    if let Some(plain) = model.get(n) {
                        halves.committed(plain.at);
                    }
                    if let Some(n) = open(&mut model, n) {
                        model[n].fate = Some(Fate::Committed);
                    }
                }
                Step::RollBack(n) => {
                    if let Some(plain) = model.get(n) {
                        halves.apply(&Change::RolledBack(plain.at));
                    }
                    if let Some(n) = open(&mut model, n) {
                        model[n].fate = Some(Fate::RolledBack);
                    }
                }
                Step::Check(picked) => {
                    let halves_checked = positions(&model, &picked);
                    for plain in &mut model {
                        if plain.is_open() && halves_checked.iter().any(|at| at == plain.at) {
                            plain.checks += 1;
                            plain.since = wall;
                        }
                    }
                    halves.apply(&Change::Checked { halves: halves_checked, wall });
                }
                Step::Park(picked) => {
                    let parked = positions(&model, &picked);
                    for plain in &mut model {
                        if plain.is_open() && parked.iter().any(|at| at == plain.at) {
                            plain.parked = true;
                        }
                    }
                    halves.apply(&Change::Parked(parked));
                }
                Step::Resume(n) => {
                    if let Some(plain) = model.get(n) {
                        halves.apply(&Change::Resumed { half: plain.at, wall });
                    }
                    if let Some(n) = open(&mut model, n) {
                        (model[n].checks, model[n].parked, model[n].since) = (0, false, wall);
                    }
                }
                Step::Jump => {
                    halves.jump(20_000);
                    number += 20_000;
                }
                Step::Expire(n) => {
                    let start = model.get(n).map_or(Position(0), |plain| plain.at);
                    halves.expire(start);
                    for plain in model.iter_mut().filter(|plain| plain.at < start) {
                        plain.gone = true;
                    }
                }
                Step::Restart => {
                    let bytes = postcard::to_allocvec(&halves.snapshot()).unwrap();
                    let snapshot = postcard::from_bytes(&bytes).unwrap();
                    let restored = Halves::restore(snapshot);
                    prop_assert_eq!(restored.as_ref(), Some(&halves));
                    halves = restored.unwrap();
                }
            }
        }
        let open: Vec<_> = model.iter().filter(|plain| plain.is_open()).collect();
        prop_assert_eq!(halves.len(), open.len());
        prop_assert_eq!(halves.low_water(), open.first().map(|plain| plain.at));
        prop_assert_eq!(halves.next_number(), number);
        for plain in &model {
            let found = halves.get(plain.at);
            prop_assert_eq!(found.is_some(), plain.is_open());
            if let Some(half) = found {
                let known = (half.number, half.checks, half.parked, half.since);
                prop_assert_eq!(known, (plain.number, plain.checks, plain.parked, plain.since));
            }
            // A fate outlives its record only by the rest of its page.
            if !plain.gone {
                prop_assert_eq!(halves.fate(plain.number), plain.fate);
            }
        }
        for name in &names {
            let of_group = || open.iter().filter(|plain| plain.group == *name);
            let parked = of_group().filter(|plain| plain.parked).count() as u32;
            let expected = OfGroup { open: of_group().count() as u32, parked };
            prop_assert_eq!(halves.group(name), expected);
        }
        let totals = halves.totals();
        let settled = totals.committed + totals.rolled_back + totals.expired;
        prop_assert_eq!(totals.held, settled + halves.len() as u64);
    }
}

#[test]
fn a_round_of_checks_costs_the_log_little() {
    let every = (0..100_000u64).map(|n| Position(n * 1_200));
    let round = Change::Checked { halves: Positions::new(every), wall: 1_700_000_000_000 };
    let bytes = postcard::to_allocvec(&round).unwrap();
    assert!(bytes.len() < 210_000, "{} bytes for 100 000 checks", bytes.len());
}
