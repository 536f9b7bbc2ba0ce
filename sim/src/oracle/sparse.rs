//! State per queue offset or per message: dense where it is used, cheap where
//! offsets jump, safe where a broken broker makes them absurd.

use std::collections::BTreeMap;

const PAGE: u64 = 256;
/// Pages below this are found by index; offsets beyond it are rare enough for
/// a search.
const NEAR: u64 = 1 << 16;

/// A vector with holes, indexed by queue offset.
#[derive(Debug)]
pub struct Sparse<T> {
    near: Vec<Option<Box<[T]>>>,
    far: BTreeMap<u64, Box<[T]>>,
}

impl<T> Default for Sparse<T> {
    fn default() -> Sparse<T> {
        Sparse { near: Vec::new(), far: BTreeMap::new() }
    }
}

impl<T: Default> Sparse<T> {
    pub fn get(&self, offset: u64) -> Option<&T> {
        let page = offset / PAGE;
        let page = if page < NEAR {
            self.near.get(page as usize)?.as_ref()?
        } else {
            self.far.get(&page)?
        };
        page.get((offset % PAGE) as usize)
    }

    /// The element at this offset, made from its default if it is new.
    pub fn at(&mut self, offset: u64) -> &mut T {
        let page = offset / PAGE;
        let blank = || (0..PAGE).map(|_| T::default()).collect();
        let page = if page < NEAR {
            if self.near.len() <= page as usize {
                self.near.resize_with(page as usize + 1, || None);
            }
            self.near[page as usize].get_or_insert_with(blank)
        } else {
            self.far.entry(page).or_insert_with(blank)
        };
        &mut page[(offset % PAGE) as usize]
    }
}

/// A set of small numbers.
#[derive(Debug, Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    pub fn contains(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Adds it; false if it was there before.
    pub fn insert(&mut self, index: usize) -> bool {
        if self.0.len() <= index / 64 {
            self.0.resize(index / 64 + 1, 0);
        }
        let word = &mut self.0[index / 64];
        let new = *word >> (index % 64) & 1 == 0;
        *word |= 1 << (index % 64);
        new
    }
}
