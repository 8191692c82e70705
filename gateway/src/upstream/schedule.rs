//! Turns in proportion to weights, smoothly: the turns of one instance are as far apart as they can be. All workers take
//! theirs from one order that was made once, so that a turn is one addition.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Draws until one that fits is looked for from where the last one fell.
const DRAWS: usize = 8;

/// An order of instances, by their positions, in which each has as many places as its weight, and who is next.
#[derive(Debug)]
pub struct Schedule {
    places: Box<[u32]>,
    cursor: AtomicU32,
}

impl Schedule {
    /// An order for instances of these weights, each at least 1.
    pub fn new(weights: &[u32]) -> Self {
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let mut places: Vec<_> = (0..)
            .zip(weights)
            .flat_map(|(instance, weight)| {
                let weight = weight / divisor;
                // Its turns are equally far apart; those of light ones do not meet, for each begins elsewhere.
                let begin = (f64::from(instance) + 0.5) / weights.len() as f64;
                (0..weight).map(move |turn| ((f64::from(turn) + begin) / f64::from(weight), instance))
            })
            .collect();
        places.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Self { places: places.into_iter().map(|(_, instance)| instance).collect(), cursor: AtomicU32::new(0) }
    }

    /// Who is next of those that are `usable`. What is passed over loses its turn, or its neighbour would have two.
    pub fn next(&self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let turn = self.cursor.fetch_add(1, Relaxed);
        let (passed, instance) = self.from(turn as usize % self.places.len().max(1), &usable)?;
        if passed != 0 {
            self.cursor.fetch_add(passed, Relaxed);
        }
        Some(instance)
    }

    /// One of those that are `usable`, by chance, in proportion to its weight.
    pub fn draw(&self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let place = || fastrand::usize(..self.places.len());
        let drawn = (0..DRAWS).map(|_| self.places[place()] as usize).find(|instance| usable(*instance));
        drawn.or_else(|| self.from(place(), &usable).map(|(_, instance)| instance))
    }

    /// The first from there on, and how many were passed over.
    fn from(&self, place: usize, usable: impl Fn(usize) -> bool) -> Option<(u32, usize)> {
        let (head, tail) = self.places.split_at(place);
        let order = tail.iter().chain(head).map(|instance| *instance as usize);
        (0..).zip(order).find(|(_, instance)| usable(*instance))
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(schedule: &Schedule, turns: usize) -> Vec<usize> {
        (0..turns).filter_map(|_| schedule.next(|_| true)).collect()
    }

    #[test]
    fn turns_of_one_are_apart() {
        assert_eq!(round(&Schedule::new(&[4, 1, 1]), 6), [0, 0, 1, 0, 0, 2]);
        assert_eq!(round(&Schedule::new(&[20, 20, 40]), 8), [0, 2, 1, 2, 0, 2, 1, 2]);
        assert_eq!(round(&Schedule::new(&[7, 7, 7]), 4), [0, 1, 2, 0]);
    }

    #[test]
    fn what_is_passed_over_is_shared_by_all_others() {
        let schedule = Schedule::new(&[1; 10]);
        let mut counts = [0_u32; 10];
        (0..10_000).filter_map(|_| schedule.next(|instance| instance >= 5)).for_each(|i| counts[i] += 1);
        assert_eq!(counts[5..], [2_000; 5], "the most is the mean");
    }

    #[test]
    fn draws_follow_the_weights() {
        let schedule = Schedule::new(&[1, 3, 4]);
        let mut counts = [0_u32; 3];
        (0..100_000).filter_map(|_| schedule.draw(|instance| instance != 2)).for_each(|i| counts[i] += 1);
        assert_eq!(counts[2], 0);
        let share = f64::from(counts[1]) / 75_000.0;
        assert!((0.97..1.03).contains(&share), "{share} of its share");
    }

    #[test]
    fn nobody_is_drawn_of_nobody() {
        assert_eq!(Schedule::new(&[]).next(|_| true), None);
        assert_eq!(Schedule::new(&[]).draw(|_| true), None);
        assert_eq!(Schedule::new(&[1, 2]).next(|_| false), None);
        assert_eq!(Schedule::new(&[1, 2]).draw(|_| false), None);
    }
}
