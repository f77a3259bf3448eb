//! Taking what is kept out of the message that it came in.
//!
//! A decoded value is a slice of its message, and keeps all of it in memory for as
//! long as it lives: an entry of a hundred bytes, the last of a quiet partition, a
//! whole frame of everybody's entries. What may be kept is copied out, therefore,
//! unless it is a good part of any usual message itself.

use bytes::Bytes;

/// From this length on a value may stay a slice: a quarter of the mebibyte that
/// senders fill a message up to, beyond which only single large values go.
const SLICE_BYTES_MIN: usize = 256 << 10;
/// About how many bytes of values share one copy. They are of one partition, and of
/// about the same age, so that they go together.
const SHARED_BYTES: usize = 16 << 10;

/// Copies the short ones of `values` out of whatever they are slices of, many at a time.
pub(crate) fn detach<'a>(values: impl Iterator<Item = &'a mut Bytes>) {
    let mut group: Vec<&mut Bytes> = Vec::new();
    let mut length = 0;
    for value in values.filter(|value| value.len() < SLICE_BYTES_MIN) {
        if length > 0 && length + value.len() > SHARED_BYTES {
            copy(&mut group, length);
            length = 0;
        }
        length += value.len();
        group.push(value);
    }
    copy(&mut group, length);
}

fn copy(group: &mut Vec<&mut Bytes>, length: usize) {
    let mut shared = Vec::with_capacity(length);
    for value in group.iter() {
        shared.extend_from_slice(value);
    }
    let mut shared = Bytes::from(shared);
    for value in group.drain(..) {
        *value = shared.split_to(value.len());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A message of which is known whether anything keeps it in memory.
    struct Message(Vec<u8>, #[allow(dead_code)] Arc<()>);

    impl AsRef<[u8]> for Message {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn short_values_let_their_message_go_and_stay_what_they_were() {
        let alive = Arc::new(());
        let message = Bytes::from_owner(Message(
            (0..1_000_000).map(|n| n as u8).collect(),
            Arc::clone(&alive),
        ));
        let lengths = [0, 1, 100, 15_000, 0, 3_000, 20_000, 200_000, 7, 0];
        let mut at = 0;
        let mut values: Vec<Bytes> = lengths
            .iter()
            .map(|length| {
                let value = message.slice(at..at + length);
                at += length;
                value
            })
            .collect();
        let expected: Vec<Vec<u8>> = values.iter().map(|v| v.to_vec()).collect();
        detach(values.iter_mut());
        assert_eq!(values, expected);
        drop(message);
        assert_eq!(Arc::strong_count(&alive), 1, "a value keeps its message");
    }

    #[test]
    fn a_long_value_is_not_copied() {
        let message = Bytes::from(vec![1; 2 * SLICE_BYTES_MIN]);
        let mut value = message.slice(SLICE_BYTES_MIN..);
        detach(std::iter::once(&mut value));
        assert_eq!(value.as_ptr(), message[SLICE_BYTES_MIN..].as_ptr());
    }
}
