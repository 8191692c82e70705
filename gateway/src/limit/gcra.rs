//! Pure. The generic cell rate algorithm: how many requests a key may make, from one number per key.
//!
//! That number is the **theoretical arrival time** (TAT): the instant at which the key's bucket will be full
//! again. It is kept in *ticks*, a unit of the rate's own, chosen so that one request costs a whole number of
//! ticks and clock time converts to ticks from the absolute instant. A period of `p` ns for `n` requests seldom
//! divides: a rounded `p / n` would be off by 18 requests in 30 s at 30,000/s. Here nothing adds up: the
//! conversion is exact where `n / gcd(n, p) <= TICKS_PER_NS_MAX` (every rate that people write), and elsewhere
//! off by less than one tick over any time whatever.
//!
//! Invariant: over any time `t`, admitted <= rate * t + burst.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may pass; `tat` is to be stored.
    Admit {
        /// The key's new theoretical arrival time, ticks.
        tat: u64,
        /// Requests of cost 1 that would pass right now.
        remaining: u64,
        /// Until the bucket is full, ns, rounded up.
        reset_ns: u64,
    },
    /// The request may not pass; nothing is to be stored.
    Refuse {
        /// Requests of cost 1 that would pass right now: 0, unless the refused request cost more.
        remaining: u64,
        /// Until the bucket is full, ns, rounded up.
        reset_ns: u64,
        /// Until the same request would pass, ns, rounded up. `u64::MAX` if it costs more than the burst.
        retry_after_ns: u64,
    },
}

/// So many requests per period, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per: PerPeriod,
    burst: u32,
    /// Ticks that one request costs, >= 1.
    emission: u64,
    /// Ticks of a full bucket: `burst * emission`.
    tolerance: u64,
    /// Ticks = ns * `multiplier` / `divisor`, rounded down.
    multiplier: u64,
    divisor: u64,
}

/// A number of requests per second, minute, hour or day: `10/s`, `100/m`, `5/h`, `1000/d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerPeriod {
    /// Requests, 1 to [`COUNT_MAX`].
    pub count: u32,
    /// In which time.
    pub period: Period,
}

/// The time to which a count refers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// One second.
    Second,
    /// 60 s.
    Minute,
    /// 3,600 s.
    Hour,
    /// 86,400 s.
    Day,
}

/// Why a rate is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RateError {
    /// The text has another form.
    #[error("\"{0}\" is no rate: write a number per s, m, h or d, such as \"10/s\" or \"5/h\"")]
    Form(String),
    /// The count is 0 or too large.
    #[error("a rate counts 1 to {COUNT_MAX} requests, not {0}")]
    Count(String),
    /// The burst is 0 or too large.
    #[error("a burst is 1 to {COUNT_MAX} requests, not {0}")]
    Burst(u32),
    /// An empty bucket would take too long to fill.
    #[error("a burst of {burst} at {rate} takes longer than {REFILL_DAYS_MAX} days to be restored")]
    Refill {
        /// The rate asked for.
        rate: PerPeriod,
        /// The burst asked for.
        burst: u32,
    },
}

/// The most requests of a count or a burst.
pub const COUNT_MAX: u32 = 1_000_000;

/// The longest time, in days, in which an empty bucket may fill.
pub const REFILL_DAYS_MAX: u64 = 366;

/// Bounds the conversion: 2^64 ticks at 16 a nanosecond last 36 years of uptime, and a full bucket's
/// 366 days are 5 * 10^17 ticks.
const TICKS_PER_NS_MAX: u64 = 16;

impl Rate {
    /// `count` per `period` with bursts of at most `burst`, each 1 to [`COUNT_MAX`].
    pub fn new(per: PerPeriod, burst: u32) -> Result<Self, RateError> {
        if per.count == 0 || per.count > COUNT_MAX {
            return Err(RateError::Count(per.count.to_string()));
        }
        if burst == 0 || burst > COUNT_MAX {
            return Err(RateError::Burst(burst));
        }
        let (count, period_ns) = (u64::from(per.count), per.period.nanoseconds());
        let refill_ns = u128::from(burst) * u128::from(period_ns) / u128::from(count);
        if refill_ns > u128::from(REFILL_DAYS_MAX * Period::Day.nanoseconds()) {
            return Err(RateError::Refill { rate: per, burst });
        }
        let shared = greatest_common_divisor(count, period_ns);
        let (emission, multiplier, divisor) = if count / shared <= TICKS_PER_NS_MAX {
            (period_ns / shared, count / shared, 1)
        } else {
            // As many ticks a request as stay below the bound: >= 16,000, since a request is >= 1,000 ns.
            let emission = TICKS_PER_NS_MAX * period_ns / count;
            (emission, count * emission, period_ns)
        };
        Ok(Self { per, burst, emission, tolerance: emission * u64::from(burst), multiplier, divisor })
    }

    /// The rate without its burst.
    pub fn per_period(&self) -> PerPeriod {
        self.per
    }

    /// The most requests that pass at one instant.
    pub fn burst(&self) -> u32 {
        self.burst
    }

    /// An instant of the monotonic clock, ns since any fixed origin, in this rate's ticks.
    pub fn ticks(&self, now_ns: u64) -> u64 {
        let product = u128::from(now_ns) * u128::from(self.multiplier);
        let ticks = if self.divisor == 1 { product } else { product / u128::from(self.divisor) };
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Whether a request of `cost` passes at `now` (ticks) for a key whose theoretical arrival time is `tat`
    /// (ticks; 0 for a key never seen).
    pub fn decide(&self, tat: u64, now: u64, cost: u32) -> Verdict {
        let start = tat.max(now);
        let price = self.emission.saturating_mul(u64::from(cost));
        let used = (start - now).saturating_add(price);
        if used <= self.tolerance {
            return Verdict::Admit {
                tat: now.saturating_add(used),
                remaining: (self.tolerance - used) / self.emission,
                reset_ns: self.nanoseconds(used),
            };
        }
        let taken = start - now;
        Verdict::Refuse {
            remaining: self.tolerance.saturating_sub(taken) / self.emission,
            reset_ns: self.nanoseconds(taken),
            retry_after_ns: if price > self.tolerance {
                u64::MAX
            } else {
                self.nanoseconds(used - self.tolerance)
            },
        }
    }

    /// A span of ticks in ns, rounded up.
    fn nanoseconds(&self, ticks: u64) -> u64 {
        if self.divisor == 1 {
            return ticks.div_ceil(self.multiplier);
        }
        let product = u128::from(ticks) * u128::from(self.divisor);
        u64::try_from(product.div_ceil(u128::from(self.multiplier))).unwrap_or(u64::MAX)
    }

    /// A span of ns in ticks, rounded up: how far in the past an arrival time must lie to be that old.
    pub(super) fn span(&self, span: Duration) -> u64 {
        self.ticks(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)).saturating_add(1)
    }
}

impl PerPeriod {
    /// Until one more request is allowed, ns, rounded down.
    pub fn emission_ns(&self) -> u64 {
        self.period.nanoseconds() / u64::from(self.count.max(1))
    }
}

impl Period {
    /// Its length, s.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }

    const fn nanoseconds(self) -> u64 {
        self.seconds() * 1_000_000_000
    }

    const fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
            Self::Day => 'd',
        }
    }
}

impl FromStr for PerPeriod {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let form = || RateError::Form(text.to_owned());
        let (count, period) = text.split_once('/').ok_or_else(form)?;
        let period = match period {
            "s" => Period::Second,
            "m" => Period::Minute,
            "h" => Period::Hour,
            "d" => Period::Day,
            _ => return Err(form()),
        };
        if count.is_empty() || !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(form());
        }
        let refused = || RateError::Count(count.to_owned());
        let number = count.parse().map_err(|_| refused())?;
        if number == 0 || number > COUNT_MAX { Err(refused()) } else { Ok(Self { count: number, period }) }
    }
}

impl fmt::Display for PerPeriod {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.count, self.period.letter())
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
