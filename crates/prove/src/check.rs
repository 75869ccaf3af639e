//! Drives the checker: every state within the bounds, or the shortest way to one violation. What is checked is the
//! models', what is made of the result is `report.rs`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use stateright::report::{ReportData, ReportDiscovery, Reporter};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// What a check over all states found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Different states that were reached.
    pub states: usize,
    /// Length of the longest of the shortest ways to a state.
    pub depth: usize,
    pub took: Duration,
    pub violations: Vec<Violation>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub property: &'static str,
    /// The actions that lead there; `None` if the property says that something can happen, and nothing led to it.
    pub path: Option<Vec<String>>,
}

/// Tells how far the search is. Gets what was reached so far and the depth; called about once a second.
pub type Progress<'a> = &'a mut (dyn FnMut(usize, usize) + Send);

/// Whether nothing can happen any more. Every path ends so: each action uses up something that does not come back.
pub fn is_at_rest<M: Model>(model: &M, state: &M::State) -> bool {
    let mut actions = Vec::new();
    model.actions(state, &mut actions);
    actions.into_iter().all(|action| model.next_state(state, action).is_none())
}

/// Visits every state.
pub fn exhaustively<M>(model: M, threads: usize, progress: Progress<'_>) -> Checked
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let mut watch = Watch { progress, waited: Duration::ZERO, took: Duration::ZERO };
    // `All` never comes to pass while something is fine, so that the search goes on to the last state.
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::All).spawn_bfs();
    let checker = checker.join_and_report(&mut watch);
    let mut discoveries = checker.discoveries();
    let properties = checker.model().properties();
    let violations = properties.into_iter().filter_map(|property| {
        let found = discoveries.remove(property.name);
        match (property.expectation, found) {
            (Expectation::Sometimes, None) => Some(Violation { property: property.name, path: None }),
            (Expectation::Sometimes, Some(_)) | (_, None) => None,
            (_, Some(path)) => Some(Violation { property: property.name, path: Some(steps(path.into_actions())) }),
        }
    });
    Checked {
        violations: violations.collect(),
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took: watch.took,
    }
}

/// The names of what must hold in every state.
pub fn always<M: Model>(model: &M) -> Vec<&'static str> {
    let properties = model.properties().into_iter();
    properties.filter(|property| property.expectation == Expectation::Always).map(|property| property.name).collect()
}

/// The shortest way to a violation of this property, or `None` if there is no way within the bounds. One thread, because
/// two could find a longer way first.
pub fn violation<M>(model: M, property: &'static str) -> Option<Vec<String>>
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let enough = HasDiscoveries::AnyOf(BTreeSet::from([property]));
    let checker = model.checker().threads(1).finish_when(enough).spawn_bfs().join();
    checker.discovery(property).map(|path| steps(path.into_actions()))
}

fn steps<A: Debug>(actions: Vec<A>) -> Vec<String> {
    actions.iter().map(|action| format!("{action:?}")).collect()
}

struct Watch<'a> {
    progress: Progress<'a>,
    /// Since progress was last told.
    waited: Duration,
    took: Duration,
}

// === impl Watch ===

/// How often the checker looks whether it is done; short checks should not wait for that.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const TELL_EVERY: Duration = Duration::from_secs(1);

impl<M: Model> Reporter<M> for Watch<'_> {
    fn report_checking(&mut self, data: ReportData) {
        self.took = data.duration;
        self.waited += LOOK_EVERY;
        if self.waited >= TELL_EVERY {
            self.waited = Duration::ZERO;
            (self.progress)(data.unique_states, data.max_depth);
        }
    }

    fn report_discoveries(&mut self, _model: &M, _discoveries: BTreeMap<&'static str, ReportDiscovery<M>>)
    where
        M::Action: Debug + PartialEq,
        M::State: Debug + Hash + PartialEq,
    {
    }

    fn delay(&self) -> Duration {
        LOOK_EVERY
    }
}
