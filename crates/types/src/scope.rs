//! Whose money or whose share is counted. A request falls into one scope of each kind, and is held against all of them.

use serde::{Deserialize, Serialize};

use crate::{EndUserId, KeyId, PlanId, ProjectId, TenantId};

/// Whose spending is counted. The two that lie outside any tenant are the operator's own; every other names its tenant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Everybody together.
    Platform,
    /// All tenants of a plan together.
    Plan(PlanId),
    Tenant(TenantId),
    Project(TenantId, ProjectId),
    Key(TenantId, KeyId),
    /// One of the tenant's own users, as the tenant names them.
    EndUser(TenantId, EndUserId),
    /// A budget or limit that each tenant of the plan has for itself, unless it has one of its own. Spends nothing itself.
    EachTenant(PlanId),
    /// The same for each end user of a tenant, also those who are yet to come.
    EachEndUser(TenantId),
}

/// Everybody that one request spends for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spender {
    pub plan: PlanId,
    pub tenant: TenantId,
    pub project: ProjectId,
    pub key: KeyId,
    pub end_user: Option<EndUserId>,
}

/// Scopes of one request at most.
pub const SCOPES_MAX: usize = 6;

// === impl Scope ===

impl Scope {
    pub fn tenant(&self) -> Option<&TenantId> {
        match self {
            Self::Platform | Self::Plan(_) | Self::EachTenant(_) => None,
            Self::Tenant(tenant)
            | Self::Project(tenant, _)
            | Self::Key(tenant, _)
            | Self::EndUser(tenant, _)
            | Self::EachEndUser(tenant) => Some(tenant),
        }
    }

    /// What it is in a word, safe to show to the tenant.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Plan(_) => "plan",
            Self::Tenant(_) => "tenant",
            Self::Project(..) => "project",
            Self::Key(..) => "key",
            Self::EndUser(..) => "end user",
            Self::EachTenant(_) => "each tenant",
            Self::EachEndUser(_) => "each end user",
        }
    }

    /// Whether what it counts is one tenant's alone: only then may a refusal tell the tenant any amounts.
    pub fn is_of_one_tenant(&self) -> bool {
        self.tenant().is_some()
    }

    /// Whether it is a pattern for others: it has budgets and counts nothing itself.
    pub fn is_template(&self) -> bool {
        matches!(self, Self::EachTenant(_) | Self::EachEndUser(_))
    }
}

// === impl Spender ===

impl Spender {
    /// The scopes it spends from, widest first.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> + '_ {
        let tenant = || self.tenant.clone();
        let always = [
            Scope::Platform,
            Scope::Plan(self.plan.clone()),
            Scope::Tenant(tenant()),
            Scope::Project(tenant(), self.project.clone()),
            Scope::Key(tenant(), self.key.clone()),
        ];
        always.into_iter().chain(self.end_user.map(|user| Scope::EndUser(tenant(), user)))
    }

    /// The pattern whose budgets hold for `scope` where it has none of its own.
    pub fn template_of(&self, scope: &Scope) -> Option<Scope> {
        match scope {
            Scope::Tenant(_) => Some(Scope::EachTenant(self.plan.clone())),
            Scope::EndUser(tenant, _) => Some(Scope::EachEndUser(tenant.clone())),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spender(end_user: Option<EndUserId>) -> Spender {
        let slug = |text: &str| text.to_owned();
        Spender {
            plan: slug("standard").parse().expect("a slug"),
            tenant: slug("acme").parse().expect("a slug"),
            project: slug("main").parse().expect("a slug"),
            key: slug("k1").parse().expect("a slug"),
            end_user,
        }
    }

    #[test]
    fn a_request_spends_from_one_scope_of_each_kind_widest_first() {
        let kinds = |end_user| spender(end_user).scopes().map(|scope| scope.kind()).collect::<Vec<_>>();
        assert_eq!(kinds(None), ["platform", "plan", "tenant", "project", "key"]);
        let all = kinds(Some(EndUserId([7; 16])));
        assert_eq!((all.len(), all.last()), (SCOPES_MAX, Some(&"end user")));
    }

    #[test]
    fn patterns_spend_nothing_and_the_operators_scopes_are_no_tenants() {
        let spender = spender(Some(EndUserId([7; 16])));
        for scope in spender.scopes() {
            assert!(!scope.is_template(), "{scope:?}");
            assert_eq!(scope.is_of_one_tenant(), !matches!(scope, Scope::Platform | Scope::Plan(_)), "{scope:?}");
            assert!(spender.template_of(&scope).is_none_or(|pattern| pattern.is_template()));
        }
    }
}
