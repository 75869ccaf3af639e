//! Ids, amounts, times and names: what is accepted is shown exactly as it reads back, and what is shown is accepted.

use tollgate_types::money::PICO_PER_USD;
use tollgate_types::{Basis, PicoSum, PicoUsd, ProjectId, RequestId, TenantId, Timestamp, Window, Zone};

use crate::{Decisions, Target};

pub const TARGET: Target = Target {
    name: "ids_and_money",
    check: check_ids_and_money,
    seeds: &[
        "demo",
        "team-1.eu_prod",
        "req_0193b1f3d9c27a5e8f0123456789abcd",
        "0.000000546875",
        "18446744.073709551615",
        "170141183460469231731687303.715884105727",
        "2026-12-31T23:59:59.999999Z",
        "2028-02-29T00:00:00+14:00",
        "month",
        "charge",
    ],
    words: &["req_", ".", "0", "9", "-", "T", "Z", "+", "e", "00000000", "lifetime", "\u{ff11}", "\u{0}"],
    takes_noise: false,
};

pub fn check_ids_and_money(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        ids(text);
        names(text);
        money(text);
        time(text);
    }
    numbers(&mut Decisions(data));
}

fn ids(text: &str) {
    let tenant = text.parse::<TenantId>();
    let expected = {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        (1..=63).contains(&text.len())
            && text.starts_with(plain)
            && text.chars().all(|c| plain(c) || c == '-' || c == '_' || c == '.')
    };
    assert_eq!(tenant.is_ok(), expected, "{text:?}");
    assert_eq!(text.parse::<ProjectId>().is_ok(), expected, "all slugs are alike: {text:?}");
    match tenant {
        Ok(id) => assert_eq!((id.as_str(), id.to_string().as_str()), (text, text)),
        Err(refused) => assert!(refused.given.chars().count() <= 63, "a bad id is never shown in full length"),
    }
    if let Ok(id) = text.parse::<RequestId>() {
        assert_eq!(id.to_string(), text, "there is one way to write a request id");
    }
}

fn names(text: &str) {
    if let Ok(window) = text.parse::<Window>() {
        assert_eq!(window.to_string(), text);
    }
    if let Ok(basis) = text.parse::<Basis>() {
        assert_eq!(basis.to_string(), text);
    }
}

fn money(text: &str) {
    let parsed = PicoUsd::parse_usd(text);
    if let Ok(amount) = parsed {
        assert_eq!(by_hand(text, 12), Some(u128::from(amount.0)), "{text:?}");
        assert_eq!(PicoUsd::parse_usd(&amount.to_string()), Ok(amount), "what is shown reads back");
        assert_eq!(PicoSum::parse_usd(text), Ok(PicoSum::from(amount)), "a sum reads what an amount reads");
    }
    if let Ok(sum) = PicoSum::parse_usd(text) {
        assert!(sum.0 >= 0, "there is no way to write a negative amount");
        assert_eq!(PicoSum::parse_usd(&sum.to_string()), Ok(sum));
        assert_eq!(parsed.is_ok(), u64::try_from(sum.0).is_ok(), "an amount is refused only for its size: {text:?}");
    }
    if let Ok(price) = PicoUsd::parse_usd_per_million(text) {
        assert_eq!(by_hand(text, 6), Some(u128::from(price.0)), "{text:?}");
        let million = PicoSum(i128::from(price.0) * 1_000_000);
        assert_eq!(PicoSum::parse_usd(text), Ok(million), "a million units cost exactly what was written");
    }
}

/// The same number by the long way: digit by digit.
fn by_hand(text: &str, places: usize) -> Option<u128> {
    let mut value = 0u128;
    let mut after_point = None;
    for c in text.chars() {
        match (c, &mut after_point) {
            ('.', None) => after_point = Some(0),
            (c, after) => {
                let digit = c.to_digit(10).filter(|_| c.is_ascii())?;
                if let Some(after) = after {
                    *after += 1;
                    if *after > places {
                        if digit != 0 {
                            return None;
                        }
                        continue;
                    }
                }
                value = value.checked_mul(10)?.checked_add(u128::from(digit))?;
            }
        }
    }
    for _ in after_point.unwrap_or(0)..places {
        value = value.checked_mul(10)?;
    }
    Some(value)
}

fn time(text: &str) {
    let Some(at) = Timestamp::parse_rfc3339(text) else { return };
    assert_eq!(Timestamp::parse_rfc3339(&at.to_string()), Some(at), "{text:?}");
    let zone = Zone::UTC;
    let period = |window: Window, at| window.period(at, zone.offset(at));
    for window in Window::ALL {
        let Some(reset) = window.resets_at(at, &zone) else { continue };
        assert!(reset > at, "a period ends after every moment in it");
        assert_eq!(period(window, Timestamp(reset.0 - 1)), period(window, at));
        assert_ne!(period(window, reset), period(window, at));
    }
}

fn numbers(decisions: &mut Decisions<'_>) {
    let amount = PicoUsd(decisions.u64());
    assert_eq!(PicoUsd::parse_usd(&amount.to_string()), Ok(amount));
    let sum = PicoSum(i128::from(decisions.u64()) * i128::from(PICO_PER_USD) - i128::from(decisions.u64()));
    assert_eq!(PicoSum::parse_usd(&sum.to_string()).is_ok(), sum.0 >= 0, "{sum}");
    let id = RequestId(u128::from(decisions.u64()) << 64 | u128::from(decisions.u64()));
    assert_eq!(id.to_string().parse(), Ok(id));
}
