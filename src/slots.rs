//! A slab whose keys go stale.
//!
//! Rules kept here:
//! - A key names one insertion, not one place: after a removal the old key finds nothing, even when the place is taken again.
//!   Readiness events and timers outlive what they were meant for; this is what makes them fall through.
//! - A key fits in a `usize`, so that it can travel through the kernel as a poll token.

use slab::Slab;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("dosimeter keeps an index and a generation in one poll token and needs a 64-bit target");

/// Values by key, with O(1) insert, get and remove.
pub(crate) struct Slots<T> {
    slab: Slab<Slot<T>>,
    /// Generation of the next insertion. Wraps after 2^32 insertions: a key would have to be kept that long, and its place
    /// be taken again by exactly that insertion, to be mistaken.
    next: u32,
}

struct Slot<T> {
    generation: u32,
    value: T,
}

/// Names one insertion into a [`Slots`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Slots { slab: Slab::new(), next: 0 }
    }

    pub(crate) fn insert(&mut self, value: T) -> Key {
        let generation = self.next;
        self.next = self.next.wrapping_add(1);
        let index = self.slab.insert(Slot { generation, value });
        let index = u32::try_from(index).expect("four thousand million live slots exceed any memory");
        Key { index, generation }
    }

    pub(crate) fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slab.get(key.index as usize)?;
        (slot.generation == key.generation).then_some(&slot.value)
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slab.get_mut(key.index as usize)?;
        (slot.generation == key.generation).then_some(&mut slot.value)
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        Some(self.slab.remove(key.index as usize).value)
    }

    /// Takes out everything.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.slab.drain().map(|slot| slot.value)
    }

    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slab.iter().map(|(index, slot)| (Key { index: index as u32, generation: slot.generation }, &slot.value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slab.iter().map(|(_, slot)| &slot.value)
    }
}

impl Key {
    /// The key of nothing, for whoever has to note that something is gone.
    pub(crate) const NONE: Key = Key { index: u32::MAX, generation: 0 };

    pub(crate) fn to_usize(self) -> usize {
        (self.generation as usize) << 32 | self.index as usize
    }

    pub(crate) fn from_usize(token: usize) -> Self {
        Key { index: token as u32, generation: (token >> 32) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_goes_stale_when_its_place_is_taken_again() {
        let mut slots = Slots::new();
        let first = slots.insert("first");
        assert_eq!(slots.remove(first), Some("first"));
        let second = slots.insert("second");
        assert_eq!(first.index, second.index, "the place is reused");
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get(second), Some(&"second"));
    }

    #[test]
    fn a_key_survives_the_way_through_a_token() {
        let mut slots = Slots::new();
        for number in 0..1000 {
            let key = slots.insert(number);
            assert_eq!(Key::from_usize(key.to_usize()), key);
            if number % 3 == 0 {
                slots.remove(key);
            }
        }
    }
}
