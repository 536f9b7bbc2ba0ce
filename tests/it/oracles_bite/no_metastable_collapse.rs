use stormglass_sim::{
    history::{EventKind, FaultKind, MemberId},
    oracle::{Breach, no_metastable_collapse},
};

use super::tale::Tale;
use crate::{breaks, holds};

/// For so many seconds, `stored` messages a second are sent, and `handled` of
/// them handled.
fn go_on(tale: &mut Tale, member: MemberId, secs: u64, stored: u32, handled: u32) {
    for _ in 0..secs {
        let first = tale.next_offset();
        for nth in 0..stored {
            let offset = first + u64::from(nth);
            tale.send(offset as u32 + 1, offset);
            tale.wait_millis(1000 / u64::from(stored) - 4);
            if nth < handled {
                tale.consume(member, offset as u32 + 1, offset);
            }
        }
    }
}

#[test]
fn goodput_is_back_soon_after_an_overload() {
    let mut start = Tale::new();
    let member = start.consumer("billing", "c1");
    start.wait_secs(30);
    go_on(&mut start, member, 10, 20, 20);
    let fault = start.fault(FaultKind::Overload);
    go_on(&mut start, member, 5, 100, 100);
    start.push(start.broker, EventKind::FaultHealed { fault });

    let mut good = start.clone();
    go_on(&mut good, member, 5, 2, 2);
    go_on(&mut good, member, 25, 20, 20);
    holds!(good);

    let mut bad = start.clone();
    go_on(&mut bad, member, 30, 15, 15);
    breaks!(bad, Breach::NoMetastableCollapse(no_metastable_collapse::Breach::StoresLess { .. }));
    let mut bad = start.clone();
    go_on(&mut bad, member, 14, 20, 20);
    go_on(&mut bad, member, 10, 20, 10);
    let collapse = bad.judged().into_iter().find(|violation| violation.promise().number == 17);
    assert!(
        matches!(
            collapse.map(|violation| violation.breach),
            Some(Breach::NoMetastableCollapse(no_metastable_collapse::Breach::HandlesLess { .. }))
        ),
        "{}",
        bad.told()
    );

    // Another fault came in between.
    let mut excused = start;
    excused.fault(FaultKind::DiskSlow);
    go_on(&mut excused, member, 30, 15, 15);
    holds!(excused);
}
