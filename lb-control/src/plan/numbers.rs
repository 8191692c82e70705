//! Numbers that are free, the smallest first. Pure.

use std::collections::BTreeSet;

/// The free numbers of a range, in as much memory as there are gaps among those that are taken.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// Free ones below `next`.
    gaps: BTreeSet<u32>,
    /// This one and all after it are free.
    next: u32,
    end: u32,
}

impl Numbers {
    /// All from `first` on, below `end`, are free.
    pub fn new(first: u32, end: u32) -> Self {
        Self { gaps: BTreeSet::new(), next: first, end }
    }

    /// The smallest that is free.
    pub fn first(&self) -> Option<u32> {
        self.gaps.first().copied().or((self.next < self.end).then_some(self.next))
    }

    /// Takes one, unless it is taken.
    pub fn take(&mut self, number: u32) {
        if number >= self.next {
            self.gaps.extend(self.next..number);
            self.next = number + 1;
        } else {
            self.gaps.remove(&number);
        }
    }

    /// Gives one back, unless it is free.
    pub fn give_back(&mut self, number: u32) {
        if number < self.next {
            self.gaps.insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_free_number_is_found() {
        let mut numbers = Numbers::new(1, 5);
        let take_first = |numbers: &mut Numbers| {
            let first = numbers.first();
            first.into_iter().for_each(|number| numbers.take(number));
            first
        };
        numbers.take(3);
        numbers.take(3);
        assert_eq!([(); 4].map(|()| take_first(&mut numbers)), [Some(1), Some(2), Some(4), None]);
        numbers.give_back(4);
        numbers.give_back(2);
        numbers.give_back(2);
        assert_eq!([(); 3].map(|()| take_first(&mut numbers)), [Some(2), Some(4), None]);
    }
}
