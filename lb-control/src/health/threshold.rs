//! When a run of checks becomes a verdict. Pure.

use crate::model::Health;

/// The checks of one backend so far.
#[derive(Debug)]
pub struct Threshold {
    rise: u32,
    fall: u32,
    health: Health,
    /// Checks in a row that spoke against `health`.
    against: u32,
    last_passed: Option<bool>,
}

impl Threshold {
    /// Begins with the verdict `health`: `rise` successes in a row make it up, `fall` failures down.
    pub fn new(rise: u32, fall: u32, health: Health) -> Self {
        Self { rise, fall, health, against: 0, last_passed: None }
    }

    /// The verdict.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Takes in a check; returns the verdict where it changes.
    pub fn note(&mut self, passed: bool) -> Option<Health> {
        let (verdict, needed) = if passed { (Health::Up, self.rise) } else { (Health::Down, self.fall) };
        if self.last_passed.replace(passed) != Some(passed) {
            self.against = 0;
        }
        if self.health == verdict {
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.health = verdict;
        Some(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `+` is a success, `-` a failure; `U` and `D` mark the verdicts that follow the check before them.
    #[track_caller]
    fn check(start: Health, expected: &str) {
        let mut threshold = Threshold::new(2, 3, start);
        let mut seen = String::new();
        for passed in expected.chars().filter(|one| "+-".contains(*one)).map(|one| one == '+') {
            seen.push(if passed { '+' } else { '-' });
            match threshold.note(passed) {
                Some(Health::Up) => seen.push('U'),
                Some(Health::Down) => seen.push('D'),
                Some(Health::Unknown) | None => {}
            }
        }
        assert_eq!(seen, expected, "from {start:?}");
    }

    #[test]
    fn verdicts_need_their_run() {
        check(Health::Unknown, "++U++");
        check(Health::Unknown, "---D--");
        check(Health::Unknown, "+-+--+-+-");
        check(Health::Up, "+--+--+---D+-++U");
        check(Health::Down, "--+-+-++U---D");
    }
}
