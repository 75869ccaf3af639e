//! The wire as a stranger meets it, and the client against a gateway made of canned answers.

use serde_json::json;

use super::*;

#[test]
fn a_new_key_never_prints_its_secret() {
    let key = CreatedKey {
        info: serde_json::from_value(key_on_the_wire()).expect("a key"),
        key: "tg_k1_verysecret".to_owned(),
    };
    let printed = format!("{key:?} {key:#?}");
    assert!(!printed.contains("verysecret"), "{printed}");
    assert!(printed.contains("k1"), "the id is no secret: {printed}");
}

#[test]
fn a_created_key_is_one_flat_object() {
    let mut wire = key_on_the_wire();
    wire["key"] = json!("tg_k1_s");
    let key: CreatedKey = serde_json::from_value(wire.clone()).expect("a created key");
    assert_eq!(key.info.scopes, [KeyScope::Chat]);
    assert_eq!(serde_json::to_value(&key).expect("JSON"), wire);
}

#[test]
fn requests_with_an_unknown_field_are_refused() {
    let refused = |value: serde_json::Value, read: fn(serde_json::Value) -> bool| {
        assert!(!read(value.clone()), "{value}");
    };
    fn reads<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> bool {
        serde_json::from_value::<T>(value).is_ok()
    }
    assert!(reads::<NewTenant>(json!({"id": "a"})));
    refused(json!({"id": "a", "nmae": "A"}), reads::<NewTenant>);
    refused(json!({"tenant": "a", "id": "b", "x": 1}), reads::<NewProject>);
    refused(json!({"tenant": "a", "scope": ["chat"]}), reads::<NewKey>);
    refused(json!({"markup": "20"}), reads::<PlanSettings>);
    refused(json!({"tenant": "a", "window": "day", "cap": "1"}), reads::<BudgetSetting>);
    refused(json!({"tenant": "a", "window": "year", "cap_usd": "1"}), reads::<BudgetSetting>);
}

#[test]
fn what_is_not_given_is_not_sent() {
    let sent = serde_json::to_string(&NewKey { tenant: "demo".into(), ..NewKey::default() }).expect("JSON");
    assert_eq!(sent, r#"{"tenant":"demo"}"#);
    assert_eq!(serde_json::to_string(&PlanSettings::default()).expect("JSON"), "{}");
}

#[test]
fn a_receipt_is_its_event_and_the_money_in_dollars() {
    let receipt = Receipt {
        event: event(),
        cost_usd: "0.000012345".into(),
        charge_usd: "0.000014814".into(),
        statement: json!({ "format": "tollgate-receipt/1", "a field of tomorrow": [1] }),
        jws: "a.b.c".into(),
    };
    let wire = serde_json::to_value(&receipt).expect("JSON");
    assert_eq!(wire["request_id"], "req_00000000000000000000000000000001");
    assert_eq!(wire["state"], "posted");
    assert_eq!(wire["cost_picousd"], "12345000");
    assert_eq!(wire["cost_usd"], "0.000012345");
    assert_eq!(serde_json::from_value::<Receipt>(wire).expect("it reads back"), receipt);
}

#[test]
fn a_count_that_not_every_reader_can_hold_is_written_as_text() {
    let tokens = ReceiptTokens { input: (1 << 53) - 1, output: 1 << 53, ..ReceiptTokens::default() };
    let wire = serde_json::to_value(tokens).expect("JSON");
    assert_eq!((&wire["input"], &wire["output"]), (&json!(9_007_199_254_740_991_u64), &json!("9007199254740992")));
    assert_eq!(serde_json::from_value::<ReceiptTokens>(wire).expect("it reads back"), tokens);
}

fn key_on_the_wire() -> serde_json::Value {
    json!({
        "id": "k1", "tenant": "demo", "project": "default", "name": null, "scopes": ["chat"],
        "requests_per_minute": 60, "tokens_per_minute": null, "parallel_requests": null,
        "created_at": "2026-11-23T05:00:00Z", "expires_at": null, "revoked_at": null,
    })
}

fn event() -> UsageEvent {
    UsageEvent {
        request_id: "req_00000000000000000000000000000001".into(),
        tenant: "demo".into(),
        project: "default".into(),
        key: "k1".into(),
        route: "gpt-4o-mini".into(),
        model: "gpt-4o-mini".into(),
        provider: "sim".into(),
        stream: false,
        started_at: "2026-11-23T05:00:00Z".into(),
        ended_at: Some("2026-11-23T05:00:01Z".into()),
        state: UsageState::Posted,
        confidence: Some(Confidence::Measured),
        input_tokens: 10,
        cached_input_tokens: 0,
        cache_write_tokens: None,
        audio_input_tokens: 0,
        output_tokens: 20,
        reasoning_tokens: 0,
        audio_output_tokens: 0,
        cpu_us: 0,
        hold_cost_picousd: "614400000".into(),
        cost_picousd: "12345000".into(),
        charge_picousd: "14814000".into(),
        overrun_picousd: "0".into(),
        price_version: "2026-11-20".into(),
        adjustments: 0,
        outcome: Some("completed".into()),
    }
}

#[cfg(feature = "http")]
mod wire {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;

    /// A gateway that gives one answer. What it was asked comes back from the handle.
    async fn gateway(answer: &str) -> (AdminClient, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let answer = answer.to_owned();
        let asked = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let request = read_request(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.expect("the client reads");
            request
        });
        (AdminClient::new(&format!("http://{address}/"), "secret").expect("a good address"), asked)
    }

    async fn read_request(stream: &mut tokio::net::TcpStream) -> String {
        let mut read = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.to_lowercase().lines().find_map(|line| {
                    line.strip_prefix("content-length: ").and_then(|length| length.parse::<usize>().ok())
                });
                if body.len() >= length.unwrap_or(0) {
                    return text;
                }
            }
            if stream.read_buf(&mut read).await.expect("the client writes") == 0 {
                return String::from_utf8_lossy(&read).into_owned();
            }
        }
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    }

    #[tokio::test]
    async fn a_call_carries_the_key_and_the_body_and_reads_the_answer() {
        let tenant = json!({"id": "demo", "name": null, "plan": "standard", "time_zone": "UTC",
            "created_at": "2026-11-23T05:00:00Z"});
        let (client, asked) = gateway(&answer("201 Created", &tenant.to_string())).await;
        let new = NewTenant { id: "demo".into(), ..NewTenant::default() };
        let created = client.create_tenant(&new).await.expect("created");
        assert_eq!(created.plan, "standard");
        let asked = asked.await.expect("asked");
        assert!(asked.starts_with("POST /admin/v1/tenants HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("authorization: Bearer secret\r\n"), "{asked}");
        assert!(asked.contains("content-type: application/json\r\n"), "{asked}");
        assert!(asked.ends_with(r#"{"id":"demo"}"#), "{asked}");
    }

    #[tokio::test]
    async fn a_callers_text_cannot_leave_its_place_in_the_address() {
        let (client, asked) = gateway(&answer("404 Not Found", "{}")).await;
        client.tenant("a/../../keys?x=1#é").await.expect_err("there is none");
        let asked = asked.await.expect("asked");
        assert!(asked.starts_with("GET /admin/v1/tenants/a%2F..%2F..%2Fkeys%3Fx%3D1%23%C3%A9 HTTP/1.1\r\n"), "{asked}");
    }

    #[tokio::test]
    async fn a_price_book_goes_as_toml_and_a_query_holds_only_what_is_given() {
        let book = json!({"version": "v1", "sha256": "00", "prices": 1, "origin": "pushed"});
        let (client, asked) = gateway(&answer("201 Created", &book.to_string())).await;
        assert_eq!(client.push_prices("version = 'v1'").await.expect("pushed").version, "v1");
        assert!(asked.await.expect("asked").contains("content-type: application/toml\r\n"));

        let (client, asked) = gateway(&answer("200 OK", r#"{"data":[],"next":null}"#)).await;
        let wanted = UsageQuery { limit: Some(5), after: Some("a b".into()), ..UsageQuery::default() };
        assert_eq!(client.usage(&wanted).await.expect("a page").data, []);
        let asked = asked.await.expect("asked");
        assert!(asked.starts_with("GET /admin/v1/usage?limit=5&after=a%20b HTTP/1.1\r\n"), "{asked}");

        let (client, asked) = gateway("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        let (tenant, window) = ("demo".to_owned(), Window::Day);
        let selected =
            BudgetSelector { tenant: Some(tenant), window, basis: Some(Basis::Charge), ..BudgetSelector::default() };
        client.remove_budget(&selected).await.expect("an empty answer is enough");
        let asked = asked.await.expect("asked");
        assert!(
            asked.starts_with("DELETE /admin/v1/budgets?tenant=demo&window=day&basis=charge HTTP/1.1\r\n"),
            "{asked}"
        );
    }

    #[tokio::test]
    async fn a_refusal_keeps_its_status_code_and_message() {
        let body =
            json!({"error": {"message": "no", "type": "invalid_request_error", "param": "id", "code": "exists"}});
        let (client, _asked) = gateway(&answer("409 Conflict", &body.to_string())).await;
        match client.tenants().await.expect_err("refused") {
            ClientError::Refused { status, code, message, param } => {
                assert_eq!(
                    (status, code.as_deref(), message.as_str(), param.as_deref()),
                    (409, Some("exists"), "no", Some("id"))
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_no_gateway_is_told_apart() {
        let (client, _asked) = gateway(&answer("200 OK", "<html>")).await;
        assert!(matches!(client.plans().await, Err(ClientError::Malformed { status: 200, .. })));
        let (client, _asked) = gateway(&answer("502 Bad Gateway", "<html>")).await;
        assert!(matches!(client.ready().await, Err(ClientError::Malformed { status: 502, .. })));
        let endless = "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{";
        let (client, _asked) = gateway(endless).await;
        assert!(matches!(client.ledger().await, Err(ClientError::Malformed { .. })), "too large to be ours");
    }

    #[tokio::test]
    async fn a_gateway_says_in_plain_text_why_it_is_not_ready() {
        let (client, asked) = gateway(&answer("503 Service Unavailable", "not ready: draining\n")).await;
        match client.ready().await.expect_err("not ready") {
            ClientError::Refused { status: 503, message, .. } => assert_eq!(message, "not ready: draining"),
            other => panic!("{other:?}"),
        }
        assert!(asked.await.expect("asked").starts_with("GET /readyz HTTP/1.1"));
        let (client, _asked) = gateway(&answer("200 OK", "ready\n")).await;
        client.ready().await.expect("ready");
    }

    #[tokio::test]
    async fn nobody_there_is_said_as_such() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let client = AdminClient::new(&url, "secret").expect("a good address");
        let silent = client.clone().with_deadline(Duration::from_millis(50));
        assert!(matches!(silent.routes().await, Err(ClientError::Timeout { .. })), "it listens and never answers");
        drop(listener);
        match client.providers().await.expect_err("nobody listens") {
            ClientError::Unreachable { url: named, refused, .. } => assert_eq!((named, refused), (url, true)),
            other => panic!("{other:?}"),
        }
        assert!(!format!("{client:?}").contains("secret"));
    }

    #[test]
    fn an_address_is_checked_before_anything_is_sent() {
        for bad in ["", "127.0.0.1:8080", "ftp://x", "http://", "http://a?b=c", "http://user:pass@a", "http://a b"] {
            assert!(matches!(AdminClient::new(bad, "k"), Err(ClientError::InvalidUrl { .. })), "{bad:?}");
        }
        assert!(matches!(AdminClient::new("http://a", "k\n"), Err(ClientError::InvalidKey)));
        assert_eq!(AdminClient::new("https://a/tollgate/", "k").expect("good").url(), "https://a/tollgate");
    }
}
