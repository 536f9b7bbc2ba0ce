use stormglass_sim::oracle::{Breach, honest_replies};

use super::tale::Tale;
use crate::{breaks, holds};

#[test]
fn refused_is_never_visible() {
    let mut good = Tale::new();
    let member = good.consumer("billing", "c1");
    let op = good.begin(1);
    good.refused(op);
    holds!(good);

    // Refused, and visible.
    let mut bad = good.clone();
    bad.consume(member, 1, 0);
    breaks!(bad, Breach::HonestReplies(honest_replies::Breach::RefusedButVisible { .. }));

    // Sent again: then it may be visible, whatever became of the second try.
    let mut again = good.clone();
    let op = again.begin(1);
    again.unknown(op);
    again.consume(member, 1, 0);
    holds!(again);

    // Visible first, refused afterwards.
    let mut bad = Tale::new();
    let member = bad.consumer("billing", "c1");
    let op = bad.begin(1);
    bad.consume(member, 1, 0);
    bad.refused(op);
    breaks!(bad, Breach::HonestReplies(honest_replies::Breach::RefusedButVisible { .. }));

    // Asked for queue 0, stored in queue 1.
    let mut bad = Tale::new();
    let op = bad.begin(1);
    bad.stored_in(op, 1, 0);
    breaks!(bad, Breach::HonestReplies(honest_replies::Breach::StoredElsewhere { .. }));
}
