//! `tollgate import`: what others wrote down about their tenants, in our words. Reads and writes files; nothing is put into
//! force by it: it ends with the commands that would.

use std::path::{Path, PathBuf};

use serde_json::json;
use tollgate_policy::import::{ImportedTenant, YAML_BYTES_MAX, llm_policy};
use tollgate_types::TenantId;

use super::table::{Column, or_none, table};
use super::{Answer, Failure};

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make a policy bundle for each tenant of a `llm-policy.yaml`, and say which budgets and limits belong to it
    #[command(
        name = "llm-policy",
        after_help = "Example:\n  tollgate import llm-policy config/llm-policy.yaml --into policies"
    )]
    LlmPolicy {
        file: PathBuf,
        /// A folder, in which each tenant gets one of its own; those that are there already are not touched
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
}

// === impl ImportArgs ===

impl ImportArgs {
    pub fn run(self) -> Result<Answer, Failure> {
        let What::LlmPolicy { file, into } = self.what;
        import(&file, &into)
    }
}

fn import(file: &Path, into: &Path) -> Result<Answer, Failure> {
    let told = |path: &Path, error: &dyn std::fmt::Display| Failure::Failed(format!("{}: {error}", path.display()));
    let length = std::fs::metadata(file).map_err(|error| told(file, &error))?.len();
    if length > YAML_BYTES_MAX as u64 {
        return Err(told(file, &"it is larger than 1 MiB"));
    }
    let text = std::fs::read_to_string(file).map_err(|error| told(file, &error))?;
    let imported = llm_policy(&text).map_err(|refused| told(file, &refused))?;
    // All or nothing: every name is looked at before the first file is written.
    let mut tenants = Vec::new();
    for tenant in &imported.tenants {
        let id: TenantId = tenant.id.parse().map_err(|invalid| told(file, &invalid))?;
        let folder = into.join(id.as_str());
        if folder.exists() {
            return Err(told(&folder, &"is there already; move it away, or name another folder with --into"));
        }
        tenants.push((id, folder, tenant));
    }
    for (_, folder, tenant) in &tenants {
        write(folder, tenant).map_err(|error| told(folder, &error))?;
    }
    let commands: Vec<String> = tenants.iter().flat_map(|(id, folder, tenant)| commands(id, folder, tenant)).collect();
    let rows = imported.tenants.iter().map(|tenant| {
        let models = tenant.models.join(", ");
        let (bytes, tokens) = (or_none(tenant.input_bytes_max), or_none(tenant.max_tokens));
        vec![tenant.id.clone(), models, bytes, tokens]
    });
    let columns =
        [Column::Text("TENANT"), Column::Text("MODELS"), Column::Number("INPUT BYTES"), Column::Number("MAX TOKENS")];
    let mut text = table(&columns, rows.collect(), "no tenant");
    if !imported.left_out.is_empty() {
        text.push_str(&format!("\n\nNot taken over:\n  {}", imported.left_out.join("\n  ")));
    }
    text.push_str(&format!("\n\nNothing is in force yet. To put it into force:\n  {}", commands.join("\n  ")));
    let ids: Vec<&str> = imported.tenants.iter().map(|tenant| tenant.id.as_str()).collect();
    Ok(Answer::new(text, &json!({ "tenants": ids, "left_out": imported.left_out, "commands": commands })))
}

#[expect(clippy::disallowed_methods, reason = "a bundle is made where the user says, not in the store")]
fn write(folder: &Path, tenant: &ImportedTenant) -> std::io::Result<()> {
    for file in &tenant.files {
        let path = folder.join(&file.path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, &file.bytes)?;
    }
    Ok(())
}

/// What puts a tenant's policy, budget and limit into force. Ids and numbers need no quotes; a folder may.
fn commands(id: &TenantId, folder: &Path, tenant: &ImportedTenant) -> Vec<String> {
    let folder = folder.display().to_string().replace('\'', r"'\''");
    let mut commands =
        vec![format!("tollgate policy test '{folder}'"), format!("tollgate policy push '{folder}' --tenant {id}")];
    let cap = tenant.monthly_hard_usd.as_ref().map(|usd| format!(" --cap-usd {usd}"));
    let alert = tenant.monthly_soft_usd.as_ref().map(|usd| format!(" --alert {usd}"));
    if cap.is_some() || alert.is_some() {
        let (cap, alert) = (cap.unwrap_or_default(), alert.unwrap_or_default());
        commands.push(format!("tollgate budget set --tenant {id} --window month{cap}{alert}"));
    }
    if let Some(requests) = tenant.requests_per_minute {
        commands.push(format!("tollgate limit set --tenant {id} --requests-per-minute {requests}"));
    }
    commands
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests make the files they hand over")]
mod tests {
    use super::*;

    fn file(dir: &Path, tenants: &[&str]) -> PathBuf {
        let policy = "{monthlyCost: {soft: 50, hard: 100}, maxRequestsPerMinute: 120, \
                      tasks: {t: {modelClasses: {c: {allowedModels: [{model: small}]}}}}}";
        let tenants: Vec<String> = tenants.iter().map(|id| format!("  \"{id}\": {policy}\n")).collect();
        let path = dir.join("llm-policy.yaml");
        std::fs::write(&path, format!("tenants:\n{}", tenants.concat())).expect("a file");
        path
    }

    #[test]
    fn each_tenant_gets_a_folder_and_the_commands_that_put_it_into_force() {
        let dir = tempfile::tempdir().expect("a folder");
        let (path, into) = (file(dir.path(), &["acme", "b"]), dir.path().join("it's here"));
        let answer = import(&path, &into).expect("it is taken over");
        let text = answer.rendered(false);
        assert!(into.join("acme/tollgate/admission.rego").exists() && into.join("b/.manifest").exists());
        for command in [
            "/it'\\''s here/acme' --tenant acme",
            "tollgate budget set --tenant b --window month --cap-usd 100 --alert 50",
            "tollgate limit set --tenant b --requests-per-minute 120",
        ] {
            assert!(text.contains(command), "{command} is not in {text}");
        }
        assert!(import(&path, &into).is_err(), "what is there is not touched");
    }

    #[test]
    fn a_tenant_whose_name_is_a_path_leads_nowhere() {
        let dir = tempfile::tempdir().expect("a folder");
        let into = dir.path().join("into");
        for name in ["../out", "/tmp/out", "a/b", "..", ""] {
            let refused = import(&file(dir.path(), &["acme", name]), &into);
            assert!(refused.is_err(), "{name}");
            assert!(!into.exists(), "nothing is written where one of them is refused");
        }
    }
}
