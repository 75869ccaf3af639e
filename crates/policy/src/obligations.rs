//! What the pipeline must do if it lets a request pass. A policy says it as an object, `data.tollgate.admission.obligations`;
//! several layers narrow each other, and what is not understood is not ignored: then nothing was decided.

use std::collections::BTreeSet;

use regorus::Value;
use serde::{Deserialize, Serialize};

/// Patterns that one policy may ask for.
pub const REDACTIONS_MAX: usize = 32;
/// Names that one list may hold.
pub const NAMES_MAX: usize = 64;
/// Bytes of each.
pub const NAME_BYTES_MAX: usize = 128;

/// What must be done, and what may not. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Obligations {
    /// The routes that may be used, by name; a name may end with `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<MaxTokens>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Whatever is kept of a request's content is kept no longer. 0: nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    /// What the provider must not see.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub redact: BTreeSet<Redaction>,
    /// Where the provider may work; one that does not say where is nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regions: Option<BTreeSet<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// A second person must agree.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub second_approval: bool,
}

/// Output tokens of each answer at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxTokens {
    pub limit: u64,
    /// What becomes of a request that asks for more.
    #[serde(default)]
    pub over: Over,
}

/// In the order in which one narrows the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    #[default]
    Clamp,
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// Seconds an answer may be used again. 0: none is kept, none is used.
    pub ttl_seconds: u64,
}

/// Text that is replaced by its name in brackets, such as `[email]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redaction {
    pub name: String,
    /// None: the name is one of those that Tollgate knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// With whom the work may lie in one batch. In the order in which one narrows the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batch {
    Shared,
    /// With no other tenant's.
    Alone,
}

// === impl Obligations ===

impl Obligations {
    pub const NONE: Self = Self {
        models: None,
        max_tokens: None,
        cache: None,
        retention_days: None,
        redact: BTreeSet::new(),
        regions: None,
        batch: None,
        second_approval: false,
    };

    /// Reads what a policy says. The error is for the policy's author.
    pub(crate) fn read(value: &Value) -> Result<Self, String> {
        // A list would be taken for the fields in their order.
        if !matches!(value, Value::Object(_)) {
            return Err("obligations: not an object".to_owned());
        }
        let json = serde_json::to_value(value).map_err(|error| format!("obligations: {error}"))?;
        let read: Self = serde_json::from_value(json).map_err(|error| format!("obligations: {error}"))?;
        let lists = [&read.models, &read.regions];
        if lists.into_iter().flatten().flatten().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(format!("obligations: a name has at most {NAME_BYTES_MAX} bytes"));
        }
        if read.redact.len() > REDACTIONS_MAX || lists.into_iter().flatten().any(|names| names.len() > NAMES_MAX) {
            return Err(format!("obligations: at most {REDACTIONS_MAX} redactions and {NAMES_MAX} names in a list"));
        }
        Ok(read)
    }

    /// Both at once: each the stricter of the two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            models: both(self.models, other.models, |a, b| shared_names(&a, &b)),
            max_tokens: both(self.max_tokens, other.max_tokens, |a, b| MaxTokens {
                limit: a.limit.min(b.limit),
                over: a.over.max(b.over),
            }),
            cache: both(self.cache, other.cache, |a, b| Cache { ttl_seconds: a.ttl_seconds.min(b.ttl_seconds) }),
            retention_days: both(self.retention_days, other.retention_days, u32::min),
            redact: self.redact.into_iter().chain(other.redact).collect(),
            regions: both(self.regions, other.regions, |a, b| a.intersection(&b).cloned().collect()),
            batch: both(self.batch, other.batch, Batch::max),
            second_approval: self.second_approval || other.second_approval,
        }
    }

    /// Whether a route of that name may be used.
    pub fn allows_model(&self, route: &str) -> bool {
        self.models.as_ref().is_none_or(|names| names.iter().any(|name| covers(name, route)))
    }

    /// Whether a provider that works there may be asked.
    pub fn allows_region(&self, region: Option<&str>) -> bool {
        self.regions.as_ref().is_none_or(|regions| region.is_some_and(|region| regions.contains(region)))
    }
}

fn both<T>(a: Option<T>, b: Option<T>, narrow: impl FnOnce(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(narrow(a, b)),
        (a, b) => a.or(b),
    }
}

fn covers(name: &str, route: &str) -> bool {
    name.strip_suffix('*').map_or(name == route, |beginning| route.starts_with(beginning))
}

/// What both lists cover: of each pair the narrower name, where it lies within the wider.
fn shared_names(a: &BTreeSet<String>, b: &BTreeSet<String>) -> BTreeSet<String> {
    let within = |names: &BTreeSet<String>, others: &BTreeSet<String>| {
        let inside = |name: &String| others.iter().any(|other| lies_within(name, other));
        names.iter().filter(|name| inside(name)).cloned().collect::<Vec<_>>()
    };
    within(a, b).into_iter().chain(within(b, a)).collect()
}

/// Whether every route that `name` covers is covered by `other`.
fn lies_within(name: &str, other: &str) -> bool {
    match (name.strip_suffix('*'), other.strip_suffix('*')) {
        (Some(beginning), Some(wider)) => beginning.starts_with(wider),
        (Some(_), None) => false,
        (None, _) => covers(other, name),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn read(json: &str) -> Result<Obligations, String> {
        Obligations::read(&Value::from_json_str(json).expect("JSON"))
    }

    #[test]
    fn every_obligation_is_read() {
        let all = read(
            r#"{"models": ["small", "gpt-*"], "max_tokens": {"limit": 500, "over": "refuse"}, "cache": {"ttl_seconds": 0},
                "retention_days": 30, "redact": [{"name": "email"}, {"name": "case", "regex": "C-[0-9]+"}],
                "regions": ["eu"], "batch": "alone", "second_approval": true}"#,
        )
        .expect("obligations");
        assert_eq!(all.max_tokens, Some(MaxTokens { limit: 500, over: Over::Refuse }));
        assert_eq!((all.redact.len(), all.batch, all.second_approval), (2, Some(Batch::Alone), true));
        assert_eq!(read("{}"), Ok(Obligations::default()));
    }

    #[test]
    fn what_is_not_understood_is_no_decision() {
        for wrong in [
            r#"{"modles": []}"#,
            r#"{"max_tokens": 5}"#,
            r#"{"max_tokens": {"limit": -1}}"#,
            r#"{"max_tokens": {"limit": 5, "over": "shout"}}"#,
            r#"{"cache": "off"}"#,
            r#"{"batch": "never"}"#,
            r#"{"redact": ["email"]}"#,
            "[]",
            "7",
        ] {
            assert!(read(wrong).expect_err(wrong).starts_with("obligations: "));
        }
        let many = format!(
            r#"{{"regions": [{}]}}"#,
            (0..=NAMES_MAX).map(|n| format!("\"r{n}\"")).collect::<Vec<_>>().join(",")
        );
        assert!(read(&many).is_err());
    }

    #[test]
    fn a_name_may_end_with_a_star_and_both_lists_count() {
        let of = |models| Obligations { models, ..Obligations::default() };
        let both = of(names(&["gpt-4*", "small"])).and(of(names(&["gpt-*", "large", "gpt-4o"])));
        assert_eq!(both.models, names(&["gpt-4*", "gpt-4o"]));
        assert!(both.allows_model("gpt-4o-mini") && !both.allows_model("gpt-5") && !both.allows_model("small"));
        assert!(of(None).allows_model("anything") && !of(names(&[])).allows_model("anything"));
    }

    #[test]
    fn a_provider_that_does_not_say_where_it_works_is_nowhere() {
        let in_europe = Obligations { regions: names(&["eu"]), ..Obligations::default() };
        assert!(in_europe.allows_region(Some("eu")));
        assert!(!in_europe.allows_region(Some("us")) && !in_europe.allows_region(None));
        assert!(Obligations::default().allows_region(None));
    }

    prop_compose! {
        pub fn obligations()(
            models in prop::option::of(prop::collection::btree_set("[ab]{0,2}[*]?", 0..3)),
            max_tokens in prop::option::of((0_u64..4, any::<bool>())),
            cache in prop::option::of(0_u64..4),
            retention_days in prop::option::of(0_u32..4),
            redact in prop::collection::btree_set("[ab]", 0..3),
            regions in prop::option::of(prop::collection::btree_set("[ab]", 0..3)),
            batch in prop::option::of(any::<bool>()),
            second_approval in any::<bool>(),
        ) -> Obligations {
            let over = |refuse| if refuse { Over::Refuse } else { Over::Clamp };
            Obligations {
                models,
                max_tokens: max_tokens.map(|(limit, refuse)| MaxTokens { limit, over: over(refuse) }),
                cache: cache.map(|ttl_seconds| Cache { ttl_seconds }),
                retention_days,
                redact: redact.into_iter().map(|name| Redaction { name, regex: None }).collect(),
                regions,
                batch: batch.map(|alone| if alone { Batch::Alone } else { Batch::Shared }),
                second_approval,
            }
        }
    }

    proptest! {
        #[test]
        fn the_order_of_layers_changes_nothing_and_nothing_becomes_wider(
            (a, b, c) in (obligations(), obligations(), obligations()), route in "[ab]{0,3}", region in "[ab]",
        ) {
            let allows = |o: &Obligations| (o.allows_model(&route), o.allows_region(Some(&region)));
            let ab = a.clone().and(b.clone());
            prop_assert_eq!(allows(&ab), allows(&b.clone().and(a.clone())));
            prop_assert_eq!(allows(&ab), (a.allows_model(&route) && b.allows_model(&route), a.allows_region(Some(&region)) && b.allows_region(Some(&region))));
            prop_assert_eq!(allows(&ab.clone().and(c.clone())), allows(&a.clone().and(b.clone().and(c))));
            prop_assert_eq!(a.clone().and(Obligations::default()), a.clone());
            prop_assert!(ab.redact.is_superset(&a.redact) && (ab.second_approval || !a.second_approval));
            prop_assert!(ab.max_tokens.map(|max| max.limit).unwrap_or(u64::MAX) <= a.max_tokens.map(|max| max.limit).unwrap_or(u64::MAX));
            prop_assert!(a.batch.is_none() || ab.batch >= a.batch);
        }
    }
}
