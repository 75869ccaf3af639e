//! Decimals out of other people's files, as whole numbers of a small unit. Never by way of a float: what a JSON number
//! says is its text.

/// Digits that matter; the largest amounts on any bill have some 30, most of them noise of a float.
const DIGITS_MAX: usize = 36;
const EXPONENT_MAX: i32 = 60;

/// What was read, and whether it had to be rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub units: i128,
    pub rounded: bool,
}

/// `text` times ten to the `places`, rounded half away from zero; `None` if it is no number or too large. Takes what JSON
/// takes: a sign, a fraction, an exponent.
pub fn decimal(text: &str, places: i32) -> Option<Read> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits_only = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits_only(whole) || !digits_only(fraction) || exponent.abs() > EXPONENT_MAX {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = [whole.trim_start_matches('0'), fraction].concat();
    if digits.len() > DIGITS_MAX {
        return None;
    }
    let mantissa = if digits.is_empty() { 0 } else { digits.parse::<i128>().ok()? };
    let shift = places + exponent - i32::try_from(fraction.len()).ok()?;
    let read = match u32::try_from(shift) {
        Ok(_) if mantissa == 0 => Read { units: 0, rounded: false },
        Ok(up) => Read { units: mantissa.checked_mul(10_i128.checked_pow(up)?)?, rounded: false },
        Err(_) => divided(mantissa, shift.unsigned_abs()),
    };
    Some(Read { units: if negative { -read.units } else { read.units }, ..read })
}

/// `mantissa`, not negative, divided by ten to the `down` and rounded half up.
fn divided(mantissa: i128, down: u32) -> Read {
    // A mantissa has at most 36 digits: less than half of a larger power.
    let Some(power) = 10_i128.checked_pow(down) else { return Read { units: 0, rounded: mantissa != 0 } };
    let (quotient, rest) = (mantissa / power, mantissa % power);
    Read { units: quotient + i128::from(rest >= power - rest), rounded: rest != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, places: i32, expected: Option<(i128, bool)>) {
        assert_eq!(decimal(text, places).map(|read| (read.units, read.rounded)), expected, "{text} at {places}");
    }

    #[test]
    fn a_decimal_is_read_digit_by_digit() {
        check("0", 12, Some((0, false)));
        check("0.0", 12, Some((0, false)));
        check("1.5", 12, Some((1_500_000_000_000, false)));
        check("0.5617712500000000", 12, Some((561_771_250_000, false)));
        check("123.45", 10, Some((1_234_500_000_000, false)));
        check("-2.25", 2, Some((-225, false)));
        check("5.46875e-07", 12, Some((546_875, false)));
        check("1E3", 0, Some((1_000, false)));
        check("12e-1", 1, Some((12, false)));
        check("0e50", 12, Some((0, false)));
    }

    #[test]
    fn what_is_finer_than_the_unit_is_rounded_half_away_from_zero_and_said_to_be() {
        check("0.0000000000014", 12, Some((1, true)));
        check("0.0000000000015", 12, Some((2, true)));
        check("-0.0000000000015", 12, Some((-2, true)));
        check("0.060000000000000005", 12, Some((60_000_000_000, true)));
        check("1e-50", 12, Some((0, true)));
    }

    #[test]
    fn what_is_no_number_or_too_large_is_none() {
        for text in ["", "-", ".5", "1.", "+1", "1e", "1e1.5", "NaN", "1,5", " 1", "0x1", "1e99", "--1", "１"] {
            check(text, 12, None);
        }
        check(&"9".repeat(40), 0, None);
        check("999999999999999999999999999999999999", 12, None);
    }
}
