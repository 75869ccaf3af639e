//! `tollgate receipt`.

use tollgate_client::{Confidence, Receipt};
use tollgate_types::RequestId;

use super::table::{fields, or_none, usd};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct ReceiptArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the receipt of one request
    #[command(after_help = "Example:\n  tollgate receipt show req_019ab0f2c3d4000000000000deadbeef")]
    Show {
        /// The answer's x-request-id
        request_id: RequestId,
    },
}

impl ReceiptArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let client = self.connection.client()?;
        let Action::Show { request_id } = self.action;
        let receipt = client.receipt(&request_id.to_string()).await?;
        Ok(Answer::new(shown(&receipt), &receipt))
    }
}

fn shown(receipt: &Receipt) -> String {
    let event = &receipt.event;
    let part_of = |whole: u64, part: u64, name: &str| {
        if part == 0 { whole.to_string() } else { format!("{whole} ({part} {name})") }
    };
    fields(&[
        ("request", event.request_id.clone()),
        ("tenant", event.tenant.clone()),
        ("project", event.project.clone()),
        ("key", event.key.clone()),
        ("route", event.route.clone()),
        ("model", format!("{} at {}", event.model, event.provider)),
        ("started", event.started_at.clone()),
        ("ended", or_none(event.ended_at.as_ref())),
        ("state", event.state.name().to_owned()),
        ("outcome", or_none(event.outcome.as_ref())),
        ("confidence", or_none(event.confidence.map(Confidence::name))),
        ("input tokens", part_of(event.input_tokens, event.cached_input_tokens, "cached")),
        ("output tokens", part_of(event.output_tokens, event.reasoning_tokens, "reasoning")),
        ("held", format!("{} USD", usd(&event.hold_cost_picousd))),
        ("cost", format!("{} USD", receipt.cost_usd)),
        ("charge", format!("{} USD", receipt.charge_usd)),
        ("overrun", format!("{} USD", usd(&event.overrun_picousd))),
        ("prices", event.price_version.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_receipt_is_a_field_a_line() {
        let receipt: Receipt = serde_json::from_value(json!({
            "request_id": "req_1", "tenant": "demo", "project": "default", "key": "k1", "route": "small",
            "model": "gpt-4o-mini", "provider": "sim", "stream": true, "started_at": "2026-11-23T05:00:00Z",
            "ended_at": "2026-11-23T05:00:01Z", "state": "posted", "confidence": "measured", "input_tokens": 10,
            "cached_input_tokens": 4, "audio_input_tokens": 0, "output_tokens": 20, "reasoning_tokens": 0,
            "audio_output_tokens": 0, "adjustments": 0, "hold_cost_picousd": "614400000",
            "cost_picousd": "12345000", "charge_picousd": "12345000", "overrun_picousd": "0", "price_version": "v1",
            "outcome": "completed", "cost_usd": "0.000012345", "charge_usd": "0.000012345",
        }))
        .expect("a receipt");
        assert_eq!(
            shown(&receipt),
            "request        req_1\n\
             tenant         demo\n\
             project        default\n\
             key            k1\n\
             route          small\n\
             model          gpt-4o-mini at sim\n\
             started        2026-11-23T05:00:00Z\n\
             ended          2026-11-23T05:00:01Z\n\
             state          posted\n\
             outcome        completed\n\
             confidence     measured\n\
             input tokens   10 (4 cached)\n\
             output tokens  20\n\
             held           0.0006144 USD\n\
             cost           0.000012345 USD\n\
             charge         0.000012345 USD\n\
             overrun        0.00 USD\n\
             prices         v1"
        );
    }
}
