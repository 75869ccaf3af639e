//! Reads a `llm-policy.yaml` (Summit's and IntelGraph's policy of each tenant) and says the same in ours: a bundle for each
//! tenant, and what is set elsewhere, its budget and its limit. What has no counterpart here is told, not dropped in silence.
//!
//! Two of its habits are not taken over. A request does not say of which task or class it is, so the widest of a tenant's tasks
//! bounds all of them. And a tenant that the file does not know does not get another's policy: it has its plan's and the
//! platform's.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::File;

/// Largest file that is read.
pub const YAML_BYTES_MAX: usize = 1 << 20;

/// What a file comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub tenants: Vec<ImportedTenant>,
    /// What was not taken over, each with why.
    pub left_out: Vec<String>,
}

/// What a tenant's policy comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedTenant {
    pub id: String,
    /// Its bundle.
    pub files: Vec<File>,
    pub models: Vec<String>,
    pub max_tokens: Option<u64>,
    /// Bytes of text that a request may have; the file counts characters, of which a byte is at most one.
    pub input_bytes_max: Option<u64>,
    /// US dollars a month: where an alert is, and where it ends.
    pub monthly_soft_usd: Option<String>,
    pub monthly_hard_usd: Option<String>,
    pub requests_per_minute: Option<u32>,
}

/// Why a file is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the file is larger than 1 MiB")]
    TooLarge,
    #[error("not a policy file: {0}")]
    Unreadable(String),
    #[error("the tenant '{tenant}': {reason}")]
    Senseless { tenant: String, reason: &'static str },
}

/// The file as it is written. Members that are not known are noted, wherever they stand.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    version: Option<serde_json::Value>,
    default_tenant: Option<String>,
    tenants: BTreeMap<String, Tenant>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tenant {
    monthly_cost: Option<MonthlyCost>,
    max_requests_per_minute: Option<u32>,
    prompt_limit: Option<u64>,
    abuse: Option<IgnoredAny>,
    tasks: BTreeMap<String, Task>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

/// US dollars. Numbers of YAML have no more digits than a double, and are told in as few as name it.
#[derive(Debug, Deserialize)]
struct MonthlyCost {
    soft: Option<serde_json::Number>,
    hard: Option<serde_json::Number>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    max_tokens: Option<u64>,
    model_classes: BTreeMap<String, Class>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Class {
    max_tokens: Option<u64>,
    max_requests_per_minute: Option<u32>,
    allowed_models: Vec<Model>,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Model {
    model: String,
    #[serde(flatten)]
    rest: BTreeMap<String, IgnoredAny>,
}

/// Reads a file.
pub fn llm_policy(text: &str) -> Result<Imported, Refused> {
    if text.len() > YAML_BYTES_MAX {
        return Err(Refused::TooLarge);
    }
    let document: Document = serde_saphyr::from_str(text).map_err(|error| Refused::Unreadable(error.to_string()))?;
    let mut left_out = Vec::new();
    let revision = match &document.version {
        Some(serde_json::Value::String(version)) => format!("llm-policy-{version}"),
        Some(version) => format!("llm-policy-{version}"),
        None => "llm-policy".to_owned(),
    };
    note_unknown("the file", &document.rest, &mut left_out);
    if let Some(tenant) = document.default_tenant {
        left_out.push(format!(
            "defaultTenant '{tenant}': whom the file does not know gets nobody's policy here; push its bundle for a plan, or for the platform, if it is to hold for all"
        ));
    }
    let tenants = document.tenants.into_iter().map(|(id, tenant)| tenant.imported(id, &revision, &mut left_out));
    Ok(Imported { tenants: tenants.collect::<Result<_, _>>()?, left_out })
}

fn note_unknown(place: &str, rest: &BTreeMap<String, IgnoredAny>, left_out: &mut Vec<String>) {
    left_out.extend(rest.keys().map(|name| format!("{place}: '{name}' is not known here")));
}

// === impl Tenant ===

impl Tenant {
    fn imported(self, id: String, revision: &str, left_out: &mut Vec<String>) -> Result<ImportedTenant, Refused> {
        let senseless = |reason| Refused::Senseless { tenant: id.clone(), reason };
        let place = |what: &str| format!("tenant '{id}', {what}");
        note_unknown(&format!("tenant '{id}'"), &self.rest, left_out);
        if self.abuse.is_some() {
            left_out
                .push(place("abuse: prompts are not searched for words here, and failures do not lock anybody out"));
        }
        if self.tasks.is_empty() {
            return Err(senseless("it has no task"));
        }
        let (mut models, mut widest, mut is_bounded) = (Vec::new(), 0, true);
        for (name, task) in &self.tasks {
            note_unknown(&place(&format!("task '{name}'")), &task.rest, left_out);
            for (class_name, class) in &task.model_classes {
                note_unknown(&place(&format!("task '{name}', class '{class_name}'")), &class.rest, left_out);
                if class.max_requests_per_minute.is_some() {
                    left_out.push(place(&format!(
                        "task '{name}', class '{class_name}', maxRequestsPerMinute: limits are of tenants, projects, keys and end users"
                    )));
                }
                match class.max_tokens.or(task.max_tokens) {
                    Some(tokens) => widest = widest.max(tokens),
                    None => is_bounded = false,
                }
                for model in &class.allowed_models {
                    note_unknown(&place(&format!("model '{}'", model.model)), &without_provider(&model.rest), left_out);
                    if !models.contains(&model.model) {
                        models.push(model.model.clone());
                    }
                }
            }
        }
        if models.is_empty() {
            return Err(senseless("it allows no model"));
        }
        if self.tasks.len() > 1 {
            left_out.push(place("tasks: a request does not say of which it is, so the widest of them bounds all"));
        }
        let (soft, hard) = self.monthly_cost.map_or((None, None), |cost| (cost.soft, cost.hard));
        let amount = |number: &Option<serde_json::Number>| number.as_ref().and_then(serde_json::Number::as_f64);
        if let (Some(soft), Some(hard)) = (amount(&soft), amount(&hard))
            && soft > hard
        {
            return Err(senseless("its soft monthly cost is above its hard one"));
        }
        models.sort();
        let max_tokens = is_bounded.then_some(widest);
        let files = bundle(revision, &models, max_tokens, self.prompt_limit);
        let text = |number: Option<serde_json::Number>| number.map(|number| number.to_string());
        Ok(ImportedTenant {
            id,
            files,
            models,
            max_tokens,
            input_bytes_max: self.prompt_limit,
            monthly_soft_usd: text(soft),
            monthly_hard_usd: text(hard),
            requests_per_minute: self.max_requests_per_minute,
        })
    }
}

/// Which provider answers is the route's to say.
fn without_provider(rest: &BTreeMap<String, IgnoredAny>) -> BTreeMap<String, IgnoredAny> {
    rest.iter().filter(|(name, _)| *name != "provider").map(|(name, ignored)| (name.clone(), *ignored)).collect()
}

/// The bundle, with tests of its own.
fn bundle(revision: &str, models: &[String], max_tokens: Option<u64>, input_bytes_max: Option<u64>) -> Vec<File> {
    let mut rules = String::from(
        "# Made from a llm-policy.yaml. What it allows is in data.json.\npackage tollgate.admission\n\n\
         rules := data.tollgate.llm_policy\n\ndefault allow := false\n\nallow if input.request.route in rules.models\n\n\
         deny contains concat(\"\", [\"this policy has the models \", concat(\", \", rules.models)]) if {\n\
         \tnot input.request.route in rules.models\n}\n",
    );
    let mut tests = String::from(
        "package tollgate.admission_test\n\nimport data.tollgate.admission\n\nrules := data.tollgate.llm_policy\n\n\
         asked(change) := {\"request\": object.union({\"route\": rules.models[0], \"input_bytes\": 1}, change)}\n\n\
         test_each_model_is_allowed if {\n\tevery model in rules.models {\n\
         \t\tadmission.allow with input as asked({\"route\": model})\n\
         \t\tadmission.deny == set() with input as asked({\"route\": model})\n\t}\n}\n\n\
         test_another_model_is_not if {\n\tnot admission.allow with input as asked({\"route\": \"another\"})\n\
         \tcount(admission.deny) == 1 with input as asked({\"route\": \"another\"})\n}\n",
    );
    let mut data = json!({ "models": models });
    let mut obligations = vec!["\t\"models\": rules.models,\n".to_owned()];
    if let Some(bytes) = input_bytes_max {
        data["input_bytes_max"] = bytes.into();
        rules.push_str(
            "\ndeny contains sprintf(\"this policy takes at most %d bytes of text\", [rules.input_bytes_max]) if {\n\
             \tinput.request.input_bytes > rules.input_bytes_max\n}\n",
        );
        tests.push_str(
            "\ntest_the_longest_text_is_allowed if {\n\
             \tadmission.deny == set() with input as asked({\"input_bytes\": rules.input_bytes_max})\n}\n\n\
             test_a_longer_one_is_not if {\n\
             \tcount(admission.deny) == 1 with input as asked({\"input_bytes\": rules.input_bytes_max + 1})\n}\n",
        );
    }
    if let Some(tokens) = max_tokens {
        data["max_tokens"] = tokens.into();
        obligations.push("\t\"max_tokens\": {\"limit\": rules.max_tokens, \"over\": \"clamp\"},\n".to_owned());
        tests.push_str(
            "\ntest_answers_are_bounded if {\n\
             \tadmission.obligations.max_tokens == {\"limit\": rules.max_tokens, \"over\": \"clamp\"}\n}\n",
        );
    }
    tests.push_str("\ntest_models_are_bound if admission.obligations.models == rules.models\n");
    rules.push_str(&format!("\nobligations := {{\n{}}}\n", obligations.concat()));
    let pretty = |value: &serde_json::Value| serde_json::to_vec_pretty(value).expect("plain data");
    let file = |path: &str, bytes: Vec<u8>| File { path: path.to_owned(), bytes };
    vec![
        file(".manifest", pretty(&json!({ "revision": revision, "roots": ["tollgate"] }))),
        file("tollgate/data.json", pretty(&json!({ "llm_policy": data }))),
        file("tollgate/admission.rego", rules.into_bytes()),
        file("tollgate/admission_test.rego", tests.into_bytes()),
    ]
}
