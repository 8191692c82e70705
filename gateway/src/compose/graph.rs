//! Which step comes after which, checked when the configuration is compiled. Pure.

/// The most steps of a composition: each is a call that one request makes, and a bit of a [`Set`].
pub const STEPS_MAX: usize = 32;

/// Positions of steps, a bit each.
pub type Set = u32;

/// For each step, all that have ended before it begins; or, if some wait for each other in a circle, such a circle:
/// each waits for the next, and the last for the first. `after` has at most [`STEPS_MAX`] steps.
pub fn ancestors(after: &[Vec<usize>]) -> Result<Vec<Set>, Vec<usize>> {
    let mut ancestors: Vec<Option<Set>> = vec![None; after.len()];
    loop {
        let mut progress = false;
        for (step, earlier) in after.iter().enumerate() {
            if ancestors[step].is_some() {
                continue;
            }
            let of = |earlier: &usize| ancestors[*earlier].map(|set| set | 1 << earlier);
            let set = earlier.iter().try_fold(0, |set, earlier| Some(set | of(earlier)?));
            progress |= set.is_some();
            ancestors[step] = set;
        }
        if ancestors.iter().all(Option::is_some) {
            return Ok(ancestors.into_iter().flatten().collect());
        }
        if !progress {
            return Err(circle(after, &ancestors));
        }
    }
}

/// Every step without ancestors waits for another such step: following them comes back to where it was.
fn circle(after: &[Vec<usize>], ancestors: &[Option<Set>]) -> Vec<usize> {
    let stuck = |step: &usize| ancestors[*step].is_none();
    let mut way: Vec<usize> = (0..after.len()).find(stuck).into_iter().collect();
    while let Some(next) = way.last().and_then(|last| after[*last].iter().copied().find(stuck)) {
        if let Some(begin) = way.iter().position(|step| *step == next) {
            return way.split_off(begin);
        }
        way.push(next);
    }
    way
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_or_a_circle_are_found() {
        type Case<'c> = (&'c [&'c [usize]], Result<&'c [Set], &'c [usize]>);
        let cases: &[Case<'_>] = &[
            (&[], Ok(&[])),
            (&[&[], &[0], &[1], &[0, 2]], Ok(&[0, 0b1, 0b11, 0b111])),
            (&[&[2], &[], &[1]], Ok(&[0b110, 0, 0b10])),
            (&[&[0]], Err(&[0])),
            (&[&[], &[2], &[1]], Err(&[1, 2])),
            (&[&[1], &[2], &[3], &[1]], Err(&[1, 2, 3])),
        ];
        for (after, expected) in cases {
            let after: Vec<Vec<usize>> = after.iter().map(|earlier| earlier.to_vec()).collect();
            let found = ancestors(&after);
            assert_eq!(found.as_deref().map_err(Vec::as_slice), *expected, "{after:?}");
        }
    }
}
