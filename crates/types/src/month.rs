//! A calendar month of somebody's, as bills name it: `2026-11`.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, date};

use crate::{Timestamp, UtcOffset, Window, Zone};

/// Months since January 1970: the [`Period`](crate::window::Period) of [`Window::Month`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(i32);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a month such as 2026-11")]
pub struct NotAMonth;

// === impl Month ===

impl Month {
    /// The month into which a moment falls where the clock is `offset` ahead of UTC.
    pub fn of(at: Timestamp, offset: UtcOffset) -> Self {
        Self(Window::Month.period(at, offset).0)
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Its first moment in a zone.
    pub fn starts_at(self, zone: &Zone) -> Timestamp {
        let midnight = self.first().to_zoned(zone.jiff().clone()).and_then(|day| day.start_of_day());
        Timestamp(midnight.map_or(if self.0 < 0 { i64::MIN } else { i64::MAX }, |at| at.timestamp().as_microsecond()))
    }

    fn first(self) -> Date {
        let (year, month) = (1970 + self.0.div_euclid(12), self.0.rem_euclid(12) + 1);
        match (i16::try_from(year), i8::try_from(month)) {
            (Ok(year @ -9999..=9999), Ok(month)) => date(year, month, 1),
            _ if self.0 < 0 => Date::MIN,
            _ => Date::MAX,
        }
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.first();
        write!(f, "{:04}-{:02}", first.year(), first.month())
    }
}

impl FromStr for Month {
    type Err = NotAMonth;
    fn from_str(text: &str) -> Result<Self, NotAMonth> {
        let (year, month) = text.split_once('-').ok_or(NotAMonth)?;
        let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(year, 4) || !digits(month, 2) {
            return Err(NotAMonth);
        }
        let (year, month) = (year.parse::<i32>().map_err(|_| NotAMonth)?, month.parse::<i32>().map_err(|_| NotAMonth)?);
        if !(1..=12).contains(&month) {
            return Err(NotAMonth);
        }
        Ok(Self((year - 1970) * 12 + month - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect("a valid time in the test")
    }

    #[test]
    fn a_month_begins_at_its_tenants_midnight() {
        let check = |month: &str, zone: &str, first: &str| {
            let (month, zone): (Month, Zone) = (month.parse().expect("a month"), zone.parse().expect("a zone"));
            assert_eq!(month.starts_at(&zone), at(first), "{month} in {zone}");
            assert_eq!(Month::of(at(first), zone.offset(at(first))), month);
            let before = Timestamp(at(first).0 - 1);
            assert_eq!(Month::of(before, zone.offset(before)).next(), month, "and not before");
        };
        check("2026-11", "UTC", "2026-11-01T00:00:00Z");
        check("2026-11", "Europe/Berlin", "2026-10-31T23:00:00Z");
        check("2026-08", "America/New_York", "2026-08-01T04:00:00Z");
        check("2027-01", "Asia/Kathmandu", "2026-12-31T18:15:00Z");
        check("1969-12", "UTC", "1969-12-01T00:00:00Z");
    }

    #[test]
    fn a_month_is_read_as_it_is_shown_or_not_at_all() {
        for text in ["2026-11", "1970-01", "1969-12", "9999-12", "0001-01"] {
            assert_eq!(text.parse::<Month>().map(|month| month.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "2026", "2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "-026-11", "2026-+1"] {
            assert_eq!(bad.parse::<Month>(), Err(NotAMonth), "{bad}");
        }
    }
}
