//! What is wrong with a configuration, and where. Pure.

use std::fmt;

use serde_saphyr::Spanned;

/// Whether the configuration can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It is refused.
    Error,
    /// It works, but perhaps not as its author thinks.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// From 1; 0 where the place is not known.
    pub line: u64,
    /// From 1, in characters.
    pub column: u64,
    /// The field, as `routes[2].upstream`; empty where the text itself cannot be read.
    pub field: String,
    /// The rule that it breaks, for people.
    pub rule: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        f.write_str(match self.severity {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
        })?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.rule)
    }
}

/// Everything that is wrong, in the order in which it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Notes an error at the place of `at`.
    pub fn error<T>(&mut self, at: &Spanned<T>, field: impl Into<String>, rule: impl Into<String>) {
        self.push(Severity::Error, at, field, rule);
    }

    /// Notes a warning at the place of `at`.
    pub fn warning<T>(&mut self, at: &Spanned<T>, field: impl Into<String>, rule: impl Into<String>) {
        self.push(Severity::Warning, at, field, rule);
    }

    /// Notes a warning about the whole.
    pub fn general_warning(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        let (field, rule) = (field.into(), rule.into());
        self.0.push(Finding { severity: Severity::Warning, line: 0, column: 0, field, rule });
    }

    /// Notes an error about the whole.
    pub fn general_error(&mut self, field: impl Into<String>, rule: impl Into<String>) {
        let (field, rule) = (field.into(), rule.into());
        self.0.push(Finding { severity: Severity::Error, line: 0, column: 0, field, rule });
    }

    /// Whether nothing stands against using the configuration.
    pub fn usable(&self) -> bool {
        self.0.iter().all(|finding| finding.severity == Severity::Warning)
    }

    fn push<T>(
        &mut self,
        severity: Severity,
        at: &Spanned<T>,
        field: impl Into<String>,
        rule: impl Into<String>,
    ) {
        let (line, column) = (at.referenced.line(), at.referenced.column());
        self.0.push(Finding { severity, line, column, field: field.into(), rule: rule.into() });
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            finding.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Findings {}
