//! As much of HTTP/2 as it takes to misuse gRPC: calls that are never sent to their end,
//! calls whose answers are never taken, calls that are reset at once, floods of frames. A proper client would not do it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// The longest frame that a server takes if it says nothing else.
const FRAME_BYTES_MAX: usize = 16_384;
/// How long one look at what came waits.
const LOOK: Duration = Duration::from_millis(2);
/// How long writing may block before a flood counts as held back.
const WRITE: Duration = Duration::from_secs(1);

/// A connection.
#[derive(Debug)]
pub struct Http2 {
    stream: TcpStream,
    input: Vec<u8>,
    next: u32,
    initial_window: i64,
    window: i64,
    windows: BTreeMap<u32, i64>,
    /// Calls that the server answered or reset.
    ended: BTreeSet<u32>,
    /// The server has closed the connection, or said that it will.
    gone: bool,
}

/// A frame, encoded.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// An empty SETTINGS frame, which has to be acknowledged.
#[must_use]
pub fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// A PING frame, which has to be answered.
#[must_use]
pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

fn literal(block: &mut Vec<u8>, name: &[u8], text: &str) {
    block.extend_from_slice(name);
    // All of them are short.
    block.push(text.len() as u8);
    block.extend_from_slice(text.as_bytes());
}

impl Http2 {
    /// Connects and greets.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn open(address: &str) -> Result<Self> {
        Self::open_with(address, &settings())
    }

    /// The same, and takes nothing of any answer: the windows of its calls are closed.
    ///
    /// # Errors
    /// Where nobody answers.
    pub fn open_closed(address: &str) -> Result<Self> {
        Self::open_with(address, &frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]))
    }

    fn open_with(address: &str, settings: &[u8]) -> Result<Self> {
        let mut stream = TcpStream::connect(address).context("connect")?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE))?;
        stream.set_read_timeout(Some(LOOK))?;
        stream.write_all(PREFACE)?;
        stream.write_all(settings)?;
        Ok(Self {
            stream,
            input: Vec::new(),
            next: 1,
            initial_window: 65_535,
            window: 65_535,
            windows: BTreeMap::new(),
            ended: BTreeSet::new(),
            gone: false,
        })
    }

    /// Begins a gRPC call.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn call(&mut self, path: &str) -> Result<u32> {
        let id = self.next;
        self.next += 2;
        // POST and http are in HPACK's static table; the rest stands there in full.
        let mut block = vec![0x83, 0x86];
        literal(&mut block, &[0x04], path);
        literal(&mut block, &[0x01], "localhost");
        literal(&mut block, &[0x0f, 0x10], "application/grpc");
        block.push(0);
        literal(&mut block, &[2, b't', b'e'], "trailers");
        self.write(&frame(HEADERS, END_HEADERS, id, &block))?;
        self.windows.insert(id, self.initial_window);
        Ok(id)
    }

    /// Sends what the windows allow of `bytes` on a call; says how much.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn data(&mut self, id: u32, bytes: &[u8]) -> Result<usize> {
        let own = self.windows.get(&id).copied().unwrap_or(0);
        let most = own.min(self.window).max(0) as usize;
        let length = bytes.len().min(most).min(FRAME_BYTES_MAX);
        if length > 0 && !self.ended.contains(&id) {
            self.write(&frame(DATA, 0, id, &bytes[..length]))?;
            self.window -= length as i64;
            self.windows.insert(id, own - length as i64);
            return Ok(length);
        }
        Ok(0)
    }

    /// Takes a call back.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn reset(&mut self, id: u32) -> Result<()> {
        self.windows.remove(&id);
        self.write(&frame(RST_STREAM, 0, id, &8u32.to_be_bytes()))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// Where the connection is gone or does not take them in time.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("write")
    }

    /// Takes what came, waiting a moment for it; whether the connection lives.
    ///
    /// # Errors
    /// Where what came is no HTTP/2.
    pub fn look(&mut self) -> Result<bool> {
        let mut chunk = vec![0; 64 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.gone = true,
            Ok(read) => self.input.extend_from_slice(&chunk[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => self.gone = true,
        }
        while let Some((kind, flags, stream, payload)) = self.take_frame() {
            self.took(kind, flags, stream, &payload)?;
        }
        Ok(!self.gone)
    }

    /// Whether the server has closed the connection, or said that it will.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether the server has answered or reset a call.
    #[must_use]
    pub fn has_ended(&self, id: u32) -> bool {
        self.gone || self.ended.contains(&id)
    }

    fn take_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head: [u8; 9] = self.input.get(..9)?.try_into().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = self.input.get(9..9 + length)?.to_vec();
        self.input.drain(..9 + length);
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    fn took(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        let number = |at: usize| -> Option<i64> {
            let four: [u8; 4] = payload.get(at..at + 4)?.try_into().ok()?;
            Some(i64::from(u32::from_be_bytes(four)))
        };
        match kind {
            SETTINGS if flags & ACK == 0 => {
                ensure!(
                    payload.len().is_multiple_of(6),
                    "settings of {} bytes",
                    payload.len()
                );
                for at in (0..payload.len()).step_by(6) {
                    // The initial window of a call.
                    if payload[at..at + 2] == [0, 4] {
                        let window = number(at + 2).context("a window")?;
                        let grown = window - self.initial_window;
                        self.windows.values_mut().for_each(|own| *own += grown);
                        self.initial_window = window;
                    }
                }
                // Where the server is gone, the next look says so.
                let _ = self.write(&frame(SETTINGS, ACK, 0, &[]));
            }
            PING if flags & ACK == 0 => {
                let _ = self.write(&frame(PING, ACK, 0, payload));
            }
            WINDOW_UPDATE => {
                let more = number(0).context("an increment")?;
                if stream == 0 {
                    self.window += more;
                } else if let Some(own) = self.windows.get_mut(&stream) {
                    *own += more;
                }
            }
            RST_STREAM => drop(self.ended.insert(stream)),
            HEADERS | DATA if flags & END_STREAM != 0 => drop(self.ended.insert(stream)),
            GOAWAY => self.gone = true,
            _ => {}
        }
        Ok(())
    }
}
