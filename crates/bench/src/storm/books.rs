//! The end of a storm: the provider's truth, the gateway's books beside it, and the books again when they were reconciled
//! with the provider's bill.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use serde_json::Value;

use crate::admin::{Admin, Budget, State, UsageEvent};
use crate::clock;
use crate::http::{Connection, Origin};
use crate::report::progress;
use crate::stage::{Stage, lane_provider};

use super::callers::{Crowd, Seen};
use super::truth::{Answered, Audit, Comparison, RequestId, Standard, Truth, read_id};

/// The view of the journal must have caught up.
const VIEW_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// The provider ends its last work.
const PROVIDER_WITHIN: Duration = Duration::from_secs(120);
/// What reconciles the books; behind it come the file, the time that its bill is complete for, and the providers.
const RECONCILE: [&str; 5] = ["ledger", "reconcile", "--apply", "--complete", "--json"];
const SAID_CHARS_MAX: usize = 1_000;
/// How a program says that it has no such command.
const NO_SUCH_COMMAND: &str = "unrecognized subcommand";

/// The books as they were read once.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub compared: Comparison,
    /// Tenants whose cap for their lifetime is not the sum of their events.
    pub unbalanced: u64,
    /// Idempotency keys under which more than one request was charged.
    pub keys_charged_twice: u64,
    /// Events charged to the tenants' keys for repeats, beyond one for each idempotency key.
    pub charged_beyond_keys: u64,
    /// Every request that money was held for.
    pub reservations: HashSet<RequestId>,
}

/// What came of reconciling.
#[derive(Clone, Debug, Default)]
pub enum Reconciliation {
    /// This gateway cannot.
    #[default]
    NotThere,
    /// It could not, and said why.
    Failed(String),
    /// The books as they are then.
    Done(Box<Books>),
}

/// What is asked of the books.
#[derive(Clone, Copy)]
pub struct Reading<'a> {
    pub admin: &'a Admin,
    pub crowd: &'a Crowd,
    pub seen: &'a Seen,
    pub standard: Standard,
    /// Before the first request, in seconds since 1970.
    pub began_s: i64,
}

// === impl Reading ===

impl Reading<'_> {
    /// Every event of every tenant, against the truth.
    pub async fn read(self, truth: Truth, answered: Answered) -> Result<(Books, Truth)> {
        self.wait_for_the_view().await?;
        let lifetimes = lifetimes(&self.admin.budgets().await?);
        let watched: HashSet<RequestId> = self.seen.repeats.served_twice.iter().flatten().copied().collect();
        let mut charged = HashSet::new();
        let mut books = Books::default();
        let mut audit = Audit::new(self.standard, truth, answered);
        for board in &self.crowd.boards {
            let tenant = &board.tenant;
            let (mut sum, mut by_repeats) = (0, 0);
            let take = |event: UsageEvent| {
                let counted = counted(&event);
                sum += counted;
                by_repeats += u64::from(counted > 0 && event.key == tenant.repeats.id);
                let id = read_id(&event.request_id);
                books.reservations.insert(id);
                if counted > 0 && watched.contains(&id) {
                    charged.insert(id);
                }
                audit.note(&event);
            };
            self.admin.each_usage(&tenant.id, take).await?;
            books.unbalanced += u64::from(lifetimes.get(&tenant.id) != Some(&sum));
            if self.crowd.repeats {
                books.charged_beyond_keys += by_repeats.saturating_sub(board.keys_charged_max());
            }
        }
        books.keys_charged_twice = self.seen.repeats.charged_twice(&charged);
        let (compared, truth) = audit.finish();
        books.compared = compared;
        Ok((books, truth))
    }

    /// What is asked for events is a view of the journal, and written a little later: waits until both agree, or time is
    /// up. Then the sums will say that they do not.
    async fn wait_for_the_view(self) -> Result<()> {
        let from = clock::now();
        loop {
            let lifetimes = lifetimes(&self.admin.budgets().await?);
            let sums = self.admin.usage_by_tenant().await?;
            let sums: HashMap<String, i128> =
                sums.into_iter().map(|sum| (sum.group, sum.cost_picousd.0 + sum.held_picousd.0)).collect();
            let agrees = |(tenant, used): (&String, &i128)| sums.get(tenant).copied().unwrap_or_default() == *used;
            if lifetimes.iter().all(agrees) || clock::since(from) > VIEW_WITHIN {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// What counts against the cap.
fn counted(event: &UsageEvent) -> i128 {
    match event.state {
        State::Posted => event.cost_picousd.0,
        State::Indeterminate => event.hold_cost_picousd.0,
        State::Pending | State::Voided | State::Expired | State::Other => 0,
    }
}

/// What each tenant has used under its cap for its lifetime.
fn lifetimes(budgets: &[Budget]) -> HashMap<String, i128> {
    let of_tenant =
        |budget: &&Budget| budget.scope == "tenant" && budget.window == "lifetime" && budget.basis == "cost";
    let used = |budget: &Budget| Some((budget.tenant.clone()?, budget.used()));
    budgets.iter().filter(of_tenant).filter_map(used).collect()
}

// === the provider ===

/// All that the provider worked on, once it works on nothing any more.
pub async fn read_truth(provider: &Origin) -> Result<Truth> {
    let from = clock::now();
    loop {
        let mut truth = Truth::default();
        each_line(provider, "/sim/truth.jsonl", |line| {
            truth.note(serde_json::from_slice(line).context("a line of the truth is not as expected")?);
            Ok(())
        })
        .await?;
        if truth.in_flight == 0 {
            return Ok(truth);
        }
        ensure!(clock::since(from) < PROVIDER_WITHIN, "the provider is still at work after {PROVIDER_WITHIN:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Hands over an answer line by line, as it comes: it may be a thousand megabytes.
async fn each_line(origin: &Origin, path: &str, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut connection = Connection::open(origin).await?;
    let response = connection.send(origin.request(Method::GET, path, "")?).await?;
    ensure!(response.status() == StatusCode::OK, "{path} answered {}", response.status());
    let mut body = response.into_body();
    let mut unfinished = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("{path} broke off"))?;
        let Some(mut rest) = frame.data_ref().map(|data| &data[..]) else { continue };
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            unfinished.extend_from_slice(&rest[..end]);
            if !unfinished.is_empty() {
                take(&unfinished)?;
            }
            unfinished.clear();
            rest = &rest[end + 1..];
        }
        unfinished.extend_from_slice(rest);
    }
    if unfinished.is_empty() { Ok(()) } else { take(&unfinished) }
}

// === reconciling ===

/// Has the running gateway's books put right by the provider's bill, and reads them again.
pub async fn reconcile(stage: &Stage, reading: Reading<'_>, truth: Truth) -> Result<Reconciliation> {
    let bill = stage.file("provider-usage.jsonl");
    save_lines(&stage.provider, "/sim/usage.jsonl", &bill).await?;
    let output =
        stage.tollgate_says(&arguments(&bill, reading)?.iter().map(OsString::as_os_str).collect::<Vec<_>>())?;
    let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    if output.status.success() {
        progress(&format!("reconciled: {}", summary(&said)));
        let (books, _) = Reading { standard: Standard::Equal, ..reading }.read(truth, Answered::new()).await?;
        return Ok(Reconciliation::Done(Box::new(books)));
    }
    if complained.contains(NO_SUCH_COMMAND) {
        progress("this tollgate has no `ledger reconcile`: its books stay as they are");
        return Ok(Reconciliation::NotThere);
    }
    Ok(Reconciliation::Failed(format!("{}: {} {}", output.status, summary(&said), shortened(&complained))))
}

fn arguments(bill: &Path, reading: Reading<'_>) -> Result<Vec<OsString>> {
    let time = |seconds: i64| Timestamp::from_second(seconds).context("a time beyond the calendar");
    let mut arguments: Vec<OsString> = RECONCILE.map(OsString::from).into();
    arguments.extend(["--provider-usage".into(), bill.as_os_str().to_owned()]);
    for (name, seconds) in [("--from", reading.began_s), ("--to", clock::unix_seconds())] {
        arguments.extend([name.into(), time(seconds)?.to_string().into()]);
    }
    for lane in 0..reading.crowd.lanes {
        arguments.extend(["--provider".into(), lane_provider(lane).into()]);
    }
    Ok(arguments)
}

/// What reconciling found, without the thousands of requests that were put right.
fn summary(said: &str) -> String {
    let Ok(said_json) = serde_json::from_str::<Value>(said) else { return shortened(said) };
    let empty = Vec::new();
    let findings = said_json["findings"].as_array().unwrap_or(&empty);
    let is_corrected = |finding: &&Value| finding["corrected"] == true;
    let corrected = findings.iter().filter(is_corrected).count();
    let left =
        findings.iter().find(|finding| !is_corrected(finding)).map(|first| format!(", the first of them {first}"));
    format!(
        "{} requests agreed, {corrected} were put right, {} were not{}",
        said_json["matched"],
        findings.len() - corrected,
        left.unwrap_or_default()
    )
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(SAID_CHARS_MAX).collect()
}

async fn save_lines(origin: &Origin, path: &str, file: &Path) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "the bench hands a file to what it measures")]
    let saved = std::fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?;
    let mut saved = std::io::BufWriter::new(saved);
    each_line(origin, path, |line| {
        saved.write_all(line)?;
        Ok(saved.write_all(b"\n")?)
    })
    .await?;
    Ok(saved.flush()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::admin::Picousd;
    use crate::canned::{Canned, block_on, serve};

    use super::super::callers::Crowd;
    use super::super::repeat::Repeats;
    use super::super::tenants::{Key, Tenant};
    use super::*;

    #[test]
    fn lines_are_handed_over_whole_however_they_come_and_the_last_needs_no_end() {
        let origin = serve(|_| Canned::json(200, "{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}"));
        let mut lines = Vec::new();
        let take = |line: &[u8]| {
            lines.push(String::from_utf8(line.to_vec())?);
            Ok(())
        };
        block_on(each_line(&origin, "/x", take)).unwrap();
        assert_eq!(lines, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"]);
        let refusing = serve(|_| Canned::json(500, ""));
        assert!(block_on(each_line(&refusing, "/x", |_| Ok(()))).is_err());
    }

    #[test]
    fn only_what_is_spent_or_in_doubt_counts() {
        let event = |state| UsageEvent {
            request_id: "a".to_owned(),
            key: String::new(),
            state,
            confidence: None,
            hold_cost_picousd: Picousd(10),
            cost_picousd: Picousd(7),
            overrun_picousd: Picousd(0),
            outcome: None,
        };
        let states = [State::Posted, State::Indeterminate, State::Voided, State::Pending];
        assert_eq!(states.map(|state| counted(&event(state))), [7, 10, 0, 0]);
    }

    fn books_of(used: i128, keys_served_twice: &[&[RequestId]]) -> Books {
        let origin = serve(move |asked| {
            let event = |id: u32, key: &str, cost: &str| {
                json!({"request_id": format!("req_{id:032x}"), "key": key, "state": "posted", "confidence": "measured",
                       "hold_cost_picousd": "9", "cost_picousd": cost, "outcome": "completed"})
            };
            let body = match asked.what.as_str() {
                "GET /admin/v1/budgets" => json!({"data": [{"scope": "tenant", "tenant": "t", "window": "lifetime",
                    "basis": "cost", "posted_picousd": used.to_string(), "bounded_picousd": "0",
                    "pending_picousd": "0", "indeterminate_picousd": "0"}]}),
                "GET /admin/v1/usage/summary?by=tenant" => {
                    json!({"data": [{"group": "t", "cost_picousd": used.to_string(), "held_picousd": "0"}]})
                }
                "GET /admin/v1/usage?tenant=t&limit=1000" => {
                    json!({"data": [event(1, "r", "5"), event(2, "r", "2"), event(3, "p", "1")], "next": null})
                }
                other => panic!("{other}"),
            };
            Canned::json(200, &body.to_string())
        });
        let key = |id: &str| Key { id: id.to_owned(), authorization: http::HeaderValue::from_static("x") };
        let tenant =
            Tenant { id: "t".to_owned(), plan: 0, plain: key("p"), repeats: key("r"), end_users: ["ann", "bob"] };
        let mut crowd = Crowd::new(origin.clone(), vec![tenant], 1, 1);
        crowd.repeats = true;
        let served_twice = keys_served_twice.iter().map(|ids| ids.iter().copied().collect()).collect();
        let seen = Seen { repeats: Repeats { served_twice, ..Repeats::default() }, ..Seen::default() };
        let mut truth = Truth::default();
        for (id, cost) in [(1, 5), (2, 2), (3, 1)] {
            let line = json!({"request_id": format!("req_{id:032x}"), "cost_picousd": cost, "fault": null});
            truth.note(serde_json::from_value(line).unwrap());
        }
        let admin = Admin::new(origin, "admin").unwrap();
        let reading = Reading { admin: &admin, crowd: &crowd, seen: &seen, standard: Standard::Equal, began_s: 0 };
        block_on(reading.read(truth, Answered::from([(1, false)]))).unwrap().0
    }

    #[test]
    fn books_are_read_tenant_by_tenant_and_added_up() {
        let books = books_of(8, &[&[1, 3]]);
        assert_eq!((books.compared.events, books.compared.mismatched, books.compared.lost), (3, 0, 0));
        assert_eq!((books.compared.answered_unposted, books.unbalanced), (0, 0));
        assert_eq!(books.keys_charged_twice, 1, "1 and 3 were served under one key, and both are charged");
        assert_eq!(books.charged_beyond_keys, 2, "two events of the key for repeats, and no idempotency key");
    }

    #[test]
    fn of_reconciling_is_told_what_was_put_right_and_what_was_not() {
        let finding = |corrected: bool| json!({"request_id": "req_1", "kind": "bounded", "corrected": corrected});
        let said = json!({"matched": 7, "findings": [finding(true), finding(true)]});
        assert_eq!(summary(&said.to_string()), "7 requests agreed, 2 were put right, 0 were not");
        let said = json!({"matched": 7, "findings": [finding(true), finding(false)]});
        assert!(summary(&said.to_string()).contains("1 were not, the first of them {"));
        assert_eq!(summary(" not JSON \n"), "not JSON");
    }

    #[test]
    fn the_truth_is_read_as_the_simulator_tells_it() {
        let origin = serve(|asked| {
            assert_eq!(asked.what, "GET /sim/truth.jsonl");
            Canned::json(200, "{\"request_id\":\"req_1\",\"cost_picousd\":\"5\",\"fault\":\"cut\",\"model\":\"m\"}\n")
        });
        let truth = block_on(read_truth(&origin)).unwrap();
        let (found, _) = Audit::new(Standard::Bounded, truth, Answered::new()).finish();
        assert_eq!(found.lost, 1, "nothing was booked");
    }
}
