//! Where a request belongs to in a trace: the W3C's `traceparent`, and what data nodes tell
//! each other of entries that are traced.

use cairn_core::ids::{Index, PartitionId};

use crate::Malformed;
use crate::map::partition;
use crate::pb::peer::v1 as pb;

/// The name of the header, in gRPC metadata.
pub const HEADER: &str = "traceparent";

/// A span of a trace, for those that are made below it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanContext {
    /// The trace; never zero.
    pub trace: [u8; 16],
    /// The span; zero where the trace begins below.
    pub span: [u8; 8],
}

impl SpanContext {
    /// Reads a `traceparent` that asks for what it names to be recorded; nothing where it does
    /// not ask, or where it cannot be read, which is no error by the W3C's rules.
    #[must_use]
    pub fn sampled(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = hex::<1>(version)?;
        // Later versions may have more parts; 255 is none.
        if version == u8::MAX || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let [flags] = hex::<1>(flags)?;
        let context = Self {
            trace: hex(trace)?,
            span: hex(span)?,
        };
        let is_one = context.trace != [0; 16] && context.span != [0; 8];
        (is_one && flags & 1 == 1).then_some(context)
    }

    /// As a `traceparent` that asks for it to be recorded.
    #[must_use]
    pub fn header(&self) -> String {
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        format!("00-{}-{}-01", hex(&self.trace), hex(&self.span))
    }
}

/// Lower-case hexadecimal digits of exactly so many bytes.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// That an entry is traced: its append to the log of a replica is a span below this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TracedEntry {
    /// Which partition.
    pub partition: PartitionId,
    /// The number of the entry.
    pub index: Index,
    /// The span of its primary.
    pub context: SpanContext,
}

impl From<TracedEntry> for pb::TracedEntry {
    fn from(
        TracedEntry {
            partition,
            index,
            context,
        }: TracedEntry,
    ) -> Self {
        Self {
            partition: partition.0,
            index: index.0,
            trace: context.trace.to_vec().into(),
            span: context.span.to_vec().into(),
        }
    }
}

impl TryFrom<pb::TracedEntry> for TracedEntry {
    type Error = Malformed;

    fn try_from(
        pb::TracedEntry {
            partition: number,
            index,
            trace,
            span,
        }: pb::TracedEntry,
    ) -> Result<Self, Malformed> {
        let wrong = |field| Malformed::new(field, "has another length");
        Ok(Self {
            partition: partition(number, "partition")?,
            index: Index(index),
            context: SpanContext {
                trace: trace[..].try_into().map_err(|_| wrong("trace"))?,
                span: span[..].try_into().map_err(|_| wrong("span"))?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written_as_the_w3c_has_it() {
        let context = SpanContext::sampled(HEADER).expect("it is sampled");
        assert_eq!(context.trace[..2], [0x0a, 0xf7]);
        assert_eq!(context.span[7], 0x31);
        assert_eq!(context.header(), HEADER);
        let later = format!("01{}-more", &HEADER[2..]);
        assert_eq!(SpanContext::sampled(&later), Some(context));
    }

    #[test]
    fn what_is_not_sampled_or_not_a_header_is_not_recorded() {
        for header in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-é0af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
        ] {
            assert_eq!(SpanContext::sampled(header), None, "{header}");
        }
    }

    #[test]
    fn traced_entries_go_there_and_back() {
        let entry = TracedEntry {
            partition: PartitionId(3),
            index: Index(9),
            context: SpanContext::sampled(HEADER).expect("it is sampled"),
        };
        let mut sent = pb::TracedEntry::from(entry);
        assert_eq!(TracedEntry::try_from(sent.clone()), Ok(entry));
        sent.span = sent.span.slice(1..);
        assert!(TracedEntry::try_from(sent).is_err());
    }
}
