//! What Kubernetes takes for a name, a label, a key. Each function returns what would have
//! been right.

use std::net::{IpAddr, Ipv6Addr};

/// Letters, digits and some others, alphanumeric at both ends, of a bounded length.
fn word(text: &str, bytes_max: usize, others: &[u8]) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || others.contains(&b);
    let ends = text.bytes().next().into_iter().chain(text.bytes().last());
    !text.is_empty()
        && text.len() <= bytes_max
        && text.bytes().all(inside)
        && ends.into_iter().all(|b| b.is_ascii_alphanumeric())
}

fn lower(text: &str) -> bool {
    !text.bytes().any(|b| b.is_ascii_uppercase())
}

/// The name of a Service, which other names are made of.
pub(super) fn service_name(text: &str) -> Result<(), &'static str> {
    let begins = text.starts_with(|c: char| c.is_ascii_lowercase());
    (begins && lower(text) && word(text, 63, b"-"))
        .then_some(())
        .ok_or("small letters, digits and dashes, a letter first and no dash at the end")
}

/// The name of most other objects.
pub(super) fn object_name(text: &str) -> Result<(), &'static str> {
    (text.len() <= 253 && lower(text) && text.split('.').all(|part| word(part, 253, b"-")))
        .then_some(())
        .ok_or("the name of an object: small letters, digits, dashes and dots, 253 at most")
}

/// The tag of an image.
pub(super) fn tag(text: &str) -> Result<(), &'static str> {
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (begins && text.len() <= 64 && text.bytes().all(inside))
        .then_some(())
        .ok_or("a version that can be an image's tag, as 0.1.0")
}

/// The key of a label or an annotation.
pub(super) fn qualified_name(text: &str) -> Result<(), &'static str> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    (word(name, 63, b"-_.") && prefix.is_none_or(|prefix| object_name(prefix).is_ok()))
        .then_some(())
        .ok_or("a key like example.com/name, its name of 63 letters, digits, -, _ and . at most")
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Result<(), &'static str> {
    (text.is_empty() || word(text, 63, b"-_."))
        .then_some(())
        .ok_or("a label's value: 63 letters, digits, -, _ and . at most")
}

/// A key of a Secret.
pub(super) fn data_key(text: &str) -> Result<(), &'static str> {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let begins = text.is_empty() || text == "." || text.starts_with("..");
    (!begins && text.len() <= 253 && text.bytes().all(inside))
        .then_some(())
        .ok_or("a key of a Secret: letters, digits, -, _ and ., 253 at most")
}

/// A network: an address, and how many of its bits are the network's.
pub(super) fn network(text: &str) -> Result<(), &'static str> {
    let right = text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    });
    if right {
        Ok(())
    } else {
        Err("a network like 192.0.2.0/24")
    }
}

/// A host, which is a name or an address, and a port.
pub(super) fn host_port(text: &str) -> Result<(), &'static str> {
    let right = text.rsplit_once(':').is_some_and(|(host, port)| {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_host = match bare {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => (1..=253).contains(&host.len()) && host.bytes().all(is_plain),
        };
        is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if right {
        Ok(())
    } else {
        Err("a host and a port like collector.observability:4317")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_kubernetes_takes() {
        let long = "a".repeat(64);
        for (check, right, wrong) in [
            (
                service_name as fn(&str) -> Result<(), &'static str>,
                vec!["a", "orders-2"],
                vec!["", "2a", "-a", "a-", "A", "a.b", "a_b", "é", &long],
            ),
            (
                object_name,
                vec!["a", "2", "a.b-c.d", &long],
                vec!["", ".a", "a..b", "a.", "A", "a_b", "-a", "a-.b"],
            ),
            (
                tag,
                vec!["0.1.0", "v1_2-rc.1", "1-"],
                vec!["", "-1", ".1", "1:2", "1/2", "1 2"],
            ),
            (
                qualified_name,
                vec!["app", "example.com/App_1.x", "a/b"],
                vec!["", "/a", "a/", "a/b/c", "A.com/b", "-a", &long],
            ),
            (
                label_value,
                vec!["", "A.b_c-1"],
                vec!["a b", "-", "a-", &long],
            ),
            (
                data_key,
                vec!["users.toml", "_x", ".hidden"],
                vec!["", ".", "..", "..x", "a/b", "a b"],
            ),
            (
                host_port,
                vec![
                    "a:1",
                    "collector.observability:4317",
                    "[::1]:65535",
                    "192.0.2.1:4317",
                ],
                vec![
                    "",
                    "a",
                    "a:",
                    "a:0",
                    "a:65536",
                    ":1",
                    "::1:1",
                    "[a]:1",
                    "http://a:1",
                    "a b:1",
                ],
            ),
            (
                network,
                vec!["0.0.0.0/0", "192.0.2.0/24", "2001:db8::/32"],
                vec![
                    "",
                    "192.0.2.0",
                    "192.0.2.0/33",
                    "192.0.2/24",
                    "::/129",
                    "a/8",
                ],
            ),
        ] {
            for text in right {
                assert_eq!(check(text), Ok(()), "{text}");
            }
            for text in wrong {
                assert!(check(text).is_err(), "{text}");
            }
        }
    }
}
