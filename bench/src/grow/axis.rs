//! What grows, and everything else that stays as it is meanwhile.

use serde::Serialize;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Axis {
    Partitions,
    Nodes,
    Keys,
    ValueBytes,
    Connections,
    Depth,
}

/// A cluster and a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) partitions: u64,
    pub(super) nodes: usize,
    pub(super) keys: u64,
    pub(super) value_bytes: usize,
    pub(super) connections: usize,
    pub(super) depth: usize,
}

impl Default for Point {
    fn default() -> Self {
        Self {
            partitions: 128,
            nodes: 3,
            keys: 100_000,
            value_bytes: 128,
            connections: 64,
            depth: 1,
        }
    }
}

/// The most that all values of a point may take: what does not fit is fewer keys.
const VALUES_BYTES_MAX: u64 = 256 << 20;
/// How many connections there are along the axis of the operations under way.
const DEPTH_CONNECTIONS: usize = 256;

impl Axis {
    pub(super) const ALL: [Self; 6] = [
        Self::Partitions,
        Self::Nodes,
        Self::Keys,
        Self::ValueBytes,
        Self::Connections,
        Self::Depth,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Partitions => "partitions",
            Self::Nodes => "nodes",
            Self::Keys => "keys",
            Self::ValueBytes => "value-bytes",
            Self::Connections => "connections",
            Self::Depth => "depth",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Partitions => "Partitions on the same 3 data nodes",
            Self::Nodes => "Data nodes on the same processors",
            Self::Keys => "Keys",
            Self::ValueBytes => "Bytes per value",
            Self::Connections => "Connections",
            Self::Depth => "Operations under way on each of 256 connections",
        }
    }

    /// The points where nobody says otherwise.
    pub(super) fn usual(self) -> &'static [u64] {
        match self {
            Self::Partitions => &[64, 16, 256, 1024],
            Self::Nodes => &[3, 5, 12],
            Self::Keys => &[100_000, 1_000_000],
            Self::ValueBytes => &[16, 128, 1 << 10, 16 << 10, 256 << 10, 1 << 20],
            Self::Connections => &[1, 16, 64, 256, 1_000, 2_000],
            Self::Depth => &[1, 3, 16],
        }
    }

    /// Whether its points differ by what clients do alone.
    pub(super) fn is_the_clients(self) -> bool {
        matches!(self, Self::ValueBytes | Self::Connections | Self::Depth)
    }

    fn bounds(self) -> std::ops::RangeInclusive<u64> {
        match self {
            Self::Partitions => 1..=1_024,
            Self::Nodes => 3..=64,
            Self::Keys => 1..=100_000_000,
            Self::ValueBytes => 0..=1 << 20,
            Self::Connections => 1..=10_000,
            Self::Depth => 1..=1_000,
        }
    }

    /// The point at a value, where everything else is usual.
    pub(super) fn at(self, usual: Point, value: u64) -> Point {
        let small = usize::try_from(value).unwrap_or(usize::MAX);
        match self {
            Self::Partitions => Point {
                partitions: value,
                ..usual
            },
            Self::Nodes => Point {
                nodes: small,
                ..usual
            },
            Self::Keys => Point {
                keys: value,
                ..usual
            },
            Self::ValueBytes => Point {
                value_bytes: small,
                keys: usual.keys.min(VALUES_BYTES_MAX / value.max(1)).max(1),
                ..usual
            },
            Self::Connections => Point {
                connections: small,
                ..usual
            },
            Self::Depth => Point {
                connections: DEPTH_CONNECTIONS,
                depth: small,
                ..usual
            },
        }
    }
}

/// Reads `NAME=NUMBER,...`.
pub(super) fn parse_axis(text: &str) -> Result<(Axis, Vec<u64>), String> {
    let (name, rest) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not NAME=NUMBER,..."))?;
    let axis = Axis::ALL.into_iter().find(|axis| axis.name() == name);
    let axis = axis.ok_or_else(|| {
        let names = Axis::ALL.map(Axis::name);
        format!("`{name}` is none of {}", names.join(", "))
    })?;
    let points: Vec<u64> = rest
        .split(',')
        .map(|number| {
            let read = number.parse().ok().filter(|n| axis.bounds().contains(n));
            read.ok_or_else(|| {
                let (least, most) = (axis.bounds().start().to_owned(), *axis.bounds().end());
                format!("`{number}` is no number of {name} from {least} to {most}")
            })
        })
        .collect::<Result<_, _>>()?;
    Ok((axis, points))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_read() {
        assert_eq!(
            parse_axis("partitions=16,1024"),
            Ok((Axis::Partitions, vec![16, 1_024]))
        );
        for wrong in [
            "", "keys", "keys=", "keys=0", "keys=x", "zones=3", "nodes=2",
        ] {
            assert!(parse_axis(wrong).is_err(), "{wrong}");
        }
        for axis in Axis::ALL {
            let points = axis.usual().iter().map(u64::to_string);
            let text = format!("{}={}", axis.name(), points.collect::<Vec<_>>().join(","));
            assert_eq!(parse_axis(&text), Ok((axis, axis.usual().to_vec())));
        }
    }

    #[test]
    fn large_values_are_fewer_so_that_they_fit() {
        let usual = Point::default();
        let at = |bytes| Axis::ValueBytes.at(usual, bytes);
        assert_eq!((at(16).keys, at(16).value_bytes), (100_000, 16));
        assert_eq!((at(1 << 20).keys, at(0).keys), (256, 100_000));
        assert_eq!(Axis::Depth.at(usual, 16).connections, 256);
        assert_eq!(Axis::Nodes.at(usual, 5).nodes, 5);
    }
}
