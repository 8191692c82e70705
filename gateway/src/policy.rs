//! Rules that the configuration states as expressions.
//!
//! | module | what |
//! |---|---|
//! | [`cel`] | the Common Expression Language, over a request |

pub mod cel;

pub use cel::{Expression, Undecided};
