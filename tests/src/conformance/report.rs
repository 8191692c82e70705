//! Cases and failures, counted by class. Pure.

use std::{collections::BTreeMap, fmt};

/// What became of a part's cases.
#[derive(Debug, Default)]
pub struct Report {
    classes: BTreeMap<String, Counts>,
    failures: Vec<String>,
}

#[derive(Debug, Default)]
struct Counts {
    passed: u32,
    failed: u32,
}

impl Report {
    /// Notes a case that was as it should be.
    pub fn pass(&mut self, class: &str) {
        self.classes.entry(class.to_string()).or_default().passed += 1;
    }

    /// Notes a case that was not, and why.
    pub fn fail(&mut self, class: &str, why: impl fmt::Display) {
        self.classes.entry(class.to_string()).or_default().failed += 1;
        self.failures.push(format!("{class}: {why}"));
    }

    /// Takes another's cases.
    pub fn add(&mut self, other: Self) {
        for (class, counts) in other.classes {
            let sum = self.classes.entry(class).or_default();
            sum.passed += counts.passed;
            sum.failed += counts.failed;
        }
        self.failures.extend(other.failures);
    }

    /// How many failed.
    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    /// How many there were.
    pub fn cases(&self) -> u32 {
        self.classes.values().map(|counts| counts.passed + counts.failed).sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (class, Counts { passed, failed }) in &self.classes {
            writeln!(f, "  {class:<32} {passed:>6} passed {failed:>6} failed")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED {failure}")?;
        }
        write!(f, "  {} cases, {} failed", self.cases(), self.failed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_add_up() {
        let (mut one, mut two) = (Report::default(), Report::default());
        one.pass("host");
        two.pass("host");
        two.fail("host", "two origins differ");
        one.add(two);
        assert_eq!((one.cases(), one.failed()), (3, 1));
        let text = one.to_string();
        assert!(text.contains("2 passed      1 failed"), "{text}");
        assert!(text.contains("FAILED host: two origins differ"), "{text}");
    }
}
