//! For how long a budget counts: calendar windows in the tenant's zone, or rolling ones; and the periods they fall into.
//!
//! Each period of each window has an account of its own, so nothing is ever reset. A rolling window is counted in
//! [`BUCKETS`] equal parts of its length, of which the oldest is counted whole: so it never counts less than what was
//! spent in the time it names.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::{Timestamp, UtcOffset, Zone};

/// How long a budget lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// Bounds a single hold; adds nothing up.
    Request,
    Minute,
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    Lifetime,
    RollingMinute,
    RollingHour,
    /// The last 24 hours.
    RollingDay,
    /// The last 7 days.
    RollingWeek,
    /// The last 30 days.
    RollingMonth,
}

/// Which money column a cap counts: what the work costs us, or what the tenant is charged for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    #[default]
    Cost,
    Charge,
}

/// Which period of a window a moment falls into: minutes, hours, days, weeks, months or parts of a rolling window since
/// 1970; 0 for a lifetime. Later is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Period(pub i32);

/// A name that is not one of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {given:?}; one of: {known}")]
pub struct UnknownName {
    pub what: &'static str,
    pub given: String,
    pub known: &'static str,
}

/// Parts in which a rolling window is counted.
pub const BUCKETS: i32 = 12;

const MICROS_PER_SECOND: i64 = 1_000_000;
const MINUTE_SECONDS: i64 = 60;
const HOUR_SECONDS: i64 = 60 * MINUTE_SECONDS;
const DAY_SECONDS: i64 = 24 * HOUR_SECONDS;
/// 1970-01-01 was a Thursday: its week had begun three days before.
const DAYS_SINCE_MONDAY: i64 = 3;

// === impl Window ===

impl Window {
    pub const ALL: [Self; 12] = [
        Self::Request,
        Self::Minute,
        Self::Hour,
        Self::Day,
        Self::Week,
        Self::Month,
        Self::Lifetime,
        Self::RollingMinute,
        Self::RollingHour,
        Self::RollingDay,
        Self::RollingWeek,
        Self::RollingMonth,
    ];

    /// Counted in every scope that spends, whether a cap is set on them or not: a cap that is set in the middle of such a
    /// period counts what was spent in it before. The others are counted from the setting of a cap on.
    pub const STANDING: [Self; 4] = [Self::Day, Self::Week, Self::Month, Self::Lifetime];

    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Lifetime => "lifetime",
            Self::RollingMinute => "rolling-minute",
            Self::RollingHour => "rolling-hour",
            Self::RollingDay => "rolling-day",
            Self::RollingWeek => "rolling-week",
            Self::RollingMonth => "rolling-month",
        }
    }

    /// The period that `at` falls into where the clock is `offset` ahead of UTC.
    ///
    /// A clock that is set back does not make an hour or a minute come twice: they are cut by real time, at the local
    /// clock's full hours. A local date that comes twice is one day.
    pub fn period(self, at: Timestamp, offset: UtcOffset) -> Period {
        let seconds = at.0.div_euclid(MICROS_PER_SECOND);
        let offset = i64::from(offset.0);
        let local_days = (seconds + offset).div_euclid(DAY_SECONDS);
        let number = match self {
            Self::Request | Self::Lifetime => 0,
            Self::Minute => (seconds + offset.rem_euclid(MINUTE_SECONDS)).div_euclid(MINUTE_SECONDS),
            Self::Hour => (seconds + offset.rem_euclid(HOUR_SECONDS)).div_euclid(HOUR_SECONDS),
            Self::Day => local_days,
            Self::Week => (local_days + DAYS_SINCE_MONDAY).div_euclid(7),
            Self::Month => {
                let local = Timestamp(at.0.saturating_add(offset * MICROS_PER_SECOND));
                let date = TimeZone::UTC.to_datetime(local.to_jiff()).date();
                (i64::from(date.year()) - 1970) * 12 + i64::from(date.month()) - 1
            }
            Self::RollingMinute | Self::RollingHour | Self::RollingDay | Self::RollingWeek | Self::RollingMonth => {
                seconds.div_euclid(self.bucket_seconds())
            }
        };
        Period(i32::try_from(number).unwrap_or(if number < 0 { i32::MIN } else { i32::MAX }))
    }

    /// The first of the periods that count at `period`: itself, but for a rolling window. One more than [`BUCKETS`],
    /// because the oldest is counted whole.
    pub fn first_counted(self, period: Period) -> Period {
        if self.is_rolling() { Period(period.0.saturating_sub(BUCKETS)) } else { period }
    }

    pub fn is_rolling(self) -> bool {
        matches!(
            self,
            Self::RollingMinute | Self::RollingHour | Self::RollingDay | Self::RollingWeek | Self::RollingMonth
        )
    }

    /// When the calendar period that `at` falls into ends; none for windows that never reset, and for rolling ones, whose
    /// parts leave one by one ([`Window::leaves_at`]).
    pub fn resets_at(self, at: Timestamp, zone: &Zone) -> Option<Timestamp> {
        let tz = zone.jiff();
        let date = tz.to_datetime(at.to_jiff()).date();
        let next = match self {
            Self::Minute => return self.next_of(at, zone, MINUTE_SECONDS),
            Self::Hour => return self.next_of(at, zone, HOUR_SECONDS),
            Self::Day => date.tomorrow().ok()?,
            Self::Week => date.nth_weekday(1, Weekday::Monday).ok()?,
            Self::Month => first_of_next_month(date)?,
            _ => return None,
        };
        let midnight = next.to_zoned(tz.clone()).ok()?.start_of_day().ok()?;
        Some(Timestamp(midnight.timestamp().as_microsecond()))
    }

    fn next_of(self, at: Timestamp, zone: &Zone, seconds: i64) -> Option<Timestamp> {
        let offset = zone.offset(at);
        let next = i64::from(self.period(at, offset).0).checked_add(1)?.checked_mul(seconds)?;
        Some(Timestamp((next - i64::from(offset.0).rem_euclid(seconds)).checked_mul(MICROS_PER_SECOND)?))
    }

    /// When what was spent in `period` of a rolling window counts no more.
    pub fn leaves_at(self, period: Period) -> Option<Timestamp> {
        let first_without = i64::from(period.0) + i64::from(BUCKETS) + 1;
        self.is_rolling().then(|| Timestamp(first_without * self.bucket_seconds() * MICROS_PER_SECOND))
    }

    /// Length of a rolling window's part. Every length below is a whole number of seconds.
    fn bucket_seconds(self) -> i64 {
        let whole = match self {
            Self::RollingMinute => MINUTE_SECONDS,
            Self::RollingHour => HOUR_SECONDS,
            Self::RollingDay => DAY_SECONDS,
            Self::RollingWeek => 7 * DAY_SECONDS,
            _ => 30 * DAY_SECONDS,
        };
        whole / i64::from(BUCKETS)
    }
}

fn first_of_next_month(date: Date) -> Option<Date> {
    date.last_of_month().tomorrow().ok()
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Window {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|window| window.name() == text).ok_or_else(|| UnknownName {
            what: "window",
            given: text.into(),
            known: "request, minute, hour, day, week, month, lifetime, rolling-minute, rolling-hour, rolling-day, \
                    rolling-week, rolling-month",
        })
    }
}

// === impl Basis ===

impl Basis {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Charge => "charge",
        }
    }
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Basis {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        [Self::Cost, Self::Charge].into_iter().find(|b| b.name() == text).ok_or_else(|| UnknownName {
            what: "basis",
            given: text.into(),
            known: "cost, charge",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALENDAR: [Window; 5] = [Window::Minute, Window::Hour, Window::Day, Window::Week, Window::Month];
    const ROLLING: [Window; 5] =
        [Window::RollingMinute, Window::RollingHour, Window::RollingDay, Window::RollingWeek, Window::RollingMonth];
    /// Northern and southern summer time, odd offsets, half an hour of summer time, a day that was left out, a clock that
    /// is set back at midnight.
    const ZONES: [&str; 9] = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "America/Sao_Paulo",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Apia",
        "America/Havana",
        "America/St_Johns",
    ];

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect("a valid time in the test")
    }

    fn zone(name: &str) -> Zone {
        name.parse().expect("a zone in the test")
    }

    #[test]
    fn windows_end_when_the_tenants_calendar_says() {
        let check = |zone_name: &str, window: Window, now: &str, resets: Option<&str>| {
            assert_eq!(window.resets_at(at(now), &zone(zone_name)), resets.map(at), "{window} at {now} in {zone_name}");
        };
        check("UTC", Window::Minute, "2026-11-26T10:59:59.999999Z", Some("2026-11-26T11:00:00Z"));
        check("UTC", Window::Hour, "2026-11-26T10:00:00Z", Some("2026-11-26T11:00:00Z"));
        check("UTC", Window::Day, "2028-02-28T23:59:59.999999Z", Some("2028-02-29T00:00:00Z"));
        check("UTC", Window::Week, "2026-11-26T12:00:00Z", Some("2026-11-30T00:00:00Z"));
        check("UTC", Window::Week, "2026-11-30T00:00:00Z", Some("2026-12-07T00:00:00Z"));
        check("UTC", Window::Month, "2028-02-29T12:00:00Z", Some("2028-03-01T00:00:00Z"));
        check("UTC", Window::Month, "2026-12-31T23:59:59Z", Some("2027-01-01T00:00:00Z"));
        check("UTC", Window::Lifetime, "2026-01-01T00:00:00Z", None);
        check("UTC", Window::Request, "2026-01-01T00:00:00Z", None);
        check("UTC", Window::RollingDay, "2026-01-01T00:00:00Z", None);
        // The 25 hours of a day on which the clock is set back, and the 23 of one on which it is set forward.
        check("Europe/Berlin", Window::Day, "2026-10-24T22:00:00Z", Some("2026-10-25T23:00:00Z"));
        check("Europe/Berlin", Window::Day, "2026-03-28T23:00:00Z", Some("2026-03-29T22:00:00Z"));
        check("America/New_York", Window::Month, "2026-12-01T04:59:59Z", Some("2026-12-01T05:00:00Z"));
        check("Asia/Kathmandu", Window::Hour, "2026-11-26T10:14:59Z", Some("2026-11-26T10:15:00Z"));
    }

    #[test]
    fn the_hour_that_comes_twice_is_two_hours_and_the_day_is_one() {
        let berlin = zone("Europe/Berlin");
        let period = |window: Window, now: &str| window.period(at(now), berlin.offset(at(now))).0;
        // 02:30 in summer time, then 02:30 again.
        let (first, second) = ("2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z");
        assert_eq!(period(Window::Hour, second), period(Window::Hour, first) + 1);
        assert_eq!(period(Window::Day, second), period(Window::Day, first));
        assert_eq!(period(Window::Day, "2026-10-25T23:00:00Z"), period(Window::Day, first) + 1);
    }

    /// Every quarter of an hour around each zone's changes of the clock, and elsewhere: the period that `resets_at`
    /// announces is the next one, and one moment before it is the same.
    #[test]
    fn the_period_changes_exactly_when_the_window_resets_in_every_zone() {
        const QUARTER: i64 = 15 * 60 * MICROS_PER_SECOND;
        for name in ZONES {
            let zone = zone(name);
            for window in CALENDAR {
                let mut now = at("2026-01-01T00:07:30Z").0;
                let end = at("2027-01-08T00:00:00Z").0;
                while now < end {
                    let here = Timestamp(now);
                    let period = |at: Timestamp| window.period(at, zone.offset(at));
                    let reset = window.resets_at(here, &zone).expect("calendar windows reset");
                    assert!(reset > here, "{window} in {name} at {here}");
                    assert!(period(reset) > period(here), "{window} in {name} at {here}: {reset}");
                    // A local date that comes twice (a clock set back over midnight) belongs to the later day already.
                    assert!(period(Timestamp(reset.0 - 1)) <= period(here), "{window} in {name} at {here}: {reset}");
                    now += if window == Window::Minute || window == Window::Hour { 97 * QUARTER } else { 7 * QUARTER };
                }
            }
        }
    }

    #[test]
    fn a_rolling_window_counts_all_that_lies_in_it_and_one_part_more_at_most() {
        for window in ROLLING {
            let seconds = window.bucket_seconds() * i64::from(BUCKETS);
            let now = at("2026-11-26T10:11:12.131415Z");
            let counted = |then: i64| {
                let period = |at: Timestamp| window.period(at, UtcOffset(0));
                period(Timestamp(then)) >= window.first_counted(period(now))
            };
            let length = seconds * MICROS_PER_SECOND;
            assert!(counted(now.0 - length), "{window}: the whole length counts");
            assert!(!counted(now.0 - length - length / i64::from(BUCKETS) - 1), "{window}: no more than a part beyond");
            let leaves = window.leaves_at(window.period(now, UtcOffset(0))).expect("it rolls");
            assert!(leaves.0 - now.0 > length && leaves.0 - now.0 <= length + length / i64::from(BUCKETS), "{window}");
        }
    }

    #[test]
    fn times_before_1970_and_far_away_have_periods_too() {
        assert_eq!(Window::Month.period(Timestamp(-1), UtcOffset(0)), Period(-1));
        assert_eq!(Window::Day.period(Timestamp(-1), UtcOffset(0)), Period(-1));
        for window in Window::ALL {
            for at in [i64::MIN, i64::MAX] {
                let _ = window.period(Timestamp(at), UtcOffset(3600));
                let _ = window.resets_at(Timestamp(at), &Zone::UTC);
            }
        }
    }

    #[test]
    fn names_read_back_as_what_they_name() {
        for window in Window::ALL {
            assert_eq!(window.to_string().parse(), Ok(window));
        }
        for basis in [Basis::Cost, Basis::Charge] {
            assert_eq!(basis.to_string().parse(), Ok(basis));
        }
        assert!("year".parse::<Window>().expect_err("no such window").to_string().contains("rolling-week"));
    }
}
