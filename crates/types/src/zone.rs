//! Where a day begins: a tenant's time zone, and the offset from UTC that is in force there at some moment.
//!
//! Which period a request falls into is decided by the offset, which the journal keeps with the request: so the books
//! can be read again whatever has become of the rules of time zones since.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;

/// A time zone of the IANA database, which is built in: all nodes agree on it.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// Seconds east of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UtcOffset(pub i32);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time zone; use a name such as \"UTC\" or \"Europe/Berlin\"")]
pub struct UnknownZone(pub String);

/// Longest name that is looked up, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A time as people in a zone say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Such as `2026-11-26`.
    pub date: String,
    /// 0 to 23.
    pub hour: u8,
    /// Such as `monday`.
    pub weekday: &'static str,
}

// === impl Zone ===

impl Zone {
    pub const UTC: Self = Self(TimeZone::UTC);

    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    pub fn offset(&self, at: Timestamp) -> UtcOffset {
        UtcOffset(self.0.to_offset(at.to_jiff()).seconds())
    }

    /// What a clock and a calendar on the wall say there.
    pub fn civil(&self, at: Timestamp) -> Civil {
        let zoned = at.to_jiff().to_zoned(self.0.clone());
        let weekday = match zoned.weekday() {
            Weekday::Monday => "monday",
            Weekday::Tuesday => "tuesday",
            Weekday::Wednesday => "wednesday",
            Weekday::Thursday => "thursday",
            Weekday::Friday => "friday",
            Weekday::Saturday => "saturday",
            Weekday::Sunday => "sunday",
        };
        Civil { date: zoned.date().to_string(), hour: zoned.hour().unsigned_abs(), weekday }
    }

    pub(crate) fn jiff(&self) -> &TimeZone {
        &self.0
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self::UTC
    }
}

impl FromStr for Zone {
    type Err = UnknownZone;
    fn from_str(name: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone(name.chars().take(NAME_BYTES_MAX).collect());
        if name.len() > NAME_BYTES_MAX {
            return Err(unknown());
        }
        if name == "UTC" {
            return Ok(Self::UTC);
        }
        TimeZone::get(name).map(Self).map_err(|_| unknown())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Zone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.name().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect("a time")
    }

    #[test]
    fn a_zone_is_found_by_name_and_knows_its_offset() {
        let check = |zone: &str, now: &str, hours: f64| {
            let offset = zone.parse::<Zone>().expect("a zone").offset(at(now));
            assert!((f64::from(offset.0) - hours * 3600.0).abs() < 1.0, "{zone} at {now}: {offset:?}");
        };
        check("UTC", "2026-07-01T00:00:00Z", 0.0);
        check("Europe/Berlin", "2026-07-01T00:00:00Z", 2.0);
        check("Europe/Berlin", "2026-12-01T00:00:00Z", 1.0);
        check("Asia/Kathmandu", "2026-12-01T00:00:00Z", 5.75);
        check("America/St_Johns", "2026-12-01T00:00:00Z", -3.5);
    }

    #[test]
    fn a_wall_in_berlin_says_another_day_than_one_in_london() {
        let civil = |zone: &str| zone.parse::<Zone>().expect("a zone").civil(at("2026-11-26T23:30:00Z"));
        let expected = |date: &str, hour, weekday| Civil { date: date.to_owned(), hour, weekday };
        assert_eq!(civil("Europe/Berlin"), expected("2026-11-27", 0, "friday"));
        assert_eq!(civil("UTC"), expected("2026-11-26", 23, "thursday"));
    }

    #[test]
    fn what_is_no_zone_is_refused_with_a_hint() {
        for bad in ["", "Mars/Olympus", "+02:00", "../etc/passwd", &"x".repeat(1000)] {
            let error = bad.parse::<Zone>().expect_err(bad).to_string();
            assert!(error.contains("Europe/Berlin") && error.len() < 200, "{error}");
        }
    }
}
