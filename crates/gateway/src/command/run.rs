//! `tollgate run`: a template, run as one of the tenant's programs would.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tollgate_client::{NewRun, Receipt, Run, RunResult, TenantClient};

use super::connection::{Connection, SecretKey};
use super::table::{Column, table, usd};
use super::{Answer, Failure};

#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// The template's name, as it is routed
    #[arg(value_name = "TEMPLATE")]
    template: String,
    /// The input as JSON: an object as the template's schema wants it, or a list of them
    #[arg(long, value_name = "JSON", required_unless_present = "file", conflicts_with = "file")]
    input: Option<String>,
    /// A file with the input, or JSON Lines of inputs; - reads standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Labels to show of each input
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Address of the running gateway
    #[arg(long, value_name = "URL", env = "TOLLGATE_URL", default_value = Connection::DEFAULT_URL, help_heading = "Connection")]
    url: String,
    /// One of the tenant's API keys, or file:PATH to read it from; better given by the environment than here
    #[arg(long, value_name = "KEY", env = "TOLLGATE_API_KEY", hide_env_values = true, help_heading = "Connection")]
    api_key: Option<SecretKey>,
}

/// Inputs are read up to this many bytes.
const INPUT_BYTES_MAX: usize = 64 << 20;

// === impl RunArgs ===

impl RunArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        let key = self.api_key.as_ref().ok_or_else(|| {
            Failure::Arguments(
                "no API key: set TOLLGATE_API_KEY (after `make up`: source .tollgate/demo.env), or give --api-key file:PATH"
                    .to_owned(),
            )
        })?;
        let client = TenantClient::new(&self.url, &key.read()?)?;
        let input = self.input()?;
        let asked = NewRun { template: self.template, input, top_k: self.top_k };
        let run = client.run(&asked).await?;
        let receipt = client.receipt(&run.id).await?;
        Ok(Answer::new(shown(&run, &receipt), &json!({ "run": run, "receipt": receipt })))
    }

    fn input(&self) -> Result<Value, Failure> {
        let wrong = |error: serde_json::Error| Failure::Arguments(format!("the input is no JSON: {error}"));
        let bytes = match (&self.input, &self.file) {
            (Some(text), _) => return serde_json::from_str(text).map_err(wrong),
            (None, Some(file)) => read(file)?,
            (None, None) => return Err(Failure::Arguments("give --input or --file".to_owned())),
        };
        let mut all: Vec<Value> =
            serde_json::Deserializer::from_slice(&bytes).into_iter().collect::<Result<_, _>>().map_err(wrong)?;
        Ok(if all.len() == 1 { all.remove(0) } else { Value::Array(all) })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = super::read_argument(file, INPUT_BYTES_MAX)?;
    match bytes.len() > INPUT_BYTES_MAX {
        true => Err(Failure::Arguments(format!("{}: more than {INPUT_BYTES_MAX} bytes", file.display()))),
        false => Ok(bytes),
    }
}

fn shown(run: &Run, receipt: &Receipt) -> String {
    let columns = [
        Column::Number("INPUT"),
        Column::Text("LABEL"),
        Column::Number("CONFIDENCE"),
        Column::Text("DECISION"),
        Column::Text("BY"),
        Column::Text("ALSO"),
    ];
    let row = |result: &RunResult| {
        let others: Vec<String> =
            result.labels.iter().skip(1).map(|label| format!("{} {:.3}", label.label, label.probability)).collect();
        vec![
            result.index.to_string(),
            result.label.clone(),
            format!("{:.3}", result.confidence),
            result.decision.clone(),
            if result.cached { format!("{} (cached)", result.stage) } else { result.stage.clone() },
            others.join(", "),
        ]
    };
    format!(
        "{}\n{} {} answered by {}; {} us of CPU, cost {}, charged {}\nreceipt: {} ({})",
        table(&columns, run.data.iter().map(row).collect(), "nothing was asked"),
        run.template,
        run.version,
        run.model,
        receipt.event.cpu_us,
        usd(&receipt.event.cost_picousd),
        usd(&receipt.event.charge_picousd),
        run.id,
        receipt.event.price_version,
    )
}
