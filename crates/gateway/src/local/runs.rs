//! A run: texts that a template made of its inputs, each answered once. What was answered before is given again, what is
//! being answered for the same tenant is waited for, and only the rest is worked on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tollgate_policy::Obligations;
use tollgate_types::refusal::ProviderFaultKind;
use tollgate_types::{Refusal, Timestamp};

use super::cache::{Guard, Kept, Key, Room};
use super::work::{Caller, Classified, Stopped};
use super::{Job, Local};
use crate::pipeline::{Underway, fault};
use crate::runtimes::words;

/// How much of a run's answers came from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// Nothing was worked on.
    Hit,
    Miss,
    /// Nothing was looked for, and nothing is kept.
    Bypass,
}

/// A run's answers, one for each text.
#[derive(Debug)]
pub struct Answers {
    pub of: Vec<Arc<Kept>>,
    /// Whether each was there already.
    pub cached: Vec<bool>,
    /// Tokens of those that were there, counted without a tokenizer.
    pub cached_tokens: u64,
    pub outcome: Cached,
}

/// How long an answer may be given again; `None`: nothing is kept or looked for.
pub fn time_to_live(local: &Local, obligations: &Obligations) -> Option<Duration> {
    let own = local.template.as_ref().map_or(0, |template| template.manifest.cache.ttl_seconds);
    let allowed = obligations.cache.map_or(u64::MAX, |cache| cache.ttl_seconds);
    let kept_at_all = obligations.retention_days != Some(0);
    let seconds = if kept_at_all { own.min(allowed) } else { 0 };
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// Answers every text.
pub(super) async fn answers(job: &mut Job, texts: &[String], caller: &mut Caller) -> Result<Answers, Stopped> {
    let (under_way, local) = (&job.under_way, &job.local);
    let keys = job.work.measured(|| keys(under_way, local, texts))?;
    // In the order of keys: of two runs that wait for each other's texts one would otherwise wait for ever.
    let first: BTreeMap<Key, usize> = keys.iter().enumerate().rev().map(|(number, key)| (*key, number)).collect();
    let kept_for = job.kept_for;
    let room = kept_for.map(|_| {
        let app = &job.under_way.app;
        app.run_cache.room(&job.under_way.principal.tenant, app.clock().steady())
    });
    let mut found: BTreeMap<Key, Arc<Kept>> = BTreeMap::new();
    let mut made: Vec<(Key, Option<Guard<'_>>)> = Vec::new();
    for key in first.keys() {
        let Some((room, kept_for)) = room.as_deref().zip(kept_for) else {
            made.push((*key, None));
            continue;
        };
        match look(job, room, *key, kept_for, caller).await? {
            Looked::Found(kept) => drop(found.insert(*key, kept)),
            Looked::ToBeMade(guard) => made.push((*key, Some(guard))),
        }
    }
    let cached: Vec<bool> = keys.iter().map(|key| found.contains_key(key)).collect();
    let cached_tokens =
        texts.iter().zip(&cached).filter(|(_, cached)| **cached).map(|(text, _)| u64::from(words(text)));
    let cached_tokens = cached_tokens.sum();
    let outcome = match (kept_for, made.is_empty()) {
        (None, _) => Cached::Bypass,
        (Some(_), true) => Cached::Hit,
        (Some(_), false) => Cached::Miss,
    };
    if !made.is_empty() {
        let asked: Vec<String> = made.iter().map(|(key, _)| texts[first[key]].clone()).collect();
        let Classified { probabilities, stages, makeshift } = job.labels(&asked, true, caller).await?;
        let at = job.under_way.app.clock().steady();
        let answers = probabilities.into_iter().zip(stages).zip(makeshift);
        for ((key, guard), ((probabilities, stage), makeshift)) in made.into_iter().zip(answers) {
            let kept = Arc::new(Kept { probabilities, stage, at });
            // What was said because nobody better had time is not to be said for an hour.
            if let Some(guard) = guard.filter(|_| !makeshift) {
                // Where its place was given to others meanwhile it is not kept.
                let _ = guard.insert(Arc::clone(&kept));
            }
            found.insert(key, kept);
        }
    }
    let of = keys.iter().filter_map(|key| found.get(key).cloned()).collect();
    Ok(Answers { of, cached, cached_tokens, outcome })
}

enum Looked<'a> {
    Found(Arc<Kept>),
    ToBeMade(Guard<'a>),
}

/// Looks for an answer, and waits for whoever makes it.
async fn look<'a>(
    job: &Job,
    room: &'a Room,
    key: Key,
    kept_for: Duration,
    caller: &mut Caller,
) -> Result<Looked<'a>, Stopped> {
    loop {
        let found = tokio::select! {
            found = room.get_value_or_guard_async(&key) => found,
            () = caller.gone() => return Err(Stopped::Gone),
            () = tokio::time::sleep(job.work.patience_left()) => {
                let kind = ProviderFaultKind::Timeout("answer before the deadline");
                return Err(fault(&job.under_way.route, kind, None).into());
            }
        };
        match found {
            Ok(kept) if is_fresh(&kept, kept_for, job.under_way.app.clock().steady()) => {
                return Ok(Looked::Found(kept));
            }
            Ok(kept) => drop(room.remove_if(&key, |now| Arc::ptr_eq(now, &kept))),
            Err(guard) => return Ok(Looked::ToBeMade(guard)),
        }
    }
}

fn is_fresh(kept: &Kept, kept_for: Duration, now: Timestamp) -> bool {
    now < kept.at.plus(kept_for)
}

/// What each answer depends on, and whom it is for: another policy, template, model, project or user has another key.
fn keys(under_way: &Underway, local: &Local, texts: &[String]) -> Result<Vec<Key>, Refusal> {
    let policy = under_way.judged.fingerprint().map(|fingerprint| fingerprint.to_string()).unwrap_or_default();
    let user = under_way.end_user.map(|user| user.to_string()).unwrap_or_default();
    let project = under_way.principal.project.as_str();
    let purpose = format!("run\n{}\n{policy}\n{project}\n{user}", local.identity);
    let key = |text: &String| {
        under_way.app.vault.keyed(&under_way.principal.tenant, &purpose, text.as_bytes()).map_err(|error| {
            tracing::error!(%error, tenant = %under_way.principal.tenant, "an answer cannot be named");
            Refusal::LedgerUnavailable
        })
    };
    texts.iter().map(key).collect()
}
