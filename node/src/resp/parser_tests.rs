use bytes::Buf;
use proptest::prelude::*;

use super::*;

/// Everything that a parser finds in a stream that arrives in `pieces`.
fn commands(pieces: &[&[u8]], limits: Limits) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    let mut parser = Parser::new(limits);
    let mut buffer = BytesMut::new();
    let mut found = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let (frame, bytes) = match parser.find(&buffer) {
                Err(error) => return (found, Some(error)),
                Ok(Found::Incomplete { bytes }) => {
                    assert!(bytes > buffer.len(), "what is missing is not there yet");
                    break;
                }
                Ok(Found::Nothing { bytes }) => {
                    buffer.advance(bytes);
                    continue;
                }
                Ok(Found::Command { bytes }) => (Bytes::copy_from_slice(&buffer), bytes),
                Ok(Found::Inline { bytes }) => (parser.take_inline(), bytes),
            };
            buffer.advance(bytes);
            let arguments = parser.take_arguments();
            found.push(
                arguments
                    .iter()
                    .map(|&(start, end)| frame[start as usize..end as usize].to_vec())
                    .collect(),
            );
            parser.recycle(arguments);
        }
    }
    (found, None)
}

fn encode(command: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for argument in command {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn whole(bytes: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    commands(&[bytes], Limits::default())
}

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ')
        .map(|word| word.as_bytes().to_vec())
        .collect()
}

#[test]
fn inline_commands_are_split_by_redis_rules() {
    let (found, error) = whole(b"\r\n  \r\nPING\r\nSET a \"x y\\x41\\n\"\nGET 'it\\'s' \"\"\r\n");
    assert_eq!(error, None);
    assert_eq!(found[0], words("PING"));
    assert_eq!(
        found[1],
        vec![b"SET".to_vec(), b"a".to_vec(), b"x yA\n".to_vec()]
    );
    assert_eq!(
        found[2],
        vec![b"GET".to_vec(), b"it's".to_vec(), b"".to_vec()]
    );
    for bad in [
        &b"GET \"abc\r\n"[..],
        b"GET \"a\"b\r\n",
        b"GET 'a\r\n",
        b"GET \"a\\\r\n",
    ] {
        assert_eq!(whole(bad).1, Some(ProtocolError::Quotes), "{bad:?}");
    }
}

#[test]
fn empty_and_negative_arrays_are_passed_over() {
    let (found, error) = whole(b"*0\r\n*-1\r\n*-5\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!((found, error), (vec![words("PING")], None));
}

#[test]
fn what_is_not_a_command_is_refused_in_redis_words() {
    let long = vec![b'1'; 70_000];
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (
            b"*abc\r\n".to_vec(),
            "Protocol error: invalid multibulk length",
        ),
        (
            b"*01\r\n".to_vec(),
            "Protocol error: invalid multibulk length",
        ),
        (
            b"*1\n$4\r\n".to_vec(),
            "Protocol error: invalid multibulk length",
        ),
        (
            b"*1048577\r\n".to_vec(),
            "Protocol error: invalid multibulk length",
        ),
        (
            b"*1\r\n+PING\r\n".to_vec(),
            "Protocol error: expected '$', got '+'",
        ),
        (
            b"*1\r\n*1\r\n".to_vec(),
            "Protocol error: expected '$', got '*'",
        ),
        (
            b"*1\r\n$-1\r\n".to_vec(),
            "Protocol error: invalid bulk length",
        ),
        (
            b"*1\r\n$abc\r\n".to_vec(),
            "Protocol error: invalid bulk length",
        ),
        (
            b"*1\r\n$16777217\r\n".to_vec(),
            "Protocol error: invalid bulk length",
        ),
        (
            [b"*", &long[..]].concat(),
            "Protocol error: too big mbulk count string",
        ),
        (
            [b"*1\r\n$", &long[..]].concat(),
            "Protocol error: too big bulk count string",
        ),
        (long, "Protocol error: too big inline request"),
    ];
    for (bytes, words) in cases {
        let error = whole(&bytes).1.map(|e| e.to_string());
        assert_eq!(
            error.as_deref(),
            Some(words),
            "{:?}",
            &bytes[..bytes.len().min(40)]
        );
    }
}

#[test]
fn a_command_longer_than_the_limit_is_refused_before_its_bytes_come() {
    let limits = Limits {
        request_bytes: 100,
        ..Limits::default()
    };
    let (found, error) = commands(
        &[b"*3\r\n$1\r\na\r\n$50\r\n", &[b'x'; 50], b"\r\n$50\r\n"],
        limits,
    );
    assert_eq!(
        (found.len(), error),
        (0, Some(ProtocolError::RequestLength))
    );
}

/// Commands of arbitrary bytes, and places to cut their encoding at.
fn stream() -> impl Strategy<Value = (Vec<Vec<Vec<u8>>>, Vec<usize>)> {
    let argument = prop::collection::vec(any::<u8>(), 0..40);
    let command = prop::collection::vec(argument, 1..6);
    (
        prop::collection::vec(command, 1..8),
        prop::collection::vec(any::<usize>(), 0..12),
    )
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
    places.sort_unstable();
    places.push(bytes.len());
    let mut start = 0;
    places
        .into_iter()
        .map(|end| {
            let piece = &bytes[start..end];
            start = end;
            piece
        })
        .collect()
}

proptest! {
    #[test]
    fn commands_come_back_wherever_they_are_cut((sent, cuts) in stream()) {
        let bytes: Vec<u8> = sent.iter().flat_map(|c| encode(c)).collect();
        let (found, error) = commands(&cut(&bytes, &cuts), Limits::default());
        prop_assert_eq!(error, None);
        prop_assert_eq!(&found, &sent);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(commands(&single, Limits::default()).0, sent);
    }

    #[test]
    fn anything_at_all_is_found_or_refused_alike_wherever_it_is_cut(
        bytes in prop::collection::vec(
            prop_oneof![
                Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'1'), Just(b'2'),
                Just(b'0'), Just(b'-'), Just(b'"'), Just(b'\''), Just(b'\\'), Just(b' '),
                any::<u8>(),
            ],
            0..120,
        ),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        prop_assert_eq!(commands(&cut(&bytes, &cuts), Limits::default()), whole(&bytes));
    }

    #[test]
    fn the_redis_protocol_crate_reads_the_same_commands((sent, _) in stream()) {
        use redis_protocol::resp2::decode::decode;
        use redis_protocol::resp2::types::OwnedFrame;
        for command in &sent {
            let bytes = encode(command);
            let (frame, used) = decode(&bytes).expect("it decodes").expect("it is whole");
            prop_assert_eq!(used, bytes.len());
            let OwnedFrame::Array(items) = frame else {
                return Err(TestCaseError::fail("not an array"));
            };
            let theirs: Vec<Vec<u8>> = items
                .into_iter()
                .map(|item| match item {
                    OwnedFrame::BulkString(bytes) => bytes,
                    other => panic!("not a bulk string: {other:?}"),
                })
                .collect();
            prop_assert_eq!(&whole(&bytes).0, &vec![theirs]);
        }
    }
}

#[test]
fn fuzz_commands() {
    let limits = Limits {
        value_bytes: 4096,
        request_bytes: 8192,
        arguments: 64,
        inline_bytes: 1024,
        ..Limits::default()
    };
    let nested = b"*2\r\n*1\r\n*1\r\n$1\r\na\r\n".to_vec();
    let resp3 = b"%1\r\n+a\r\n:1\r\n~1\r\n_\r\n".to_vec();
    let seeds = vec![
        encode(&words("SET key value EX 10")),
        [encode(&words("GET a")), encode(&words("MGET a b"))].concat(),
        b"SET a \"x y\\x41\\n\" 'it\\'s'\r\nPING\r\n".to_vec(),
        b"*0\r\n*-1\r\n\r\n*1\r\n$4\r\nPING\r\n".to_vec(),
        nested,
        resp3,
    ];
    cairn_fuzz::run("resp_command", 2, seeds, |input| {
        let whole = commands(&[input], limits);
        for argument in whole.0.iter().flatten() {
            assert!(argument.len() <= limits.value_bytes.max(limits.key_bytes));
        }
        // In whatever pieces it comes: cut by its own bytes, so that each input has cuts.
        let cut = input.first().map_or(1, |byte| usize::from(*byte) % 7 + 1);
        let pieces: Vec<&[u8]> = input.chunks(cut).collect();
        assert_eq!(commands(&pieces, limits), whole);
    });
}

#[test]
fn whole_commands_are_counted_and_the_rest_is_left() {
    let whole = b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
    let sent = [&whole[..], b"*2\r\n$3\r\nGE"].concat();
    assert_eq!(crate::resp::find_commands(&sent), (2, whole.len()));
    assert_eq!(crate::resp::find_commands(b"*x\r\n"), (0, 0));
}
