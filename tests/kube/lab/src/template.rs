//! The configuration files in `templates/`, with the lab's values put in.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Puts each value in the place of its `@NAME@`.
///
/// # Errors
/// Where the template names something that has no value.
pub fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    let left = text.split('@').skip(1).step_by(2);
    let unknown: Vec<_> = left
        .filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    ensure!(unknown.is_empty(), "no value for {unknown:?}");
    Ok(text)
}

/// The same, into a file.
///
/// # Errors
/// As [`fill`], and where it cannot be written.
pub fn write(path: &Path, template: &str, values: &[(&str, &str)]) -> Result<()> {
    let text = fill(template, values).with_context(|| format!("fill {}", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_needs_a_value() {
        assert_eq!(
            fill("a: @A@\nb: @B@", &[("A", "1"), ("B", "2")]).unwrap(),
            "a: 1\nb: 2"
        );
        assert!(fill("a: @A@\nb: @B@", &[("A", "1")]).is_err());
    }
}
