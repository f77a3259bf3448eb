//! Sizes as people write them: `1TB` is 10^12 bytes, `1TiB` 2^40.

const UNITS: [(&str, f64); 12] = [
    ("PIB", 1_125_899_906_842_624.0),
    ("TIB", 1_099_511_627_776.0),
    ("GIB", 1_073_741_824.0),
    ("MIB", 1_048_576.0),
    ("KIB", 1024.0),
    ("PB", 1e15),
    ("TB", 1e12),
    ("GB", 1e9),
    ("MB", 1e6),
    ("KB", 1e3),
    ("B", 1.0),
    ("", 1.0),
];

/// Reads a size in bytes.
pub(super) fn parse(text: &str) -> Result<f64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let refused = || format!("`{text}` is not a size such as 128, 16KiB, 200MB or 1.5TB");
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &upper[digits.len()..];
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(refused)?;
    digits
        .trim()
        .parse::<f64>()
        .ok()
        .map(|figure| figure * factor)
        .filter(|bytes| bytes.is_finite() && (0.0..=1e18).contains(bytes))
        .ok_or_else(refused)
}

/// Writes a size in the decimal unit that suits it.
pub(super) fn decimal(bytes: f64) -> String {
    for (name, factor) in [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)] {
        if bytes >= factor {
            let figure = bytes / factor;
            let digits = usize::from(figure < 100.0 && figure.fract() > 1e-9);
            let digits = digits + usize::from(figure < 10.0 && (figure * 10.0).fract() > 1e-9);
            return format!("{figure:.digits$} {name}");
        }
    }
    format!("{bytes:.0} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_both_kinds_of_units() {
        for (text, bytes) in [
            ("128", 128.0),
            ("1kB", 1000.0),
            ("16KiB", 16_384.0),
            ("1.5 TB", 1.5e12),
            ("1TiB", 1_099_511_627_776.0),
            ("0", 0.0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "TB", "1XB", "-1", "1e30", "NaN", "inf", "1 0"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_are_written_for_people() {
        for (bytes, text) in [
            (12.0, "12 B"),
            (1500.0, "1.5 kB"),
            (3e12, "3 TB"),
            (1.234e9, "1.23 GB"),
            (123.4e6, "123 MB"),
        ] {
            assert_eq!(decimal(bytes), text);
        }
    }
}
