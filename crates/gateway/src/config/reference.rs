//! `docs/configuration.md`, made from the doc comments of [`super::RawConfig`], so that it cannot be out of date.

use std::fmt::Write;

use schemars::schema_for;
use serde_json::Value;

use super::{
    RawAccess, RawAccessRole, RawConfig, RawLog, RawOidc, RawPolicy, RawPrices, RawProvider, RawReceipts, RawSecrets,
    RawServer, RawStore,
};

/// The whole page.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
         One file, `tollgate.toml`. `TOLLGATE_SECTION__FIELD` in the environment overrides a field of it. Secrets are\n\
         references, `env:NAME` or `file:PATH`, never text in the file. A file with an unknown field, or with anything\n\
         else wrong, is refused with everything that is wrong in it.\n\n\
         `kill -HUP` reads the file again: providers, runtimes, routes and price books change at once if the whole file is good;\n\
         otherwise the last good ones stay, and the log says why. The other sections need a restart.\n\n\
         This page is made by `cargo xtask fresh --write` from the doc comments in `crates/gateway/src/config.rs`.\n",
    );
    section(&mut page, "[server]", &schema_for!(RawServer).to_value());
    section(&mut page, "[server.tls]", &schema_for!(super::RawTls).to_value());
    section(&mut page, "[store]", &schema_for!(RawStore).to_value());
    section(&mut page, "[secrets]", &schema_for!(RawSecrets).to_value());
    section(&mut page, "[prices]", &schema_for!(RawPrices).to_value());
    section(&mut page, "[receipts]", &schema_for!(RawReceipts).to_value());
    section(&mut page, "[policy]", &schema_for!(RawPolicy).to_value());
    section(&mut page, "[access]", &schema_for!(RawAccess).to_value());
    section(&mut page, "[access.oidc]", &schema_for!(RawOidc).to_value());
    section(&mut page, "[[access.roles]]", &schema_for!(RawAccessRole).to_value());
    section(&mut page, "[log]", &schema_for!(RawLog).to_value());
    section(&mut page, "[providers.NAME]", &schema_for!(RawProvider).to_value());
    presets(&mut page);
    section(&mut page, "[runtimes.NAME]", &schema_for!(super::RawRuntime).to_value());
    section(&mut page, "[routes.\"NAME\"]", &schema_for!(super::RawRoute).to_value());
    section(&mut page, "[workers]", &schema_for!(super::RawWorkers).to_value());
    let known = schema_for!(RawConfig).to_value();
    debug_assert_eq!(
        known["properties"].as_object().map(serde_json::Map::len),
        Some(12),
        "a new section needs its part"
    );
    page
}

fn section(page: &mut String, title: &str, schema: &Value) {
    let about = schema["description"].as_str().unwrap_or_default();
    let _ = write!(page, "\n## `{title}`\n\n{about}\n\n| field | default | meaning |\n|---|---|---|\n");
    let empty = serde_json::Map::new();
    for (name, field) in schema["properties"].as_object().unwrap_or(&empty) {
        let meaning = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        let default = match field.get("default") {
            None if required(schema, name) => "(required)".to_owned(),
            None | Some(Value::Null) => "(none)".to_owned(),
            Some(Value::String(text)) => format!("`\"{text}\"`"),
            Some(other) => format!("`{other}`"),
        };
        let _ = writeln!(page, "| `{name}` | {default} | {meaning} |");
    }
}

fn required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
}

fn presets(page: &mut String) {
    page.push_str("\nPresets:\n\n| `preset` | `base_url` | key looked for in |\n|---|---|---|\n");
    for preset in tollgate_serving::preset::PRESETS {
        let url = preset.base_url.map_or("(required)".to_owned(), |url| format!("`{url}`"));
        let key = preset.key_env.map_or("(none)".to_owned(), |name| format!("`{name}`"));
        let _ = writeln!(page, "| `{}` | {url} | {key} |", preset.name);
    }
}
