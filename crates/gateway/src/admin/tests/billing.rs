//! Terms, bills and corrections.

use tollgate_admission::UNPRICED;
use tollgate_types::Timestamp;

use super::*;

/// `gpt-4o-mini` of the provider `sim` at so much a million tokens of input; output at four times that.
fn book(version: &str, input_usd: &str, output_usd: &str) -> String {
    BOOK.replace("test-1", version)
        .replace("\"0.15\"", &format!("{input_usd:?}"))
        .replace("\"0.60\"", &format!("{output_usd:?}"))
}

/// 7 tokens in and 3 out at 1 and 4 USD a million.
const AT_ONE: u64 = 7 * 1_000_000 + 3 * 4_000_000;

impl Gateway {
    /// Spends 7 tokens in and 3 out at a price and by the tenant's terms, as a request does.
    fn spend_by_terms(&self, tenant: &str, number: u128, price_version: &str, cost: u64, hold: u64) -> RequestId {
        let id = RequestId::new(self.app.clock().now(), number);
        let tenant_id = tenant.parse().expect("a slug");
        let tariff = self.app.books.with_directory(|directory| {
            let tenant = directory.tenant(&tenant_id).expect("it exists");
            directory.tariff_of(tenant).expect("it has terms").clone()
        });
        let draft = Draft { price_version: price_version.into(), ..self.draft(tenant, "k1", id) };
        let held = Amounts { cost: PicoUsd(hold), charge: tariff.charge_max(PicoUsd(hold)) };
        let (reservation, ()) = self.app.books.reserve(draft, |_| (held, ())).expect("there is room");
        let usage = Usage { input_tokens: 7, output_tokens: 3, ..Usage::default() };
        let (_, position) = reservation.post_in_month(|month| Settlement {
            usage,
            amounts: Amounts { cost: PicoUsd(cost), charge: tariff.charge(month.cost, PicoUsd(cost)) },
            confidence: Confidence::Measured,
            outcome: Outcome::Completed,
        });
        self.app.journal.wait_durable(position.expect("it was open")).expect("the disk works");
        id
    }

    async fn bill(&self, tenant: &str) -> Value {
        let month = tollgate_types::Month::of(self.app.clock().now(), Default::default());
        let (status, bill) = self.get(&format!("/admin/v1/usage/bill?tenant={tenant}&month={month}")).await;
        assert_eq!(status, 200, "{bill}");
        let sum = |part: &str| {
            let charges = bill[part].as_array().expect("a list").iter().map(|line| pico(&line["charge_picousd"]));
            charges.sum::<i128>()
        };
        let total = sum("lines") + sum("adjustments") + pico(&bill["minimum_top_up_picousd"]);
        assert_eq!(pico(&bill["total_picousd"]), total, "a bill is the sum of its parts: {bill}");
        bill
    }

    async fn correct(&self, book: &str, more: Value) -> Value {
        let day = Duration::from_secs(86_400);
        let now = self.app.clock().now();
        let mut body = json!({"book": book, "from": now.minus(day).to_string(), "to": now.plus(day).to_string()});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let (status, said) = self.post("/admin/v1/prices/corrections", body).await;
        assert_eq!(status, 200, "{said}");
        said
    }

    /// The journal, the ledger and the view agree, whatever was adjusted.
    async fn adds_up(&self) {
        let (_, ledger) = self.get("/admin/v1/ledger").await;
        assert_eq!(ledger["drift_picousd"], "0");
        let reader = tollgate_store::view::Reader::open(&tollgate_store::store::Layout::of(&self.app.dir).view);
        self.get("/admin/v1/usage?limit=1").await;
        let (_, totals) = reader.expect("it opens").totals_at().expect("it reads");
        assert_eq!(totals.drift_from(&self.app.books.audit()), tollgate_types::PicoSum(0));
    }
}

fn pico(value: &Value) -> i128 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is an amount"))
}

#[tokio::test]
async fn a_tenants_terms_are_changed_one_by_one_and_last() {
    let gateway = Gateway::start();
    let (status, tenant) = gateway.post("/admin/v1/tenants", json!({"id": "demo", "time_zone": "Europe/Berlin"})).await;
    assert_eq!((status, &tenant["time_zone"], &tenant["tariff"]), (201, &json!("Europe/Berlin"), &Value::Null));
    gateway.put("/admin/v1/plans/gold", json!({"markup_percent": "10"})).await;
    let secret = gateway.key("demo").await["key"].as_str().expect("a key").to_owned();
    let terms = json!({"markup_percent": "12.5", "included_usd": "5", "monthly_minimum_usd": "20",
        "markup_tiers": [{"above_usd": "100", "markup_percent": "7"}]});
    let (status, tenant) = gateway.put("/admin/v1/tenants/demo", json!({"plan": "gold", "tariff": terms})).await;
    assert_eq!((status, &tenant["plan"], &tenant["time_zone"]), (200, &json!("gold"), &json!("Europe/Berlin")));
    let shown = json!({"markup_percent": "12.50", "included_usd": "5.00", "monthly_minimum_usd": "20.00",
        "markup_tiers": [{"above_usd": "100.00", "markup_percent": "7.00"}]});
    assert_eq!(tenant["tariff"], shown);
    let markup = |gateway: &Gateway| {
        gateway.app.admission.authenticate(Some(&secret)).expect("the key is good").tariff.markup_bps
    };
    assert_eq!(markup(&gateway), 1_250, "its keys spend by them at once");
    let (_, tenant) = gateway.put("/admin/v1/tenants/demo", json!({"time_zone": "UTC"})).await;
    assert_eq!((&tenant["time_zone"], &tenant["tariff"]), (&json!("UTC"), &shown), "the rest stays");

    let gateway = gateway.restart();
    assert_eq!(gateway.get("/admin/v1/tenants/demo").await, (200, tenant));
    let (_, tenant) = gateway.put("/admin/v1/tenants/demo", json!({"tariff": null})).await;
    assert_eq!((&tenant["tariff"], markup(&gateway)), (&Value::Null, 1_000), "the plan's again");
    for (wrong, expected) in [
        (json!({"time_zone": "Mars/Olympus"}), (400, "invalid_request")),
        (json!({"plan": "silver"}), (404, "not_found")),
        (json!({"tariff": {"markup_percent": "-1"}}), (400, "invalid_request")),
        (json!({"tariff": {"markup": "1"}}), (400, "invalid_request")),
        (json!({"zone": "UTC"}), (400, "invalid_request")),
    ] {
        gateway.refused(Method::PUT, "/admin/v1/tenants/demo", wrong, expected).await;
    }
    gateway.refused(Method::PUT, "/admin/v1/tenants/nobody", json!({}), (404, "not_found")).await;
}

#[tokio::test]
async fn a_plan_has_included_cost_tiers_a_minimum_and_a_declared_hold() {
    let gateway = Gateway::start();
    let body = json!({"markup_percent": "30", "included_usd": "10", "monthly_minimum_usd": "50.5",
        "markup_tiers": [{"above_usd": "100", "markup_percent": "20"}], "unbounded_hold_usd": "0.5"});
    let (status, plan) = gateway.put("/admin/v1/plans/standard", body).await;
    assert_eq!((status, &plan["included_usd"], &plan["monthly_minimum_usd"]), (200, &json!("10.00"), &json!("50.50")));
    assert_eq!(plan["markup_tiers"], json!([{"above_usd": "100.00", "markup_percent": "20.00"}]));
    assert_eq!(plan["unbounded_hold_usd"], "0.50");
    let falling =
        json!({"markup_tiers": [{"above_usd": "9", "markup_percent": "1"}, {"above_usd": "8", "markup_percent": "1"}]});
    let said = gateway.refused(Method::PUT, "/admin/v1/plans/standard", falling, (400, "invalid_request")).await;
    assert!(said.contains("above_usd must rise"), "{said}");
    for wrong in
        [json!({"included_usd": "-1"}), json!({"unbounded_hold_usd": "1e3"}), json!({"monthly_minimum_usd": 5})]
    {
        gateway.refused(Method::PUT, "/admin/v1/plans/standard", wrong, (400, "invalid_request")).await;
    }
}

#[tokio::test]
async fn a_bill_is_what_the_terms_make_of_the_month_and_at_least_the_minimum() {
    let gateway = Gateway::start();
    // 1 USD included, then 30 %, above 3 USD 10 %.
    let terms = json!({"markup_percent": "30", "included_usd": "1", "monthly_minimum_usd": "4",
        "markup_tiers": [{"above_usd": "3", "markup_percent": "10"}]});
    gateway.put("/admin/v1/plans/standard", terms).await;
    gateway.tenant("demo").await;
    let usd = 1_000_000_000_000;
    gateway.spend_by_terms("demo", 1, "v", usd / 2, 2 * usd);
    let bill = gateway.bill("demo").await;
    assert_eq!((pico(&bill["usage_picousd"]), pico(&bill["included_used_picousd"])), (0, i128::from(usd / 2)));
    assert_eq!((pico(&bill["total_picousd"]), &bill["complete"]), (4 * i128::from(usd), &json!(false)));
    gateway.spend_by_terms("demo", 2, "v", 2 * usd, 2 * usd);
    gateway.spend_by_terms("demo", 3, "v", 2 * usd, 2 * usd);
    let bill = gateway.bill("demo").await;
    // 4.50 USD: 1 included, 2 × 1.3, 1.5 × 1.1.
    assert_eq!(pico(&bill["usage_picousd"]), 4_250_000_000_000);
    assert_eq!(
        (&bill["minimum_top_up_picousd"], &bill["included_used_picousd"]),
        (&json!("0"), &json!(usd.to_string()))
    );
    assert_eq!((&bill["lines"][0]["model"], &bill["lines"][0]["requests"]), (&json!("sim/gpt-4o-mini"), &json!(3)));
    let (_, early) = gateway.get("/admin/v1/usage/bill?tenant=demo&month=2020-01").await;
    assert_eq!((&early["total_picousd"], &early["complete"]), (&json!("0"), &json!(true)), "before the tenant came");
    gateway
        .refused(Method::GET, "/admin/v1/usage/bill?tenant=demo&month=2026-13", Value::Null, (400, "invalid_request"))
        .await;
    gateway
        .refused(Method::GET, "/admin/v1/usage/bill?tenant=nobody&month=2026-11", Value::Null, (404, "not_found"))
        .await;
    gateway.adds_up().await;
}

#[tokio::test]
async fn what_a_process_left_behind_is_charged_by_its_month_too() {
    let gateway = Gateway::start();
    gateway.put("/admin/v1/plans/standard", json!({"markup_percent": "50", "included_usd": "1"})).await;
    gateway.tenant("demo").await;
    let usd = 1_000_000_000_000;
    gateway.spend_by_terms("demo", 1, "v", usd / 2, usd);
    let id = RequestId::new(gateway.app.clock().now(), 2);
    let draft = Draft { price_version: "v".into(), ..gateway.draft("demo", "k1", id) };
    let held = Amounts { cost: PicoUsd(usd), charge: PicoUsd(3 * usd / 2) };
    let (mut reservation, ()) = gateway.app.books.reserve(draft, |_| (held, ())).expect("there is room");
    assert!(reservation.dispatched());
    drop(reservation);
    gateway.tenant("later").await; // durable, and so is all that came before
    let bill = gateway.bill("demo").await;
    // 1.50 USD, of which 1 is included: the whole hold is posted, and charged what it adds to its month.
    assert_eq!((pico(&bill["cost_picousd"]), pico(&bill["usage_picousd"])), (1_500_000_000_000, 750_000_000_000));
    gateway.adds_up().await;
}

#[tokio::test]
async fn a_corrected_price_is_said_by_entries_once_and_rewrites_nothing() {
    let gateway = Gateway::start();
    gateway.put("/admin/v1/plans/standard", json!({"markup_percent": "20"})).await;
    gateway.tenant("demo").await;
    gateway.tenant("other").await;
    let wrong = gateway.spend_by_terms("demo", 1, "wrong", 10 * AT_ONE, 20 * AT_ONE);
    gateway.spend_by_terms("other", 2, "wrong", 10 * AT_ONE, 20 * AT_ONE);
    gateway.spend_by_terms("demo", 3, UNPRICED, 99, 99);
    let mended = book("mended", "1", "4");

    let dry = gateway.correct(&mended, json!({"dry_run": true})).await;
    assert_eq!(
        (&dry["examined"], &dry["tenants"][0]["adjusted"], &dry["tenants"][0]["left"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert_eq!(pico(&dry["tenants"][0]["cost_difference_picousd"]), -9 * i128::from(AT_ONE));
    assert_eq!(pico(&gateway.bill("demo").await["adjustments_picousd"]), 0, "nothing was done");
    assert!(!gateway.app.admission.prices().books().iter().any(|book| &**book.version() == "mended"));

    let of_demo = gateway.correct(&mended, json!({"tenant": "demo"})).await;
    assert_eq!(of_demo["tenants"].as_array().map(Vec::len), Some(1), "{of_demo}");
    assert_eq!(of_demo["tenants"], json!([dry["tenants"][0]]), "what was said is what was done");
    let (_, receipt) = gateway.get(&format!("/admin/v1/receipts/{wrong}")).await;
    assert_eq!((&receipt["price_version"], &receipt["adjustments"]), (&json!("mended"), &json!(1)));
    assert_eq!(
        (pico(&receipt["cost_picousd"]), pico(&receipt["charge_picousd"])),
        (i128::from(AT_ONE), i128::from(AT_ONE) * 6 / 5)
    );
    let bill = gateway.bill("demo").await;
    assert_eq!(pico(&bill["lines"][0]["cost_picousd"]), 10 * i128::from(AT_ONE) + 99, "what was posted stays");
    assert_eq!(
        (&bill["adjustments"][0]["reason"], &bill["adjustments"][0]["entries"]),
        (&json!("repriced"), &json!(1))
    );
    gateway.adds_up().await;

    let again = gateway.correct(&mended, json!({"tenant": "demo"})).await;
    assert_eq!(again["tenants"][0]["adjusted"], 0, "a second run finds nothing: {again}");
    let all = gateway.correct(&mended, json!({})).await;
    assert_eq!(all["tenants"][1]["adjusted"], 1, "the others' turn: {all}");
    // A newer correction stands; running the older one again does not undo it.
    gateway.correct(&book("newer", "2", "8"), json!({})).await;
    let older = gateway.correct(&mended, json!({})).await;
    assert_eq!(older["tenants"], json!([]), "{older}");
    let (_, receipt) = gateway.get(&format!("/admin/v1/receipts/{wrong}")).await;
    assert_eq!((&receipt["price_version"], pico(&receipt["cost_picousd"])), (&json!("newer"), 2 * i128::from(AT_ONE)));

    let gateway = gateway.restart();
    // It is signed anew whenever it is asked for: what it tells is the same.
    let told = |mut receipt: Value| {
        receipt["statement"]["signed_at"].take();
        receipt["jws"].take();
        receipt
    };
    assert_eq!(told(gateway.get(&format!("/admin/v1/receipts/{wrong}")).await.1), told(receipt));
    gateway.adds_up().await;
}

#[tokio::test]
async fn a_correction_upwards_takes_no_more_than_the_caps_leave() {
    let gateway = Gateway::start();
    gateway.tenant("demo").await;
    let id = gateway.spend_by_terms("demo", 1, "wrong", AT_ONE, AT_ONE);
    let cap = tollgate_types::PicoUsd(3 * AT_ONE).to_string();
    gateway.put("/admin/v1/budgets", json!({"tenant": "demo", "window": "month", "cap_usd": cap})).await;
    let said = gateway.correct(&book("mended", "10", "40"), json!({})).await;
    let tenant = &said["tenants"][0];
    assert_eq!(pico(&tenant["cost_difference_picousd"]), 2 * i128::from(AT_ONE));
    assert_eq!(pico(&tenant["overrun_difference_picousd"]), 7 * i128::from(AT_ONE), "the rest is the platform's");
    let (_, receipt) = gateway.get(&format!("/admin/v1/receipts/{id}")).await;
    assert_eq!(pico(&receipt["cost_picousd"]), 3 * i128::from(AT_ONE));
    assert_eq!(gateway.correct(&book("mended", "10", "40"), json!({})).await["tenants"], json!([]));
    gateway.adds_up().await;
}

#[tokio::test]
async fn a_corrected_month_comes_to_what_its_terms_make_of_it_also_where_others_are_given_back() {
    let gateway = Gateway::start();
    // The first requests are included, the later ones are not.
    let included = tollgate_types::PicoUsd(20 * AT_ONE).to_string();
    let tiers = json!([{"above_usd": tollgate_types::PicoUsd(25 * AT_ONE).to_string(), "markup_percent": "5"}]);
    gateway
        .put(
            "/admin/v1/plans/standard",
            json!({"markup_percent": "30", "included_usd": included, "markup_tiers": tiers}),
        )
        .await;
    gateway.tenant("demo").await;
    for number in 1..=4 {
        gateway.spend_by_terms("demo", number, "wrong", 10 * AT_ONE, 10 * AT_ONE);
    }
    let tariff =
        gateway.app.books.with_directory(|directory| directory.plans.values().next().expect("a plan").tariff.clone());
    let month = |cost: u64| tariff.month_charge(tollgate_types::PicoUsd(cost).into()).0;
    assert_eq!(pico(&gateway.bill("demo").await["total_picousd"]), month(40 * AT_ONE));
    // Only the first two, which were charged nothing, are mended: the credit is due to the other two.
    let mended = book("mended", "5", "20");
    let until = gateway.app.clock().now();
    let first: Vec<Value> =
        gateway.get("/admin/v1/usage?tenant=demo").await.1["data"].as_array().expect("events").clone();
    let third = first[2]["started_at"].as_str().expect("a time").to_owned();
    assert!(Timestamp::parse_rfc3339(&third).is_some_and(|at| at < until));
    let dry = gateway.correct(&mended, json!({"to": third, "dry_run": true})).await;
    let done = gateway.correct(&mended, json!({"to": third})).await;
    assert_eq!(done["tenants"][0]["charge_difference_picousd"], dry["tenants"][0]["charge_difference_picousd"]);
    assert_eq!(pico(&done["tenants"][0]["charge_difference_picousd"]), month(30 * AT_ONE) - month(40 * AT_ONE));
    let bill = gateway.bill("demo").await;
    assert_eq!(pico(&bill["total_picousd"]), month(30 * AT_ONE), "{bill}");
    assert_eq!(pico(&bill["usage_picousd"]), month(40 * AT_ONE), "the lines stay");
    // All of it, and more of it than a page of the first would show.
    gateway.correct(&mended, json!({})).await;
    assert_eq!(pico(&gateway.bill("demo").await["total_picousd"]), month(20 * AT_ONE));
    gateway.adds_up().await;
}

#[tokio::test]
async fn a_correction_is_asked_for_sensibly_or_refused() {
    let gateway = Gateway::start();
    let body = |more: Value| {
        let mut body = json!({"book": BOOK, "from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z"});
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        body
    };
    let refused =
        |more: Value, expected| gateway.refused(Method::POST, "/admin/v1/prices/corrections", body(more), expected);
    refused(json!({"to": "2026-11-01T00:00:00Z"}), (400, "invalid_request")).await;
    refused(json!({"from": "then"}), (400, "invalid_request")).await;
    assert!(refused(json!({"book": "version = 1"}), (400, "invalid_request")).await.contains("line 1"));
    refused(json!({"tenant": "nobody"}), (404, "not_found")).await;
    gateway.correct(BOOK, json!({})).await;
    let taken = BOOK.replace("0.60", "0.70");
    refused(json!({"book": taken}), (409, "conflict")).await;
    refused(json!({"book": taken, "dry_run": true}), (409, "conflict")).await;
}
