//! Terms on the wire, of plans and of tenants that have their own: read exactly or not at all.

use tollgate_client::{MarkupTier, Tariff};
use tollgate_types::{PicoSum, PicoUsd, directory};

use super::refused::Refused;

/// Ten thousand percent: above it somebody mistook basis points for percent.
const MARKUP_BPS_MAX: u64 = 1_000_000;
const TIERS_MAX: usize = 16;

pub fn read(tariff: &Tariff) -> Result<directory::Tariff, Refused> {
    let usd = |param, text: Option<&str>| {
        text.map_or(Ok(PicoUsd::ZERO), PicoUsd::parse_usd).map_err(|error| Refused::field(param, error))
    };
    Ok(directory::Tariff {
        markup_bps: tariff.markup_percent.as_deref().map_or(Ok(0), |text| bps("markup_percent", text))?,
        included: usd("included_usd", tariff.included_usd.as_deref())?,
        tiers: tiers(&tariff.markup_tiers)?,
        monthly_minimum: usd("monthly_minimum_usd", tariff.monthly_minimum_usd.as_deref())?,
    })
}

fn tiers(tiers: &[MarkupTier]) -> Result<Vec<directory::MarkupTier>, Refused> {
    const PARAM: &str = "markup_tiers";
    if tiers.len() > TIERS_MAX {
        return Err(Refused::field(PARAM, format!("at most {TIERS_MAX}")));
    }
    let mut read: Vec<directory::MarkupTier> = Vec::new();
    for tier in tiers {
        let above = PicoSum::parse_usd(&tier.above_usd).map_err(|error| Refused::field(PARAM, error))?;
        let below = read.last().map_or(PicoSum::ZERO, |last| last.above);
        if above <= below {
            let what = format!("above_usd must rise from tier to tier, from above 0: {above} does not exceed {below}");
            return Err(Refused::field(PARAM, what));
        }
        read.push(directory::MarkupTier { above, markup_bps: bps(PARAM, &tier.markup_percent)? });
    }
    Ok(read)
}

/// A decimal percentage in hundredths of a percent, exactly.
fn bps(param: &'static str, percent: &str) -> Result<u32, Refused> {
    /// A percent read as dollars is 1e12 picodollars, and a hundred basis points.
    const PICO_PER_BPS: u64 = 10_000_000_000;
    let wrong = || {
        let what =
            "a percentage is a decimal from 0 to 10000 with at most two digits after the point, such as \"20.5\"";
        Refused::field(param, what)
    };
    let PicoUsd(pico) = PicoUsd::parse_usd(percent).map_err(|_| wrong())?;
    let bps = pico / PICO_PER_BPS;
    if pico % PICO_PER_BPS != 0 || bps > MARKUP_BPS_MAX {
        return Err(wrong());
    }
    u32::try_from(bps).map_err(|_| wrong())
}

pub fn shown(tariff: &directory::Tariff) -> Tariff {
    Tariff {
        markup_percent: Some(percent(tariff.markup_bps)),
        included_usd: Some(tariff.included.to_string()),
        markup_tiers: tariff.tiers.iter().map(tier).collect(),
        monthly_minimum_usd: Some(tariff.monthly_minimum.to_string()),
    }
}

pub fn tier(tier: &directory::MarkupTier) -> MarkupTier {
    MarkupTier { above_usd: tier.above.to_string(), markup_percent: percent(tier.markup_bps) }
}

pub fn percent(bps: u32) -> String {
    format!("{}.{:02}", bps / 100, bps % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_is_read_exactly_or_not_at_all() {
        for (text, expected) in [("0", 0), ("20", 2000), ("20.0", 2000), ("0.01", 1), ("10000", 1_000_000)] {
            assert_eq!(bps("markup_percent", text).expect(text), expected);
        }
        for bad in ["", "-1", "0.001", "20%", "10000.01", "1e2", "99999999999999"] {
            assert!(bps("markup_percent", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn terms_are_shown_as_they_are_read() {
        let tier = |above: &str, percent: &str| MarkupTier { above_usd: above.into(), markup_percent: percent.into() };
        let tariff = Tariff {
            markup_percent: Some("30.00".into()),
            included_usd: Some("10.00".into()),
            markup_tiers: vec![tier("100.00", "20.00"), tier("1000.50", "5.25")],
            monthly_minimum_usd: Some("50.00".into()),
        };
        assert_eq!(shown(&read(&tariff).expect("good terms")), tariff);
        for tiers in [
            vec![tier("0", "1")],
            vec![tier("5", "1"), tier("5", "1")],
            vec![tier("5", "1"), tier("4", "1")],
            vec![tier("-5", "1")],
            vec![tier("5", "1.234")],
            (1..=17).map(|n| tier(&n.to_string(), "1")).collect(),
        ] {
            assert!(read(&Tariff { markup_tiers: tiers.clone(), ..Tariff::default() }).is_err(), "{tiers:?}");
        }
        assert!(read(&Tariff { included_usd: Some("-1".into()), ..Tariff::default() }).is_err());
        assert!(read(&Tariff { monthly_minimum_usd: Some("1,00".into()), ..Tariff::default() }).is_err());
    }
}
