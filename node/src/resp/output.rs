//! Replies that were not yet written to the socket.
//!
//! Short ones are gathered in one buffer; the bytes of long values are written from
//! where they lie.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::encode::{Encoder, Protocol};

/// A value from this length on is not copied.
const SHARE_BYTES: usize = 16 << 10;
/// The most pieces given to one system call.
const PIECES: usize = 16;
/// A buffer that grew beyond this is given back once it is empty.
const KEEP_BYTES: usize = 32 << 10;

/// The replies of one connection.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Complete pieces, oldest first, ahead of `tail`.
    pieces: VecDeque<Bytes>,
    pieces_bytes: usize,
    tail: BytesMut,
}

impl Output {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.pieces_bytes + self.tail.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where short replies go.
    pub(crate) fn encoder(&mut self, protocol: Protocol) -> Encoder<'_> {
        Encoder::new(&mut self.tail, protocol)
    }

    /// Appends encoded bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Appends a bulk string.
    pub(crate) fn value(&mut self, value: &Bytes, protocol: Protocol) {
        if value.len() < SHARE_BYTES {
            self.encoder(protocol).bulk(value);
            return;
        }
        self.encoder(protocol).bulk_header(value.len());
        let head = self.tail.split().freeze();
        self.push(head);
        self.push(value.clone());
        self.tail.extend_from_slice(b"\r\n");
    }

    /// Where encoded bytes are appended.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Takes back what was appended to [`Self::tail`] since it was so long.
    pub(crate) fn truncate_tail(&mut self, length: usize) {
        self.tail.truncate(length);
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.pieces_bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Writes as much as the socket takes. Ready once all is written; returns how
    /// much this call wrote.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        written: &mut usize,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let count = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *stream).poll_write(context, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); PIECES];
                let mut used = 0;
                for (slice, piece) in slices.iter_mut().zip(self.pieces.iter()) {
                    *slice = IoSlice::new(piece);
                    used += 1;
                }
                if used < PIECES && !self.tail.is_empty() {
                    slices[used] = IoSlice::new(&self.tail);
                    used += 1;
                }
                ready!(Pin::new(&mut *stream).poll_write_vectored(context, &slices[..used]))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += count;
            self.advance(count);
        }
        if self.tail.capacity() > KEEP_BYTES {
            self.tail = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                if count == self.tail.len() {
                    // Clearing keeps the whole buffer; advancing would give up its start.
                    self.tail.clear();
                } else {
                    self.tail.advance(count);
                }
                return;
            };
            let step = count.min(piece.len());
            piece.advance(step);
            self.pieces_bytes -= step;
            count -= step;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}
