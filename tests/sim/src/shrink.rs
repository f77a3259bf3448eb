//! Makes a failing run smaller: leaves faults out as long as the same invariant breaks.

use crate::plan::Mask;
use crate::report::Failure;
use crate::world::{Options, faults_of, run_with};

/// The faults that may be left out of a failing run, so that few are left, and how the
/// run fails then.
#[must_use]
pub fn shrink(failure: Box<Failure>, options: &Options) -> (Mask, Box<Failure>) {
    let mut smallest = failure;
    let mut without = options.without.clone();
    let seed = smallest.seed;
    let mut size = faults_of(seed).len();
    while size > 0 {
        let left: Vec<u32> = faults_of(seed)
            .into_iter()
            .filter(|number| !without.contains(number))
            .collect();
        for some in left.chunks(size) {
            let tried = Options {
                without: without.iter().chain(some).copied().collect(),
                ..options.clone()
            };
            match run_with(seed, &tried) {
                Err(failure) if failure.invariant() == smallest.invariant() => {
                    without = tried.without;
                    smallest = failure;
                }
                _ => {}
            }
        }
        size /= 2;
    }
    (without, smallest)
}

/// Spells a mask as the command line takes it: `3,7-12`.
#[must_use]
pub fn spell(mask: &Mask) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for number in mask {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => ranges.push((*number, *number)),
        }
    }
    let spelt = ranges.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        _ => format!("{first}-{last}"),
    });
    spelt.collect::<Vec<_>>().join(",")
}

/// Reads what [`spell`] wrote.
///
/// # Errors
/// What is neither a number nor a range of them.
pub fn parse(spelt: &str) -> Result<Mask, String> {
    let mut mask = Mask::new();
    for part in spelt.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.parse::<u32>().map_err(|e| format!("{part:?}: {e}"));
        mask.extend(number(first)?..=number(last)?);
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_read_as_it_is_spelt() {
        let mask = Mask::from([1, 2, 3, 7, 9, 10]);
        assert_eq!(spell(&mask), "1-3,7,9-10");
        assert_eq!(parse("1-3,7,9-10"), Ok(mask));
        assert_eq!(parse(""), Ok(Mask::new()));
        assert!(parse("1,x").is_err());
    }
}
