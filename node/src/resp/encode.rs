//! Writes replies, in RESP2 or RESP3, into a byte buffer.
//!
//! What RESP2 lacks is written as Redis writes it there: a map as a flat array, a
//! set as an array, a verbatim string as a bulk string.

use bytes::{BufMut, BytesMut};

/// The version of the protocol that a connection speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// RESP2: what every connection begins with.
    #[default]
    Two,
    /// RESP3, after `HELLO 3`.
    Three,
}

impl Protocol {
    /// Its number.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// A reply under way.
#[derive(Debug)]
pub struct Encoder<'a> {
    out: &'a mut BytesMut,
    protocol: Protocol,
}

impl<'a> Encoder<'a> {
    /// Appends to `out`.
    pub fn new(out: &'a mut BytesMut, protocol: Protocol) -> Self {
        Self { out, protocol }
    }

    /// The version that is written.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// A simple string. The text has no line break.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.bytes().any(|b| b == b'\r' || b == b'\n'));
        self.out.reserve(text.len() + 3);
        self.out.put_u8(b'+');
        self.out.put_slice(text.as_bytes());
        self.out.put_slice(b"\r\n");
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// An error. The text begins with its code (`ERR`, `MOVED`). Line breaks, which
    /// may come from a client's words, become spaces.
    pub fn error(&mut self, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.put_u8(b'-');
        for &byte in text {
            self.out.put_u8(match byte {
                b'\r' | b'\n' => b' ',
                other => other,
            });
        }
        self.out.put_slice(b"\r\n");
    }

    /// An integer.
    pub fn integer(&mut self, number: i64) {
        self.header(b':', number);
    }

    /// A bulk string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.bulk_header(bytes.len());
        self.out.put_slice(bytes);
        self.out.put_slice(b"\r\n");
    }

    /// What stands before a bulk string whose bytes, and line break, follow by
    /// other means. There is room for both afterwards only if they are short.
    pub fn bulk_header(&mut self, length: usize) {
        self.header(b'$', length as i64);
    }

    /// A bulk string of a number.
    pub fn bulk_integer(&mut self, number: i64) {
        let mut digits = [0u8; 20];
        let digits = decimal(number, &mut digits);
        self.bulk(digits);
    }

    /// A null where a string would stand.
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Two => b"$-1\r\n",
            Protocol::Three => b"_\r\n",
        });
    }

    /// A null where an array would stand.
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Two => b"*-1\r\n",
            Protocol::Three => b"_\r\n",
        });
    }

    /// The head of an array of so many elements.
    pub fn array(&mut self, elements: usize) {
        self.header(b'*', elements as i64);
    }

    /// The head of a map of so many pairs.
    pub fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Two => self.header(b'*', 2 * pairs as i64),
            Protocol::Three => self.header(b'%', pairs as i64),
        }
    }

    /// The head of a set of so many elements.
    pub fn set(&mut self, elements: usize) {
        match self.protocol {
            Protocol::Two => self.header(b'*', elements as i64),
            Protocol::Three => self.header(b'~', elements as i64),
        }
    }

    /// The head of a message of so many elements that answers no command.
    pub fn push(&mut self, elements: usize) {
        match self.protocol {
            Protocol::Two => self.header(b'*', elements as i64),
            Protocol::Three => self.header(b'>', elements as i64),
        }
    }

    /// Text for people: verbatim where there is such a thing.
    pub fn text(&mut self, text: &str) {
        match self.protocol {
            Protocol::Two => self.bulk(text.as_bytes()),
            Protocol::Three => {
                self.header(b'=', text.len() as i64 + 4);
                self.out.put_slice(b"txt:");
                self.out.put_slice(text.as_bytes());
                self.out.put_slice(b"\r\n");
            }
        }
    }

    /// Bytes that are encoded already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn header(&mut self, kind: u8, number: i64) {
        let mut digits = [0u8; 20];
        let digits = decimal(number, &mut digits);
        let mut line = [0u8; 23];
        line[0] = kind;
        line[1..=digits.len()].copy_from_slice(digits);
        line[digits.len() + 1] = b'\r';
        line[digits.len() + 2] = b'\n';
        self.out.extend_from_slice(&line[..digits.len() + 3]);
    }
}

/// The decimal digits of a number, as Redis writes them.
pub(crate) fn decimal(number: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut rest = number.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

/// Reads a decimal integer as Redis does: no sign but a minus, no leading zeros, no
/// spaces, nothing beyond 64 bits.
pub(crate) fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut number: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        // Nineteen digits stay below 2^64.
        number = number * 10 + u64::from(digit - b'0');
    }
    if negative {
        0i64.checked_sub_unsigned(number)
    } else {
        i64::try_from(number).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(protocol: Protocol, write: impl FnOnce(&mut Encoder<'_>)) -> String {
        let mut out = BytesMut::new();
        write(&mut Encoder::new(&mut out, protocol));
        String::from_utf8(out.to_vec()).expect("the test writes text")
    }

    #[test]
    fn each_kind_in_both_versions() {
        let write = |e: &mut Encoder<'_>| {
            e.map(1);
            e.bulk(b"k");
            e.set(1);
            e.integer(-7);
            e.null();
            e.null_array();
            e.text("hi");
            e.error(b"ERR a\r\nb");
        };
        assert_eq!(
            encoded(Protocol::Two, write),
            "*2\r\n$1\r\nk\r\n*1\r\n:-7\r\n$-1\r\n*-1\r\n$2\r\nhi\r\n-ERR a  b\r\n"
        );
        assert_eq!(
            encoded(Protocol::Three, write),
            "%1\r\n$1\r\nk\r\n~1\r\n:-7\r\n_\r\n_\r\n=6\r\ntxt:hi\r\n-ERR a  b\r\n"
        );
    }

    #[test]
    fn integers_are_strict() {
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
        ] {
            assert_eq!(parse_integer(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse_integer(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_integer(b"9223372036854775807"), Some(i64::MAX));
    }

    proptest! {
        #[test]
        fn integers_come_back(number: i64) {
            let mut buffer = [0u8; 20];
            let digits = decimal(number, &mut buffer);
            let text = number.to_string();
            prop_assert_eq!(digits, text.as_bytes());
            prop_assert_eq!(parse_integer(digits), Some(number));
        }

        #[test]
        fn only_what_would_be_written_is_read(text in "[-+0-9 ]{0,21}") {
            if let Some(number) = parse_integer(text.as_bytes()) {
                prop_assert_eq!(number.to_string(), text);
            }
        }
    }
}
