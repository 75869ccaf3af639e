//! `tollgate price`. Checking a book needs no gateway: it is read here, by the same code.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use tollgate_admission::price::{BOOK_BYTES_MAX, PriceBook};
use tollgate_client::PriceBookInfo;

use super::table::{Column, table};
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
        }
    }
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
