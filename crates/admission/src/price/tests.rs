//! Books from outside: what is refused and why; the price errors of others, one by one; and the book we ship.

use std::collections::HashMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use tollgate_types::{Confidence, PicoUsd, Timestamp, Usage};

const HEAD: &str = "version = \"t\"\nsource = \"a test\"\nchecked_at = \"2026-11-23\"\n";
const ENTRY: &str = "[[price]]\nprovider = \"p\"\nmodel = \"m\"\neffective_from = \"2026-01-01T00:00:00Z\"\n";

/// A book of the usual head and `rest`.
fn parse(rest: &str) -> Result<PriceBook, PriceBookError> {
    PriceBook::parse(&format!("{HEAD}{rest}"))
}

/// A good price with `fields` instead of or besides its money.
fn entry(fields: &str) -> String {
    format!("{ENTRY}{fields}\n")
}

/// What is wrong with a text that must be refused, a line each.
fn refused(text: &str) -> Vec<String> {
    match PriceBook::parse(text) {
        Ok(_) => panic!("taken:\n{text}"),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

fn check(rest: &str, expected: &[&str]) {
    assert_eq!(refused(&format!("{HEAD}{rest}")), expected, "{rest}");
}

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-23T12:00:00Z").expect("an instant")
}

fn shipped() -> PriceBooks {
    let book = PriceBook::parse(SHIPPED).unwrap_or_else(|error| panic!("{error}"));
    PriceBooks::new([std::sync::Arc::new(book)]).expect("one book")
}

fn used(input: u64, cached: u64, output: u64) -> Usage {
    Usage { input_tokens: input, cached_input_tokens: cached, output_tokens: output, ..Usage::default() }
}

// === What a book may say ===

#[test]
fn a_book_says_all_of_it() {
    let book = PriceBook::parse(
        r#"
version = "2026-11-23.a"
source = "the contract"
checked_at = "2026-11-23"
[[price]]
provider = "openai"
model = "m-1"
aliases = ["m-1-2026-01-01"]
effective_from = "2026-01-01T00:00:00Z"
effective_to = "2026-07-01T00:00:00+02:00"
source = "https://example.com/prices"
checked_at = "2026-01-02"
input_usd_per_million = "0.546875"
cached_input_usd_per_million = "0.1"
cache_write_usd_per_million = "0.6"
output_usd_per_million = "2"
audio_input_usd_per_million = "40"
audio_output_usd_per_million = "80.5"
image_tokens_max = 1_105
[[price.tier]]
above_input_tokens = 200_000
input_usd_per_million = "1.0"
output_usd_per_million = "3"
[[price]]
provider = "openai"
model = "e"
effective_from = "2026-01-01T00:00:00Z"
input_usd_per_million = "0.02"
"#,
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(&**book.version(), "2026-11-23.a");
    assert_eq!(book.fingerprint().len(), 64);
    let [chat, embedding] = book.prices() else { panic!("two prices") };
    assert_eq!(chat.names().collect::<Vec<_>>(), ["m-1", "m-1-2026-01-01"]);
    assert_eq!(chat.effective_to.map(|to| to.to_string()).as_deref(), Some("2026-06-30T22:00:00Z"));
    assert_eq!((&*chat.source, &*chat.checked_at), ("https://example.com/prices", "2026-01-02"));
    assert_eq!((&*embedding.source, &*embedding.checked_at), ("the contract", "2026-11-23"));
    let base = Prices {
        input: PicoUsd(546_875),
        cached_input: PicoUsd(100_000),
        cache_write: PicoUsd(600_000),
        output: PicoUsd(2_000_000),
        audio_input: Some(PicoUsd(40_000_000)),
        audio_output: Some(PicoUsd(80_500_000)),
    };
    let tier = Prices::new(PicoUsd(1_000_000), PicoUsd(1_000_000), PicoUsd(3_000_000));
    let tiers = [Tier { above_input_tokens: 200_000, prices: tier }];
    assert_eq!(Ok(chat.rate.clone()), Rate::new(base, &tiers, true, Some(1_105)));
    // Without a price of its own, cached input costs what input costs; without one for output, there is no chat.
    assert_eq!(embedding.rate.base(), Prices::new(PicoUsd(20_000), PicoUsd(20_000), PicoUsd::ZERO));
    assert!(!embedding.rate.prices_output() && chat.rate.prices_output());
    assert_eq!(embedding.rate.image_tokens_max, None);
}

#[test]
fn the_fingerprint_is_of_the_text() {
    let (one, other) = (entry("input_usd_per_million = \"1\""), entry("input_usd_per_million = \"2\""));
    let sha256 = |rest: &str| *parse(rest).expect("a good book").sha256();
    assert_eq!(sha256(&one), sha256(&one));
    assert_ne!(sha256(&one), sha256(&other));
}

// === What is refused ===

#[test]
fn a_price_is_an_exact_decimal_in_quotes() {
    let check = |price: &str, expected: &str| check(&entry(&format!("input_usd_per_million = {price}")), &[expected]);
    check(
        "0.15",
        "line 8, price 1 (p/m): input_usd_per_million is a float, and a float holds most decimal prices only nearly: \
         write it as a text, \"0.15\"",
    );
    check(
        "15",
        "line 8, price 1 (p/m): input_usd_per_million must be a decimal in quotes such as \"0.15\", not an integer",
    );
    check(
        "\"0,15\"",
        "line 8, price 1 (p/m): input_usd_per_million = \"0,15\": not a decimal amount of US dollars such as \"12.50\"",
    );
    check(
        "\"0.1500001\"",
        "line 8, price 1 (p/m): input_usd_per_million = \"0.1500001\": finer than a picodollar (at most 6 digits may \
         follow the point)",
    );
    check(
        "\"-1\"",
        "line 8, price 1 (p/m): input_usd_per_million = \"-1\": not a decimal amount of US dollars such as \"12.50\"",
    );
    check(
        "\"1000.01\"",
        "line 8, price 1 (p/m): input_usd_per_million is above 1,000 USD per million tokens, most likely another unit: \
         if it is right, say confirmed = true",
    );
    check(
        "\"0\"",
        "line 8, price 1 (p/m): input_usd_per_million is 0, which makes it free: if it is right, say confirmed = true",
    );
    check(
        "\"99999999999999999999999999999999999999999999999999999999999999999\"",
        "line 8, price 1 (p/m): input_usd_per_million = \
         \"999999999999999999999999999999999999999999999999999999999999\"…: larger than this program can hold",
    );
}

#[test]
fn what_looks_like_a_mistake_is_taken_if_it_is_confirmed() {
    for money in [
        "input_usd_per_million = \"1000.01\"",
        "input_usd_per_million = \"0\"\noutput_usd_per_million = \"0\"",
        "input_usd_per_million = \"1\"\n[[price.tier]]\nabove_input_tokens = 5\ninput_usd_per_million = \"0.5\"",
    ] {
        assert!(parse(&entry(money)).is_err(), "{money}");
        assert!(parse(&entry(&format!("confirmed = true\n{money}"))).is_ok(), "{money}");
    }
    // What would be a mistake for certain no word confirms.
    assert!(
        parse(&entry("confirmed = true\ninput_usd_per_million = \"1\"\ncached_input_usd_per_million = \"2\"")).is_err()
    );
}

#[test]
fn a_cache_is_never_dearer_than_input_and_writing_to_it_never_cheaper() {
    check(
        &entry(
            "input_usd_per_million = \"1\"\ncached_input_usd_per_million = \"1.1\"\ncache_write_usd_per_million = \"0.9\"",
        ),
        &[
            "line 9, price 1 (p/m): cached_input_usd_per_million is above input_usd_per_million: a cache that makes input \
             dearer is a mistake",
            "line 10, price 1 (p/m): cache_write_usd_per_million is below input_usd_per_million: leave it out if writing \
             is not billed apart",
        ],
    );
    assert!(parse(&entry("input_usd_per_million = \"1\"\ncached_input_usd_per_million = \"0\"")).is_ok());
}

#[test]
fn tiers_rise() {
    let tier = |above: u64, input: &str| {
        format!("[[price.tier]]\nabove_input_tokens = {above}\ninput_usd_per_million = \"{input}\"\n")
    };
    let base = entry("input_usd_per_million = \"2\"");
    check(
        &format!("{base}{}{}", tier(200, "3"), tier(200, "4")),
        &["line 12, price 1 (p/m): tiers must stand in the order of above_input_tokens, each above the one before"],
    );
    check(
        &format!("{base}{}", tier(200, "1")),
        &[
            "line 9, price 1 (p/m) tier: a tier for longer input is cheaper than the one below it, most likely a mistake: \
           if it is right, say confirmed = true in the price",
        ],
    );
    check(&format!("{base}{}", tier(200, "3").repeat(4)), &["line 9, price 1 (p/m): more than 3 tiers"]);
    check(
        &format!("{base}[[price.tier]]\noutput_usd_per_million = \"1\"\nabove = 3\n"),
        &[
            "line 9, price 1 (p/m) tier: above_input_tokens is missing: the most input tokens that are still priced below \
             this tier",
            "line 9, price 1 (p/m) tier: input_usd_per_million is missing: a decimal in quotes such as \"0.15\"",
            "line 10, price 1 (p/m) tier: output_usd_per_million in a tier, but the price has none: a model without it \
             cannot chat",
            "line 11, price 1 (p/m) tier: unknown field \"above\"; known are above_input_tokens, input_usd_per_million, \
             cached_input_usd_per_million, cache_write_usd_per_million, output_usd_per_million, \
             audio_input_usd_per_million, audio_output_usd_per_million",
        ],
    );
    check(
        &format!("{}{}", entry("input_usd_per_million = \"2\"\noutput_usd_per_million = \"2\""), tier(200, "3")),
        &[
            "line 10, price 1 (p/m) tier: output_usd_per_million is missing: the price has one, so each tier needs its own",
        ],
    );
}

#[test]
fn one_name_has_one_price_at_a_time() {
    let price = |model: &str, more: &str| {
        format!("[[price]]\nprovider = \"p\"\nmodel = \"{model}\"\n{more}input_usd_per_million = \"1\"\n")
    };
    let from = "effective_from = \"2026-01-01T00:00:00Z\"\n";
    let later = "effective_from = \"2026-06-01T00:00:00Z\"\n";
    let ended = "effective_from = \"2026-01-01T00:00:00Z\"\neffective_to = \"2026-06-01T00:00:00Z\"\n";
    assert!(parse(&format!("{}{}", price("m", ended), price("m", later))).is_ok());
    check(
        &format!("{}{}", price("m", later), price("m", from)),
        &["line 4, price 1 (p/m): in force from 2026-06-01T00:00:00Z on, but price 2 on line 9 is in force from \
           2026-01-01T00:00:00Z on: end the older one with effective_to = \"2026-06-01T00:00:00Z\""],
    );
    check(
        &format!("{}{}", price("m", from), price("m", from)),
        &["line 9, price 2 (p/m): p/m has a price for that period already, price 1 on line 4: remove one"],
    );
    check(
        &format!("{}{}", price("m", from), price("other", &format!("aliases = [\"x\", \"m\"]\n{from}"))),
        &["line 9, price 2 (p/m): p/m has a price for that period already, price 1 on line 4: remove one"],
    );
    check(
        &price("m", &format!("aliases = [\"m\"]\n{from}")),
        &["line 4, price 1 (p/m): it names m twice: remove the alias"],
    );
    check(
        &price("m", "effective_from = \"2026-06-01T00:00:00Z\"\neffective_to = \"2026-06-01T00:00:00Z\"\n"),
        &[
            "line 8, price 1 (p/m): effective_to 2026-06-01T00:00:00Z is not after effective_from 2026-06-01T00:00:00Z: the \
           price would never hold",
        ],
    );
}

#[test]
fn every_mistake_is_told_at_once_with_its_place() {
    let text = r#"
version = "a b"
checked_at = "yesterday"
owner = "me"
[[price]]
provider = "*"
model = "gpt-*"
effective_from = 2026-01-01
input_usd_per_million = 0.5
confirmed = "yes"
colour = "blue"
[[price]]
model = "fine"
aliases = ["a b", 7]
effective_from = "2026-01-01T00:00:00Z"
effective_to = "soon"
source = " "
image_tokens_max = 0
[[price]]
provider = "OpenAI"
model = "x"
effective_from = "2026-01-01T00:00:00Z"
source = "s"
checked_at = "2026-02-30"
input_usd_per_million = "1"
image_tokens_max = 2000000
aliases = "x"
tier = 5
"#;
    let expected = [
        "line 2: version = \"a b\" may hold only letters, digits, dot, dash and underscore",
        "line 3: checked_at = \"yesterday\" is not a day such as \"2026-11-23\"",
        "line 4: unknown field \"owner\"; known are version, source, checked_at, price",
        "line 5, price 1 (*/gpt-*): source is missing: say where the price was read, here or for the whole book",
        "line 5, price 1 (*/gpt-*): checked_at is missing: say on which day it was read, here or for the whole book",
        "line 6, price 1 (*/gpt-*): a price is for one provider: \"*\" is not allowed, name each",
        "line 7, price 1 (*/gpt-*): model \"gpt-*\": names are matched exactly, \"*\" stands for nothing: list each model",
        "line 8, price 1 (*/gpt-*): effective_from must be a text in quotes, not a bare date",
        "line 9, price 1 (*/gpt-*): input_usd_per_million is a float, and a float holds most decimal prices only nearly: \
         write it as a text, \"0.5\"",
        "line 10, price 1 (*/gpt-*): confirmed must be true or false",
        "line 11, price 1 (*/gpt-*): unknown field \"colour\"; known are provider, model, aliases, effective_from, \
         effective_to, source, checked_at, confirmed, cpu_usd_per_million_seconds, input_usd_per_million, cached_input_usd_per_million, \
         cache_write_usd_per_million, output_usd_per_million, audio_input_usd_per_million, \
         audio_output_usd_per_million, image_tokens_max, tier",
        "line 12, price 2 (?/fine): provider is missing: the provider preset's name, such as \"openai\"",
        "line 12, price 2 (?/fine): checked_at is missing: say on which day it was read, here or for the whole book",
        "line 12, price 2 (?/fine): input_usd_per_million is missing: a decimal in quotes such as \"0.15\"",
        "line 14, price 2 (?/fine): aliases \"a b\": a model's name has no white space",
        "line 14, price 2 (?/fine): each alias must be a name in quotes",
        "line 16, price 2 (?/fine): effective_to = \"soon\" is not an instant such as \"2026-11-01T00:00:00Z\"",
        "line 17, price 2 (?/fine): source is empty",
        "line 18, price 2 (?/fine): image_tokens_max must be a whole number above 0",
        "line 20, price 3 (OpenAI/x): provider = \"OpenAI\" is not a preset's name: small letters, digits, dash",
        "line 24, price 3 (OpenAI/x): checked_at = \"2026-02-30\" is not a day such as \"2026-11-23\"",
        "line 26, price 3 (OpenAI/x): image_tokens_max above 1000000 is most likely not in tokens",
        "line 27, price 3 (OpenAI/x): aliases must be a list, not a text",
        "line 28, price 3 (OpenAI/x): tier must be a list, not an integer",
    ];
    assert_eq!(refused(text), expected);
}

#[test]
fn a_book_has_a_version_and_prices_and_is_toml() {
    assert_eq!(
        refused(""),
        [
            "line 1: version is missing: give the book a name of its own, such as version = \"2026-11-23\"",
            "line 1: the book has no prices: add a [[price]]",
        ]
    );
    assert_eq!(
        refused("version = \"1\"\nprice = [1]\n"),
        ["line 1: the book has no prices: add a [[price]]", "line 2: each price must be a table",]
    );
    assert_eq!(
        refused("version = \"1\"\nprice = \n"),
        ["line 2: not TOML: string values must be quoted, expected literal string"]
    );
    let error = PriceBook::parse("version = 3").expect_err("no text").to_string();
    assert!(error.starts_with("the price book is refused:\n  line 1: "), "{error}");
}

#[test]
fn a_book_has_limits() {
    let too_long = " ".repeat(BOOK_BYTES_MAX + 1);
    assert_eq!(refused(&too_long), ["it has 8388609 bytes, more than the 8388608 a book may have: split it"]);
    let too_many = format!("{HEAD}{}", "[[price]]\n".repeat(PRICES_MAX + 1));
    assert_eq!(refused(&too_many), ["line 1: 10001 prices, more than the 10000 a book may have: split it"]);
    let aliases = vec!["\"a\""; ALIASES_MAX + 1].join(",");
    check(
        &entry(&format!("input_usd_per_million = \"1\"\naliases = [{aliases}]")),
        &["line 9, price 1 (p/m): 65 aliases, more than the 64 a price may have"],
    );
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(
        parse(&entry(&format!("input_usd_per_million = \"1\"\naliases = [\"{long}\"]"))).map_err(|e| e.problems.len()),
        Err(1)
    );
    // Of very many mistakes the first are told, the rest counted.
    let error = PriceBook::parse(&"[[price]]\n".repeat(1_000)).expect_err("all wrong");
    assert_eq!(error.problems.len(), PROBLEMS_MAX);
    assert!(
        error.to_string().ends_with(&format!("\n  and {} more", error.more)) && error.more > 1_000,
        "{}",
        error.more
    );
}

/// Text that gets past the first look more often than noise does.
fn bookish() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        "\"[^\"\\\\\n]{0,12}\"",
        "[0-9]{1,3}(\\.[0-9]{1,3})?",
        Just("\"2026-01-01T00:00:00Z\"".to_owned()),
        Just("\"2026-11-23\"".to_owned()),
        Just("\"0.5\"".to_owned()),
        Just("[\"a\"]".to_owned()),
        Just("true".to_owned()),
        Just("{ a = 1 }".to_owned()),
    ];
    let key = prop::sample::select(vec![
        "version",
        "source",
        "checked_at",
        "price",
        "provider",
        "model",
        "aliases",
        "effective_from",
        "effective_to",
        "input_usd_per_million",
        "cached_input_usd_per_million",
        "output_usd_per_million",
        "image_tokens_max",
        "tier",
        "above_input_tokens",
        "confirmed",
        "é",
    ]);
    let line = prop_oneof![
        6 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")),
        2 => Just("[[price]]".to_owned()),
        1 => Just("[[price.tier]]".to_owned()),
        1 => Just(String::new()),
    ];
    prop::collection::vec(line, 0..25).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), lines in bookish(), cut in any::<prop::sample::Index>()) {
        for text in [text.as_str(), &lines, &format!("{HEAD}{lines}")] {
            if let Err(error) = PriceBook::parse(text) {
                prop_assert!(!error.problems.is_empty() && !error.to_string().is_empty());
            }
        }
        let end = (0..=SHIPPED.len()).rev().find(|&end| end <= cut.index(SHIPPED.len()) && SHIPPED.is_char_boundary(end));
        let _ = PriceBook::parse(&SHIPPED[..end.unwrap_or(0)]);
    }
}

// === The price errors of others ===

#[test]
fn a_request_above_200_000_tokens_is_priced_at_its_tier_unlike_in_litellm_30135() {
    // gemini-2.5-pro: 1.25 / 10 USD a million, above 200,000 input tokens 2.50 / 15, cached 0.125 and 0.25.
    let books = shipped();
    let rate = books.rate("gemini", "gemini-2.5-pro", now()).expect("a price").rate;
    assert_eq!(rate.cost(&used(200_000, 0, 1_000)), PicoUsd(200_000 * 1_250_000 + 1_000 * 10_000_000));
    assert_eq!(rate.cost(&used(200_001, 0, 1_000)), PicoUsd(200_001 * 2_500_000 + 1_000 * 15_000_000));
    assert_eq!(rate.cost(&used(200_001, 100_000, 0)), PicoUsd(100_001 * 2_500_000 + 100_000 * 250_000));
    // And a hold for so much input has room for it.
    assert_eq!(rate.bound(200_001, 1_000, 0), Some(PicoUsd(200_001 * 2_500_000 + 1_000 * 15_000_000)));
}

#[test]
fn cached_tokens_are_not_charged_twice_unlike_in_litellm_15740() {
    // gpt-4o-mini: 10,000 tokens of which 8,000 were cached are 2,000 at 0.15 and 8,000 at 0.075 USD a million.
    let books = shipped();
    let rate = books.rate("openai", "gpt-4o-mini", now()).expect("a price").rate;
    assert_eq!(rate.cost(&used(10_000, 8_000, 0)), PicoUsd(300_000_000 + 600_000_000));
}

#[test]
fn tokens_written_to_the_cache_are_not_dropped_unlike_in_litellm_33772() {
    // gpt-5.6-sol: 4.00 USD a million, 5.00 where it writes its cache, which it does unasked.
    let books = shipped();
    let rate = books.rate("openai", "gpt-5.6-sol", now()).expect("a price").rate;
    assert_eq!(rate.bound(100_000, 0, 0), Some(PicoUsd(500_000_000_000)));
    assert_eq!(rate.cost_with_cache_writes(&used(100_000, 0, 0), 60_000), PicoUsd(160_000_000_000 + 300_000_000_000));
    assert!(rate.bills_cache_writes());
    // Stated in the usage, they are priced to the token; unstated, all that can have been written is.
    let stated = Usage { cache_write_tokens: Some(60_000), ..used(100_000, 0, 0) };
    let priced = |usage: &Usage| rate.priced(usage).map(|priced| (priced.cost.0, priced.confidence));
    assert_eq!(priced(&stated), Some((460_000_000_000, Confidence::Measured)));
    assert_eq!(priced(&used(100_000, 0, 0)), Some((500_000_000_000, Confidence::Bounded)));
}

#[test]
fn sound_is_never_priced_as_text_unlike_where_its_detail_is_dropped() {
    // gpt-4o-audio-preview: text 2.50 and 10 USD a million, sound 40 and 80: sixteen times as much.
    let sound = "audio_input_usd_per_million = \"40\"\naudio_output_usd_per_million = \"80\"";
    let text = "input_usd_per_million = \"2.5\"\noutput_usd_per_million = \"10\"";
    let usage = Usage { audio_input_tokens: 900, audio_output_tokens: 80, ..used(1_000, 0, 100) };
    let cost = |fields: &str| {
        let book = parse(&entry(fields)).expect("a good book");
        book.prices()[0].rate.priced(&usage).map(|priced| priced.cost.0)
    };
    assert_eq!(
        cost(&format!("{text}\n{sound}")),
        Some(100 * 2_500_000 + 900 * 40_000_000 + 20 * 10_000_000 + 80 * 80_000_000)
    );
    assert_eq!(cost(text), None);
    check(
        &entry("input_usd_per_million = \"1\"\naudio_output_usd_per_million = \"80\""),
        &[
            "line 9, price 1 (p/m): audio_output_usd_per_million without output_usd_per_million: a model without it cannot answer",
        ],
    );
}

#[test]
fn a_price_in_another_unit_is_noticed_unlike_in_bifrost_5243() {
    // 0.15 USD a million tokens, but in cents a thousand, or in dollars a token scaled by somebody: a hundred times off
    // and more is beyond what any token costs.
    for off in ["15000", "1500.0", "1000.000001"] {
        assert!(parse(&entry(&format!("input_usd_per_million = \"{off}\""))).is_err(), "{off}");
    }
    // And what is finer than a picodollar a token was most likely meant for one token, not for a million.
    assert!(parse(&entry("input_usd_per_million = \"0.00000015\"")).is_err());
    // The unit stands in the name of every field that holds money.
    assert!(parse(&entry("input_usd_per_token = \"0.00000015\"")).is_err());
}

#[test]
fn a_price_changes_at_its_midnight_and_not_before_also_in_the_middle_of_a_month() {
    let old = entry("effective_to = \"2026-11-16T00:00:00Z\"\ninput_usd_per_million = \"1\"");
    let new = entry("input_usd_per_million = \"2\"").replace("2026-01-01", "2026-11-16");
    let at = |books: &PriceBooks, time: &str| {
        let at = Timestamp::parse_rfc3339(time).expect("an instant");
        books.rate("p", "m", at).map(|rated| (rated.version.to_string(), rated.rate.base().input.0))
    };
    let book = |version: &str, rest: &str| {
        let text = format!("{HEAD}{rest}").replace("version = \"t\"", &format!("version = \"{version}\""));
        std::sync::Arc::new(PriceBook::parse(&text).unwrap_or_else(|error| panic!("{error}")))
    };
    let books = PriceBooks::new([book("first", &format!("{old}{new}"))]).expect("one book");
    let first = |pico: u64| Some(("first".to_owned(), pico));
    assert_eq!(at(&books, "2026-11-15T23:59:59.999999Z"), first(1_000_000));
    assert_eq!(at(&books, "2026-11-16T00:00:00Z"), first(2_000_000));
    // A newer book for what is to come leaves what was as it was; a correction of the past replaces just its span.
    let newer = entry("input_usd_per_million = \"3\"").replace("2026-01-01", "2026-12-01");
    let books = books.with(book("newer", &newer)).expect("another version");
    assert_eq!(at(&books, "2026-11-20T00:00:00Z"), first(2_000_000));
    assert_eq!(at(&books, "2026-12-01T00:00:00Z"), Some(("newer".to_owned(), 3_000_000)));
    let mended = entry("effective_to = \"2026-11-18T00:00:00Z\"\ninput_usd_per_million = \"4\"")
        .replace("2026-01-01", "2026-11-16");
    let books = books.with(book("mended", &mended)).expect("another version");
    assert_eq!(at(&books, "2026-11-15T23:59:59.999999Z"), first(1_000_000));
    assert_eq!(at(&books, "2026-11-17T00:00:00Z"), Some(("mended".to_owned(), 4_000_000)));
    assert_eq!(at(&books, "2026-11-18T00:00:00Z"), first(2_000_000));
}

#[test]
fn no_model_has_the_price_of_one_whose_name_it_contains_unlike_in_substring_matching() {
    let books = shipped();
    assert!(books.rate("openai", "gpt-5.4", now()).is_some());
    for model in ["gpt-5.4-pro", "gpt-5.4x", "my-gpt-5.4", "ft:gpt-4o-2024-08-06:me", "gpt-4", "gpt", "openai/gpt-4o"] {
        assert!(books.rate("openai", model, now()).is_none(), "{model}");
    }
    // Nor is a price another provider's, though the model has the same name there.
    assert!(books.rate("groq", "openai/gpt-oss-120b", now()).is_some());
    assert!(books.rate("openai", "openai/gpt-oss-120b", now()).is_none());
    assert!(books.rate("custom", "gpt-4o-mini", now()).is_none());
}

#[test]
fn one_model_under_two_names_has_one_price_unlike_in_litellm_38062() {
    let books = shipped();
    for price in books.books()[0].prices() {
        for name in price.names() {
            let found = books.rate(&price.provider, name, now()).map(|rated| rated.price);
            assert_eq!(found, Some(price), "{name}");
        }
    }
    let two = format!(
        "{}[[price]]\nprovider = \"p\"\nmodel = \"m-2026\"\naliases = [\"m\"]\neffective_from = \"2026-01-01T00:00:00Z\"\n\
         input_usd_per_million = \"1\"\ncached_input_usd_per_million = \"0.4\"\n",
        entry("input_usd_per_million = \"1\"\ncached_input_usd_per_million = \"0.1\"")
    );
    assert!(parse(&two).is_err());
}

#[test]
fn a_broken_book_is_refused_and_never_read_as_free_unlike_litellms_cost_map_of_2026_01_27() {
    let cut_short = &SHIPPED[..SHIPPED.len() / 2];
    assert!(PriceBook::parse(cut_short.trim_end_matches('"')).is_err());
    assert!(PriceBook::parse(&SHIPPED.replacen("\"2.50\"", "\"\"", 1)).is_err());
    assert!(PriceBook::parse(&SHIPPED.replacen("input_usd_per_million", "input_cost", 1)).is_err());
}

// === The book we ship ===

#[test]
fn the_shipped_book_says_what_was_typed_here_by_hand() {
    let books = shipped();
    // Picodollars a token, input, cached and output: 1 USD a million tokens is 1,000,000.
    let check = |provider: &str, model: &str, input: u64, cached: u64, output: u64| {
        let rated = books.rate(provider, model, now()).unwrap_or_else(|| panic!("no price for {provider}/{model}"));
        let base = rated.rate.base();
        assert_eq!((base.input.0, base.cached_input.0, base.output.0), (input, cached, output), "{provider}/{model}");
        assert_eq!(&**rated.version, "2026-11-27");
    };
    check("openai", "gpt-4o-mini", 150_000, 75_000, 600_000);
    check("openai", "gpt-4o-2024-11-20", 2_500_000, 1_250_000, 10_000_000);
    check("openai", "gpt-4.1", 2_000_000, 500_000, 8_000_000);
    check("openai", "gpt-5-nano", 50_000, 5_000, 400_000);
    check("openai", "gpt-5.4", 2_500_000, 250_000, 15_000_000);
    check("openai", "gpt-6-sol", 2_000_000, 200_000, 10_000_000);
    check("openai", "text-embedding-3-large", 130_000, 130_000, 0);
    check("anthropic", "claude-haiku-4-5", 1_000_000, 100_000, 5_000_000);
    check("anthropic", "claude-opus-4-5-20251101", 5_000_000, 500_000, 25_000_000);
    check("gemini", "gemini-2.5-flash", 300_000, 30_000, 2_500_000);
    check("mistral", "mistral-large-2512", 500_000, 50_000, 1_500_000);
    check("groq", "openai/gpt-oss-20b", 75_000, 37_500, 300_000);
    check("deepseek", "deepseek-v4-flash", 300_000, 6_000, 1_200_000);
    check("xai", "grok-4.3", 1_250_000, 200_000, 2_500_000);
    check("together", "moonshotai/Kimi-K3", 3_000_000, 300_000, 15_000_000);
    for provider in ["openrouter", "ollama", "vllm", "custom"] {
        assert!(books.rate(provider, "gpt-4o-mini", now()).is_none(), "{provider}");
    }
}

#[test]
fn what_runs_here_is_priced_by_cpu_time_and_needs_no_price_of_tokens() {
    let books = shipped();
    for model in ["hashed-ngrams", "all-MiniLM-L6-v2"] {
        let rate = books.rate("local", model, now()).expect("a price").rate;
        assert_eq!((rate.base().input, rate.cpu_second), (PicoUsd::ZERO, Some(PicoUsd(13_888_889))), "{model}");
    }
    let book = |more: &str| {
        PriceBook::parse(&format!(
            "version = \"v\"\nsource = \"s\"\nchecked_at = \"2026-11-27\"\n[[price]]\nprovider = \"local\"\n\
             model = \"m\"\neffective_from = \"2026-01-01T00:00:00Z\"\n{more}"
        ))
    };
    let cpu = |text: &str| book(&format!("cpu_usd_per_million_seconds = \"{text}\""));
    assert!(cpu("0").is_err() && cpu("300").is_err() && cpu("0.0000001").is_err());
    assert!(book("cpu_usd_per_million_seconds = \"300\"\nconfirmed = true").is_ok());
    assert!(book("").is_err(), "neither tokens nor CPU time have a price");
    let both = book("cpu_usd_per_million_seconds = \"10\"\ninput_usd_per_million = \"0.01\"").expect("both is fine");
    assert_eq!(both.prices()[0].rate.base().input, PicoUsd(10_000));
}

#[test]
fn the_simulator_has_its_own_prices_and_keeps_them_when_it_fails() {
    let books = shipped();
    let long_ago = Timestamp::parse_rfc3339("1999-01-01T00:00:00Z").expect("an instant");
    let check = |model: &str, input: u64, cached: u64, output: Option<u64>| {
        for name in [model.to_owned(), format!("{model}+cut"), format!("{model}+double-usage")] {
            let rate = books.rate("simulator", &name, long_ago).unwrap_or_else(|| panic!("no price for {name}")).rate;
            let base = rate.base();
            assert_eq!(
                (base.input.0, base.cached_input.0, base.output.0),
                (input, cached, output.unwrap_or(0)),
                "{name}"
            );
            assert_eq!(rate.prices_output(), output.is_some(), "{name}");
            assert_eq!(rate.image_tokens_max, output.map(|_| 765), "{name}");
        }
    };
    check("gpt-4o-mini", 150_000, 75_000, Some(600_000));
    check("gpt-4o", 2_500_000, 1_250_000, Some(10_000_000));
    check("gpt-4.1-mini", 400_000, 100_000, Some(1_600_000));
    check("gpt-4.1", 2_000_000, 500_000, Some(8_000_000));
    check("o4-mini", 1_100_000, 275_000, Some(4_400_000));
    check("text-embedding-3-small", 20_000, 20_000, None);
    check("text-embedding-3-large", 130_000, 130_000, None);
}

#[test]
fn images_are_priced_where_a_maximum_is_documented() {
    let books = shipped();
    let check = |model: &str, tokens: Option<u64>| {
        let rate = books.rate("openai", model, now()).expect("a price").rate;
        assert_eq!(rate.image_tokens_max, tokens, "{model}");
    };
    check("gpt-4o", Some(85 + 8 * 170));
    check("gpt-4o-mini", Some(2_833 + 8 * 5_667));
    check("gpt-4.1", Some(85 + 8 * 170));
    check("gpt-4.1-mini", Some(2_489)); // 1,536 × 1.62 = 2,488.32
    check("gpt-6-sol", None);
    let stated = books.books()[0].prices().iter().filter(|price| price.rate.image_tokens_max.is_some());
    for price in stated {
        assert!(&*price.provider == "simulator" || price.source.contains("Image tokens: "), "{price}");
    }
}

type Table = HashMap<String, HashMap<String, Box<RawValue>>>;

/// The table the shipped prices were read from, if this machine has it.
fn source_table() -> Option<String> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test finds its data by it; nothing else here reads the environment"
    )]
    let named = std::env::var_os("TOLLGATE_DATA_DIR").map(PathBuf::from);
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let is_named = named.is_some();
    let path = named.unwrap_or_else(beside).join("prices/litellm-1.106.2.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) if is_named => panic!("TOLLGATE_DATA_DIR has no {}: {error}", path.display()),
        Err(error) => {
            eprintln!(
                "SKIPPED: no price of the shipped book was compared with its source. {}: {error}",
                path.display()
            );
            None
        }
    }
}

#[test]
fn every_shipped_price_agrees_with_the_table_it_names_as_its_source() {
    let Some(text) = source_table() else { return };
    let table: Table = serde_json::from_str(&text).expect("the table is JSON");
    let book = PriceBook::parse(SHIPPED).unwrap_or_else(|error| panic!("{error}"));
    let mut compared = 0;
    for price in book.prices().iter().filter(|price| !["simulator", "local"].contains(&&*price.provider)) {
        let (_, after) = price.source.split_once("entry \"").expect("the source names an entry");
        let (key, _) = after.split_once('"').expect("the entry's name ends");
        let prefix = key.strip_suffix(&*price.model).expect("the entry's name ends with the model's");
        for name in price.names() {
            compare(price, &format!("{prefix}{name}"), &table);
            compared += 1;
        }
        let cited = table[key].get("source").map(|cited| cited.get().trim_matches('"'));
        assert!(price.source.contains(cited.unwrap_or("citing no page")), "{price}: {}", price.source);
    }
    assert!(compared >= 100, "only {compared} prices were compared");
}

fn compare(price: &Price, key: &str, table: &Table) {
    let entry = table.get(key).unwrap_or_else(|| panic!("{price}: the table has no {key}"));
    let text = |field: &str| entry.get(field).map(|value| value.get().trim_matches('"'));
    let is_chat = text("mode") == Some("chat");
    assert_eq!(text("mode"), Some(if price.rate.prices_output() { "chat" } else { "embedding" }), "{key}");
    assert!(text("deprecation_date").is_none_or(|day| day > "2026-12-31"), "{key} is withdrawn");
    // Writing to a cache is billed unasked by OpenAI only; of the others the request must ask for it.
    let writes = &*price.provider == "openai";
    let per_token = |suffix: &str| {
        let pico = |field: &str| entry.get(&format!("{field}{suffix}")).map(|raw| pico_per_token(raw.get()));
        let input = pico("input_cost_per_token").expect("an input price");
        let cached_input = pico("cache_read_input_token_cost").filter(|_| is_chat).unwrap_or(input);
        let output = pico("output_cost_per_token").filter(|_| is_chat).unwrap_or(PicoUsd::ZERO);
        Prices {
            cache_write: pico("cache_creation_input_token_cost").filter(|_| writes).unwrap_or(input),
            ..Prices::new(input, cached_input, output)
        }
    };
    assert_eq!(price.rate.base(), per_token(""), "{key}");
    let mut thresholds: Vec<u64> = entry.keys().filter_map(|field| threshold(field)).collect();
    thresholds.sort_unstable();
    let tiers: Vec<Tier> = thresholds
        .into_iter()
        .map(|thousands| Tier {
            above_input_tokens: thousands * 1_000,
            prices: per_token(&format!("_above_{thousands}k_tokens")),
        })
        .collect();
    assert_eq!(price.rate.tiers(), tiers, "{key}");
    if let Some(reasoning) = entry.get("output_cost_per_reasoning_token") {
        assert_eq!(pico_per_token(reasoning.get()), price.rate.base().output, "{key}");
    }
}

/// Thousands of tokens in the name of a tier's input price, such as `input_cost_per_token_above_200k_tokens`.
fn threshold(field: &str) -> Option<u64> {
    field.strip_prefix("input_cost_per_token_above_")?.strip_suffix("k_tokens")?.parse().ok()
}

/// A JSON number of US dollars, such as `1.5e-07`, in whole picodollars: by its digits, with no float between.
fn pico_per_token(number: &str) -> PicoUsd {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: u64 = format!("{whole}{fraction}").parse().expect("digits");
    let places = i32::try_from(fraction.len()).expect("few digits");
    let exponent = 12 + exponent.parse::<i32>().expect("an exponent") - places;
    let power = 10u64.pow(exponent.unsigned_abs());
    if exponent >= 0 {
        return PicoUsd(digits * power);
    }
    assert_eq!(digits % power, 0, "{number} is finer than a picodollar");
    PicoUsd(digits / power)
}

#[test]
fn the_tables_numbers_are_read_digit_by_digit() {
    let check = |number: &str, pico: u64| assert_eq!(pico_per_token(number), PicoUsd(pico), "{number}");
    check("1.5e-07", 150_000);
    check("5.46875e-07", 546_875);
    check("0.00000015", 150_000);
    check("1e-06", 1_000_000);
    check("0.0", 0);
    check("0.000168", 168_000_000);
}
