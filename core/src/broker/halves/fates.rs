//! What became of settled halves: two bits for each, or nothing for 8192 in a
//! row that fared alike. They are kept as long as the halves' records, so that a
//! decision that comes late or twice is answered with what really happened (T4).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::Position;

/// What became of a half message, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Committed,
    RolledBack,
}

/// Halves in one page.
const PAGE: u64 = 8192;
const PAGE_BYTES: usize = PAGE as usize / 4;

/// The most pages: 64 MiB of memory at worst, for 268 million halves. Beyond,
/// the oldest are forgotten, and a decision about them is refused.
const MAX_PAGES: usize = 32 << 10;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fates {
    pages: BTreeMap<u64, Page>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Page {
    /// Of its newest half: once retention passed it, the page may go.
    newest: Position,
    committed: u32,
    rolled_back: u32,
    /// Two bits for each half: 0 undecided, 1 committed, 2 rolled back. Empty
    /// while nothing is settled, and again once all fared alike.
    bits: Vec<u8>,
}

impl Page {
    fn uniform(&self) -> Option<Fate> {
        match (u64::from(self.committed), u64::from(self.rolled_back)) {
            (PAGE, _) => Some(Fate::Committed),
            (_, PAGE) => Some(Fate::RolledBack),
            _ => None,
        }
    }

    fn get(&self, slot: u64) -> Option<Fate> {
        if let Some(fate) = self.uniform() {
            return Some(fate);
        }
        match self.bits.get(slot as usize / 4)? >> (slot % 4 * 2) & 3 {
            1 => Some(Fate::Committed),
            2 => Some(Fate::RolledBack),
            _ => None,
        }
    }

    fn settle(&mut self, slot: u64, fate: Fate) {
        if self.get(slot).is_some() {
            return;
        }
        self.bits.resize(PAGE_BYTES, 0);
        let code = match fate {
            Fate::Committed => {
                self.committed += 1;
                1
            }
            Fate::RolledBack => {
                self.rolled_back += 1;
                2
            }
        };
        self.bits[slot as usize / 4] |= code << (slot % 4 * 2);
        if self.uniform().is_some() {
            self.bits = Vec::new();
        }
    }

    fn is_sound(&self) -> bool {
        let is_short = self.bits.is_empty()
            && (self.committed + self.rolled_back == 0 || self.uniform().is_some());
        is_short || self.bits.len() == PAGE_BYTES
    }
}

impl Fates {
    /// A half of this number lies at this position, undecided.
    pub fn held(&mut self, number: u64, at: Position) {
        let page = self.pages.entry(number / PAGE).or_default();
        page.newest = page.newest.max(at);
        if self.pages.len() > MAX_PAGES {
            self.pages.pop_first();
        }
    }

    pub fn settle(&mut self, number: u64, fate: Fate) {
        if let Some(page) = self.pages.get_mut(&(number / PAGE)) {
            page.settle(number % PAGE, fate);
        }
    }

    pub fn get(&self, number: u64) -> Option<Fate> {
        self.pages.get(&(number / PAGE))?.get(number % PAGE)
    }

    /// Forgets the halves whose records are all gone.
    pub fn expire(&mut self, start: Position) {
        while let Some(oldest) = self.pages.first_entry()
            && oldest.get().newest < start
        {
            oldest.remove();
        }
    }

    pub fn snapshot(&self) -> FatesSnapshot {
        FatesSnapshot(self.pages.iter().map(|(number, page)| (*number, page.clone())).collect())
    }

    pub fn restore(snapshot: FatesSnapshot) -> Option<Fates> {
        let is_sound = snapshot.0.iter().all(|(_, page)| page.is_sound());
        is_sound.then(|| Fates { pages: snapshot.0.into_iter().collect() })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FatesSnapshot(Vec<(u64, Page)>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_fared_alike_costs_nothing() {
        let mut fates = Fates::default();
        for number in 0..2 * PAGE {
            fates.held(number, Position(number * 100));
        }
        for number in 0..PAGE {
            fates.settle(number, Fate::Committed);
        }
        fates.settle(PAGE, Fate::RolledBack);
        assert_eq!(fates.get(PAGE - 1), Some(Fate::Committed));
        assert_eq!(fates.get(PAGE), Some(Fate::RolledBack));
        assert_eq!(fates.get(PAGE + 1), None);
        let bytes = postcard::to_allocvec(&fates.snapshot()).expect("it encodes");
        assert!(bytes.len() < PAGE_BYTES + 64, "{} bytes for two pages", bytes.len());

        let back: FatesSnapshot = postcard::from_bytes(&bytes).expect("it decodes");
        assert_eq!(Fates::restore(back).as_ref(), Some(&fates));
        fates.expire(Position(PAGE * 100));
        assert_eq!((fates.get(0), fates.get(PAGE)), (None, Some(Fate::RolledBack)));
    }
}
