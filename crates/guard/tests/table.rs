//! Who may do what, said a second time and in another way: a line for each act, and for each kind of thing the letters of
//! those who may. A slip in one of the two is found by the other.

use tollgate_guard::{Act, Role, Who, Whose};

/// `k` a key that was made for it, `K` any key · `P` platform-admin · of a tenant: `t` tenant-admin, `b` billing,
/// `a` auditor, `d` developer · of the operator: `B` billing, `A` auditor.
///
/// The columns: a part of the asker's own tenant (or, for the operator's people, of any), that tenant as a whole, the
/// platform's, what all may see. Another tenant's is nobody's but the operator's.
const TABLE: &str = "
    chat                   k        k       -     -
    embeddings             k        k       -     -
    models                 k        k       -     -
    receipt                K        K       -     -
    list_usage             PtbadAB  PtbadAB PAB   -
    summarise_usage        PtbadAB  PtbadAB PAB   -
    show_receipt           PtbadAB  PtbadAB PAB   -
    list_budgets           PtbadAB  PtbadAB PAB   -
    list_budget_alerts     PtbadAB  PtbadAB PAB   -
    show_tenant            PtbaAB   PtbaAB  PAB   -
    show_bill              PtbaAB   PtbaAB  -     -
    list_keys              PtadA    PtadA   PA    -
    list_projects          PtadA    PtadA   PA    -
    list_limits            PtadA    PtadA   PA    -
    show_policy_bundle     PtadA    PtadA   PA    -
    list_policy_decisions  PtadA    PtadA   PA    -
    list_routes            -        -       -     PtbadAB
    list_receipt_keys      -        -       -     PtbadAB
    list_tenants           -        -       PAB   -
    list_plans             -        -       PAB   -
    list_price_books       -        -       PAB   -
    show_ledger            -        -       PAB   -
    list_ledger_buckets    -        -       PAB   -
    list_policies          -        -       PA    -
    list_providers         -        -       PA    -
    create_project         Pt       Pt      -     -
    create_key             Pt       Pt      -     -
    revoke_key             Pt       Pt      -     -
    push_policy            Pt       Pt      P     -
    remove_policy          Pt       Pt      P     -
    roll_policy_back       Pt       Pt      P     -
    set_budget             Pt       P       P     -
    remove_budget          Pt       P       P     -
    set_limits             Pt       P       P     -
    remove_limits          Pt       P       P     -
    set_tenant             P        P       -     -
    create_tenant          -        -       P     -
    set_plan               -        -       P     -
    push_price_book        -        -       P     -
    correct_prices         -        -       P     -
    reconcile_ledger       -        -       P     -
    rotate_receipt_key     -        -       P     -
";

/// Whether the table lets `who` do `act` with what is `whose`; `None` if it has no line for the act.
pub fn allows(who: Who<'_>, act: Act, whose: Whose<'_>) -> Option<bool> {
    let line = TABLE.lines().find(|line| line.split_whitespace().next() == Some(act.name()))?;
    let column = match whose {
        Whose::Tenant { part: true, .. } => 1,
        Whose::Tenant { part: false, .. } => 2,
        Whose::Platform => 3,
        Whose::Shared => 4,
    };
    let letters = line.split_whitespace().nth(column)?;
    let beyond = match (who.tenant(), whose) {
        (Some(own), Whose::Tenant { tenant, .. }) => own != tenant,
        (Some(_), Whose::Platform) => true,
        _ => false,
    };
    Some(!beyond && letters.chars().any(|letter| is(letter, who, act)))
}

fn is(letter: char, who: Who<'_>, act: Act) -> bool {
    match who {
        Who::Key { scopes, .. } => {
            letter == 'K'
                || letter == 'k'
                    && match act {
                        Act::Chat => scopes.chat,
                        Act::Embeddings => scopes.embeddings,
                        Act::Models => scopes.models,
                        _ => false,
                    }
        }
        Who::Operator { role, tenant: None } => {
            matches!((letter, role), ('P', Role::PlatformAdmin) | ('B', Role::Billing) | ('A', Role::Auditor))
        }
        Who::Operator { role, tenant: Some(_) } => matches!(
            (letter, role),
            ('t', Role::TenantAdmin) | ('b', Role::Billing) | ('a', Role::Auditor) | ('d', Role::Developer)
        ),
    }
}
