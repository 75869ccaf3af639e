//! The fields of one table of a book, read one by one, so that every mistake is told and not only the first.

use tollgate_types::{PicoUsd, Timestamp};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Problems, shown};

/// A table being read. [`Fields::finish`] finds the fields nobody asked for.
pub(super) struct Fields<'b, 't> {
    table: &'b DeTable<'t>,
    at: usize,
    place: String,
    known: Vec<&'static str>,
}

// === impl Fields ===

impl<'b, 't> Fields<'b, 't> {
    /// `at` is where the table begins, `place` what a person calls it.
    pub(super) fn new(table: &'b DeTable<'t>, at: usize, place: String) -> Self {
        Self { table, at, place, known: Vec::new() }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn rename(&mut self, place: String) {
        self.place = place;
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }

    /// Where a field stands, or the table if it has none such.
    pub(super) fn at_field(&self, name: &str) -> usize {
        self.table.get(name).map_or(self.at, |value| value.span().start)
    }

    /// Tells that field `name` is wrong.
    pub(super) fn wrong(&self, name: &str, what: impl Into<String>, problems: &mut Problems) {
        problems.add(self.at_field(name), &self.place, what);
    }

    /// Tells a missing `name`, with what to write there.
    pub(super) fn require(&self, name: &str, to_do: &str, problems: &mut Problems) {
        if !self.has(name) {
            problems.add(self.at, &self.place, format!("{name} is missing: {to_do}"));
        }
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &'static str, problems: &mut Problems) -> Option<&'b str> {
        let value = self.find(name)?;
        match value.get_ref().as_str() {
            Some(text) if !text.trim().is_empty() => Some(text),
            Some(_) => {
                self.wrong(name, format!("{name} is empty"), problems);
                None
            }
            None => {
                let type_ = type_name(value.get_ref());
                self.wrong(name, format!("{name} must be a text in quotes, not {type_}"), problems);
                None
            }
        }
    }

    /// A whole number, at least 1.
    pub(super) fn count(&mut self, name: &'static str, problems: &mut Problems) -> Option<u64> {
        let value = self.find(name)?;
        let number = value.get_ref().as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok());
        let count = number.filter(|&number| number > 0);
        if count.is_none() {
            self.wrong(name, format!("{name} must be a whole number above 0"), problems);
        }
        count
    }

    pub(super) fn switch(&mut self, name: &'static str, problems: &mut Problems) -> Option<bool> {
        let value = self.find(name)?;
        let switch = value.get_ref().as_bool();
        if switch.is_none() {
            self.wrong(name, format!("{name} must be true or false"), problems);
        }
        switch
    }

    /// A price in US dollars per million tokens, as picodollars per token.
    pub(super) fn price(&mut self, name: &'static str, problems: &mut Problems) -> Option<PicoUsd> {
        let value = self.find(name)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text,
            DeValue::Float(number) => {
                let number = number.as_str();
                let what = format!(
                    "{name} is a float, and a float holds most decimal prices only nearly: write it as a text, \"{number}\""
                );
                self.wrong(name, what, problems);
                return None;
            }
            other => {
                let type_ = type_name(other);
                self.wrong(name, format!("{name} must be a decimal in quotes such as \"0.15\", not {type_}"), problems);
                return None;
            }
        };
        PicoUsd::parse_usd_per_million(text)
            .map_err(|error| self.wrong(name, format!("{name} = {}: {error}", shown(text)), problems))
            .ok()
    }

    /// An instant in RFC 3339.
    pub(super) fn instant(&mut self, name: &'static str, problems: &mut Problems) -> Option<Timestamp> {
        let text = self.text(name, problems)?;
        let instant = Timestamp::parse_rfc3339(text);
        if instant.is_none() {
            let what = format!("{name} = {} is not an instant such as \"2026-11-01T00:00:00Z\"", shown(text));
            self.wrong(name, what, problems);
        }
        instant
    }

    /// A calendar day.
    pub(super) fn day(&mut self, name: &'static str, problems: &mut Problems) -> Option<&'b str> {
        let text = self.text(name, problems)?;
        let is_day = text.len() == 10 && Timestamp::parse_rfc3339(&format!("{text}T00:00:00Z")).is_some();
        if !is_day {
            self.wrong(name, format!("{name} = {} is not a day such as \"2026-11-23\"", shown(text)), problems);
        }
        is_day.then_some(text)
    }

    pub(super) fn array(&mut self, name: &'static str, problems: &mut Problems) -> Option<&'b DeArray<'t>> {
        let value = self.find(name)?;
        let array = value.get_ref().as_array();
        if array.is_none() {
            self.wrong(name, format!("{name} must be a list, not {}", type_name(value.get_ref())), problems);
        }
        array
    }

    /// The tables of `[[name]]`, each with where it begins.
    pub(super) fn tables(&mut self, name: &'static str, problems: &mut Problems) -> Vec<(&'b DeTable<'t>, usize)> {
        let mut tables = Vec::new();
        for item in self.array(name, problems).into_iter().flatten() {
            match item.get_ref().as_table() {
                Some(table) => tables.push((table, item.span().start)),
                None => problems.add(item.span().start, &self.place, format!("each {name} must be a table")),
            }
        }
        tables
    }

    /// Tells every field that was not asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for key in self.table.keys() {
            if !self.known.contains(&key.get_ref().as_ref()) {
                let known = self.known.join(", ");
                let what = format!("unknown field {}; known are {known}", shown(key.get_ref()));
                problems.add(key.span().start, &self.place, what);
            }
        }
    }

    fn find(&mut self, name: &'static str) -> Option<&'b Spanned<DeValue<'t>>> {
        self.known.push(name);
        self.table.get(name)
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a bare date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
