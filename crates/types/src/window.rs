//! What a budget is set over: a scope (whose money) and a window (for how long).

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::{KeyId, ProjectId, TenantId, Timestamp};

/// Whose spending is counted. Narrower scopes lie inside wider ones; a request is held against all of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    Tenant(TenantId),
    Project(TenantId, ProjectId),
    Key(TenantId, KeyId),
}

/// How long a budget lasts. Calendar windows are aligned in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Window {
    Request,
    Day,
    Month,
    Lifetime,
}

/// Which money column a cap counts: what the work costs us, or what the tenant is charged for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    #[default]
    Cost,
    Charge,
}

/// Which period of a window a moment falls into: days or months since 1970, 0 for a lifetime.
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

// === impl Scope ===

impl Scope {
    /// The scopes that one request spends from, widest first.
    pub fn of_request(tenant: &TenantId, project: &ProjectId, key: &KeyId) -> [Self; 3] {
        [
            Self::Tenant(tenant.clone()),
            Self::Project(tenant.clone(), project.clone()),
            Self::Key(tenant.clone(), key.clone()),
        ]
    }

    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Tenant(tenant) | Self::Project(tenant, _) | Self::Key(tenant, _) => tenant,
        }
    }

    /// `tenant`, `project` or `key`: safe to show to the tenant.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Project(..) => "project",
            Self::Key(..) => "key",
        }
    }
}

// === impl Window ===

impl Window {
    /// The windows that accumulate. [`Window::Request`] only bounds a single hold.
    pub const RUNNING: [Self; 3] = [Self::Day, Self::Month, Self::Lifetime];

    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Day => "day",
            Self::Month => "month",
            Self::Lifetime => "lifetime",
        }
    }

    /// The period that `at` falls into.
    pub fn period(self, at: Timestamp) -> Period {
        const MICROS_PER_DAY: i64 = 86_400_000_000;
        match self {
            Self::Request | Self::Lifetime => Period(0),
            Self::Day => Period(i32::try_from(at.0.div_euclid(MICROS_PER_DAY)).unwrap_or(i32::MAX)),
            Self::Month => {
                let date = TimeZone::UTC.to_datetime(at.to_jiff());
                Period((i32::from(date.year()) - 1970) * 12 + i32::from(date.month()) - 1)
            }
        }
    }

    /// When the period that `at` falls into ends; none for windows that never reset.
    pub fn resets_at(self, at: Timestamp) -> Option<Timestamp> {
        let date = TimeZone::UTC.to_datetime(at.to_jiff()).date();
        let next = match self {
            Self::Request | Self::Lifetime => return None,
            Self::Day => date.tomorrow().ok()?,
            Self::Month => first_of_next_month(date)?,
        };
        let midnight = TimeZone::UTC.to_timestamp(next.at(0, 0, 0, 0)).ok()?;
        Some(Timestamp(midnight.as_microsecond()))
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
        [Self::Request, Self::Day, Self::Month, Self::Lifetime]
            .into_iter()
            .find(|w| w.name() == text)
            .ok_or_else(|| UnknownName { what: "window", given: text.into(), known: "request, day, month, lifetime" })
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

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect("a valid time in the test")
    }

    #[test]
    fn windows_end_at_utc_midnight_and_at_the_month_s_end() {
        let check = |window: Window, now: &str, resets: Option<&str>| {
            assert_eq!(window.resets_at(at(now)), resets.map(at), "{window} at {now}");
        };
        check(Window::Day, "2028-02-28T23:59:59.999999Z", Some("2028-02-29T00:00:00Z"));
        check(Window::Month, "2028-02-29T12:00:00Z", Some("2028-03-01T00:00:00Z"));
        check(Window::Month, "2026-12-31T23:59:59Z", Some("2027-01-01T00:00:00Z"));
        check(Window::Lifetime, "2026-01-01T00:00:00Z", None);
        check(Window::Request, "2026-01-01T00:00:00Z", None);
    }

    #[test]
    fn the_period_changes_exactly_when_the_window_resets() {
        for window in [Window::Day, Window::Month] {
            let now = at("2026-12-31T10:00:00Z");
            let reset = window.resets_at(now).expect("calendar windows reset");
            assert_eq!(window.period(Timestamp(reset.0 - 1)), window.period(now));
            assert_eq!(window.period(reset).0, window.period(now).0 + 1);
        }
        assert_eq!(Window::Month.period(Timestamp(-1)), Period(-1));
        assert_eq!(Window::Day.period(Timestamp(-1)), Period(-1));
    }

    #[test]
    fn names_read_back_as_what_they_name() {
        for window in [Window::Request, Window::Day, Window::Month, Window::Lifetime] {
            assert_eq!(window.to_string().parse(), Ok(window));
        }
        for basis in [Basis::Cost, Basis::Charge] {
            assert_eq!(basis.to_string().parse(), Ok(basis));
        }
        assert!("year".parse::<Window>().expect_err("no such window").to_string().contains("lifetime"));
    }
}
