//! Quantities of Kubernetes, read strictly: `100Gi`, `1.5G`, `250m`, `1e9`.
//!
//! The API server reads them leniently (a byte that is asked for in thousandths is rounded
//! up), and a manifest may have come past a schema that is older than the operator. Here a
//! quantity is what it says, or a mistake.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// In how many parts of one amounts are counted: the smallest unit is `n`.
const NANOS: u128 = 1_000_000_000;
/// The longest text that is looked at, in bytes.
const TEXT_BYTES_MAX: usize = 64;

/// Why a quantity is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuantityError {
    /// It is not of the form of a quantity.
    #[error("it is no quantity")]
    Form,
    /// It is below zero.
    #[error("it is negative")]
    Negative,
    /// It is more than can be counted.
    #[error("it is too large")]
    TooLarge,
    /// It is finer than a billionth, or in bytes finer than one.
    #[error("it is not a whole number of units")]
    Fraction,
}

/// An amount of anything, in billionths.
///
/// # Errors
/// See [`QuantityError`].
pub fn nanos(quantity: &Quantity) -> Result<u128, QuantityError> {
    let text = quantity.0.as_str();
    if text.len() > TEXT_BYTES_MAX {
        return Err(QuantityError::Form);
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if let Some(rest) = unsigned.strip_prefix('-') {
        return Err(if parse(rest).is_ok() {
            QuantityError::Negative
        } else {
            QuantityError::Form
        });
    }
    parse(unsigned)
}

/// An amount of bytes.
///
/// # Errors
/// See [`QuantityError`].
pub fn bytes(quantity: &Quantity) -> Result<u64, QuantityError> {
    let nanos = nanos(quantity)?;
    if !nanos.is_multiple_of(NANOS) {
        return Err(QuantityError::Fraction);
    }
    u64::try_from(nanos / NANOS).map_err(|_| QuantityError::TooLarge)
}

fn parse(text: &str) -> Result<u128, QuantityError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityError::Form);
    }
    // The digits as one number, and by which power of ten it is too large.
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return scale(unit).map(|_| 0);
    }
    let mantissa: u128 = digits.parse().map_err(|_| QuantityError::TooLarge)?;
    let (multiplier, divisor) = scale(unit)?;
    let over = power_of_ten(fraction.len())?;
    let product = mantissa
        .checked_mul(multiplier)
        .ok_or(QuantityError::TooLarge)?;
    let divisor = divisor.checked_mul(over).ok_or(QuantityError::Fraction)?;
    if product.is_multiple_of(divisor) {
        Ok(product / divisor)
    } else {
        Err(QuantityError::Fraction)
    }
}

/// By what a number with that unit is multiplied and divided to give billionths.
fn scale(unit: &str) -> Result<(u128, u128), QuantityError> {
    let binary = |power: u32| (NANOS << (10 * power), 1);
    let decimal = |power: usize| power_of_ten(power + 9).map(|multiplier| (multiplier, 1));
    Ok(match unit {
        "" => (NANOS, 1),
        "n" => (1, 1),
        "u" => (1_000, 1),
        "m" => (1_000_000, 1),
        "k" => decimal(3)?,
        "M" => decimal(6)?,
        "G" => decimal(9)?,
        "T" => decimal(12)?,
        "P" => decimal(15)?,
        "E" => decimal(18)?,
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = unit
                .strip_prefix(['e', 'E'])
                .filter(|rest| rest.len() <= 4)
                .ok_or(QuantityError::Form)?;
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(QuantityError::Form);
            }
            let power: usize = digits.parse().map_err(|_| QuantityError::Form)?;
            if exponent.starts_with('-') {
                (
                    NANOS,
                    power_of_ten(power).map_err(|_| QuantityError::Fraction)?,
                )
            } else {
                decimal(power)?
            }
        }
    })
}

fn power_of_ten(power: usize) -> Result<u128, QuantityError> {
    u32::try_from(power)
        .ok()
        .and_then(|power| 10u128.checked_pow(power))
        .ok_or(QuantityError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity(text.to_owned())
    }

    #[test]
    fn bytes_are_what_they_say() {
        for (text, expected) in [
            ("0", 0),
            ("0.0", 0),
            ("1", 1),
            ("+1", 1),
            ("007", 7),
            ("1Ki", 1 << 10),
            ("1.5Gi", 3 << 29),
            ("100Gi", 100 << 30),
            ("2Ti", 2 << 40),
            ("1k", 1_000),
            ("1.5M", 1_500_000),
            ("1e9", 1_000_000_000),
            ("1E+3", 1_000),
            ("5000e-3", 5),
            ("2000m", 2),
            (".5Ki", 512),
            ("5.", 5),
            ("15Ei", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(bytes(&quantity(text)), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_number_of_bytes_is_refused() {
        use QuantityError::{Form, Fraction, Negative, TooLarge};
        for (text, expected) in [
            ("", Form),
            (".", Form),
            ("Gi", Form),
            ("1 Gi", Form),
            ("1GiB", Form),
            ("1gi", Form),
            ("1K", Form),
            ("1..5", Form),
            ("1.2.3", Form),
            ("1e", Form),
            ("1e1.5", Form),
            ("--1", Form),
            ("-x", Form),
            ("0x10", Form),
            ("٣", Form),
            ("-1Gi", Negative),
            ("400m", Fraction),
            ("0.5", Fraction),
            ("1e-99", Fraction),
            ("16Ei", TooLarge),
            ("1e40", TooLarge),
            ("1e999", TooLarge),
            ("99999999999999999999999999999999999999999", TooLarge),
        ] {
            assert_eq!(bytes(&quantity(text)), Err(expected), "{text}");
        }
        assert_eq!(bytes(&quantity(&"1".repeat(65))), Err(Form));
    }

    #[test]
    fn processors_are_counted_in_thousandths() {
        assert_eq!(nanos(&quantity("250m")), Ok(250_000_000));
        assert_eq!(nanos(&quantity("0.25")), nanos(&quantity("250m")));
        assert_eq!(nanos(&quantity("1n")), Ok(1));
        assert_eq!(nanos(&quantity("0.1n")), Err(QuantityError::Fraction));
    }
}
