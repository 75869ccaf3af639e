//! From a book's TOML to its prices, with every rule a book must keep. `docs/pricebook.md` tells the same to people.

use std::sync::Arc;

use tollgate_types::PicoUsd;
use toml::de::DeTable;

use super::book::Price;
use super::fields::Fields;
use super::overlap::{Claim, Period};
use super::problem::{Problems, shown};
use super::rate::{Prices, Rate, Tier};
use super::{ALIASES_MAX, NAME_BYTES_MAX, PRICES_MAX, TIERS_MAX};

/// 1,000 USD per million tokens. The dearest token of the shipped book costs less than a tenth of it; more is most likely a
/// price in another unit.
const PLAUSIBLE_MAX: PicoUsd = PicoUsd(1_000_000_000);

/// 1 USD an hour of one core: 277.8 USD a million seconds. Rented ones cost a tenth of it.
const CPU_SECOND_PLAUSIBLE_MAX: PicoUsd = PicoUsd(277_777_778);

/// More input tokens than this for one image are most likely pixels or bytes.
const IMAGE_TOKENS_MAX: u64 = 1_000_000;

/// What a book says, good only if nothing in it was wrong.
pub(super) struct Draft<'b> {
    pub version: Arc<str>,
    pub prices: Vec<Price>,
    pub claims: Vec<Claim<'b>>,
}

/// What holds for every price that does not say otherwise.
struct Defaults {
    source: Option<Arc<str>>,
    checked_at: Option<Arc<str>>,
}

pub(super) fn book<'b>(table: &'b DeTable<'_>, problems: &mut Problems) -> Draft<'b> {
    let mut fields = Fields::new(table, 0, String::new());
    let version = fields.text("version", problems).unwrap_or_default();
    fields.require("version", "give the book a name of its own, such as version = \"2026-11-23\"", problems);
    if fields.has("version") && !is_slug(version) {
        let what = format!("version = {} may hold only letters, digits, dot, dash and underscore", shown(version));
        fields.wrong("version", what, problems);
    }
    let defaults = Defaults {
        source: fields.text("source", problems).map(Arc::from),
        checked_at: fields.day("checked_at", problems).map(Arc::from),
    };
    let tables = fields.tables("price", problems);
    fields.finish(problems);

    let mut draft = Draft { version: version.into(), prices: Vec::new(), claims: Vec::new() };
    if tables.is_empty() {
        problems.add(0, "", "the book has no prices: add a [[price]]");
    }
    if tables.len() > PRICES_MAX {
        problems.add(0, "", format!("{} prices, more than the {PRICES_MAX} a book may have: split it", tables.len()));
        return draft;
    }
    for (number, (table, at)) in (1..).zip(tables) {
        let before = problems.count();
        let price =
            price(Fields::new(table, at, format!("price {number}")), number, &defaults, &mut draft.claims, problems);
        match price {
            Some(price) => draft.prices.push(price),
            // Whatever is left out of a book must have been told.
            None if problems.count() == before => problems.add(at, &format!("price {number}"), "it cannot be read"),
            None => {}
        }
    }
    draft
}

/// One `[[price]]`; adds the names it is for to `claims`, also if its money is wrong.
fn price<'b>(
    mut fields: Fields<'b, '_>,
    number: usize,
    defaults: &Defaults,
    claims: &mut Vec<Claim<'b>>,
    problems: &mut Problems,
) -> Option<Price> {
    let provider = fields.text("provider", problems);
    let model = fields.text("model", problems);
    fields.rename(format!("price {number} ({}/{})", provider.unwrap_or("?"), shown_name(model.unwrap_or("?"))));
    fields.require("provider", "the provider preset's name, such as \"openai\"", problems);
    fields.require("model", "the model's name at the provider", problems);
    let provider = provider.filter(|name| provider_is_good(&fields, name, problems));
    let model = model.filter(|name| model_is_good(&fields, "model", name, problems));
    let aliases = aliases(&mut fields, problems);
    let period = period(&mut fields, problems);
    if let (Some(provider), Some(model), Some(period)) = (provider, model, period) {
        let names = std::iter::once(model).chain(aliases.iter().copied());
        claims.extend(names.map(|name| Claim { provider, name, period, price: number, at: fields.at() }));
    }

    let source = fields.text("source", problems).map(Arc::from).or_else(|| defaults.source.clone());
    if source.is_none() {
        fields.require("source", "say where the price was read, here or for the whole book", problems);
    }
    let checked_at = fields.day("checked_at", problems).map(Arc::from).or_else(|| defaults.checked_at.clone());
    if checked_at.is_none() {
        fields.require("checked_at", "say on which day it was read, here or for the whole book", problems);
    }
    let rate = rate(&mut fields, problems);
    fields.finish(problems);

    let period = period?;
    Some(Price {
        provider: provider?.into(),
        model: model?.into(),
        aliases: aliases.into_iter().map(Box::from).collect(),
        effective_from: period.from,
        effective_to: period.to,
        source: source?,
        checked_at: checked_at?,
        rate: rate?,
    })
}

fn provider_is_good(fields: &Fields<'_, '_>, name: &str, problems: &mut Problems) -> bool {
    let is_good = is_slug(name) && !name.bytes().any(|byte| byte.is_ascii_uppercase());
    if name.contains('*') {
        fields.wrong("provider", "a price is for one provider: \"*\" is not allowed, name each", problems);
    } else if !is_good {
        let what = format!("provider = {} is not a preset's name: small letters, digits, dash", shown(name));
        fields.wrong("provider", what, problems);
    }
    is_good
}

fn model_is_good(fields: &Fields<'_, '_>, field: &str, name: &str, problems: &mut Problems) -> bool {
    let fault = if name.contains('*') {
        Some("names are matched exactly, \"*\" stands for nothing: list each model")
    } else if name.len() > NAME_BYTES_MAX {
        Some("a name that long is no model's")
    } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("a model's name has no white space")
    } else {
        None
    };
    if let Some(fault) = fault {
        fields.wrong(field, format!("{field} {}: {fault}", shown(name)), problems);
    }
    fault.is_none()
}

fn aliases<'b>(fields: &mut Fields<'b, '_>, problems: &mut Problems) -> Vec<&'b str> {
    let Some(list) = fields.array("aliases", problems) else { return Vec::new() };
    if list.len() > ALIASES_MAX {
        let what = format!("{} aliases, more than the {ALIASES_MAX} a price may have", list.len());
        fields.wrong("aliases", what, problems);
        return Vec::new();
    }
    let mut names = Vec::new();
    for alias in list {
        match alias.get_ref().as_str() {
            Some("") | None => fields.wrong("aliases", "each alias must be a name in quotes", problems),
            Some(name) if model_is_good(fields, "aliases", name, problems) => names.push(name),
            Some(_) => {}
        }
    }
    names
}

fn period(fields: &mut Fields<'_, '_>, problems: &mut Problems) -> Option<Period> {
    let from = fields.instant("effective_from", problems);
    fields.require("effective_from", "from when on does it hold, such as \"2026-11-01T00:00:00Z\"", problems);
    let to = fields.instant("effective_to", problems);
    if fields.has("effective_to") && to.is_none() {
        return None; // an end that cannot be read is not no end
    }
    if let (Some(from), Some(to)) = (from, to)
        && to <= from
    {
        let what = format!("effective_to {to} is not after effective_from {from}: the price would never hold");
        fields.wrong("effective_to", what, problems);
    }
    Some(Period { from: from?, to })
}

fn rate(fields: &mut Fields<'_, '_>, problems: &mut Problems) -> Option<Rate> {
    let before = problems.count();
    let confirmed = fields.switch("confirmed", problems).unwrap_or(false);
    let chat = fields.has("output_usd_per_million");
    let cpu_second = cpu(fields, confirmed, problems);
    let base = prices(fields, chat, confirmed, cpu_second.is_some(), problems);
    let image_tokens_max = fields.count("image_tokens_max", problems);
    if image_tokens_max.is_some_and(|tokens| tokens > IMAGE_TOKENS_MAX) {
        let what = format!("image_tokens_max above {IMAGE_TOKENS_MAX} is most likely not in tokens");
        fields.wrong("image_tokens_max", what, problems);
    }
    let tables = fields.tables("tier", problems);
    if tables.len() > TIERS_MAX {
        fields.wrong("tier", format!("more than {TIERS_MAX} tiers"), problems);
        return None;
    }
    let mut tiers: Vec<Tier> = Vec::new();
    for (table, at) in tables {
        let below = tiers.last().map(|tier| tier.prices).or(base);
        let tier = tier(Fields::new(table, at, format!("{} tier", fields.place())), chat, confirmed, below, problems)?;
        if tiers.last().is_some_and(|last| last.above_input_tokens >= tier.above_input_tokens) {
            problems.add(
                at,
                fields.place(),
                "tiers must stand in the order of above_input_tokens, each above the one before",
            );
        }
        tiers.push(tier);
    }
    let rate = Rate::new(base?, &tiers, chat, image_tokens_max);
    if let Err(error) = rate
        && problems.count() == before
    {
        problems.add(fields.at(), fields.place(), error.to_string());
    }
    Some(match cpu_second {
        Some(second) => rate.ok()?.with_cpu(second),
        None => rate.ok()?,
    })
}

/// What CPU time costs, of a model that runs here.
fn cpu(fields: &mut Fields<'_, '_>, confirmed: bool, problems: &mut Problems) -> Option<PicoUsd> {
    const CPU: &str = "cpu_usd_per_million_seconds";
    let second = fields.price(CPU, problems)?;
    let likely = (PicoUsd(1)..=CPU_SECOND_PLAUSIBLE_MAX).contains(&second);
    if !likely && !confirmed {
        let what = format!("{CPU} is 0, or above 1 USD an hour: if it is right, say confirmed = true");
        fields.wrong(CPU, what, problems);
    }
    Some(second)
}

/// One `[[price.tier]]`; `below` are the prices of the step before it.
fn tier(
    mut fields: Fields<'_, '_>,
    chat: bool,
    confirmed: bool,
    below: Option<Prices>,
    problems: &mut Problems,
) -> Option<Tier> {
    let above = fields.count("above_input_tokens", problems);
    fields.require("above_input_tokens", "the most input tokens that are still priced below this tier", problems);
    let prices = prices(&mut fields, chat, confirmed, false, problems);
    if let (Some(prices), Some(below)) = (prices, below) {
        let is_cheaper = prices.input < below.input
            || prices.cached_input < below.cached_input
            || prices.cache_write < below.cache_write
            || prices.output < below.output;
        if is_cheaper && !confirmed {
            let what = "a tier for longer input is cheaper than the one below it, most likely a mistake: \
                        if it is right, say confirmed = true in the price";
            problems.add(fields.at(), fields.place(), what);
        }
    }
    fields.finish(problems);
    Some(Tier { above_input_tokens: above?, prices: prices? })
}

/// The money of a price or of a tier. Where CPU time has a price, tokens need none.
fn prices(
    fields: &mut Fields<'_, '_>,
    chat: bool,
    confirmed: bool,
    by_cpu: bool,
    problems: &mut Problems,
) -> Option<Prices> {
    const INPUT: &str = "input_usd_per_million";
    const CACHED: &str = "cached_input_usd_per_million";
    const WRITE: &str = "cache_write_usd_per_million";
    const OUTPUT: &str = "output_usd_per_million";
    const AUDIO_INPUT: &str = "audio_input_usd_per_million";
    const AUDIO_OUTPUT: &str = "audio_output_usd_per_million";
    let before = problems.count();
    let input = fields.price(INPUT, problems);
    if !by_cpu {
        fields.require(INPUT, "a decimal in quotes such as \"0.15\"", problems);
    }
    let cached = fields.price(CACHED, problems);
    let write = fields.price(WRITE, problems);
    let output = fields.price(OUTPUT, problems);
    let audio_input = fields.price(AUDIO_INPUT, problems);
    let audio_output = fields.price(AUDIO_OUTPUT, problems);
    if !chat && fields.has(AUDIO_OUTPUT) {
        fields.wrong(
            AUDIO_OUTPUT,
            format!("{AUDIO_OUTPUT} without {OUTPUT}: a model without it cannot answer"),
            problems,
        );
    }
    if chat {
        fields.require(OUTPUT, "the price has one, so each tier needs its own", problems);
    } else if fields.has(OUTPUT) {
        fields.wrong(
            OUTPUT,
            format!("{OUTPUT} in a tier, but the price has none: a model without it cannot chat"),
            problems,
        );
    }
    let text = [(INPUT, input), (CACHED, cached), (WRITE, write), (OUTPUT, output)];
    let audio = [(AUDIO_INPUT, audio_input), (AUDIO_OUTPUT, audio_output)];
    for (name, amount) in text.into_iter().chain(audio) {
        let Some(amount) = amount else { continue };
        if amount > PLAUSIBLE_MAX && !confirmed {
            let what = format!(
                "{name} is above 1,000 USD per million tokens, most likely another unit: if it is right, say confirmed = true"
            );
            fields.wrong(name, what, problems);
        }
        // Input from a cache may well be free; what is free as a whole is never so by accident.
        if amount == PicoUsd::ZERO && name != CACHED && !confirmed {
            fields.wrong(
                name,
                format!("{name} is 0, which makes it free: if it is right, say confirmed = true"),
                problems,
            );
        }
    }
    if let (Some(input), Some(cached)) = (input, cached)
        && cached > input
    {
        fields.wrong(
            CACHED,
            format!("{CACHED} is above {INPUT}: a cache that makes input dearer is a mistake"),
            problems,
        );
    }
    if let (Some(input), Some(write)) = (input, write)
        && write < input
    {
        fields.wrong(WRITE, format!("{WRITE} is below {INPUT}: leave it out if writing is not billed apart"), problems);
    }
    if problems.count() > before {
        return None;
    }
    let input = input.or(by_cpu.then_some(PicoUsd::ZERO))?;
    Some(Prices {
        input,
        cached_input: cached.unwrap_or(input),
        cache_write: write.unwrap_or(input),
        output: output.unwrap_or(PicoUsd::ZERO),
        audio_input,
        audio_output,
    })
}

fn is_slug(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_letter)
}

/// A name as it stands in a place, without quotes, cut where it is long.
fn shown_name(name: &str) -> String {
    shown(name).replace('"', "")
}
