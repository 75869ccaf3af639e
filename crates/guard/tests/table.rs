//! Who may do what, said a second time and in another way: a line for each act, and for each kind of thing the letters of
//! those who may. A slip in one of the two is found by the other.

use tollgate_guard::{Act, Guard, Role, Who, Whose};
use tollgate_types::TenantId;
use tollgate_types::directory::KeyScopes;

/// `k` a key that was made for it, `K` any key · `P` platform-admin · of a tenant: `t` tenant-admin, `b` billing,
/// `a` auditor, `d` developer · of the operator: `B` billing, `A` auditor, `D` developer, `T` tenant-admin · `*` anybody.
/// A line that begins with `!` is for humans alone.
///
/// The columns: a part of the asker's own tenant (or, for the operator's people, of any), that tenant as a whole, the
/// platform's, what all may see. Another tenant's is nobody's but the operator's.
const TABLE: &str = "
    chat                   k        k       -     -
    embeddings             k        k       -     -
    classify               k        k       -     -
    run                    k        k       -     -
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
    list_service_keys      PtaA     PtaA    PA    -
    list_approvals         PtaA     PtaA    PA    -
    list_sessions          -        -       PA    -
    list_audit             PtaA     PtaA    PA    -
    show_audit_entry       PtaA     PtaA    PA    -
    export_audit           PtaA     PtaA    PA    -
    show_audit_checkpoint  -        -       -     PtaA
    show_me                -        -       -     *
    create_service_key     Pt       Pt      P     -
    revoke_service_key     Pt       Pt      P     -
    end_sessions           -        -       P     -
    !break_glass           -        -       PBADT -
    !decide_break_glass    -        -       PA    -
    !decide_approval       Pt       Pt      P     -
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
fn allows(who: Who<'_>, act: Act, whose: Whose<'_>) -> Option<bool> {
    let named = |line: &&str| {
        let name = line.split_whitespace().next();
        name.is_some_and(|name| name.trim_start_matches('!') == act.name())
    };
    let line = TABLE.lines().find(named)?;
    if line.trim_start().starts_with('!') && !matches!(who, Who::Operator { human: true, .. }) {
        return Some(false);
    }
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
                        Act::Embeddings | Act::Classify | Act::Run => scopes.embeddings,
                        Act::Models => scopes.models,
                        _ => false,
                    }
        }
        Who::Operator { .. } if letter == '*' => true,
        Who::Operator { role, tenant: None, .. } => matches!(
            (letter, role),
            ('P', Role::PlatformAdmin)
                | ('B', Role::Billing)
                | ('A', Role::Auditor)
                | ('D', Role::Developer)
                | ('T', Role::TenantAdmin)
        ),
        Who::Operator { role, tenant: Some(_), .. } => matches!(
            (letter, role),
            ('t', Role::TenantAdmin) | ('b', Role::Billing) | ('a', Role::Auditor) | ('d', Role::Developer)
        ),
    }
}

pub fn tenant(name: &str) -> TenantId {
    name.parse().expect("a slug")
}

/// Everybody who can ask, of a tenant's or of none.
pub fn everybody(own: &TenantId) -> Vec<Who<'_>> {
    let flags = [false, true];
    let scopes = flags.iter().flat_map(|chat| flags.iter().map(move |embeddings| (*chat, *embeddings)));
    let scopes = scopes.flat_map(|(chat, embeddings)| flags.map(|models| KeyScopes { chat, embeddings, models }));
    let keys = scopes.map(|scopes| Who::Key { tenant: own, scopes });
    let machines = Role::ALL
        .iter()
        .flat_map(|role| [None, Some(own)].map(|tenant| Who::Operator { role: *role, tenant, human: false }));
    let people = Role::ALL
        .iter()
        .flat_map(|role| [None, Some(own)].map(|tenant| Who::Operator { role: *role, tenant, human: true }));
    let people = machines.chain(people);
    keys.chain(people).collect()
}

pub fn everything<'a>(own: &'a TenantId, other: &'a TenantId) -> Vec<Whose<'a>> {
    let rooms = [own, other].into_iter().flat_map(|tenant| [true, false].map(|part| Whose::Tenant { tenant, part }));
    rooms.chain([Whose::Platform, Whose::Shared]).collect()
}

/// Cases in which a guard and the table differ.
pub fn differences(guard: &Guard) -> Vec<String> {
    let (own, other) = (tenant("own"), tenant("other"));
    let mut differences = Vec::new();
    let mut cases = 0;
    for who in everybody(&own) {
        for act in Act::ALL {
            for whose in everything(&own, &other) {
                let expected = allows(who, *act, whose);
                let expected = expected.unwrap_or_else(|| panic!("the table has no line for {}", act.name()));
                if guard.allows(who, *act, whose) != expected {
                    differences.push(format!("{who:?} {} {whose:?}: the table says {expected}", act.name()));
                }
                cases += 1;
            }
        }
    }
    assert_eq!(cases, (8 + 20) * Act::ALL.len() * 6, "every case");
    differences
}
