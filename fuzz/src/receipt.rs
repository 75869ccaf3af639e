//! Receipts and key sets: nothing passes for a receipt but what was signed, whatever is written around it, and what does
//! not pass says why.

use tollgate_client::ReceiptStatement;
use tollgate_gateway::receipt::jws::{PublicKeys, key_id};
use tollgate_gateway::receipt::verify::Verdict;

use crate::Target;

/// The key whose seed is 32 times the byte 7. It has signed one statement, and never will another.
const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"fe812c12f3ab4ce6","x":"6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw","use":"sig","alg":"EdDSA"}]}"#;

macro_rules! statement {
    () => {
        r#"{"format":"tollgate-receipt/1","issuer":"tests","request_id":"req_00000000000000000000000000000007","final":true,"signed_at":"2026-11-23T07:00:00Z","tenant":"demo","project":"default","key":"k1","end_user":null,"plan":"standard","route":"small","model":"gpt-4o-mini","provider":"openai","stream":true,"started_at":"2026-11-23T05:00:00Z","ended_at":"2026-11-23T05:00:02Z","state":"posted","outcome":"completed","confidence":"measured","tokens":{"input":10,"cached_input":0,"cache_write":0,"audio_input":0,"output":20,"reasoning":0,"audio_output":0},"prices":{"version":"2026-11-20","sha256":null},"hold":{"cost_picousd":"614400000","charge_picousd":"737280000","reserved_at":"2026-11-23T05:00:00Z","deadline":"2026-11-23T05:10:00Z","extended_at":null,"released":{"cost_picousd":"602055000","charge_picousd":"722466000"}},"cost_picousd":"12345000","cost_usd":"0.000012345","charge_picousd":"14814000","charge_usd":"0.000014814","overrun":{"cost_picousd":"0","charge_picousd":"0"},"policy":null,"cache":"bypass","idempotency":null,"adjustments":[]}"#
    };
}

macro_rules! jws {
    () => {
        "eyJhbGciOiJFZERTQSIsInR5cCI6InRvbGxnYXRlLXJlY2VpcHQranNvbiIsImtpZCI6ImZlODEyYzEyZjNhYjRjZTYifQ.eyJmb3JtYXQiOiJ0b2xsZ2F0ZS1yZWNlaXB0LzEiLCJpc3N1ZXIiOiJ0ZXN0cyIsInJlcXVlc3RfaWQiOiJyZXFfMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDciLCJmaW5hbCI6dHJ1ZSwic2lnbmVkX2F0IjoiMjAyNi0xMS0yM1QwNzowMDowMFoiLCJ0ZW5hbnQiOiJkZW1vIiwicHJvamVjdCI6ImRlZmF1bHQiLCJrZXkiOiJrMSIsImVuZF91c2VyIjpudWxsLCJwbGFuIjoic3RhbmRhcmQiLCJyb3V0ZSI6InNtYWxsIiwibW9kZWwiOiJncHQtNG8tbWluaSIsInByb3ZpZGVyIjoib3BlbmFpIiwic3RyZWFtIjp0cnVlLCJzdGFydGVkX2F0IjoiMjAyNi0xMS0yM1QwNTowMDowMFoiLCJlbmRlZF9hdCI6IjIwMjYtMTEtMjNUMDU6MDA6MDJaIiwic3RhdGUiOiJwb3N0ZWQiLCJvdXRjb21lIjoiY29tcGxldGVkIiwiY29uZmlkZW5jZSI6Im1lYXN1cmVkIiwidG9rZW5zIjp7ImlucHV0IjoxMCwiY2FjaGVkX2lucHV0IjowLCJjYWNoZV93cml0ZSI6MCwiYXVkaW9faW5wdXQiOjAsIm91dHB1dCI6MjAsInJlYXNvbmluZyI6MCwiYXVkaW9fb3V0cHV0IjowfSwicHJpY2VzIjp7InZlcnNpb24iOiIyMDI2LTExLTIwIiwic2hhMjU2IjpudWxsfSwiaG9sZCI6eyJjb3N0X3BpY291c2QiOiI2MTQ0MDAwMDAiLCJjaGFyZ2VfcGljb3VzZCI6IjczNzI4MDAwMCIsInJlc2VydmVkX2F0IjoiMjAyNi0xMS0yM1QwNTowMDowMFoiLCJkZWFkbGluZSI6IjIwMjYtMTEtMjNUMDU6MTA6MDBaIiwiZXh0ZW5kZWRfYXQiOm51bGwsInJlbGVhc2VkIjp7ImNvc3RfcGljb3VzZCI6IjYwMjA1NTAwMCIsImNoYXJnZV9waWNvdXNkIjoiNzIyNDY2MDAwIn19LCJjb3N0X3BpY291c2QiOiIxMjM0NTAwMCIsImNvc3RfdXNkIjoiMC4wMDAwMTIzNDUiLCJjaGFyZ2VfcGljb3VzZCI6IjE0ODE0MDAwIiwiY2hhcmdlX3VzZCI6IjAuMDAwMDE0ODE0Iiwib3ZlcnJ1biI6eyJjb3N0X3BpY291c2QiOiIwIiwiY2hhcmdlX3BpY291c2QiOiIwIn0sInBvbGljeSI6bnVsbCwiY2FjaGUiOiJieXBhc3MiLCJpZGVtcG90ZW5jeSI6bnVsbCwiYWRqdXN0bWVudHMiOltdfQ.lpSB1lVl1DHxkXZ7ZCRc3qSol1EN3MMoWp7LTZd4POSXzEd9peBkZ6rayynSc-Mt79SRMvSygFWdCTKrbdtEAg"
    };
}

pub const TARGET: Target = Target {
    name: "receipt",
    check: check_receipt,
    seeds: &[
        concat!(
            r#"{"cost_usd":"0.000012345","state":"posted","tenant":"demo","input_tokens":10,"statement":"#,
            statement!(),
            r#","jws":""#,
            jws!(),
            "\"}"
        ),
        jws!(),
        statement!(),
        KEYS,
    ],
    words: &[
        "\"jws\":\"a.b.c\"",
        "\"jws\":null",
        "\"statement\":{}",
        "\"state\":\"voided\"",
        "\"refund_usd\":\"1\"",
        "\"cost_usd\":\"0.00\"",
        "\"input_tokens\":9007199254740993",
        "\"9007199254740993\"",
        "\"kid\":\"fe812c12f3ab4ce6\"",
        "\"kty\":\"RSA\"",
        "eyJhbGciOiJub25lIn0",
        ".",
        "null",
        "[]",
        "\\u0061",
    ],
    takes_noise: false,
};

pub fn check_receipt(data: &[u8]) {
    let keys = PublicKeys::parse(KEYS.as_bytes()).expect("a key set");
    let signed: ReceiptStatement = serde_json::from_str(statement!()).expect("a statement");
    let verdict = Verdict::of(data, &keys);
    if verdict.holds() {
        assert_eq!(verdict.statement, Some(signed), "only one was ever signed");
    } else {
        let reasons: Vec<_> = verdict.checks.iter().filter_map(|check| check.found.as_ref().err()).collect();
        assert!(!reasons.is_empty() && reasons.iter().all(|reason| !reason.is_empty()), "what does not hold says why");
    }
    assert!(Verdict::of(jws!().as_bytes(), &keys).holds());
    statement(data);
    key_set(data);
}

fn statement(data: &[u8]) {
    let Ok(read) = serde_json::from_slice::<ReceiptStatement>(data) else { return };
    let written = serde_json::to_vec(&read).expect("a statement can be written");
    assert_eq!(serde_json::from_slice::<ReceiptStatement>(&written).ok(), Some(read), "it reads as it was written");
}

/// A set that is taken holds at least one key, and each bears the name that it must.
fn key_set(data: &[u8]) {
    if PublicKeys::parse(data).is_err() {
        return;
    }
    let set: serde_json::Value = serde_json::from_slice(data).expect("it was read as JSON");
    let ours = |key: &&serde_json::Value| key["kty"] == "OKP" && key["crv"] == "Ed25519";
    let names: Vec<_> = set["keys"].as_array().expect("keys").iter().filter(ours).map(|key| &key["kid"]).collect();
    assert!(!names.is_empty());
    assert!(names.iter().all(|kid| kid.as_str().is_some_and(|kid| kid.len() == key_id(b"").len())));
}
