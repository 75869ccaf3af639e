//! Money: integer picodollars (1e-12 USD), never a float.
//!
//! Live prices such as 5.46875e-07 USD a token do not fit nanodollars; picodollars hold them exactly. One request's
//! amount is a [`PicoUsd`] (`u64`, up to 18.4 million USD); a sum over many is a [`PicoSum`] (`i128`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Picodollars in one dollar.
pub const PICO_PER_USD: u64 = 1_000_000_000_000;

/// One request's amount, in picodollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoUsd(pub u64);

/// A sum of many amounts, in picodollars. Signed, because a difference of sums may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PicoSum(pub i128);

/// Why a text is not an amount of money.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("not a decimal amount of US dollars such as \"12.50\"")]
    Malformed,
    #[error("finer than a picodollar (at most {0} digits may follow the point)")]
    TooFine(u32),
    #[error("larger than this program can hold")]
    TooLarge,
}

// === impl PicoUsd ===

impl PicoUsd {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u64::MAX);

    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Parses a decimal amount of US dollars, such as `"1"`, `"0.000000546875"`.
    pub fn parse_usd(text: &str) -> Result<Self, MoneyError> {
        let pico = parse_decimal(text, 12)?;
        u64::try_from(pico).map(Self).map_err(|_| MoneyError::TooLarge)
    }

    /// Parses a price in US dollars per million units, and gives picodollars per unit.
    ///
    /// A price per unit that is not a whole number of picodollars is refused: it could not be charged exactly.
    pub fn parse_usd_per_million(text: &str) -> Result<Self, MoneyError> {
        let pico = parse_decimal(text, 6)?;
        u64::try_from(pico).map(Self).map_err(|_| MoneyError::TooLarge)
    }
}

impl From<PicoUsd> for PicoSum {
    fn from(amount: PicoUsd) -> Self {
        Self(i128::from(amount.0))
    }
}

/// US dollars, all significant digits, at least two after the point: `0.0000123`, `1.00`.
impl fmt::Display for PicoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PicoSum::from(*self).fmt(f)
    }
}

// === impl PicoSum ===

impl PicoSum {
    pub const ZERO: Self = Self(0);

    /// Parses a decimal amount of US dollars; never negative.
    pub fn parse_usd(text: &str) -> Result<Self, MoneyError> {
        i128::try_from(parse_decimal(text, 12)?).map(Self).map_err(|_| MoneyError::TooLarge)
    }

    /// The amount, or zero where it is negative, capped to what one request can hold.
    pub fn clamp_to_amount(self) -> PicoUsd {
        PicoUsd(u64::try_from(self.0.max(0)).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for PicoSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        let (dollars, fraction) = (magnitude / u128::from(PICO_PER_USD), magnitude % u128::from(PICO_PER_USD));
        let digits = format!("{fraction:012}");
        let shown = digits.trim_end_matches('0').len().max(2);
        write!(f, "{sign}{dollars}.{}", &digits[..shown])
    }
}

impl FromStr for PicoSum {
    type Err = MoneyError;
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        Self::parse_usd(text)
    }
}

/// `text` times ten to the `places`, exactly. Accepts plain decimals only: no sign, no exponent.
fn parse_decimal(text: &str, places: u32) -> Result<u128, MoneyError> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || text.ends_with('.') {
        return Err(MoneyError::Malformed);
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = u32::try_from(fraction.len()).map_err(|_| MoneyError::TooFine(places))?;
    if digits > places {
        return Err(MoneyError::TooFine(places));
    }
    let number = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<u128>().map_err(|_| MoneyError::TooLarge) };
    let scaled = |n: u128, by: u32| 10u128.checked_pow(by).and_then(|p| n.checked_mul(p)).ok_or(MoneyError::TooLarge);
    scaled(number(whole)?, places)?.checked_add(scaled(number(fraction)?, places - digits)?).ok_or(MoneyError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_dollars_become_picodollars_exactly() {
        let check = |text: &str, pico: u64| assert_eq!(PicoUsd::parse_usd(text), Ok(PicoUsd(pico)), "{text}");
        check("0", 0);
        check("1", PICO_PER_USD);
        check("0.000000546875", 546_875);
        check("12.500000000000000", 12_500_000_000_000);
        assert_eq!(PicoUsd::parse_usd_per_million("0.15"), Ok(PicoUsd(150_000)));
    }

    #[test]
    fn what_is_not_money_is_refused_with_its_reason() {
        for text in ["", ".5", "1.", "-1", "1e3", "1,5", " 1", "0x1", "１"] {
            assert_eq!(PicoUsd::parse_usd(text), Err(MoneyError::Malformed), "{text:?}");
        }
        assert_eq!(PicoUsd::parse_usd("0.0000000000001"), Err(MoneyError::TooFine(12)));
        assert_eq!(PicoUsd::parse_usd("99999999999"), Err(MoneyError::TooLarge));
        assert_eq!(PicoUsd::parse_usd(&"9".repeat(60)), Err(MoneyError::TooLarge));
    }

    #[test]
    fn an_amount_is_shown_in_dollars_with_every_digit_that_matters() {
        let check = |pico: i128, shown: &str| assert_eq!(PicoSum(pico).to_string(), shown);
        check(0, "0.00");
        check(1, "0.000000000001");
        check(1_500_000_000_000, "1.50");
        check(-2_250_000_000, "-0.00225");
    }
}
