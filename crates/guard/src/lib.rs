//! The platform's guard: who may do what with whose, asked before anything is done and before any tenant's policy. It is
//! written in Cedar (`guard/guard.cedar`), and that text is what runs; `make prove` proves of it what stands in
//! `guard/proved`.
//!
//! **Why a decision is remembered by its shape.** The text names no tenant and no thing, which [`Guard::new`] sees to, and
//! Cedar has no way to look into a name but `==`: so a decision depends on whether two tenants are the same, never on which
//! they are. Who asks, the act, and whether the thing is the asker's tenant's make some ten thousand cases; each is asked
//! of Cedar once, with stand-ins for the names, and remembered.

use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityTypeName, EntityUid, PolicySet, Request,
    RestrictedExpression, Schema, ValidationMode, Validator,
};
pub use tollgate_types::Role;
use tollgate_types::TenantId;
use tollgate_types::directory::KeyScopes;

/// The guard as it is shipped, and the types that it speaks of.
pub const TEXT: &str = include_str!("../guard/guard.cedar");
pub const SCHEMA: &str = include_str!("../guard/guard.cedarschema");

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($variant),+
        }

        impl $name {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }
        }
    };
}

names! {
    /// What somebody wants to do. Of the control plane, the operations that its OpenAPI description names.
    Act {
        Chat = "chat",
        Embeddings = "embeddings",
        Classify = "classify",
        Run = "run",
        Models = "models",
        Receipt = "receipt",
        ListUsage = "list_usage",
        SummariseUsage = "summarise_usage",
        ShowReceipt = "show_receipt",
        ListBudgets = "list_budgets",
        ListBudgetAlerts = "list_budget_alerts",
        ShowTenant = "show_tenant",
        ShowBill = "show_bill",
        ListKeys = "list_keys",
        ListProjects = "list_projects",
        ListLimits = "list_limits",
        ShowPolicyBundle = "show_policy_bundle",
        ListPolicyDecisions = "list_policy_decisions",
        ListRoutes = "list_routes",
        ListReceiptKeys = "list_receipt_keys",
        ListTenants = "list_tenants",
        ListPlans = "list_plans",
        ListPriceBooks = "list_price_books",
        ShowLedger = "show_ledger",
        ListLedgerBuckets = "list_ledger_buckets",
        ListPolicies = "list_policies",
        ListProviders = "list_providers",
        ListServiceKeys = "list_service_keys",
        ListApprovals = "list_approvals",
        ListSessions = "list_sessions",
        ListAudit = "list_audit",
        ShowAuditEntry = "show_audit_entry",
        ExportAudit = "export_audit",
        ShowAuditCheckpoint = "show_audit_checkpoint",
        ShowMe = "show_me",
        CreateProject = "create_project",
        CreateKey = "create_key",
        RevokeKey = "revoke_key",
        PushPolicy = "push_policy",
        RemovePolicy = "remove_policy",
        RollPolicyBack = "roll_policy_back",
        SetBudget = "set_budget",
        RemoveBudget = "remove_budget",
        SetLimits = "set_limits",
        RemoveLimits = "remove_limits",
        SetTenant = "set_tenant",
        CreateTenant = "create_tenant",
        SetPlan = "set_plan",
        PushPriceBook = "push_price_book",
        CorrectPrices = "correct_prices",
        ReconcileLedger = "reconcile_ledger",
        RotateReceiptKey = "rotate_receipt_key",
        CreateServiceKey = "create_service_key",
        RevokeServiceKey = "revoke_service_key",
        EndSessions = "end_sessions",
        BreakGlass = "break_glass",
        DecideApproval = "decide_approval",
        DecideBreakGlass = "decide_break_glass",
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Who<'a> {
    /// Whoever presents an API key.
    Key { tenant: &'a TenantId, scopes: KeyScopes },
    /// Whoever speaks to the control plane: for a tenant, or for the operator; a human, or a machine.
    Operator { role: Role, tenant: Option<&'a TenantId>, human: bool },
}

/// Whose the thing is that is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// A tenant's. `part`: of a project, a key or end users of it, not of the tenant as a whole.
    Tenant { tenant: &'a TenantId, part: bool },
    /// The operator's own, or many tenants' together.
    Platform,
    /// Shown to every tenant.
    Shared,
}

/// The guard, ready to be asked.
pub struct Guard {
    schema: Schema,
    policies: PolicySet,
    authorizer: Authorizer,
    /// By [`place`]: what was decided; see the head of this file.
    decided: Box<[AtomicU8]>,
}

#[derive(Debug, thiserror::Error)]
#[error("the guard cannot be used: {0}")]
pub struct Unusable(String);

const UNKNOWN: u8 = 0;
const ALLOWED: u8 = 1;
const DENIED: u8 = 2;
const KEYS: usize = 8;
const THINGS: usize = 6;

// === impl Who ===

impl<'a> Who<'a> {
    pub fn tenant(self) -> Option<&'a TenantId> {
        match self {
            Self::Key { tenant, .. } => Some(tenant),
            Self::Operator { tenant, .. } => tenant,
        }
    }

    fn shapes() -> usize {
        KEYS + 4 * Role::ALL.len()
    }

    fn shape(self) -> usize {
        match self {
            Self::Key { scopes: KeyScopes { chat, embeddings, models }, .. } => {
                usize::from(chat) | usize::from(embeddings) << 1 | usize::from(models) << 2
            }
            Self::Operator { role, tenant, human } => {
                KEYS + 4 * (role as usize) + (usize::from(tenant.is_some()) | usize::from(human) << 1)
            }
        }
    }
}

// === impl Whose ===

impl Whose<'_> {
    /// Whether it is another tenant's than the asker's, who must not learn that it is there.
    pub fn is_anothers(self, who: Who<'_>) -> bool {
        match (self, who.tenant()) {
            (Self::Tenant { tenant, .. }, Some(own)) => tenant != own,
            _ => false,
        }
    }

    fn shape(self, who: Who<'_>) -> usize {
        match self {
            Self::Tenant { part, .. } => usize::from(part) | usize::from(self.is_anothers(who)) << 1,
            Self::Platform => 4,
            Self::Shared => 5,
        }
    }
}

// === impl Guard ===

impl Guard {
    /// The guard of the program.
    pub fn shipped() -> Self {
        Self::new(TEXT).expect("the shipped guard is tested")
    }

    /// Reads a guard. It must pass Cedar's strict validation, so that it cannot fail when it is asked, and must name
    /// neither a tenant nor a thing.
    pub fn new(text: &str) -> Result<Self, Unusable> {
        let unusable = |error: &dyn std::fmt::Display| Unusable(error.to_string());
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|error| unusable(&error))?;
        let policies = PolicySet::from_str(text).map_err(|error| unusable(&error))?;
        let validated = Validator::new(schema.clone()).validate(&policies, ValidationMode::Strict);
        if !validated.validation_passed() {
            return Err(unusable(&validated));
        }
        for policy in policies.policies() {
            if let Some(named) = policy.entity_literals().iter().find(|named| !is_nobodys(named)) {
                return Err(unusable(&format!("{} names {named}: it must treat all alike", policy.id())));
            }
        }
        let cases = Who::shapes() * Act::ALL.len() * THINGS;
        let decided = (0..cases).map(|_| AtomicU8::new(UNKNOWN)).collect();
        Ok(Self { schema, policies, authorizer: Authorizer::new(), decided })
    }

    /// Whether somebody may do this with that.
    pub fn allows(&self, who: Who<'_>, act: Act, whose: Whose<'_>) -> bool {
        let place = (who.shape() * Act::ALL.len() + act as usize) * THINGS + whose.shape(who);
        match self.decided[place].load(Ordering::Relaxed) {
            UNKNOWN => {
                let allowed = self.decide(who, act, whose);
                self.decided[place].store(if allowed { ALLOWED } else { DENIED }, Ordering::Relaxed);
                allowed
            }
            decided => decided == ALLOWED,
        }
    }

    /// Asks Cedar, whatever is remembered. What cannot be asked is refused.
    pub fn decide(&self, who: Who<'_>, act: Act, whose: Whose<'_>) -> bool {
        self.ask(who, act, whose).unwrap_or_else(|error| {
            tracing::error!(%error, act = act.name(), "the guard cannot be asked: refused");
            false
        })
    }

    fn ask(&self, who: Who<'_>, act: Act, whose: Whose<'_>) -> Result<bool, Unusable> {
        let unusable = |error: &dyn std::fmt::Display| Unusable(error.to_string());
        let (asker, thing) = (asker(who)?, thing(whose)?);
        let (principal, resource) = (asker.uid(), thing.uid());
        let entities = Entities::from_entities([asker, thing], Some(&self.schema)).map_err(|error| unusable(&error))?;
        let action = uid("Action", act.name())?;
        // An act that does not go with such an asker or such a thing is no act.
        let Ok(request) = Request::new(principal, action, resource, Context::empty(), Some(&self.schema)) else {
            return Ok(false);
        };
        let answer = self.authorizer.is_authorized(&request, &self.policies, &entities);
        match answer.diagnostics().errors().next() {
            Some(error) => Err(unusable(error)),
            None => Ok(answer.decision() == Decision::Allow),
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// Whether it is the name of an action or a role: of what everybody is spoken to by.
fn is_nobodys(named: &EntityUid) -> bool {
    matches!(named.type_name().to_string().as_str(), "Action" | "Role")
}

fn asker(who: Who<'_>) -> Result<Entity, Unusable> {
    match who {
        Who::Key { tenant, scopes: KeyScopes { chat, embeddings, models } } => {
            let flags = [("chat", chat), ("embeddings", embeddings), ("models", models)];
            let flags = flags.map(|(name, flag)| (name, RestrictedExpression::new_bool(flag)));
            entity("Key", flags.into_iter().chain([("tenant", tenant_of(tenant)?)]))
        }
        Who::Operator { role, tenant, human } => {
            let role = RestrictedExpression::new_entity_uid(uid("Role", role.name())?);
            let human = RestrictedExpression::new_bool(human);
            let tenant = tenant.map(tenant_of).transpose()?.map(|tenant| ("tenant", tenant));
            entity("Operator", [("role", role), ("human", human)].into_iter().chain(tenant))
        }
    }
}

fn thing(whose: Whose<'_>) -> Result<Entity, Unusable> {
    match whose {
        Whose::Tenant { tenant, part } => {
            entity("Room", [("tenant", tenant_of(tenant)?), ("part", RestrictedExpression::new_bool(part))])
        }
        Whose::Platform => entity("Platform", []),
        Whose::Shared => entity("Shared", []),
    }
}

fn entity(
    kind: &str,
    attributes: impl IntoIterator<Item = (&'static str, RestrictedExpression)>,
) -> Result<Entity, Unusable> {
    let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Entity::new(uid(kind, "it")?, attributes, [].into()).map_err(|error| Unusable(error.to_string()))
}

fn tenant_of(tenant: &TenantId) -> Result<RestrictedExpression, Unusable> {
    Ok(RestrictedExpression::new_entity_uid(uid("Tenant", tenant.as_str())?))
}

fn uid(kind: &str, id: &str) -> Result<EntityUid, Unusable> {
    let kind = EntityTypeName::from_str(kind).map_err(|error| Unusable(error.to_string()))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}
