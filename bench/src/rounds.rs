//! What is done several times, each time with a cluster of its own.

use anyhow::Result;

/// Plays rounds until one fails: what those before it came to, and how it ended.
pub(crate) fn play<R>(count: u32, mut one: impl FnMut(u32) -> Result<R>) -> (Vec<R>, Result<()>) {
    let mut done = Vec::new();
    for round in 0..count {
        match one(round) {
            Ok(figures) => done.push(figures),
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_came_before_a_failure_is_kept() {
        let (done, outcome) = play(5, |round| match round {
            3 => bail!("stopped"),
            round => Ok(round),
        });
        assert_eq!(done, [0, 1, 2]);
        assert_eq!(outcome.unwrap_err().to_string(), "stopped");
        assert!(play(2, Ok).1.is_ok());
    }
}
