//! What the tenant's policies say of a call, and the obligations that deciding alone can carry out: which model, where, how
//! long an answer. The rest is for the pipeline, in [`Judged::obligations`].

use std::sync::Arc;

use tollgate_policy::obligations::{MaxTokens, Over};
use tollgate_policy::question::Moment;
use tollgate_policy::redact::Redactor;
use tollgate_policy::{Decision, Fingerprint, Layers, Obligations, Question};
use tollgate_types::{Call, EndUserId, Refusal, Surface, Timestamp};

use crate::{Admission, Principal, Target};

/// A call that may pass, as its policies let it.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Who let it, and how. `None`: no policy is in force for this tenant.
    by: Option<(Arc<Layers>, Arc<Decision>)>,
}

/// What policies are told of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    pub surface: Surface,
    pub stream: bool,
    pub input_bytes: u64,
    /// Output tokens of each answer, as asked.
    pub max_tokens: Option<u64>,
    pub choices: u64,
    pub images: u64,
}

// === impl Facts ===

impl Facts {
    pub fn of(call: &Call<'_>) -> Self {
        Self {
            surface: call.surface,
            stream: call.stream,
            input_bytes: call.input_bytes,
            max_tokens: call.output_limit.tokens(),
            choices: call.choices,
            images: call.images,
        }
    }
}

// === impl Judged ===

impl Judged {
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.by.as_ref().map(|(layers, _)| layers.fingerprint)
    }

    /// What is still to be done.
    pub fn obligations(&self) -> &Obligations {
        static NONE: Obligations = Obligations::NONE;
        match self.by.as_ref().map(|(_, decision)| &**decision) {
            Some(Decision::Allowed(obligations)) => obligations,
            Some(Decision::Denied(_)) | None => &NONE,
        }
    }

    /// Output tokens of each answer at most.
    pub fn output_max(&self) -> Option<u64> {
        self.obligations().max_tokens.map(|max| max.limit)
    }

    /// Whether what was said of a fallback is the same: then it may be asked in the same shape.
    pub fn is_as_for(&self, other: &Result<Self, Refusal>) -> bool {
        other.as_ref().is_ok_and(|other| other.obligations() == self.obligations())
    }

    /// What takes out of the request what the provider must not see.
    pub fn redactor(&self) -> Result<Option<Arc<Redactor>>, Refusal> {
        let Some((layers, _)) = &self.by else { return Ok(None) };
        layers.redactor(&self.obligations().redact).map_err(|why| denied(format!("the policy did not decide: {why}")))
    }
}

impl Admission {
    /// Asks the tenant's policies of now, whatever they were when it was let in.
    pub fn judge(
        &self,
        principal: &Principal,
        call: &Call<'_>,
        target: &Target,
        end_user: Option<EndUserId>,
    ) -> Result<Judged, Refusal> {
        // A key that was revoked meanwhile is not found: what was let in is served, by the policies it was let in under.
        let now = self.index.load().by_digest(&principal.digest);
        let layers = now.as_deref().map_or(&principal.policy, |principal| &principal.policy);
        let layers = match &target.law {
            Some(law) => layers.with_template(law),
            None => Arc::clone(layers),
        };
        judge(layers, principal, call, target, end_user, self.clock.now())
    }
}

fn judge(
    layers: Arc<Layers>,
    principal: &Principal,
    call: &Call<'_>,
    target: &Target,
    end_user: Option<EndUserId>,
    now: Timestamp,
) -> Result<Judged, Refusal> {
    if layers.is_empty() {
        return Ok(Judged::default());
    }
    let end_user = end_user.map(|user| user.to_string());
    let moment = layers.fields.reads_time().then(|| moment(principal, now));
    let question = question(principal, &Facts::of(call), target, end_user.as_deref(), moment);
    let decision = layers.decide(&question).map_err(|(layer, why)| {
        let reason = format!("the {}'s policy: {why}", layer.name());
        Refusal::PolicyDenied { reason, layer: Some(layer.name()) }
    })?;
    let obligations = match &*decision {
        Decision::Allowed(obligations) => obligations,
        Decision::Denied(denial) => {
            return Err(Refusal::PolicyDenied { reason: denial.to_string(), layer: Some(denial.layer.name()) });
        }
    };
    if !obligations.allows_model(&target.route) {
        return Err(denied(format!("the policy does not allow the model '{}'", target.route)));
    }
    if !obligations.allows_region(target.region.as_deref()) {
        return Err(denied(format!("the policy does not allow the region in which '{}' is answered", target.route)));
    }
    if obligations.second_approval {
        return Err(denied("the policy asks for a second person's approval, which cannot be given here".to_owned()));
    }
    if let Some(max) = obligations.max_tokens
        && call.surface == Surface::Chat
    {
        check_output(call, max)?;
    }
    Ok(Judged { by: Some((layers, decision)) })
}

fn denied(reason: String) -> Refusal {
    Refusal::PolicyDenied { reason, layer: None }
}

/// Whether the call may be shortened to what the policy allows, where it asks for more.
fn check_output(call: &Call<'_>, max: MaxTokens) -> Result<(), Refusal> {
    let over = call.output_limit.tokens().is_some_and(|tokens| tokens > max.limit);
    if over && max.over == Over::Refuse {
        return Err(denied(format!("the policy allows at most {} output tokens; ask for fewer", max.limit)));
    }
    if max.limit == 0 { Err(denied("the policy allows no output tokens".to_owned())) } else { Ok(()) }
}

/// What is asked of a request, beside who asks and whom.
pub fn question<'a>(
    principal: &'a Principal,
    facts: &Facts,
    target: &'a Target,
    end_user: Option<&'a str>,
    moment: Option<Moment>,
) -> Question<'a> {
    let Facts { surface, stream, input_bytes, max_tokens, choices, images } = *facts;
    Question {
        tenant: principal.tenant.as_str(),
        plan: principal.plan.id.as_str(),
        project: principal.project.as_str(),
        key: principal.key.as_str(),
        end_user,
        surface: surface.name(),
        route: &target.route,
        model: &target.model,
        provider: &target.provider,
        region: target.region.as_deref(),
        stream,
        input_bytes,
        max_tokens,
        choices,
        images,
        moment,
    }
}

pub fn moment(principal: &Principal, now: Timestamp) -> Moment {
    let civil = principal.zone.civil(now);
    Moment { utc: now.to_string(), date: civil.date, hour: civil.hour, weekday: civil.weekday }
}
