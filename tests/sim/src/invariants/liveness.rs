//! Rules 14 and 15: once every fault is healed, writes are acknowledged and strong reads
//! answered again.

use cairn_core::ids::Micros;

use super::{Check, broken};

const NAME: &str = "not live (rules 14, 15)";

/// When something was last answered.
#[derive(Debug, Default)]
pub struct Liveness {
    /// A write.
    pub written: Micros,
    /// A read from the primary.
    pub read: Micros,
}

impl Liveness {
    /// The run is over, long after the last fault. A change of the configuration that takes
    /// its primary out may wait for the longest lease even then.
    ///
    /// # Errors
    /// Where nothing was answered lately.
    pub fn check(&self, end: Micros, lease_longest: Micros) -> Check {
        let lately = end.minus(Micros::from_millis(1_500).plus(lease_longest));
        for (what, last) in [("write", self.written), ("primary read", self.read)] {
            if last < lately {
                let millis = |at: Micros| (at.0 as f64 - 1e6) / 1000.0;
                return Err(broken(
                    NAME,
                    format!(
                        "the last {what} was answered at {:.1} ms of {:.1}",
                        millis(last),
                        millis(end)
                    ),
                ));
            }
        }
        Ok(())
    }
}
