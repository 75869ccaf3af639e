//! `tollgate ledger reconcile`: reads a provider's bill here, has the running gateway compare it, and says what came of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tollgate_client::{
    AdminClient, BilledRequest, ClientError, Confidence, Finding, FindingKind, LedgerBucketsQuery, Reconciliation,
    UsageEvent, UsageState,
};
use tollgate_types::{PicoUsd, RequestId, Timestamp, Usage};

use super::progress::{end_progress, show_progress};
use super::table::{Column, or_none, table, usd};
use super::{Answer, Connection, Failure};
use crate::reconcile::bill::{BillError, DOCUMENT_BYTES_MAX, Format, format_of};
use crate::reconcile::buckets::{self, COLUMNS, COST, Series};
use crate::reconcile::compare::{Line, Row, Tolerance, compare};
use crate::reconcile::shared::{Known, split};
use crate::reconcile::{amount, simulator};

#[derive(Debug, clap::Args)]
pub struct ReconcileArgs {
    #[command(flatten)]
    connection: Connection,
    /// The provider's usage export; several files of one format are one bill
    #[arg(long = "provider-usage", value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Who wrote it; seen by itself
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Whose bill it is, as the configuration names the provider; several may share an account. None named: all
    #[arg(long = "provider", value_name = "NAME")]
    providers: Vec<String>,
    /// Miss only requests that began at this time or later, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    from: Option<Timestamp>,
    /// Miss only requests that began before this time, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    to: Option<Timestamp>,
    /// The bill holds all that began in that time, or all models of its buckets: what it lacks was not billed
    #[arg(long)]
    complete: bool,
    /// Write what the bill says into the ledger; without it nothing is changed
    #[arg(long)]
    apply: bool,
    /// Buckets: what ended within so many seconds of an edge may be on either side of it [default: 60, at most a third]
    #[arg(long, value_name = "SECONDS")]
    slack: Option<u32>,
    /// Buckets: how many percent a sum may be off
    #[arg(long, value_name = "PERCENT", default_value = "0", value_parser = tolerance)]
    tolerance: Tolerance,
    /// Show so many of what differs
    #[arg(long, value_name = "N", default_value_t = 20)]
    list: usize,
}

/// Requests in one call; the gateway takes no more.
const PIECE: usize = 1_000;
const SLACK_SECONDS: u32 = 60;
/// Bytes of a file in which its format must show.
const BEGINNING_BYTES: u64 = 64 * 1024;
/// Kinds that are no difference: it will be seen later.
const NOT_YET: [FindingKind; 1] = [FindingKind::Running];

fn tolerance(text: &str) -> Result<Tolerance, String> {
    let read = amount::decimal(text, 6).filter(|read| !read.rounded);
    let parts = read.and_then(|read| u64::try_from(read.units).ok());
    parts.map(Tolerance).ok_or_else(|| "not a percentage such as 0.5".to_owned())
}

impl ReconcileArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        let format = self.format()?;
        if format == Format::Simulator {
            if self.complete && (self.from.is_none() || self.to.is_none() || self.providers.is_empty()) {
                let said = "--complete needs --from, --to and --provider: of what it is complete";
                return Err(Failure::Arguments(said.to_owned()));
            }
            return self.requests(&client).await;
        }
        if self.apply {
            let said = "--apply needs a bill of single requests: buckets cannot tell which request is off";
            return Err(Failure::Arguments(said.to_owned()));
        }
        self.buckets(&client, format).await
    }

    fn format(&self) -> Result<Format, Failure> {
        if let Some(format) = self.format {
            return Ok(format);
        }
        for path in &self.files {
            let mut beginning = Vec::new();
            open(path)?.take(BEGINNING_BYTES).read_to_end(&mut beginning).map_err(|error| unreadable(path, &error))?;
            if let Some(format) = format_of(&beginning) {
                return Ok(format);
            }
        }
        Err(Failure::Arguments("no format that is known: say it with --format".to_owned()))
    }

    // === request by request ===

    async fn requests(&self, client: &AdminClient) -> Result<Answer, Failure> {
        let mut bill = simulator::Bill::default();
        for path in &self.files {
            let progress = |lines| show_progress(&format!("{}: {lines} lines", path.display()));
            bill.add(BufReader::new(open(path)?), progress).map_err(|error| wrong(path, &error))?;
        }
        self.take_apart(client, &mut bill).await?;
        let mut found = Found { foreign: std::mem::take(&mut bill.foreign), ..Found::default() };
        let billed: Vec<(RequestId, simulator::Billed)> = bill.requests.into_iter().collect();
        let [first, last] = self.ends(&billed);
        let (mut after, mut sent) = (first, 0);
        loop {
            let rest = &billed[sent..];
            let through = if rest.len() > PIECE { billed.get(sent + PIECE - 1).map(|(id, _)| *id) } else { last };
            let piece = &rest[..rest.len().min(PIECE)];
            let part = client.reconcile(&self.piece(after, through, piece)).await?;
            let reached = match &part.next {
                Some(next) => Some(next.parse::<RequestId>().map_err(|error| Failure::Failed(error.to_string()))?),
                None => through,
            };
            found.take(part)?;
            sent = reached.map_or(billed.len(), |reached| billed.partition_point(|(id, _)| *id <= reached));
            show_progress(&format!("{sent} of {} requests compared", billed.len()));
            if reached == last {
                break;
            }
            after = reached;
        }
        end_progress();
        Ok(self.told(&found))
    }

    /// Tells each request its part of the calls that it shared, by what the ledger says of all who did.
    async fn take_apart(&self, client: &AdminClient, bill: &mut simulator::Bill) -> Result<(), Failure> {
        let shared = std::mem::take(&mut bill.shared);
        for (number, (ids, billed)) in shared.iter().enumerate() {
            if number.is_multiple_of(100) {
                show_progress(&format!("{number} of {} shared calls taken apart", shared.len()));
            }
            let mut known = Vec::with_capacity(ids.len());
            for id in ids {
                known.push(match client.receipt(&id.to_string()).await {
                    Ok(receipt) => known_of(&receipt.event)?,
                    Err(ClientError::Refused { status: 404, .. }) => Known::default(),
                    Err(error) => return Err(error.into()),
                });
            }
            for (id, (usage, cost)) in ids.iter().zip(split(&billed.usage, billed.cost, &known)) {
                bill.add_part(*id, &usage, cost).map_err(|error| Failure::Failed(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn piece(
        &self,
        after: Option<RequestId>,
        through: Option<RequestId>,
        billed: &[(RequestId, simulator::Billed)],
    ) -> Reconciliation {
        let text = |id: RequestId| id.to_string();
        Reconciliation {
            providers: self.providers.clone(),
            after: after.map(text),
            through: through.map(text),
            from: self.from.map(|at| at.to_string()),
            to: self.to.map(|at| at.to_string()),
            billed: billed.iter().map(|(id, billed)| entry(*id, billed)).collect(),
            complete: self.complete,
            apply: self.apply,
        }
    }

    /// Behind which id to begin, and with which to end: where no time was said, with the bill's own. An id is made when
    /// its request arrives, somewhat before it is held.
    fn ends(&self, billed: &[(RequestId, simulator::Billed)]) -> [Option<RequestId>; 2] {
        const ARRIVED_BEFORE: std::time::Duration = std::time::Duration::from_secs(3600);
        let before = |(id, _): &(RequestId, _)| RequestId(id.0.saturating_sub(1));
        let from = self.from.map(|at| RequestId::new(at.minus(ARRIVED_BEFORE), 0));
        let to = self.to.map(|at| RequestId::new(at.plus(ARRIVED_BEFORE), u128::MAX));
        let first = match (from, billed.first().map(before)) {
            (Some(from), Some(first)) => Some(from.min(first)),
            (from, first) => from.or(first),
        };
        let last = match (to, billed.last().map(|(id, _)| *id)) {
            (Some(to), Some(last)) => Some(to.max(last)),
            (to, last) => to.or(last),
        };
        // A bill of nothing, of no time: there is nothing to compare.
        [first, last.or(Some(RequestId(0)))]
    }

    fn told(&self, found: &Found) -> Answer {
        let left = found.left();
        let mut text = found.table();
        let differing: Vec<&Finding> =
            found.findings.iter().filter(|finding| !NOT_YET.contains(&finding.kind)).collect();
        if !differing.is_empty() && self.list > 0 {
            let shown: Vec<_> = differing.iter().take(self.list).map(|finding| finding_row(finding)).collect();
            text.push_str(&format!("\n\n{}", table(&FINDING_COLUMNS, shown, "")));
            if differing.len() > self.list {
                text.push_str(&format!("\n... and {} more (--list, or --json)", differing.len() - self.list));
            }
        }
        let corrected = found.findings.iter().any(|finding| finding.corrected);
        text.push_str(match (left, corrected, self.apply) {
            (0, false, _) => "\n\nthe ledger and the bill agree",
            (0, true, _) => "\n\nthe ledger says now what the bill says",
            (_, _, true) => "\n\nthe ledger says now what the bill says, but for what could not be corrected",
            (_, _, false) => "\n\nnothing was changed; --apply writes what the bill says into the ledger",
        });
        let json = json!({
            "by": "request",
            "applied": self.apply,
            "matched": found.matched,
            "matched_picousd": found.matched_picousd.to_string(),
            "differences_left": left,
            "foreign_attempts": found.foreign.attempts,
            "foreign_picousd": found.foreign.cost_picousd.to_string(),
            "findings": found.findings,
        });
        Answer::new(text, &json).passed_if(left == 0)
    }

    // === bucket by bucket ===

    async fn buckets(&self, client: &AdminClient, format: Format) -> Result<Answer, Failure> {
        let mut bill = buckets::Bill::default();
        for path in &self.files {
            let mut text = Vec::new();
            let read = open(path)?.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut text);
            read.map_err(|error| unreadable(path, &error))?;
            if text.len() > DOCUMENT_BYTES_MAX {
                return Err(wrong(path, &BillError::at("the file", format!("larger than {DOCUMENT_BYTES_MAX} bytes"))));
            }
            bill.add(&text, format).map_err(|error| wrong(path, &error))?;
        }
        let mut rows = Vec::new();
        for (width, series) in &bill.series {
            show_progress("asking the ledger for the same buckets");
            rows.extend(self.compared(client, series, *width).await?);
        }
        end_progress();
        Ok(self.told_of_buckets(&bill, &rows))
    }

    async fn compared(&self, client: &AdminClient, series: &Series, width: i64) -> Result<Vec<Row>, Failure> {
        let (Some((first, _)), Some((last, _))) = (series.buckets.first_key_value(), series.buckets.last_key_value())
        else {
            return Ok(Vec::new());
        };
        let seconds =
            u32::try_from(width / 1_000_000).map_err(|_| Failure::Arguments("a bucket too long".to_owned()))?;
        if series.buckets.keys().any(|start| (start.0 - first.0) % width != 0) {
            return Err(Failure::Arguments("buckets of the same length that do not lie beside one another".to_owned()));
        }
        let wanted = LedgerBucketsQuery {
            from: first.to_string(),
            to: Timestamp(last.0 + width).to_string(),
            width_seconds: seconds,
            slack_seconds: self.slack.unwrap_or(SLACK_SECONDS.min(seconds / 3)),
        };
        let mut ledger = client.ledger_buckets(&wanted).await?;
        ledger.retain(|bucket| self.providers.is_empty() || self.providers.contains(&bucket.provider));
        compare(series, &ledger, width).map_err(Failure::Failed)
    }

    fn told_of_buckets(&self, bill: &buckets::Bill, rows: &[Row]) -> Answer {
        let is_off = |row: &Row| row.is_off(self.tolerance) && (self.complete || !row.is_absent);
        let off: Vec<&Row> = rows.iter().filter(|row| is_off(row)).collect();
        let absent = rows.iter().filter(|row| row.is_absent).count();
        let columns = [
            Column::Text("BUCKET"),
            Column::Text("MODEL"),
            Column::Text("SUM OF"),
            Column::Number("BILL"),
            Column::Number("LEDGER"),
            Column::Number("MEASURED"),
            Column::Number("DIFFERENCE"),
            Column::Number("PERCENT"),
        ];
        let lines = off.iter().flat_map(|row| {
            row.lines.iter().filter(|line| line.is_off(self.tolerance)).map(|line| line_row(row, line))
        });
        let mut text = format!("{} of {} sums are off", off.len(), rows.len() - if self.complete { 0 } else { absent });
        if !off.is_empty() && self.list > 0 {
            text.push_str(&format!("\n\n{}\n", table(&columns, lines.take(self.list).collect(), "")));
        }
        if absent > 0 {
            text.push_str(&format!(
                "\n{absent} are of models that the bill never names; --complete says that it ought to"
            ));
        }
        if bill.rounded > 0 {
            text.push_str(&format!("\n{} amounts were finer than a picodollar, and rounded", bill.rounded));
        }
        if bill.more {
            text.push_str("\nthe last page says that there are more: is the bill whole?");
        }
        text.push_str("\nbuckets tell no single requests: what is bounded stays bounded, and nothing was changed");
        let json = json!({
            "by": "bucket",
            "sums": rows.len(),
            "off": off.len(),
            "models_not_on_the_bill": absent,
            "amounts_rounded": bill.rounded,
            "more_pages": bill.more,
            "rows": rows.iter().map(|row| row_json(row, is_off(row))).collect::<Vec<_>>(),
        });
        Answer::new(text, &json).passed_if(off.is_empty())
    }
}

fn known_of(event: &UsageEvent) -> Result<Known, Failure> {
    let picousd = |text: &str| {
        text.parse::<u64>().map_err(|_| Failure::Failed(format!("{}: {text:?} is no amount", event.request_id)))
    };
    let usage = Usage {
        input_tokens: event.input_tokens,
        cached_input_tokens: event.cached_input_tokens,
        audio_input_tokens: event.audio_input_tokens,
        output_tokens: event.output_tokens,
        ..Usage::default()
    };
    let (cost, overrun) = (picousd(&event.cost_picousd)?, picousd(&event.overrun_picousd)?);
    Ok(Known {
        usage,
        cost: PicoUsd(cost.saturating_add(overrun)),
        hold: PicoUsd(picousd(&event.hold_cost_picousd)?),
        measured: event.state == UsageState::Posted && event.confidence == Some(Confidence::Measured),
    })
}

fn entry(id: RequestId, billed: &simulator::Billed) -> BilledRequest {
    let usage = billed.usage;
    BilledRequest {
        request_id: id.to_string(),
        cost_picousd: Some(billed.cost.0.to_string()),
        input_tokens: usage.input_tokens,
        cached_input_tokens: usage.cached_input_tokens,
        audio_input_tokens: usage.audio_input_tokens,
        output_tokens: usage.output_tokens,
        reasoning_tokens: usage.reasoning_tokens,
        audio_output_tokens: usage.audio_output_tokens,
    }
}

/// All that was found.
#[derive(Debug, Default)]
struct Found {
    matched: u64,
    matched_picousd: i128,
    findings: Vec<Finding>,
    foreign: simulator::Foreign,
}

#[derive(Default)]
struct Sum {
    requests: u64,
    corrected: u64,
    ledger: i128,
    provider: i128,
}

const FINDING_COLUMNS: [Column; 6] = [
    Column::Text("REQUEST"),
    Column::Text("FINDING"),
    Column::Text("TENANT"),
    Column::Text("MODEL"),
    Column::Number("LEDGER USD"),
    Column::Number("PROVIDER USD"),
];

// === impl Found ===

impl Found {
    fn take(&mut self, part: tollgate_client::ReconciliationPart) -> Result<(), Failure> {
        self.matched += part.matched;
        let cost: i128 =
            part.matched_picousd.parse().map_err(|_| Failure::Failed("not the gateway's answer".to_owned()))?;
        self.matched_picousd += cost;
        self.findings.extend(part.findings);
        Ok(())
    }

    /// Differences that are still there.
    fn left(&self) -> usize {
        let is_left = |finding: &&Finding| !finding.corrected && !NOT_YET.contains(&finding.kind);
        self.findings.iter().filter(is_left).count() + usize::from(self.foreign.cost_picousd > 0)
    }

    fn table(&self) -> String {
        let mut sums: BTreeMap<FindingKind, Sum> = BTreeMap::new();
        let pico = |text: &str| text.parse::<i128>().unwrap_or_default();
        for finding in &self.findings {
            let sum = sums.entry(finding.kind).or_default();
            sum.requests += 1;
            sum.corrected += u64::from(finding.corrected);
            sum.ledger += pico(&finding.ledger_picousd);
            sum.provider += finding.provider_picousd.as_deref().map_or(0, pico);
        }
        let (matched, foreign) = (self.matched_picousd, i128::try_from(self.foreign.cost_picousd).unwrap_or(i128::MAX));
        let mut rows =
            vec![summed("matched", &Sum { requests: self.matched, corrected: 0, ledger: matched, provider: matched })];
        rows.extend(sums.iter().map(|(kind, sum)| summed(kind.name(), sum)));
        if let Some(example) = &self.foreign.example {
            let sum = Sum { requests: self.foreign.attempts, corrected: 0, ledger: 0, provider: foreign };
            rows.push(summed(&format!("not Tollgate's, such as {example:?}"), &sum));
        }
        let columns = [
            Column::Text("FINDING"),
            Column::Number("REQUESTS"),
            Column::Number("LEDGER USD"),
            Column::Number("PROVIDER USD"),
            Column::Number("DIFFERENCE USD"),
            Column::Number("CORRECTED"),
        ];
        table(&columns, rows, "")
    }
}

fn summed(name: &str, sum: &Sum) -> Vec<String> {
    let money = |pico: i128| usd(&pico.to_string());
    vec![
        name.to_owned(),
        sum.requests.to_string(),
        money(sum.ledger),
        money(sum.provider),
        money(sum.ledger - sum.provider),
        sum.corrected.to_string(),
    ]
}

fn finding_row(finding: &Finding) -> Vec<String> {
    vec![
        finding.request_id.clone(),
        finding.kind.name().to_owned(),
        or_none(finding.tenant.as_ref()),
        or_none(finding.model.as_ref()),
        usd(&finding.ledger_picousd),
        or_none(finding.provider_picousd.as_deref().map(usd)),
    ]
}

fn line_row(row: &Row, line: &Line) -> Vec<String> {
    let shown = |figure: i128| if line.column == COLUMNS[COST] { usd(&figure.to_string()) } else { figure.to_string() };
    vec![
        row.start.to_string(),
        row.model.clone().unwrap_or_else(|| "all".to_owned()),
        line.column.to_owned(),
        shown(line.bill),
        shown(line.ledger),
        shown(line.measured),
        shown(line.ledger - line.bill),
        line.percent(),
    ]
}

/// Figures are text: some are more than a JSON reader's numbers hold.
fn row_json(row: &Row, off: bool) -> Value {
    let line = |line: &Line| {
        let text = |figure: i128| figure.to_string();
        json!({
            "sum_of": line.column,
            "bill": text(line.bill),
            "ledger": text(line.ledger),
            "measured": text(line.measured),
            "off": text(line.off),
        })
    };
    json!({
        "start": row.start.to_string(),
        "model": row.model,
        "off": off,
        "named_by_the_bill": !row.is_absent,
        "sums": row.lines.iter().map(line).collect::<Vec<_>>(),
    })
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Arguments(format!("cannot read {}: {error}", path.display()))
}

fn wrong(path: &Path, error: &BillError) -> Failure {
    Failure::Arguments(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tolerance_is_a_percentage() {
        assert_eq!(tolerance("1"), Ok(Tolerance(1_000_000)));
        assert_eq!(tolerance("0.5"), Ok(Tolerance(500_000)));
        for bad in ["", "-1", "1%", "0.0000001", "x"] {
            assert!(tolerance(bad).is_err(), "{bad}");
        }
    }

    fn finding(kind: FindingKind, corrected: bool) -> Finding {
        Finding {
            request_id: "req_1".into(),
            kind,
            corrected,
            tenant: None,
            provider: None,
            model: None,
            ledger_picousd: "1000000000000".into(),
            provider_picousd: Some("250000000000".into()),
        }
    }

    #[test]
    fn what_was_corrected_or_runs_is_no_difference_any_more() {
        let check = |findings: &[Finding], left: usize| {
            let found = Found { findings: findings.to_vec(), ..Found::default() };
            assert_eq!(found.left(), left, "{findings:?}");
        };
        check(&[], 0);
        check(&[finding(FindingKind::Bounded, true), finding(FindingKind::Running, false)], 0);
        check(&[finding(FindingKind::Bounded, false), finding(FindingKind::Unknown, false)], 2);
    }

    #[test]
    fn findings_are_summed_by_their_kind() {
        let findings = vec![finding(FindingKind::Bounded, true), finding(FindingKind::Bounded, false)];
        let foreign = simulator::Foreign { attempts: 3, cost_picousd: 7, example: Some("me".into()) };
        let shown = Found { matched: 5, matched_picousd: 0, findings, foreign }.table();
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let lines: Vec<_> = shown.lines().map(cells).collect();
        assert_eq!(lines[1], ["matched", "5", "0.00", "0.00", "0.00", "0"]);
        assert_eq!(lines[2], ["bounded", "2", "2.00", "0.50", "1.50", "1"]);
        assert!(shown.contains("not Tollgate's, such as \"me\""), "{shown}");
    }
}
