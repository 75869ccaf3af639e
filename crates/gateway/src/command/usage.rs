//! `tollgate usage`.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use tollgate_client::{
    Bill, BillQuery, Confidence, SummaryBy, SummaryQuery, UsageEvent, UsagePage, UsageQuery, UsageState, UsageSummary,
};
use tollgate_types::{Month, TenantId, Timestamp};

use super::table::{Column, fields, or_none, table, usd};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct UsageArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List usage events in the order in which they began, a page at a time
    #[command(after_help = "Example:\n  tollgate usage list --tenant demo --from 2026-11-23T00:00:00Z --limit 20")]
    List {
        #[command(flatten)]
        which: Which,
        /// Only those in this state
        #[arg(long, value_parser = state())]
        state: Option<UsageState>,
        /// Events on the page
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Where the page before ended
        #[arg(long, value_name = "CURSOR")]
        after: Option<String>,
    },
    /// Sum up
    #[command(after_help = "Example:\n  tollgate usage summary --tenant demo --by day")]
    Summary {
        #[command(flatten)]
        which: Which,
        /// What to have one row for each of
        #[arg(long, default_value = "model", value_parser = by())]
        by: SummaryBy,
    },
    /// Show what a tenant owes for a month
    #[command(after_help = "Example:\n  tollgate usage bill --tenant demo --month 2026-11")]
    Bill {
        #[arg(long)]
        tenant: TenantId,
        /// By the tenant's calendar
        #[arg(long, value_name = "YYYY-MM")]
        month: Month,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Begun at this time or later, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    from: Option<Timestamp>,
    /// Begun before this time, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    to: Option<Timestamp>,
}

impl UsageArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        match self.action {
            Action::List { which, state, limit, after } => {
                let [tenant, from, to] = which.texts();
                let page = client.usage(&UsageQuery { tenant, from, to, state, limit: Some(limit), after }).await?;
                Ok(Answer::new(listed(&page), &page))
            }
            Action::Summary { which, by } => {
                let [tenant, from, to] = which.texts();
                let rows = client.usage_summary(&SummaryQuery { tenant, by: Some(by), from, to }).await?;
                Ok(Answer::new(summed(&rows), &rows))
            }
            Action::Bill { tenant, month } => {
                let wanted = BillQuery { tenant: tenant.to_string(), month: month.to_string() };
                let bill = client.bill(&wanted).await?;
                Ok(Answer::new(billed(&bill), &bill))
            }
        }
    }
}

impl Which {
    fn texts(self) -> [Option<String>; 3] {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string());
        [self.tenant.map(|tenant| tenant.to_string()), time(self.from), time(self.to)]
    }
}

fn state() -> impl TypedValueParser<Value = UsageState> {
    PossibleValuesParser::new(UsageState::ALL.map(UsageState::name))
        .try_map(|name| UsageState::ALL.into_iter().find(|state| state.name() == name).ok_or("no such state"))
}

fn by() -> impl TypedValueParser<Value = SummaryBy> {
    PossibleValuesParser::new(SummaryBy::ALL.map(SummaryBy::name))
        .try_map(|name| SummaryBy::ALL.into_iter().find(|by| by.name() == name).ok_or("no such column"))
}

fn listed(page: &UsagePage) -> String {
    let columns = [
        Column::Text("REQUEST"),
        Column::Text("STARTED"),
        Column::Text("TENANT"),
        Column::Text("KEY"),
        Column::Text("MODEL"),
        Column::Text("STATE"),
        Column::Text("CONFIDENCE"),
        Column::Number("INPUT"),
        Column::Number("OUTPUT"),
        Column::Number("COST USD"),
        Column::Number("CHARGE USD"),
        Column::Text("OUTCOME"),
    ];
    let row = |event: &UsageEvent| {
        vec![
            event.request_id.clone(),
            event.started_at.clone(),
            event.tenant.clone(),
            event.key.clone(),
            event.model.clone(),
            event.state.name().to_owned(),
            or_none(event.confidence.map(Confidence::name)),
            event.input_tokens.to_string(),
            event.output_tokens.to_string(),
            usd(&event.cost_picousd),
            usd(&event.charge_picousd),
            or_none(event.outcome.as_ref()),
        ]
    };
    let shown = table(&columns, page.data.iter().map(row).collect(), "no usage yet");
    match &page.next {
        Some(next) => format!("{shown}\n\nmore: --after {next}"),
        None => shown,
    }
}

fn summed(rows: &[UsageSummary]) -> String {
    let columns = [
        Column::Text("GROUP"),
        Column::Number("REQUESTS"),
        Column::Number("VOIDED"),
        Column::Number("OPEN"),
        Column::Number("INPUT"),
        Column::Number("CACHED"),
        Column::Number("OUTPUT"),
        Column::Number("REASONING"),
        Column::Number("COST USD"),
        Column::Number("BOUNDED"),
        Column::Number("CHARGE USD"),
    ];
    let row = |sum: &UsageSummary| {
        vec![
            sum.group.clone(),
            sum.requests.to_string(),
            sum.voided.to_string(),
            sum.open.to_string(),
            sum.input_tokens.to_string(),
            sum.cached_input_tokens.to_string(),
            sum.output_tokens.to_string(),
            sum.reasoning_tokens.to_string(),
            usd(&sum.cost_picousd),
            usd(&sum.bounded_picousd),
            usd(&sum.charge_picousd),
        ]
    };
    table(&columns, rows.iter().map(row).collect(), "no usage yet")
}

fn billed(bill: &Bill) -> String {
    let columns = [
        Column::Text("ITEM"),
        Column::Number("REQUESTS"),
        Column::Number("INPUT"),
        Column::Number("CACHED"),
        Column::Number("OUTPUT"),
        Column::Number("COST USD"),
        Column::Number("CHARGE USD"),
    ];
    let used = bill.lines.iter().map(|line| {
        vec![
            line.model.clone(),
            line.requests.to_string(),
            line.input_tokens.to_string(),
            line.cached_input_tokens.to_string(),
            line.output_tokens.to_string(),
            usd(&line.cost_picousd),
            usd(&line.charge_picousd),
        ]
    });
    let adjusted = bill.adjustments.iter().map(|made| {
        let none = || or_none::<String>(None);
        let item = format!("{} {}, {}", made.month, made.model, made.reason);
        let entries = made.entries.to_string();
        vec![item, entries, none(), none(), none(), usd(&made.cost_picousd), usd(&made.charge_picousd)]
    });
    let rows: Vec<_> = used.chain(adjusted).collect();
    let state = match (bill.complete, bill.open_requests) {
        (true, _) => "complete".to_owned(),
        (false, 0) => "the month is not over".to_owned(),
        (false, open) => format!("{open} requests have not ended"),
    };
    let sums = fields(&[
        ("usage USD", usd(&bill.usage_picousd)),
        ("adjustments USD", usd(&bill.adjustments_picousd)),
        ("minimum top-up USD", usd(&bill.minimum_top_up_picousd)),
        ("total USD", usd(&bill.total_picousd)),
        ("included USD", format!("{} of {}", usd(&bill.included_used_picousd), usd(&bill.included_picousd))),
    ]);
    let Bill { tenant, month, time_zone, .. } = bill;
    format!("{tenant}, {month} ({time_zone}): {state}\n\n{}\n\n{sums}", table(&columns, rows, "no usage"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(state: UsageState) -> UsageEvent {
        UsageEvent {
            request_id: "req_1".into(),
            tenant: "demo".into(),
            project: "default".into(),
            key: "k1".into(),
            route: "small".into(),
            model: "gpt-4o-mini".into(),
            provider: "sim".into(),
            stream: false,
            started_at: "2026-11-23T05:00:00Z".into(),
            ended_at: None,
            state,
            confidence: (state == UsageState::Posted).then_some(Confidence::Measured),
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
            charge_picousd: "12345000".into(),
            overrun_picousd: "0".into(),
            price_version: "v1".into(),
            adjustments: 0,
            outcome: None,
        }
    }

    #[test]
    fn events_are_a_table_that_says_how_to_go_on() {
        let page = UsagePage { data: vec![event(UsageState::Posted)], next: Some("req_1".into()) };
        assert_eq!(
            listed(&page),
            "REQUEST  STARTED               TENANT  KEY  MODEL        STATE   CONFIDENCE  INPUT  OUTPUT     COST USD   CHARGE USD  OUTCOME\n\
             req_1    2026-11-23T05:00:00Z  demo    k1   gpt-4o-mini  posted  measured       10      20  0.000012345  0.000012345  -\n\
             \n\
             more: --after req_1"
        );
        let last = UsagePage { data: vec![event(UsageState::Pending)], next: None };
        assert!(!listed(&last).contains("more:"));
        assert_eq!(listed(&UsagePage { data: Vec::new(), next: None }), "no usage yet");
    }

    #[test]
    fn sums_are_a_table() {
        let sum = UsageSummary {
            group: "sim/m".into(),
            requests: 3,
            voided: 1,
            input_tokens: 30,
            output_tokens: 60,
            cost_picousd: "1500000000000".into(),
            bounded_picousd: "1".into(),
            charge_picousd: "0".into(),
            ..UsageSummary::default()
        };
        assert_eq!(
            summed(&[sum]),
            "GROUP  REQUESTS  VOIDED  OPEN  INPUT  CACHED  OUTPUT  REASONING  COST USD         BOUNDED  CHARGE USD\n\
             sim/m         3       1     0     30       0      60          0      1.50  0.000000000001        0.00"
        );
    }

    #[test]
    fn a_bill_is_its_lines_its_adjustments_and_their_sum() {
        let bill = Bill {
            tenant: "demo".into(),
            month: "2026-11".into(),
            time_zone: "UTC".into(),
            lines: vec![tollgate_client::BillLine {
                model: "sim/m".into(),
                requests: 3,
                input_tokens: 30,
                output_tokens: 60,
                cost_picousd: "1500000000000".into(),
                charge_picousd: "1800000000000".into(),
                ..Default::default()
            }],
            adjustments: vec![tollgate_client::BillAdjustment {
                month: "2026-10".into(),
                reason: "repriced".into(),
                model: "sim/m".into(),
                entries: 2,
                cost_picousd: "-500000000000".into(),
                charge_picousd: "-600000000000".into(),
            }],
            usage_picousd: "1800000000000".into(),
            adjustments_picousd: "-600000000000".into(),
            minimum_top_up_picousd: "200000000000".into(),
            total_picousd: "1400000000000".into(),
            included_picousd: "0".into(),
            included_used_picousd: "0".into(),
            ..Bill::default()
        };
        assert_eq!(
            billed(&bill),
            "demo, 2026-11 (UTC): the month is not over\n\n\
             ITEM                     REQUESTS  INPUT  CACHED  OUTPUT  COST USD  CHARGE USD\n\
             sim/m                           3     30       0      60      1.50        1.80\n\
             2026-10 sim/m, repriced         2      -       -       -     -0.50       -0.60\n\n\
             usage USD           1.80\n\
             adjustments USD     -0.60\n\
             minimum top-up USD  0.20\n\
             total USD           1.40\n\
             included USD        0.00 of 0.00"
        );
    }
}
