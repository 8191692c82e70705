//! Which index in `INTERFACES` an interface has. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use lb_common::limits::INTERFACES;

/// Indexes in `INTERFACES`. A freed index goes to the end of the queue: it is given away again only after
/// every other one, long after the last next hop that named it was replaced.
#[derive(Debug)]
pub struct Indexes {
    of: BTreeMap<u32, u16>,
    free: VecDeque<u16>,
}

impl Default for Indexes {
    fn default() -> Self {
        Self { of: BTreeMap::new(), free: (0..INTERFACES as u16).collect() }
    }
}

impl Indexes {
    /// The index that an interface has.
    pub fn known(&self, ifindex: u32) -> Option<u16> {
        self.of.get(&ifindex).copied()
    }

    /// Has an interface keep the index that it was found with.
    pub fn adopt(&mut self, index: u16, ifindex: u32) {
        if let Some(at) = self.free.iter().position(|free| *free == index)
            && !self.of.contains_key(&ifindex)
        {
            self.free.remove(at);
            self.of.insert(ifindex, index);
        }
    }

    /// Frees the indexes of all other interfaces.
    pub fn keep_only(&mut self, used: &BTreeSet<u32>) {
        let Self { of, free } = self;
        of.retain(|ifindex, index| {
            let keep = used.contains(ifindex);
            if !keep {
                free.push_back(*index);
            }
            keep
        });
    }

    /// The index of an interface, which gets one unless all are taken.
    pub fn index(&mut self, ifindex: u32) -> Option<u16> {
        if let Some(index) = self.of.get(&ifindex) {
            return Some(*index);
        }
        let index = self.free.pop_front()?;
        self.of.insert(ifindex, index);
        Some(index)
    }
}
