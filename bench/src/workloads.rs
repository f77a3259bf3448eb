//! The workloads of the comparison, by the names that reports and flags have for them.

use cairn_workload::distribution::{Skew, THETA};
use cairn_workload::operation::Mix;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Writes alone
    Write,
    /// Strong reads alone
    Read,
    /// YCSB A: half reads, half updates
    A,
    /// YCSB B: 95 % reads, 5 % updates
    B,
    /// YCSB C: reads alone
    C,
    /// YCSB D: 95 % reads of the latest keys, 5 % inserts
    D,
    /// YCSB F: half reads, half read-modify-writes
    F,
}

impl Workload {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::A => "ycsb-a",
            Self::B => "ycsb-b",
            Self::C => "ycsb-c",
            Self::D => "ycsb-d",
            Self::F => "ycsb-f",
        }
    }

    pub(crate) fn mix(self) -> Mix {
        match self {
            Self::Write => Mix::WRITES,
            Self::Read | Self::C => Mix::READS,
            Self::A => Mix::YCSB_A,
            Self::B => Mix::YCSB_B,
            Self::D => Mix::YCSB_D,
            Self::F => Mix::YCSB_F,
        }
    }

    /// Which keys it asks for, where nobody says otherwise.
    pub(crate) fn skew(self) -> Skew {
        match self {
            Self::Write | Self::Read => Skew::Uniform,
            Self::A | Self::B | Self::C | Self::F => Skew::Zipfian(THETA),
            Self::D => Skew::Latest,
        }
    }
}

/// As reports name it.
pub(crate) fn skew_name(skew: Skew) -> String {
    match skew {
        Skew::Uniform => "uniform".to_owned(),
        Skew::Zipfian(theta) => format!("zipf-{theta}"),
        Skew::Latest => "latest".to_owned(),
        Skew::OneKey(share) => format!("one key {:.0}%", share * 100.0),
    }
}
