//! Receipts of every state, and everything that must not pass for one.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate_ledger::record::Reason;
use tollgate_store::Vault;
use tollgate_store::vault::MasterKey;
use tollgate_types::usage::Outcome;
use tollgate_types::{EndUserId, PicoUsd, Spender, UtcOffset};

use super::jws::{JwsError, KeysError, PublicKeys};
use super::verify::Verdict;
use super::*;

/// 2026-11-23T05:00:00Z
const START: Timestamp = Timestamp(1_795_410_000_000_000);

fn at(seconds: i64) -> Timestamp {
    Timestamp(START.0 + seconds * 1_000_000)
}

fn amounts(cost: u64, charge: u64) -> Amounts {
    Amounts { cost: PicoUsd(cost), charge: PicoUsd(charge) }
}

fn pending() -> Told {
    let reserved = Reserved {
        id: RequestId(7),
        at: START,
        deadline: at(600),
        spender: Spender {
            plan: "standard".parse().expect("a plan"),
            tenant: "demo".parse().expect("a tenant"),
            project: "default".parse().expect("a project"),
            key: "k1".parse().expect("a key"),
            end_user: Some(EndUserId([0xab; 16])),
        },
        offset: UtcOffset(0),
        hold: amounts(614_400_000, 737_280_000),
        route: "small".into(),
        provider: "openai".into(),
        model: "gpt-4o-mini".into(),
        stream: true,
        price_version: "2026-11-20".into(),
        idempotency: Some(Idempotency { key: [1; 16], body: [2; 16] }),
        attribution: None,
        policy: None,
    };
    let event = UsageEvent { reserved, extended_at: None, state: EventState::Pending, adjustments: 0, end: None };
    Told { event, adjustments: Vec::new() }
}

fn ended(state: EventState, outcome: Outcome, amounts: Amounts, overrun: Amounts) -> Told {
    let mut told = pending();
    let posted = state == EventState::Posted;
    told.event.state = state;
    told.event.end = Some(EventEnd {
        ended_at: at(2),
        usage: if posted {
            Usage { input_tokens: 10, output_tokens: 20, ..Usage::default() }
        } else {
            Usage::default()
        },
        amounts,
        overrun,
        confidence: posted.then_some(tollgate_types::Confidence::Measured),
        outcome,
    });
    told
}

fn posted() -> Told {
    ended(EventState::Posted, Outcome::Completed, amounts(12_345_000, 14_814_000), Amounts::ZERO)
}

fn adjusted() -> Told {
    let mut told = posted();
    let standing = |cost, confidence| Standing { amounts: amounts(cost, cost), overrun: amounts(1, 0), confidence };
    let before = Standing {
        amounts: amounts(12_345_000, 14_814_000),
        overrun: Amounts::ZERO,
        confidence: tollgate_types::Confidence::Measured,
    };
    let first = standing(700_000_000, tollgate_types::Confidence::Measured);
    let second = standing(5_000_000, tollgate_types::Confidence::Bounded);
    for (seconds, reason, was, now) in
        [(60, Reason::Reconciled, before, first), (3600, Reason::Repriced, first, second)]
    {
        let price_version = "2026-11-20".into();
        told.adjustments.push(Adjustment { at: at(seconds), reason, was, now, price_version });
    }
    told.event.adjustments = 2;
    let end = told.event.end.as_mut().expect("posted");
    (end.amounts, end.overrun, end.confidence) = (second.amounts, second.overrun, Some(second.confidence));
    told
}

fn stated(told: &Told) -> ReceiptStatement {
    state(told, Stating { issuer: "tests".into(), at: at(7200), book_sha256: Some("ab".repeat(32)) })
}

/// A store's keys, and what it signs.
struct Signing {
    vault: Vault,
    _dir: TempDir,
}

impl Signing {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let master = MasterKey::from_hex(&"0f".repeat(32)).expect("a master key");
        let vault = Vault::open(&dir.path().join("keys"), Box::new(master)).expect("a vault");
        Self { vault, _dir: dir }
    }

    fn published(&self) -> Vec<u8> {
        let keys = self.vault.receipt_public_keys().iter().map(jws::public_key).collect();
        serde_json::to_vec(&ReceiptKeys { keys }).expect("JSON")
    }

    fn keys(&self) -> PublicKeys {
        PublicKeys::parse(&self.published()).expect("a JWK set")
    }

    fn jws(&self, payload: &[u8]) -> String {
        jws::sign(&self.vault.receipt_signer(), payload)
    }

    fn receipt(&self, statement: &ReceiptStatement) -> Receipt {
        statement.signed(self.jws(&serde_json::to_vec(statement).expect("JSON")))
    }

    fn verdict(&self, receipt: impl AsRef<[u8]>) -> Verdict {
        Verdict::of(receipt.as_ref(), &self.keys())
    }

    /// What is wrong with it: the check and its words.
    fn wrong(&self, receipt: impl AsRef<[u8]>) -> (&'static str, String) {
        let verdict = self.verdict(&receipt);
        assert!(!verdict.holds(), "{verdict:?}");
        let failed = verdict.checks.into_iter().find_map(|check| Some((check.name, check.found.err()?)));
        failed.expect("what does not hold says why")
    }
}

#[test]
fn receipts_of_every_state_hold_in_both_forms() {
    let signing = Signing::new();
    let hold = amounts(614_400_000, 737_280_000);
    let overrun = ended(EventState::Posted, Outcome::Completed, hold, amounts(5, 6));
    let voided = ended(EventState::Voided, Outcome::NotSent, Amounts::ZERO, Amounts::ZERO);
    let mut doubted = pending();
    doubted.event.state = EventState::Indeterminate;
    doubted.event.extended_at = Some(at(1));
    for (told, is_final) in
        [(pending(), false), (doubted, false), (voided, true), (posted(), true), (overrun, true), (adjusted(), true)]
    {
        let statement = stated(&told);
        assert_eq!(statement.is_final, is_final);
        let receipt = signing.receipt(&statement);
        for written in [serde_json::to_string_pretty(&receipt).expect("JSON"), format!(" {}\n", receipt.jws)] {
            let verdict = signing.verdict(&written);
            assert!(verdict.holds(), "{verdict:?}");
            assert_eq!(verdict.statement.as_ref(), Some(&statement));
        }
        assert_eq!(receipt.event, statement.event());
    }
}

#[test]
fn the_text_that_is_signed_is_the_documented_one() {
    let text = serde_json::to_string(&stated(&posted())).expect("JSON");
    assert_eq!(
        text,
        concat!(
            r#"{"format":"tollgate-receipt/1","issuer":"tests","request_id":"req_00000000000000000000000000000007","#,
            r#""final":true,"signed_at":"2026-11-23T07:00:00Z","tenant":"demo","project":"default","key":"k1","#,
            r#""end_user":"usr_abababababababababababababababab","plan":"standard","route":"small","#,
            r#""model":"gpt-4o-mini","provider":"openai","stream":true,"started_at":"2026-11-23T05:00:00Z","#,
            r#""ended_at":"2026-11-23T05:00:02Z","state":"posted","outcome":"completed","confidence":"measured","#,
            r#""tokens":{"input":10,"cached_input":0,"cache_write":0,"audio_input":0,"output":20,"reasoning":0,"#,
            r#""audio_output":0,"cpu_us":0},"prices":{"version":"2026-11-20","sha256":""#,
            "abababababababababababababababababababababababababababababababab",
            r#""},"hold":{"cost_picousd":"614400000","charge_picousd":"737280000","reserved_at":"2026-11-23T05:00:00Z","#,
            r#""deadline":"2026-11-23T05:10:00Z","extended_at":null,"released":{"cost_picousd":"602055000","#,
            r#""charge_picousd":"722466000"}},"cost_picousd":"12345000","cost_usd":"0.000012345","#,
            r#""charge_picousd":"14814000","charge_usd":"0.000014814","overrun":{"cost_picousd":"0","#,
            r#""charge_picousd":"0"},"policy":null,"cache":"bypass","idempotency":{"#,
            r#""key_hash":"01010101010101010101010101010101","body_hash":"02020202020202020202020202020202"},"#,
            r#""adjustments":[]}"#,
        )
    );
}

#[test]
fn any_byte_that_is_changed_is_noticed() {
    let signing = Signing::new();
    let keys = signing.keys();
    let jws = signing.receipt(&stated(&adjusted())).jws;
    assert!(jws::verify(&jws, &keys).is_ok());
    for place in 0..jws.len() {
        for other in ["A", "B", ".", "="] {
            let mut changed = jws.clone();
            changed.replace_range(place..=place, other);
            assert_eq!(jws::verify(&changed, &keys).is_ok(), changed == jws, "at {place}: {changed}");
        }
    }
    let parts: Vec<&str> = jws.split('.').collect();
    for part in 0..3 {
        let bytes = URL_SAFE_NO_PAD.decode(parts[part]).expect("base64url");
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1 << (place % 8);
            let mut parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            parts[part] = URL_SAFE_NO_PAD.encode(changed);
            assert!(jws::verify(&parts.join("."), &keys).is_err(), "byte {place} of part {part}");
        }
    }
}

/// Every value inside, changed one at a time, and the path to it.
fn changed_leaves(value: &Value, path: &str, put_back: &dyn Fn(Value) -> Value, all: &mut Vec<(String, Value)>) {
    let other = match value {
        Value::Object(members) => {
            for (name, inner) in members {
                let put = |inner: Value| {
                    let mut changed = members.clone();
                    changed[name] = inner;
                    put_back(Value::Object(changed))
                };
                changed_leaves(inner, &format!("{path}/{name}"), &put, all);
            }
            return;
        }
        Value::Array(items) => {
            for (place, inner) in items.iter().enumerate() {
                let put = |inner: Value| {
                    let mut changed = items.clone();
                    changed[place] = inner;
                    put_back(Value::Array(changed))
                };
                changed_leaves(inner, &format!("{path}/{place}"), &put, all);
            }
            json!([])
        }
        Value::Null => json!("x"),
        Value::Bool(said) => json!(!said),
        Value::Number(number) => json!(number.as_u64().expect("a count") + 1),
        Value::String(text) => json!(format!("{text}0")),
    };
    if other != *value {
        all.push((path.to_owned(), put_back(other)));
    }
}

#[test]
fn nothing_that_stands_beside_the_signature_can_be_changed_unnoticed() {
    let signing = Signing::new();
    let receipt = serde_json::to_value(signing.receipt(&stated(&adjusted()))).expect("JSON");
    let mut all = Vec::new();
    changed_leaves(&receipt, "", &|whole| whole, &mut all);
    assert!(all.len() > 80, "{} values", all.len());
    for (path, changed) in all {
        let (check, wrong) = signing.wrong(changed.to_string());
        let expected = if path == "/jws" { "signature" } else { "copy" };
        assert_eq!(check, expected, "{path}: {wrong}");
    }
    let text = receipt.to_string();
    let more = |member: &str| format!("{{{member},{}", &text[1..]);
    assert_eq!(signing.wrong(more(r#""refund_usd":"5.00""#)).0, "copy");
    assert_eq!(signing.wrong(more(r#""cost_usd":"0.00""#)).0, "form", "a name twice");
    let inside = text.replacen(r#""statement":{"#, r#""statement":{"cost_usd":"0.00","#, 1);
    assert_eq!(signing.wrong(inside).0, "copy", "a name twice, inside");
    let alone = json!({ "jws": receipt["jws"] });
    assert!(signing.verdict(alone.to_string()).holds(), "what is not written cannot be wrong");
}

#[test]
fn only_our_algorithm_and_only_known_keys_count() {
    let signing = Signing::new();
    let keys = signing.keys();
    let statement = serde_json::to_vec(&stated(&posted())).expect("JSON");
    let good = signing.jws(&statement);
    let kid = jws::key_id(&signing.vault.receipt_signer().public_key());
    let [header, payload, signature] = <[&str; 3]>::try_from(good.split('.').collect::<Vec<_>>()).expect("three parts");
    let header = String::from_utf8(URL_SAFE_NO_PAD.decode(header).expect("base64url")).expect("text");
    let expected = format!(r#"{{"alg":"EdDSA","typ":"tollgate-receipt+json","kid":"{kid}"}}"#);
    assert_eq!(header, expected);

    // Signed by the true key, so that only the header is wrong.
    let under = |header: &str| {
        let signed = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header));
        let signature = signing.vault.receipt_signer().sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    assert!(jws::verify(&under(&header), &keys).is_ok());
    for algorithm in ["none", "None", "HS256", "ES256", "Ed25519ph", "eddsa", ""] {
        let refused = jws::verify(&under(&header.replace("EdDSA", algorithm)), &keys);
        assert_eq!(refused, Err(JwsError::Algorithm(algorithm.to_owned())));
    }
    let hmac = {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &signing.vault.receipt_signer().public_key());
        let signed = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header.replace("EdDSA", "HS256")));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
    };
    assert_eq!(jws::verify(&hmac, &keys), Err(JwsError::Algorithm("HS256".to_owned())));
    let unsigned = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header.replace("EdDSA", "none")));
    assert_eq!(jws::verify(&unsigned, &keys), Err(JwsError::Algorithm("none".to_owned())));

    assert!(matches!(jws::verify(&under(&header.replace("receipt+json", "other")), &keys), Err(JwsError::Type(_))));
    let critical = header.replace(r#"{"alg""#, r#"{"crit":["b64"],"b64":false,"alg""#);
    assert!(matches!(jws::verify(&under(&critical), &keys), Err(JwsError::Header(_))));
    let twice = header.replace(r#"{"alg""#, r#"{"alg":"none","alg""#);
    assert!(matches!(jws::verify(&under(&twice), &keys), Err(JwsError::Header(_))));
    let stranger = jws::verify(&under(&header.replace(&kid, "0123456789abcdef")), &keys);
    assert!(matches!(stranger, Err(JwsError::UnknownKey { .. })), "{stranger:?}");
    assert!(matches!(jws::verify(&good, &Signing::new().keys()), Err(JwsError::UnknownKey { .. })));
    for cut in [String::new(), payload.to_owned(), format!("a.{payload}"), format!("{good}.{signature}")] {
        assert_eq!(jws::verify(&cut, &keys), Err(JwsError::NotCompact), "{cut}");
    }
}

#[test]
fn a_key_that_is_not_what_its_name_says_is_refused() {
    let signing = Signing::new();
    let published: Value = serde_json::from_slice(&signing.published()).expect("JSON");
    let with = |name: &str, value: Value| {
        let mut changed = published.clone();
        changed["keys"][0][name] = value;
        PublicKeys::parse(changed.to_string().as_bytes())
    };
    assert!(with("comment", json!("fine")).is_ok());
    for (name, value) in [
        ("kid", json!("0123456789abcdef")),
        ("x", json!(URL_SAFE_NO_PAD.encode([7; 32]))),
        ("x", json!("AAAA")),
        ("x", json!("!")),
        ("use", json!("enc")),
        ("alg", json!("none")),
    ] {
        assert!(matches!(with(name, value.clone()), Err(KeysError::Unusable { .. })), "{name} {value}");
    }
    assert_eq!(with("kty", json!("RSA")), Err(KeysError::Empty), "keys of other kinds are passed over");
    assert_eq!(PublicKeys::parse(br#"{"keys":[]}"#), Err(KeysError::Empty));
    assert!(matches!(PublicKeys::parse(b"[]"), Err(KeysError::Malformed(_))));
}

#[test]
fn what_an_older_key_signed_holds_as_long_as_it_is_published() {
    let signing = Signing::new();
    let before = signing.keys();
    let old = signing.receipt(&stated(&posted()));
    signing.vault.rotate_receipt_key().expect("a new key");
    let new = signing.receipt(&stated(&posted()));
    for receipt in [&old, &new] {
        assert!(signing.verdict(&receipt.jws).holds());
    }
    assert!(!Verdict::of(new.jws.as_bytes(), &before).holds(), "the new key was not published then");
}

#[test]
fn a_signed_statement_that_contradicts_itself_does_not_hold() {
    let signing = Signing::new();
    let check = |told: &Told, path: &str, value: Value, part: &str| {
        let mut statement = serde_json::to_value(stated(told)).expect("JSON");
        *statement.pointer_mut(path).expect("a field") = value;
        let (check, wrong) = signing.wrong(signing.jws(statement.to_string().as_bytes()));
        assert_eq!(check, "arithmetic", "{path}: {wrong}");
        assert!(wrong.contains(part), "{path}: {wrong}");
    };
    let voided = ended(EventState::Voided, Outcome::NotSent, Amounts::ZERO, Amounts::ZERO);
    check(&posted(), "/cost_picousd", json!("12345001"), "in dollars");
    check(&posted(), "/charge_usd", json!("0.00"), "in dollars");
    check(&posted(), "/final", json!(false), "final");
    check(&posted(), "/outcome", Value::Null, "do not follow");
    check(&posted(), "/confidence", Value::Null, "how sure");
    check(&posted(), "/hold/released/cost_picousd", json!("0"), "not what was held");
    check(&posted(), "/hold/cost_picousd", json!("1"), "not what was held");
    check(&posted(), "/overrun/cost_picousd", json!("1"), "not used up");
    check(&posted(), "/overrun/charge_picousd", json!("1"), "not used up");
    check(&posted(), "/overrun/charge_picousd", json!("-1"), "not an amount");
    check(&posted(), "/ended_at", json!("2026-11-23T04:00:00Z"), "not in order");
    check(&posted(), "/ended_at", json!("soon"), "not a time");
    check(&posted(), "/hold/reserved_at", json!("2026-11-23T05:00:01Z"), "another time");
    check(&adjusted(), "/adjustments/1/was/cost_picousd", json!("1"), "does not follow");
    check(&adjusted(), "/adjustments/1/now/confidence", json!("measured"), "not what stands");
    check(&adjusted(), "/adjustments/1/price_version", json!("older"), "price version");
    check(&adjusted(), "/adjustments/0/at", json!("2026-11-24T00:00:00Z"), "not in order");
    check(&adjusted(), "/adjustments", json!([]), "not what was held");
    check(&voided, "/hold/released/cost_picousd", json!("0"), "not all of the hold");
    check(&voided, "/overrun/cost_picousd", json!("1"), "costs something");
    check(&pending(), "/confidence", json!("bounded"), "nothing to be sure of");
}

#[test]
fn what_is_signed_and_no_receipt_of_this_format_does_not_hold() {
    let signing = Signing::new();
    let statement = serde_json::to_string(&stated(&posted())).expect("JSON");
    let wrong = |payload: &str| signing.wrong(signing.jws(payload.as_bytes()));
    assert_eq!(wrong(&statement.replace("receipt/1", "receipt/2")).0, "format");
    assert_eq!(wrong(&statement.replace(r#""state":"posted""#, r#""state":"lost""#)).0, "format");
    assert_eq!(wrong(&statement.replacen("{", r#"{"cost_usd":"0.00","#, 1)).0, "format", "a name twice");
    assert_eq!(wrong("hello").0, "format");
    assert_eq!(wrong("{}").0, "format");
    let newer = statement.replacen("{", r#"{"of tomorrow":1,"#, 1);
    assert!(signing.verdict(signing.jws(newer.as_bytes())).holds(), "fields may be added");

    for (form, expected) in [
        ("", "signature"),
        ("{}", "form"),
        (r#"{"jws":1}"#, "form"),
        (r#"{"jws":"a.b.c""#, "form"),
        (r#"{"jws":"a.b.c"}"#, "signature"),
    ] {
        assert_eq!(signing.wrong(form).0, expected, "{form}");
    }
    assert_eq!(signing.wrong(vec![b'{'; verify::RECEIPT_BYTES_MAX + 1]).0, "form");
    assert_eq!(signing.wrong([0xff]).0, "form");
}
