//! Which stored pictures must be decoded for the wanted ones, in runs that can be decoded side by side.

/// Pictures to decode one after another from a picture that needs no other.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    /// First sample to decode.
    pub start: usize,
    /// Last sample to decode.
    pub end: usize,
    /// `(sample, index in display order)` of the wanted pictures, in display order.
    pub wanted: Vec<(usize, usize)>,
}

/// Groups the wanted pictures (`(sample, display index)` in display order) by the sample where decoding must
/// start, which `start_of` finds. Runs come in display order and do not interleave.
pub(crate) fn runs<E>(
    wanted: impl Iterator<Item = (usize, usize)>,
    mut start_of: impl FnMut(usize) -> Result<usize, E>,
) -> Result<Vec<Run>, E> {
    let mut runs: Vec<Run> = Vec::new();
    for (sample, index) in wanted {
        let mut run = Run { start: start_of(sample)?, end: sample, wanted: Vec::new() };
        while let Some(last) = runs.pop_if(|last| last.start >= run.start) {
            run.end = run.end.max(last.end);
            run.wanted.splice(0..0, last.wanted);
        }
        run.wanted.push((sample, index));
        runs.push(run);
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(wanted: &[(usize, usize)], syncs: &[usize]) -> Vec<Run> {
        let start = |s: usize| Ok::<_, ()>(*syncs.iter().rfind(|&&k| k <= s).unwrap());
        runs(wanted.iter().copied(), start).unwrap()
    }

    #[test]
    fn pictures_share_the_run_of_their_key_picture() {
        let found = plan(&[(1, 0), (3, 1), (2, 2), (12, 9)], &[0, 10]);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].start, found[0].end), (0, 3));
        assert_eq!(found[0].wanted, [(1, 0), (3, 1), (2, 2)]);
        assert_eq!((found[1].start, found[1].end), (10, 12));
    }

    #[test]
    fn runs_that_would_interleave_are_joined() {
        let found = plan(&[(10, 3), (5, 4), (11, 5)], &[0, 10]);
        assert_eq!(found[0].wanted, [(10, 3), (5, 4)]);
        assert_eq!((found[0].start, found[0].end), (0, 10));
        assert_eq!(found[1].wanted, [(11, 5)]);
    }
}
