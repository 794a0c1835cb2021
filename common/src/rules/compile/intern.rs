//! Many small things in few allocations: texts, lists of numbers, and an index to find them by content.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    mem,
};

/// Texts end to end, numbered from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Texts {
    pub(super) bytes: String,
    /// Where each ends.
    pub(super) ends: Vec<u32>,
}

impl Texts {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The text with this number; empty beyond the last.
    pub(super) fn get(&self, text: u32) -> &str {
        let text = text as usize;
        let start = match text.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(0) as usize,
            None => 0,
        };
        let end = self.ends.get(text).copied().unwrap_or(0) as usize;
        self.bytes.get(start..end).unwrap_or("")
    }

    /// Appends a text and returns its number.
    pub(super) fn push(&mut self, text: &str) -> u32 {
        self.bytes.push_str(text);
        self.ends.push(super::number(self.bytes.len()));
        super::number(self.ends.len() - 1)
    }

    /// The same texts in another order, with no room to spare.
    pub(super) fn reorder(&self, order: &[u32]) -> Self {
        let mut new =
            Self { bytes: String::with_capacity(self.bytes.len()), ends: Vec::with_capacity(order.len()) };
        for text in order {
            new.push(self.get(*text));
        }
        new
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + size_of_val(self.ends.as_slice())
    }
}

/// Lists of numbers end to end: group → its members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// Where each group starts, and where the last ends.
    pub(super) starts: Vec<u32>,
    pub(super) members: Vec<u32>,
}

impl Groups {
    /// From pairs `(group, member)`; the members of a group stay in the order of the pairs.
    pub(super) fn new(groups: usize, pairs: &[(u32, u32)]) -> Self {
        let mut starts = vec![0_u32; groups + 1];
        pairs.iter().for_each(|(group, _)| starts[*group as usize + 1] += 1);
        for group in 0..groups {
            starts[group + 1] += starts[group];
        }
        let mut next = starts.clone();
        let mut members = vec![0; pairs.len()];
        for (group, member) in pairs {
            let at = &mut next[*group as usize];
            members[*at as usize] = *member;
            *at += 1;
        }
        Self { starts, members }
    }

    pub(super) fn of(&self, group: usize) -> &[u32] {
        &self.members[self.starts[group] as usize..self.starts[group + 1] as usize]
    }

    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.starts.as_slice()) + size_of_val(self.members.as_slice())
    }
}

/// The same number for the same thing on every run, so that what is compiled does not depend on chance.
pub(super) fn hash(thing: &impl Hash) -> u32 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

/// Finds numbered things by content; the things themselves are kept elsewhere.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// `(hash, number + 1)`, 0 for an empty slot; the length is a power of two.
    slots: Vec<(u32, u32)>,
    used: usize,
}

impl Slots {
    /// The number of the thing among `things` that is the `same`, or what `add` returns.
    pub(super) fn find_or_add<T>(
        &mut self,
        hash: u32,
        things: &mut T,
        same: impl Fn(&T, u32) -> bool,
        add: impl FnOnce(&mut T) -> u32,
    ) -> u32 {
        if self.used * 8 >= self.slots.len() * 7 {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                (_, 0) => break,
                (found, number) if found == hash && same(things, number - 1) => return number - 1,
                _ => at = (at + 1) & mask,
            }
        }
        let number = add(things);
        self.slots[at] = (hash, number + 1);
        self.used += 1;
        number
    }

    fn grow(&mut self) {
        let length = (self.slots.len() * 2).max(16);
        let old = mem::replace(&mut self.slots, vec![(0, 0); length]);
        for (hash, number) in old.into_iter().filter(|(_, number)| *number != 0) {
            let mut at = hash as usize & (length - 1);
            while self.slots[at].1 != 0 {
                at = (at + 1) & (length - 1);
            }
            self.slots[at] = (hash, number);
        }
    }
}
