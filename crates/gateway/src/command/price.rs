//! `tollgate price`. Checking a book needs no gateway: it is read here, by the same code.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use tollgate_admission::price::{BOOK_BYTES_MAX, PriceBook};
use tollgate_client::{AdminClient, CorrectedTenant, Correction, NewCorrection, PriceBookInfo};
use tollgate_types::{TenantId, Timestamp};

use super::progress::{end_progress, show_progress};
use super::table::{Column, table, usd};
use super::{Answer, Connection, Failure};

#[derive(Debug, clap::Args)]
pub struct PriceArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the price books in force
    #[command(after_help = "Example:\n  tollgate price list")]
    List,
    /// Check a price book without a gateway, and tell everything that is wrong with it
    #[command(after_help = "Example:\n  tollgate price check prices.toml")]
    Check {
        /// The book, in TOML
        file: PathBuf,
    },
    /// Put a price book into force, over those there are
    #[command(after_help = "Example:\n  tollgate price push prices.toml")]
    Push {
        /// The book, in TOML
        file: PathBuf,
    },
    /// Re-rate what was posted in a span by a corrected price book, by entries that say the difference
    #[command(after_help = "Example:\n  tollgate price correct mended.toml --from 2026-11-01T00:00:00Z \
                            --to 2026-11-16T00:00:00Z --dry-run")]
    Correct(Correct),
}

#[derive(Debug, clap::Args)]
struct Correct {
    /// The corrected book, in TOML, under a version of its own; it comes into force, over those there are
    file: PathBuf,
    /// Requests begun at this time or later, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    from: Timestamp,
    /// Requests begun before this time, in RFC 3339
    #[arg(long, value_name = "TIME", value_parser = super::time)]
    to: Timestamp,
    /// Of this tenant only
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Say what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// What all pages of a correction came to.
#[derive(Debug, Default, serde::Serialize)]
struct Corrected {
    version: String,
    dry_run: bool,
    examined: u64,
    tenants: Vec<CorrectedTenant>,
}

impl PriceArgs {
    pub async fn run(self) -> Result<Answer, Failure> {
        match self.action {
            Action::Check { file } => check(&read(&file)?),
            Action::List => {
                let books = self.connection.client()?.prices().await?;
                Ok(Answer::new(listed(&books), &books))
            }
            Action::Push { file } => {
                let text = read(&file)?;
                let book = self.connection.client()?.push_prices(&text).await?;
                Ok(Answer::new(listed(std::slice::from_ref(&book)), &book))
            }
            Action::Correct(wanted) => {
                let corrected = wanted.run(&self.connection.client()?).await?;
                Ok(Answer::new(told(&corrected), &corrected))
            }
        }
    }
}

impl Correct {
    async fn run(self, client: &AdminClient) -> Result<Corrected, Failure> {
        let mut wanted = NewCorrection {
            book: read(&self.file)?,
            from: self.from.to_string(),
            to: self.to.to_string(),
            tenant: self.tenant.map(|tenant| tenant.to_string()),
            dry_run: self.dry_run,
            after: None,
        };
        let mut corrected = Corrected::default();
        loop {
            let page = client.correct_prices(&wanted).await;
            end_progress();
            let page = page?;
            wanted.after.clone_from(&page.next);
            corrected.add(page);
            if wanted.after.is_none() {
                return Ok(corrected);
            }
            show_progress(&format!("looked at {} requests", corrected.examined));
        }
    }
}

impl Corrected {
    fn add(&mut self, page: Correction) {
        (self.version, self.dry_run) = (page.version, page.dry_run);
        self.examined += page.examined;
        let mut tenants: BTreeMap<String, CorrectedTenant> =
            std::mem::take(&mut self.tenants).into_iter().map(|sum| (sum.tenant.clone(), sum)).collect();
        for more in page.tenants {
            match tenants.get_mut(&more.tenant) {
                None => drop(tenants.insert(more.tenant.clone(), more)),
                Some(sum) => {
                    sum.adjusted += more.adjusted;
                    sum.left += more.left;
                    add(&mut sum.cost_difference_picousd, &more.cost_difference_picousd);
                    add(&mut sum.charge_difference_picousd, &more.charge_difference_picousd);
                    add(&mut sum.overrun_difference_picousd, &more.overrun_difference_picousd);
                }
            }
        }
        self.tenants = tenants.into_values().collect();
    }
}

/// Adds decimal integers. What is none is shown as it came: better than a sum that is wrong.
fn add(sum: &mut String, more: &str) {
    match (sum.parse::<i128>(), more.parse::<i128>()) {
        (Ok(a), Ok(b)) => *sum = (a + b).to_string(),
        _ => *sum = format!("{sum}+{more}"),
    }
}

fn told(corrected: &Corrected) -> String {
    let columns = [
        Column::Text("TENANT"),
        Column::Number("ADJUSTED"),
        Column::Number("LEFT"),
        Column::Number("COST USD"),
        Column::Number("CHARGE USD"),
        Column::Number("OVERRUN USD"),
    ];
    let row = |sum: &CorrectedTenant| {
        vec![
            sum.tenant.clone(),
            sum.adjusted.to_string(),
            sum.left.to_string(),
            usd(&sum.cost_difference_picousd),
            usd(&sum.charge_difference_picousd),
            usd(&sum.overrun_difference_picousd),
        ]
    };
    let Corrected { version, examined, .. } = corrected;
    let done = if corrected.dry_run { "nothing was done; it would be, before caps" } else { "re-rated" };
    let head = format!("{examined} posted requests looked at, {done} by {version}:");
    let rows = corrected.tenants.iter().map(row).collect();
    format!("{head}\n\n{}", table(&columns, rows, "nothing to adjust"))
}

fn check(text: &str) -> Result<Answer, Failure> {
    let book = PriceBook::parse(text).map_err(|error| Failure::Failed(error.to_string()))?;
    let (version, prices, sha256) = (book.version(), book.prices().len(), book.fingerprint());
    let said = format!("the price book {version} holds: {prices} prices, SHA-256 {sha256}");
    Ok(Answer::new(said, &serde_json::json!({ "version": &**version, "prices": prices, "sha256": sha256 })))
}

/// Reads no more than a book may have, and a byte, so that the check can say that it is too large.
fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = BOOK_BYTES_MAX as u64 + 1;
    let done = File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text));
    done.map_err(|error| Failure::Arguments(format!("cannot read {}: {error}", path.display())))?;
    Ok(text)
}

fn listed(books: &[PriceBookInfo]) -> String {
    let columns = [Column::Text("VERSION"), Column::Text("ORIGIN"), Column::Number("PRICES"), Column::Text("SHA-256")];
    let row = |book: &PriceBookInfo| {
        vec![book.version.clone(), book.origin.clone(), book.prices.to_string(), book.sha256.clone()]
    };
    table(&columns, books.iter().map(row).collect(), "no price book is in force: every request is refused")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn books_are_a_table() {
        let book =
            PriceBookInfo { version: "2026-11".into(), sha256: "ab12".into(), prices: 120, origin: "shipped".into() };
        assert_eq!(listed(&[book]), "VERSION  ORIGIN   PRICES  SHA-256\n2026-11  shipped     120  ab12");
    }

    #[test]
    fn a_correction_adds_up_its_pages() {
        let tenant = |tenant: &str, cost: &str| CorrectedTenant {
            tenant: tenant.into(),
            adjusted: 2,
            left: 1,
            cost_difference_picousd: cost.into(),
            charge_difference_picousd: cost.into(),
            overrun_difference_picousd: "0".into(),
        };
        let page = |tenants| Correction { version: "mended".into(), examined: 1000, tenants, ..Correction::default() };
        let mut corrected = Corrected::default();
        assert!(told(&corrected).contains("nothing to adjust"));
        corrected.add(page(vec![tenant("demo", "-1500000000000")]));
        corrected.add(page(vec![tenant("b", "1"), tenant("demo", "500000000000")]));
        assert_eq!(
            told(&corrected),
            "2000 posted requests looked at, re-rated by mended:\n\n\
             TENANT  ADJUSTED  LEFT        COST USD      CHARGE USD  OVERRUN USD\n\
             b              2     1  0.000000000001  0.000000000001         0.00\n\
             demo           4     2           -1.00           -1.00         0.00"
        );
    }

    #[test]
    fn a_bad_book_is_told_by_its_mistakes_and_a_good_one_by_its_digest() {
        let failure = check("version = 1").expect_err("not a book");
        assert!(matches!(failure, Failure::Failed(said) if said.contains("version")));
        let answer = check(tollgate_admission::price::SHIPPED).expect("the shipped book holds");
        assert!(answer.text.contains("SHA-256"), "{}", answer.text);
        assert!(answer.json["prices"].as_u64().is_some_and(|prices| prices > 10));
    }

    #[test]
    fn a_file_that_is_not_there_is_a_bad_argument() {
        let failure = read(Path::new("/nonexistent/book.toml")).expect_err("not there");
        assert!(matches!(failure, Failure::Arguments(said) if said.contains("/nonexistent/book.toml")));
    }
}
