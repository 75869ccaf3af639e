//! Platform, plan, tenant and, for a run of one, template: each has its say, and a lower one can only narrow. A request passes if every layer that has a
//! bundle lets it pass, with the obligations of all of them.
//!
//! Where no layer reads the clock, what was decided is remembered: by all that the bundles can read, and nothing else.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;

use crate::fingerprint::{Digest, Fingerprint};
use crate::law::{Law, Undecided, Verdict};
use crate::obligations::{Obligations, Redaction};
use crate::question::{Fields, Question};
use crate::redact::Redactor;

/// More are not remembered: who asks so many different things gains little by it. All are forgotten then.
const REMEMBERED_MAX: usize = 4_096;
/// A longer question is not remembered either.
const KEY_BYTES_MAX: usize = 1_024;

/// Whose bundle it is. Widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    Platform,
    Plan,
    Tenant,
    /// A use case's own, which comes with it.
    Template,
}

/// The bundles that a tenant's requests fall under.
#[derive(Debug)]
pub struct Layers {
    /// `None`: there is to be a bundle, and it is not there.
    laws: Vec<(Layer, Option<Arc<Law>>)>,
    pub fingerprint: Fingerprint,
    pub fields: Fields,
    remembered: Mutex<HashMap<Box<[u8]>, Arc<Decision>, RandomState>>,
    /// Patterns that were asked for: to compile them takes longer than to decide.
    redactors: Mutex<BTreeMap<BTreeSet<Redaction>, Arc<Redactor>>>,
    /// These and a template's, for those that were asked for.
    with_templates: Mutex<Vec<(Arc<Law>, Arc<Layers>)>>,
}

/// What all layers together say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allowed(Obligations),
    Denied(Denial),
}

/// More different sets of patterns are not kept.
const REDACTORS_MAX: usize = 64;
/// The same of templates.
const TEMPLATES_MAX: usize = 64;

/// Whose bundle refuses, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub layer: Layer,
    /// None: no rule of it allows the request.
    pub reasons: Vec<String>,
}

// === impl Layer ===

impl Layer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Plan => "plan",
            Self::Tenant => "tenant",
            Self::Template => "template",
        }
    }
}

// === impl Denial ===

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reasons.as_slice() {
            [] => write!(f, "no rule of the {}'s policy allows it", self.layer.name()),
            reasons => write!(f, "the {}'s policy says: {}", self.layer.name(), reasons.join("; ")),
        }
    }
}

// === impl Layers ===

/// Nobody has a say.
impl Default for Layers {
    fn default() -> Self {
        Self::new(None::<(Layer, Arc<Law>)>)
    }
}

impl Layers {
    /// In any order; of each layer one.
    pub fn new<L: Into<Option<Arc<Law>>>>(laws: impl IntoIterator<Item = (Layer, L)>) -> Self {
        let mut laws: Vec<_> = laws.into_iter().map(|(layer, law)| (layer, law.into())).collect();
        laws.sort_by_key(|(layer, _)| *layer);
        let mut digest = Digest::new("tollgate layers 1");
        let mut fields = Fields::NONE;
        for (layer, law) in &laws {
            digest.add(layer.name().as_bytes());
            digest.add(law.as_ref().map_or(&[], |law| &law.fingerprint.0));
            fields = fields.union(law.as_ref().map_or(Fields::NONE, |law| law.fields));
        }
        Self {
            laws,
            fingerprint: digest.finish(),
            fields,
            remembered: Mutex::default(),
            redactors: Mutex::default(),
            with_templates: Mutex::default(),
        }
    }

    /// These, and a template's below them. Made once, so that what they decide is remembered.
    pub fn with_template(&self, law: &Arc<Law>) -> Arc<Self> {
        let mut known = self.with_templates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, layers)) = known.iter().find(|(of, _)| Arc::ptr_eq(of, law)) {
            return Arc::clone(layers);
        }
        let template = (Layer::Template, Some(Arc::clone(law)));
        let layers = Arc::new(Self::new(self.laws.iter().cloned().chain([template])));
        if known.len() >= TEMPLATES_MAX {
            // Of templates that were loaded anew the old ones are never asked for again.
            known.clear();
        }
        known.push((Arc::clone(law), Arc::clone(&layers)));
        layers
    }

    /// Whether anybody has a say at all.
    pub fn is_empty(&self) -> bool {
        self.laws.is_empty()
    }

    /// What the layers say of a question. An error is a refusal: nobody said yes.
    pub fn decide(&self, question: &Question<'_>) -> Result<Arc<Decision>, (Layer, Undecided)> {
        if self.fields.reads_time() {
            return self.ask(question).map(Arc::new);
        }
        let mut key = Vec::with_capacity(256);
        question.key(self.fields, &mut key);
        if let Some(decision) = self.lock().get(key.as_slice()) {
            return Ok(Arc::clone(decision));
        }
        let decision = Arc::new(self.ask(question)?);
        if key.len() <= KEY_BYTES_MAX {
            let mut remembered = self.lock();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(key.into_boxed_slice(), Arc::clone(&decision));
        }
        Ok(decision)
    }

    fn ask(&self, question: &Question<'_>) -> Result<Decision, (Layer, Undecided)> {
        let mut together = Obligations::default();
        for (layer, law) in &self.laws {
            let law = law.as_ref().ok_or_else(|| (*layer, Undecided("its bundle is not there".to_owned())))?;
            match law.decide(question).map_err(|undecided| (*layer, undecided))? {
                Verdict::Allowed(obligations) => {
                    // Patterns that cannot be looked for are noticed here, whose they are.
                    self.redactor(&obligations.redact).map_err(|why| (*layer, Undecided(why)))?;
                    together = together.and(obligations);
                }
                Verdict::Denied(reasons) => return Ok(Decision::Denied(Denial { layer: *layer, reasons })),
            }
        }
        Ok(Decision::Allowed(together))
    }

    /// What looks for these patterns; `None` where there are none.
    pub fn redactor(&self, redact: &BTreeSet<Redaction>) -> Result<Option<Arc<Redactor>>, String> {
        if redact.is_empty() {
            return Ok(None);
        }
        let mut redactors = self.redactors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(redactor) = redactors.get(redact) {
            return Ok(Some(Arc::clone(redactor)));
        }
        let redactor = Arc::new(Redactor::new(redact)?);
        if redactors.len() >= REDACTORS_MAX {
            redactors.clear();
        }
        redactors.insert(redact.clone(), Arc::clone(&redactor));
        Ok(Some(redactor))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<[u8]>, Arc<Decision>, RandomState>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
