//! What may end a process in the middle of anything, and the start of the next
//! one. Shared by the tests that compare a broker with a model.

use proptest::prelude::*;
use stormglass_tests::by_hand::ByHand;

#[derive(Clone, Debug)]
pub enum Crash {
    Kill,
    PowerLoss,
    /// The power goes, and once more after so many disk operations of the next
    /// process.
    CutAfter(u64),
}

/// Between two requests: whoever asks next meets the next process.
pub fn between_requests() -> impl Strategy<Value = Crash> {
    prop_oneof![Just(Crash::Kill), Just(Crash::PowerLoss)]
}

/// At any time, also while a request is served; see [`revive`].
pub fn at_any_time() -> impl Strategy<Value = Crash> {
    prop_oneof![between_requests(), (0..40u64).prop_map(Crash::CutAfter)]
}

impl Crash {
    pub fn strike(self, by_hand: &mut ByHand) {
        match self {
            Crash::Kill => by_hand.kill(),
            Crash::PowerLoss => by_hand.power_loss(),
            Crash::CutAfter(operations) => {
                by_hand.power_loss();
                by_hand.cut_after = Some(operations);
                // It may be cut while it starts.
                let _ = by_hand.start();
                by_hand.cut_after = None;
                return;
            }
        }
        by_hand.start().expect("a broker opens what a crash left");
    }
}

/// Turns a machine on again whose power went during the last step: what its
/// process only had in memory is not to be believed, even if it has not noticed.
pub fn revive(by_hand: &mut ByHand) {
    if !by_hand.is_serving() || by_hand.drive.is_cut() {
        Crash::PowerLoss.strike(by_hand);
    }
}
