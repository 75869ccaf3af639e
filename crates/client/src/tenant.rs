//! Who pays, and the parts they divide themselves into.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Tariff;

/// Who pays: the outer wall of everything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Tenant {
    #[schema(example = "demo")]
    pub id: String,
    /// For people; kept encrypted under the tenant's own data key.
    #[schema(example = "Demo")]
    pub name: Option<String>,
    /// What the tenant has bought.
    #[schema(example = "standard")]
    pub plan: String,
    /// Where its days, weeks and months begin.
    #[schema(example = "Europe/Berlin")]
    pub time_zone: String,
    /// Terms of its own instead of the plan's.
    pub tariff: Option<Tariff>,
    #[schema(example = "2026-11-23T05:00:00Z")]
    pub created_at: String,
}

/// Changes a tenant's terms. What is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantSettings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "standard")]
    pub plan: Option<String>,
    /// A name of the IANA database. What has been spent stays in the days and months it was spent in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Europe/Berlin")]
    pub time_zone: Option<String>,
    /// Terms of its own instead of the plan's: all of them. `null`: the plan's again.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "given")]
    #[schema(value_type = Option<Tariff>)]
    pub tariff: Option<Option<Tariff>>,
}

/// Tells `null` from what is left out.
mod given {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::{Map, Value};

    use crate::Tariff;

    pub fn serialize<S: Serializer>(value: &Option<Option<Tariff>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.serialize(serializer)
    }

    /// Fields by their names: a list of values is not taken for them in their order.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Tariff>>, D::Error> {
        let fields = Option::<Map<String, Value>>::deserialize(deserializer)?;
        fields.map(|fields| Tariff::deserialize(Value::Object(fields)).map_err(D::Error::custom)).transpose().map(Some)
    }
}

/// Asks for a tenant, which comes with a project `default`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// 1 to 63 characters of `a-z`, `0-9`, `-`, `_` or `.`, beginning with a letter or digit.
    #[schema(example = "demo")]
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Demo")]
    pub name: Option<String>,
    /// Without it: `standard`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "standard")]
    pub plan: Option<String>,
    /// Where its days, weeks and months begin. Without it: `UTC`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Europe/Berlin")]
    pub time_zone: Option<String>,
}

/// A part of a tenant with budgets of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    #[schema(example = "demo")]
    pub tenant: String,
    /// Unique within its tenant.
    #[schema(example = "main")]
    pub id: String,
    #[schema(example = "Main")]
    pub name: Option<String>,
    #[schema(example = "2026-11-23T05:00:00Z")]
    pub created_at: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    #[schema(example = "demo")]
    pub tenant: String,
    /// Written as a tenant's id is.
    #[schema(example = "main")]
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Main")]
    pub name: Option<String>,
}
