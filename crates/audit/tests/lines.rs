//! What lines say, and what they never say.

use serde_json::Value;
use tollgate_audit::heads::{Heads, Told};
use tollgate_audit::{kind, ocsf};
use tollgate_types::Timestamp;

use crate::books::{Log, SECRETS, all_kinds, id, reserved};

#[test]
fn every_record_is_one_line_of_json_and_the_same_line_every_time() {
    let log = Log::of(&all_kinds());
    assert_eq!(log.lines, Log::of(&all_kinds()).lines);
    for (n, line) in log.lines.iter().enumerate() {
        assert!(line.starts_with(&format!("{{\"n\":{n},\"at\":\"")), "{line}");
        assert!(!line.contains('\n'), "{line}");
        let value: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(serde_json::to_string(&value).expect("JSON"), *line, "no member stands twice, none in another form");
        assert_eq!(value["salt"].as_str().map(str::len), Some(32));
        for secret in SECRETS {
            assert!(!line.contains(secret), "{line}");
        }
    }
    let salts: std::collections::BTreeSet<_> =
        log.lines.iter().map(|line| line.split("\"salt\":").nth(1).expect("each has one")).collect();
    assert_eq!(salts.len(), log.lines.len(), "each has one of its own");
}

#[test]
fn what_lines_say_changes_only_on_purpose() {
    let log = Log::of(&all_kinds());
    let find =
        |kind: &str| log.lines.iter().find(|line| line.contains(&format!("\"kind\":\"{kind}\""))).expect("there");
    for (kind, expected) in [
        (
            kind::ADMITTED,
            r#"{"n":22,"at":"2027-01-15T08:00:10Z","kind":"request.admitted","tenant":"a","prev":19,"request":"req_00000000000000000000000000000001","plan":"standard","project":"p","key":"k","route":"chat","provider":"sim","model":"m\u0001\"","stream":true,"hold_cost":"1000","hold_charge":"1001","price_version":"v1","policy":"03030303030303030303030303030303","salt":"#,
        ),
        (
            kind::POSTED,
            r#"{"n":25,"at":"2027-01-15T08:00:13Z","kind":"request.posted","tenant":"a","prev":24,"request":"req_00000000000000000000000000000001","input_tokens":5,"output_tokens":6,"cache_write_tokens":0,"cost":"700","charge":"701","overrun_cost":"0","overrun_charge":"0","confidence":"measured","outcome":"completed","salt":"#,
        ),
        (
            "act.begun",
            r#"{"n":30,"at":"2027-01-15T08:00:20Z","kind":"act.begun","tenant":"b","prev":28,"act":"set_budget","actor":"person:sub \"1\"","person":"ada@example.com","subject":"tenant/a\n","note":"because","count":1,"request":"req_0000000000000000000000000000004d","trace":"04040404040404040404040404040404","salt":"#,
        ),
        (
            kind::BUDGET_SET,
            r#"{"n":18,"at":"2027-01-15T08:00:07Z","kind":"budget.set","tenant":"a","prev":12,"scope":"tenant","window":"rolling-day","basis":"charge","cap":"5","alerts":["3","4"],"salt":"#,
        ),
        (
            kind::KEY_REVOKED,
            r#"{"n":5,"at":"2027-01-15T08:00:04Z","kind":"key.revoked","tenant":"a","prev":4,"key":"k","salt":"#,
        ),
        (
            kind::APPROVAL_USED,
            r#"{"n":16,"at":"2027-01-15T08:00:07Z","kind":"approval.used","tenant":"b","prev":15,"approval":"x1","salt":"#,
        ),
    ] {
        let line = find(kind);
        assert!(line.starts_with(expected), "{line}");
    }
}

#[test]
fn a_tenant_s_entries_form_a_chain_and_requests_have_their_tenant_to_the_end() {
    let log = Log::of(&all_kinds());
    for tenant in ["a", "b"] {
        let mut last = None;
        for line in &log.lines {
            let told = Told::parse(line.as_bytes()).expect("an entry");
            if told.tenant.as_deref() == Some(tenant) {
                assert_eq!(told.prev, last, "{line}");
                last = Some(told.n);
            }
        }
        assert!(last.is_some());
    }
    for line in log.lines.iter().filter(|line| line.contains("\"kind\":\"request.")) {
        assert!(line.contains("\"tenant\":"), "{line}");
    }
}

#[test]
fn reading_the_lines_leads_to_the_same_heads_as_writing_them() {
    let log = Log::of(&all_kinds());
    let mut heads = Heads::default();
    for line in &log.lines {
        heads.follow(&Told::parse(line.as_bytes()).expect("an entry")).expect("the next one");
        assert_eq!(heads, log.heads[&heads.size], "{line}");
        assert_eq!(Heads::from_json(&heads.to_json()), Some(heads.clone()));
    }
    assert_eq!(heads.open.len(), 1, "the indeterminate one");
    assert_eq!(heads.approvals.len(), 2);
}

#[test]
fn approvals_are_forgotten_as_the_directory_forgets_them() {
    use tollgate_ledger::Record;
    use tollgate_types::directory::{Change, Directory};
    let Some(Record::Directory(Change::ApprovalAsked(sample))) =
        all_kinds().into_iter().find(|record| matches!(record, Record::Directory(Change::ApprovalAsked(_))))
    else {
        panic!("there is one");
    };
    let mut directory = Directory::default();
    let asked = (0..1_100_i64).map(|n| {
        let mut approval = sample.clone();
        approval.id = id(&format!("x{n}"));
        approval.expires_at = Timestamp(n * 7_919 % 1_009);
        Change::ApprovalAsked(approval)
    });
    let records: Vec<_> = asked.inspect(|change| directory.apply(change.clone())).map(Record::Directory).collect();
    let log = Log::of(&records);
    let (_, heads) = log.heads.last_key_value().expect("some");
    assert_eq!(heads.approvals.keys().collect::<Vec<_>>(), directory.approvals.keys().collect::<Vec<_>>());
}

#[test]
fn an_erased_entry_keeps_its_place_and_its_hash_and_can_be_written_in_one_way_only() {
    let log = Log::of(&[reserved("a", 1, 1), all_kinds()[0].clone()]);
    for line in &log.lines {
        let told = Told::parse(line.as_bytes()).expect("an entry");
        let leaf = told.leaf(line.as_bytes()).expect("any entry has a hash");
        let stub = told.stub(&leaf);
        let again = Told::parse(stub.as_bytes()).expect("a stub");
        assert_eq!((again.n, again.prev, again.leaf(stub.as_bytes())), (told.n, told.prev, Some(leaf)));
        assert!(Told::parse(stub.replace(':', ": ").as_bytes()).is_err());
        assert!(Told::parse(stub.replace('}', ",\"x\":1}").as_bytes()).is_err());
    }
}

#[test]
fn every_entry_becomes_an_event_that_other_tools_accept() {
    let log = Log::of(&all_kinds());
    for line in &log.lines {
        let event = ocsf::event(line, "1.0").expect("an event");
        let (class, activity) = (event["class_uid"].as_u64(), event["activity_id"].as_u64());
        assert_eq!(event["type_uid"].as_u64(), class.zip(activity).map(|(class, activity)| class * 100 + activity));
        assert_eq!(event["class_uid"], 6003);
        for member in ["time", "severity_id", "category_uid"] {
            assert!(event[member].is_u64(), "{member}: {event}");
        }
        assert!(event["actor"]["user"]["uid"].is_string() && event["api"]["operation"].is_string());
        assert!(event["unmapped"]["salt"].is_string());
    }
    let denied = log.lines.iter().find(|line| line.contains("act.denied")).expect("there");
    let event = ocsf::event(denied, "1.0").expect("an event");
    assert_eq!((event["status_id"].as_u64(), event["severity_id"].as_u64()), (Some(2), Some(2)));
    assert_eq!(event["actor"]["user"]["name"], "ada@example.com");
    assert_eq!(event["api"]["response"]["code"], 403);
    let signed_in = denied.replace("set_budget", "sign_in");
    let event = ocsf::event(&signed_in, "1.0").expect("an event");
    assert_eq!((event["class_uid"].as_u64(), event["type_uid"].as_u64()), (Some(3002), Some(300_201)));
    // What that class requires, and what it does not know.
    assert!(event["user"]["uid"].is_string() && event["service"]["name"].is_string() && event["api"].is_null());
    let told = Told::parse(denied.as_bytes()).expect("an entry");
    assert_eq!(ocsf::event(&told.stub(&[0; 32]), "1.0"), None, "what is erased says nothing");
}
