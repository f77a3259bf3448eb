//! Redis's glob patterns: `*`, `?`, `[a-c]`, `[^x]`, `\` to escape.
//!
//! Matching takes at most the product of both lengths, whatever the pattern.

/// The longest pattern that is taken: matching one takes its length for each byte of each
/// key.
pub(crate) const PATTERN_BYTES_MAX: usize = 1024;

/// Whether all of `text` matches; the case of letters counts nothing.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, &|byte| byte.to_ascii_lowercase())
}

/// Whether all of `text` matches, the case of letters included.
pub(crate) fn matches_exactly(pattern: &[u8], text: &[u8]) -> bool {
    matches_by(pattern, text, &|byte| byte)
}

/// What everything begins with that matches exactly.
pub(crate) fn literal_prefix(pattern: &[u8]) -> &[u8] {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    let end = pattern.iter().position(special);
    &pattern[..end.unwrap_or(pattern.len())]
}

/// What stands for a byte where it is compared.
type Fold<'a> = &'a dyn Fn(u8) -> u8;

fn matches_by(pattern: &[u8], text: &[u8], fold: Fold<'_>) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not match here.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        let step = match text.get(t) {
            None if p == pattern.len() => return true,
            None => None,
            Some(&byte) => one(&pattern[p..], byte, fold),
        };
        match (step, retry) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            (None, Some((after_star, at))) if at < text.len() => {
                retry = Some((after_star, at + 1));
                p = after_star;
                t = at + 1;
            }
            _ => return false,
        }
    }
}

/// Whether the first element of the pattern matches the byte, and how long it is.
fn one(pattern: &[u8], byte: u8, fold: Fold<'_>) -> Option<usize> {
    let same = |a: u8, b: u8| fold(a) == fold(b);
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => same(*escaped, byte).then_some(2),
        [b'[', class @ ..] => {
            let (hit, used) = in_class(class, byte, fold);
            hit.then_some(used + 1)
        }
        [literal, ..] => same(*literal, byte).then_some(1),
    }
}

/// Whether the byte is in the class, and how long the class is, its bracket included.
/// A class without an end reaches to the end of the pattern.
fn in_class(class: &[u8], byte: u8, fold: Fold<'_>) -> (bool, usize) {
    let byte = fold(byte);
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut hit = false;
    while at < class.len() {
        match &class[at..] {
            [b']', ..] => return (hit != negated, at + 1),
            [b'\\', escaped, ..] => {
                hit |= fold(*escaped) == byte;
                at += 2;
            }
            [from, b'-', to, ..] if *to != b']' => {
                let (a, b) = (fold(*from), fold(*to));
                hit |= (a.min(b)..=a.max(b)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                hit |= fold(*literal) == byte;
                at += 1;
            }
            [] => break,
        }
    }
    (hit != negated, class.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, hit) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("max*", "maxmemory", true),
            ("MAX*", "maxmemory", true),
            ("*mem*y", "maxmemory", true),
            ("*mem*z", "maxmemory", false),
            ("h?llo", "hello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-e]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("[", "a", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                hit,
                "{pattern} {text}"
            );
        }
        for (pattern, text, hit) in [
            ("K*", "key", false),
            ("k*", "key", true),
            ("[A-Z]ey", "key", false),
            ("[a-z]ey", "key", true),
            ("\\k*", "key", true),
        ] {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            assert_eq!(matches_exactly(pattern, text), hit, "{pattern:?}");
        }
        // Many stars cost a walk for each, not one for each way to place them.
        let text = "a".repeat(2000);
        assert!(!matches(
            format!("{}b", "a*".repeat(50)).as_bytes(),
            text.as_bytes()
        ));
    }

    proptest! {
        #[test]
        fn any_pattern_is_answered(pattern in "[a\\[\\]*?^\\\\-]{0,30}", text in "[ab]{0,40}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }

        #[test]
        fn what_matches_begins_with_the_literal_prefix(
            pattern in "[ab\\[*?\\\\]{0,8}", text in "[ab]{0,8}",
        ) {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert!(!matches_exactly(pattern, text) || text.starts_with(literal_prefix(pattern)));
        }

        #[test]
        fn a_text_matches_itself(text in "[a-z]{0,20}") {
            prop_assert!(matches(text.as_bytes(), text.as_bytes()));
        }
    }
}
