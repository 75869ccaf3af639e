//! A bill against the ledger, request by request, over a real store.

use super::*;

const AT: &str = "/admin/v1/ledger/reconciliations";

/// How a request of a test is left.
#[derive(Clone, Copy)]
enum Left {
    Measured(u64),
    Bounded,
    Voided,
    Pending,
}

impl Gateway {
    async fn with_requests() -> Self {
        let gateway = Self::start();
        gateway.put("/admin/v1/plans/standard", json!({"markup_percent": "20"})).await;
        gateway.tenant("demo").await;
        gateway
    }

    /// A request that holds 1,000 picodollars of cost at 20 percent of mark-up.
    fn request(&self, number: u128, left: Left) -> (RequestId, Option<tollgate_ledger::Reservation<JournalWriter>>) {
        let id = RequestId(self.app.request_ids.next(self.app.clock().now()).0 & !0xff | number);
        let draft = self.draft("demo", "k", id);
        let hold = Amounts { cost: PicoUsd(1_000), charge: PicoUsd(1_200) };
        let (mut reservation, ()) = self.app.books.reserve(draft, |_| (hold, ())).expect("there is room");
        assert!(reservation.dispatched());
        let position = match left {
            Left::Pending => {
                self.app.journal.wait_durable(reservation.position()).expect("the disk works");
                return (id, Some(reservation));
            }
            Left::Measured(cost) => {
                let amounts = Amounts { cost: PicoUsd(cost), charge: PicoUsd(cost * 12 / 10) };
                let (confidence, outcome) = (Confidence::Measured, Outcome::Completed);
                reservation.post(Settlement { usage: usage(), amounts, confidence, outcome })
            }
            Left::Bounded => reservation.post_bounded(Outcome::ProviderBroke),
            Left::Voided => reservation.void(Outcome::ProviderRefused),
        };
        self.app.journal.wait_durable(position.expect("it was open")).expect("the disk works");
        (id, None)
    }

    /// The kinds of what was found, and whether each was corrected.
    async fn found(&self, piece: Value) -> (u64, Vec<(String, bool)>) {
        let (status, part) = self.post(AT, piece).await;
        assert_eq!(status, 200, "{part}");
        let findings = part["findings"].as_array().expect("a list").iter();
        let kind = |finding: &Value| finding["kind"].as_str().expect("a name").to_owned();
        let found = findings.map(|finding| (kind(finding), finding["corrected"].as_bool().expect("yes or no")));
        (part["matched"].as_u64().expect("a number"), found.collect())
    }

    /// Posted, bounded, indeterminate and overrun, in picodollars of cost, and what is charged.
    async fn money(&self) -> [String; 5] {
        let (_, ledger) = self.get("/admin/v1/ledger").await;
        assert_eq!(ledger["drift_picousd"], "0");
        let names = ["posted", "bounded", "indeterminate", "overrun", "posted_charge"];
        names.map(|name| ledger[format!("{name}_picousd")].as_str().expect("text").to_owned())
    }
}

fn usage() -> Usage {
    Usage { input_tokens: 7, output_tokens: 3, ..Usage::default() }
}

fn billed(id: RequestId, cost: u64) -> Value {
    json!({"request_id": id.to_string(), "cost_picousd": cost.to_string(), "input_tokens": 7, "output_tokens": 3})
}

fn found(expected: &[(&str, bool)]) -> Vec<(String, bool)> {
    expected.iter().map(|(kind, corrected)| ((*kind).to_owned(), *corrected)).collect()
}

#[tokio::test]
async fn a_bill_is_compared_then_written_and_then_agrees() {
    let gateway = Gateway::with_requests().await;
    let [same, other, dearer, bounded, voided] = [
        (1, Left::Measured(100)),
        (2, Left::Measured(100)),
        (3, Left::Measured(100)),
        (4, Left::Bounded),
        (5, Left::Voided),
    ]
    .map(|(number, left)| gateway.request(number, left).0);
    let mut bill = vec![
        (same, billed(same, 100)),
        (other, billed(other, 50)),
        (dearer, billed(dearer, 1_300)),
        (bounded, billed(bounded, 500)),
        (voided, billed(voided, 40)),
    ];
    bill.sort_by_key(|(id, _)| *id);
    let entries: Vec<Value> = bill.into_iter().map(|(_, entry)| entry).collect();
    let before = gateway.money().await;
    assert_eq!(before, ["1300", "1000", "0", "0", "1560"]);
    let (matched, dry) = gateway.found(json!({"billed": entries})).await;
    let mut kinds: Vec<_> = dry.iter().map(|(kind, corrected)| (kind.as_str(), *corrected)).collect();
    kinds.sort_unstable();
    assert_eq!(
        (matched, kinds),
        (1, vec![("bounded", false), ("different", false), ("different", false), ("voided", false)])
    );
    assert_eq!(gateway.money().await, before, "nothing was changed");

    let (matched, applied) = gateway.found(json!({"billed": entries, "apply": true})).await;
    assert!(matched == 1 && applied.len() == 4 && applied.iter().all(|(_, corrected)| *corrected), "{applied:?}");
    // 100 + 50 + 1,000 of 1,300 + 500 + nothing; and 300 and 40 are the platform's.
    assert_eq!(gateway.money().await, ["1650", "0", "0", "340", "1980"]);

    let (matched, again) = gateway.found(json!({"billed": entries, "apply": true})).await;
    assert_eq!((matched, again), (5, vec![]));
    assert_eq!(gateway.money().await, ["1650", "0", "0", "340", "1980"]);
    let (_, receipt) = gateway.get(&format!("/admin/v1/receipts/{bounded}")).await;
    assert_eq!((&receipt["confidence"], &receipt["cost_picousd"]), (&json!("measured"), &json!("500")));

    let Gateway { app, store, dir, .. } = gateway;
    drop(app);
    store.close();
    let report = tollgate_store::verify::verify(&dir.path().join("data"), |_, _| ()).expect("readable");
    assert_eq!((report.drift.0, report.adjusted, &report.disagreements), (0, 4, &vec![]));
}

#[tokio::test]
async fn what_a_crash_left_in_doubt_is_resolved_by_the_bill_and_by_its_silence() {
    let gateway = Gateway::with_requests().await;
    let pending = [1, 2].map(|number| gateway.request(number, Left::Pending));
    let [worked, never] = [pending[0].0, pending[1].0];
    let billed_one = json!({"billed": [billed(worked, 90)], "through": worked.to_string()});
    let (_, running) = gateway.found(billed_one).await;
    assert!(running.contains(&("running".to_owned(), false)), "{running:?}");
    // As a crash: nobody settles them.
    pending.into_iter().for_each(|(_, reservation)| std::mem::forget(reservation));
    let gateway = gateway.restart();
    // What the start noted of them is durable once a later record is; until then the view has them under way.
    gateway.tenant("another").await;
    assert_eq!(gateway.money().await[2], "2000");
    let piece = |more: Value| {
        let mut piece = json!({"billed": [billed(worked, 90)], "apply": true, "from": "2020-01-01T00:00:00Z",
            "to": gateway.app.clock().now().to_string()});
        piece.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        piece
    };
    let (_, first) = gateway.found(piece(json!({}))).await;
    assert!(first.contains(&("indeterminate".to_owned(), true)) && first.contains(&("missing".to_owned(), false)));
    assert_eq!(gateway.money().await, ["90", "0", "1000", "0", "108"]);
    let (matched, second) = gateway.found(piece(json!({"complete": true, "providers": ["sim"]}))).await;
    assert_eq!((matched, second), (1, found(&[("missing", true)])));
    assert_eq!(gateway.money().await, ["90", "0", "0", "0", "108"]);
    let (_, receipt) = gateway.get(&format!("/admin/v1/receipts/{never}")).await;
    assert_eq!((&receipt["state"], &receipt["cost_picousd"]), (&json!("posted"), &json!("0")));
}

#[tokio::test]
async fn what_only_one_side_knows_is_told_and_left_alone() {
    let gateway = Gateway::with_requests().await;
    let (id, _) = gateway.request(1, Left::Measured(100));
    let unknown = RequestId(id.0 + 1);
    let bill = |cost| json!({"billed": [billed(unknown, cost)], "apply": true});
    let (_, both) = gateway.found(bill(9)).await;
    assert_eq!(both, found(&[("missing", false), ("unknown", false)]));
    let (_, refused) = gateway.found(bill(0)).await;
    assert_eq!(refused, found(&[("missing", false)]), "what was refused for nothing need not be known");
    let elsewhere = json!({"billed": [billed(id, 100)], "providers": ["another"], "apply": true});
    assert_eq!(gateway.found(elsewhere).await, (0, found(&[("elsewhere", false)])));
    let after = json!({"billed": [], "after": id.to_string()});
    assert_eq!(gateway.found(after).await, (0, vec![]), "a piece is what lies between its ends");
    assert_eq!(gateway.money().await, ["100", "0", "0", "0", "120"]);
}

#[tokio::test]
async fn a_piece_that_cannot_be_meant_is_refused() {
    let gateway = Gateway::with_requests().await;
    let [low, high] = [billed(RequestId(1), 1), billed(RequestId(2), 1)];
    let many: Vec<Value> = (1..=1_001).map(|id| billed(RequestId(id), 1)).collect();
    for (piece, param) in [
        (json!({"billed": [high, low]}), "billed"),
        (json!({"billed": [low, low]}), "billed"),
        (json!({"billed": [low], "after": RequestId(1).to_string()}), "billed"),
        (json!({"billed": [high], "through": RequestId(1).to_string()}), "billed"),
        (json!({"billed": many}), "billed"),
        (json!({"billed": [], "to": "2999-01-01T00:00:00Z"}), "to"),
        (json!({"billed": [], "complete": true}), "complete"),
        (json!({"billed": [], "after": "x"}), "after"),
        (json!({"billed": [{"request_id": "x", "input_tokens": 1}]}), "request_id"),
    ] {
        let (status, said) = gateway.post(AT, piece.clone()).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!(param)), "{said}");
    }
    let buckets = "/admin/v1/ledger/buckets?from=2026-01-01T00:00:00Z&to=2026-01-01T01:00:00Z";
    for (query, param) in [
        ("&width_seconds=0", "width_seconds"),
        ("&width_seconds=7", "width_seconds"),
        ("&width_seconds=60&slack_seconds=30", "slack_seconds"),
    ] {
        let (status, said) = gateway.get(&format!("{buckets}{query}")).await;
        assert_eq!((status, &said["error"]["param"]), (400, &json!(param)), "{said}");
    }
    assert_eq!(gateway.get(&format!("{buckets}&width_seconds=3600")).await, (200, json!({"data": []})));
}
