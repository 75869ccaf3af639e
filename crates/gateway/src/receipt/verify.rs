//! Judging a receipt with nothing but the published keys: no gateway, no store, no clock. Says what was checked, and
//! shows nothing of a receipt whose signature does not hold.

use serde_json::Value;
use tollgate_client::{ReceiptAmounts, ReceiptStanding, ReceiptStatement, UsageState};
use tollgate_serving::top_level::TopLevel;
use tollgate_types::{PicoUsd, Timestamp};

use super::jws::{self, PublicKeys};

/// A receipt is a few kilobytes; one with a hundred adjustments some tens.
pub const RECEIPT_BYTES_MAX: usize = 1 << 20;

/// What was checked of a receipt, in order. What comes after a failure of form, signature or format was not looked at.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub checks: Vec<Check>,
    pub key_id: Option<String>,
    /// Only if somebody known has signed it.
    pub statement: Option<ReceiptStatement>,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    /// What was seen, or what is wrong.
    pub found: Result<String, String>,
}

/// Money in both columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    cost: u64,
    charge: u64,
}

// === impl Verdict ===

impl Verdict {
    /// Judges a receipt as the gateway gives it (JSON with its JWS), or the JWS alone.
    pub fn of(receipt: &[u8], keys: &PublicKeys) -> Self {
        let mut verdict = Self::default();
        // Whoever stops early has noted why.
        let _ = verdict.judge(receipt, keys);
        verdict
    }

    pub fn holds(&self) -> bool {
        self.statement.is_some() && self.checks.iter().all(|check| check.found.is_ok())
    }

    fn judge(&mut self, receipt: &[u8], keys: &PublicKeys) -> Option<()> {
        let form = Form::of(receipt);
        let told = form.as_ref().map(|form| form.name().to_owned()).map_err(Clone::clone);
        self.note("form", told)?;
        let form = form.ok()?;
        let verified = jws::verify(&form.jws, keys);
        let told = verified.as_ref().map(|verified| format!("Ed25519, by key {}", verified.key_id));
        self.note("signature", told.map_err(ToString::to_string))?;
        let verified = verified.ok()?;
        let statement = read_statement(&verified.payload);
        let told = statement.as_ref().map(|statement| statement.format.clone()).map_err(Clone::clone);
        self.note("format", told)?;
        let statement = statement.ok()?;
        if let Some(object) = &form.object {
            self.note("copy", compare(object, &form.jws, &statement, &verified.payload));
        }
        self.note("arithmetic", arithmetic(&statement));
        (self.key_id, self.statement) = (Some(verified.key_id), Some(statement));
        Some(())
    }

    /// `None` if it is wrong.
    fn note(&mut self, name: &'static str, found: Result<String, String>) -> Option<()> {
        let fine = found.is_ok().then_some(());
        self.checks.push(Check { name, found });
        fine
    }
}

/// A receipt taken apart, nothing of it believed yet.
struct Form<'a> {
    jws: String,
    /// The JSON around it, if there is any.
    object: Option<TopLevel<'a>>,
}

// === impl Form ===

impl<'a> Form<'a> {
    fn of(receipt: &'a [u8]) -> Result<Self, String> {
        if receipt.len() > RECEIPT_BYTES_MAX {
            return Err(format!("larger than {RECEIPT_BYTES_MAX} bytes: no receipt"));
        }
        let receipt = receipt.trim_ascii();
        if !receipt.starts_with(b"{") {
            let jws = std::str::from_utf8(receipt).map_err(|_| "neither JSON nor a JWS".to_owned())?;
            return Ok(Self { jws: jws.to_owned(), object: None });
        }
        let object = TopLevel::parse(receipt).map_err(|error| format!("not a receipt's JSON: {error}"))?;
        let jws = object.get("jws").ok_or("it has no member \"jws\": it is not signed")?;
        let jws = serde_json::from_str(jws.get()).map_err(|_| "its member \"jws\" is not text")?;
        Ok(Self { jws, object: Some(object) })
    }

    fn name(&self) -> &'static str {
        match &self.object {
            Some(_) => "JSON with its JWS inside",
            None => "a JWS in compact form",
        }
    }
}

fn read_statement(payload: &[u8]) -> Result<ReceiptStatement, String> {
    let format = |value: &Value| value["format"].as_str().map(str::to_owned);
    let value: Value =
        serde_json::from_slice(payload).map_err(|error| format!("what is signed is not JSON: {error}"))?;
    match format(&value) {
        Some(format) if format == ReceiptStatement::FORMAT => {}
        Some(other) => return Err(format!("{other:?}, which this program does not know")),
        None => return Err("what is signed has no format".to_owned()),
    }
    serde_json::from_slice(payload).map_err(|error| format!("not as {} has it: {error}", ReceiptStatement::FORMAT))
}

/// Whether everything that is written beside the signature is what was signed.
fn compare(object: &TopLevel<'_>, jws: &str, statement: &ReceiptStatement, payload: &[u8]) -> Result<String, String> {
    let signed = serde_json::to_value(statement.signed(jws.to_owned())).expect("a receipt is plain data");
    let payload: Value = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    for name in object.keys() {
        let written = object.get(name).map(|value| value.get()).unwrap_or_default();
        let value: Value = serde_json::from_str(written).map_err(|error| format!("{name:?}: {error}"))?;
        let expected = if name == "statement" { Some(&payload) } else { signed.get(name) };
        match expected {
            None => return Err(format!("{name:?} stands beside the signature, and is not signed")),
            Some(expected) if *expected != value => return Err(difference(name, &value, expected)),
            // A name that comes twice inside is read as its last; another reader may take the first.
            Some(_) if name == "statement" => {
                serde_json::from_str::<ReceiptStatement>(written).map_err(|error| format!("\"statement\": {error}"))?;
            }
            Some(_) => {}
        }
    }
    Ok("what stands beside the signature is what was signed".to_owned())
}

/// The first member that differs, by its name.
fn difference(name: &str, written: &Value, signed: &Value) -> String {
    if let (Value::Object(written), Value::Object(signed)) = (written, signed) {
        let names = written.keys().chain(signed.keys());
        let missing = &Value::Null;
        for inner in names {
            let (written, signed) = (written.get(inner).unwrap_or(missing), signed.get(inner).unwrap_or(missing));
            if written != signed {
                return difference(&format!("{name}.{inner}"), written, signed);
            }
        }
    }
    format!("{name:?} is written as {written}, and was signed as {signed}")
}

/// Whether the statement agrees with itself.
fn arithmetic(statement: &ReceiptStatement) -> Result<String, String> {
    let hold = Pair::read(&statement.hold.cost_picousd, &statement.hold.charge_picousd)?;
    let now = Pair::read(&statement.cost_picousd, &statement.charge_picousd)?;
    let ended = matches!(statement.state, UsageState::Posted | UsageState::Voided);
    ensure(statement.is_final == ended, "\"final\" does not follow from the state")?;
    let end = (statement.ended_at.is_some(), statement.outcome.is_some(), statement.hold.released.is_some());
    ensure(end == (ended, ended, ended), "end, outcome and release do not follow from the state")?;
    ensure(usd(now.cost) == statement.cost_usd, "the cost in dollars is not the cost in picodollars")?;
    ensure(usd(now.charge) == statement.charge_usd, "the charge in dollars is not the charge in picodollars")?;
    in_order(statement)?;
    if statement.state == UsageState::Posted {
        posted(statement, hold, now)?;
        return Ok("cost and charge were within the hold, the rest was released, every adjustment follows".to_owned());
    }
    let overrun = Pair::of(&statement.overrun)?;
    ensure(now == Pair::ZERO && overrun == Pair::ZERO, "it costs something, though nothing was posted")?;
    ensure(statement.confidence.is_none() && statement.adjustments.is_empty(), "there is nothing to be sure of")?;
    match &statement.hold.released {
        None => Ok("not final: the whole hold counts, nothing is posted".to_owned()),
        Some(released) => {
            ensure(Pair::of(released)? == hold, "not all of the hold was released, though nothing was posted")?;
            Ok("nothing was posted, the whole hold was released".to_owned())
        }
    }
}

fn posted(statement: &ReceiptStatement, hold: Pair, now: Pair) -> Result<(), String> {
    let confidence = statement.confidence.ok_or("it is posted, and nothing says how sure that is")?;
    let stands = ReceiptStanding {
        cost_picousd: now.cost.to_string(),
        charge_picousd: now.charge.to_string(),
        overrun: statement.overrun.clone(),
        confidence,
    };
    let at_the_end = statement.adjustments.first().map_or(&stands, |first| &first.was);
    let posted = Pair::read(&at_the_end.cost_picousd, &at_the_end.charge_picousd)?;
    let overrun = Pair::of(&at_the_end.overrun)?;
    let released = statement.hold.released.as_ref().ok_or("nothing says what was released")?;
    ensure(hold.minus(posted) == Some(Pair::of(released)?), "what was posted and released is not what was held")?;
    ensure(overrun.cost == 0 || posted.cost == hold.cost, "an overrun of the cost, though the hold was not used up")?;
    ensure(
        overrun.charge == 0 || posted.charge == hold.charge,
        "an overrun of the charge, though the hold was not used up",
    )?;
    let mut before = at_the_end;
    for adjustment in &statement.adjustments {
        ensure(adjustment.was == *before, "an adjustment does not follow on the one before")?;
        Pair::read(&adjustment.now.cost_picousd, &adjustment.now.charge_picousd)?;
        Pair::of(&adjustment.now.overrun)?;
        before = &adjustment.now;
    }
    ensure(*before == stands, "the last adjustment is not what stands")?;
    let priced = statement.adjustments.last().is_none_or(|last| last.price_version == statement.prices.version);
    ensure(priced, "the last adjustment was by another price version")
}

/// Times are the ledger's, which never goes back.
fn in_order(statement: &ReceiptStatement) -> Result<(), String> {
    ensure(statement.hold.reserved_at == statement.started_at, "it was held at another time than it began")?;
    let after = statement.adjustments.iter().map(|adjustment| &adjustment.at);
    let times = [&statement.started_at].into_iter().chain(&statement.hold.extended_at);
    let mut last = None;
    for text in times.chain(&statement.ended_at).chain(after) {
        let time = Timestamp::parse_rfc3339(text).ok_or_else(|| format!("{text:?} is not a time"))?;
        ensure(last.is_none_or(|last| last <= time), "its times are not in order")?;
        last = Some(time);
    }
    Ok(())
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn usd(picousd: u64) -> String {
    PicoUsd(picousd).to_string()
}

// === impl Pair ===

impl Pair {
    const ZERO: Self = Self { cost: 0, charge: 0 };

    fn read(cost: &str, charge: &str) -> Result<Self, String> {
        let amount = |text: &str| text.parse().map_err(|_| format!("{text:?} is not an amount in picodollars"));
        Ok(Self { cost: amount(cost)?, charge: amount(charge)? })
    }

    fn of(amounts: &ReceiptAmounts) -> Result<Self, String> {
        Self::read(&amounts.cost_picousd, &amounts.charge_picousd)
    }

    fn minus(self, other: Self) -> Option<Self> {
        Some(Self { cost: self.cost.checked_sub(other.cost)?, charge: self.charge.checked_sub(other.charge)? })
    }
}
