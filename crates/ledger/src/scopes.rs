//! Every scope's accounts, each at a place of its own: found by name once, and by number from then on.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use serde::de::{SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tollgate_types::Scope;

use crate::account::ScopeAccounts;

/// So many places are made room for on the word of what is read, before they are there.
const PLACES_TOLD_MAX: usize = 1 << 20;

/// Where a scope's accounts are.
pub(crate) type Slot = u32;

#[derive(Clone, Debug, Default)]
pub(crate) struct Scopes {
    /// By the names of their scopes, which stand in the places alone.
    slots: HashTable<Slot>,
    hasher: RandomState,
    /// `None` where a scope was forgotten; its place is used again.
    places: Vec<Option<(Scope, ScopeAccounts)>>,
    free: Vec<Slot>,
}

// === impl Scopes ===

impl Scopes {
    pub fn slot(&self, scope: &Scope) -> Option<Slot> {
        self.slots.find(self.hasher.hash_one(scope), |slot| self.name(*slot) == Some(scope)).copied()
    }

    pub fn slot_or_new(&mut self, scope: &Scope) -> Slot {
        if let Some(slot) = self.slot(scope) {
            return slot;
        }
        let place = Some((scope.clone(), ScopeAccounts::default()));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.places[slot as usize] = place;
                slot
            }
            None => {
                self.places.push(place);
                Slot::try_from(self.places.len() - 1).expect("four billion scopes do not fit into memory")
            }
        };
        self.note(slot);
        slot
    }

    /// Has a place found by the name that stands in it.
    fn note(&mut self, slot: Slot) {
        let Self { slots, places, hasher, .. } = self;
        let hash = |slot: &Slot| {
            let (scope, _) = places[*slot as usize].as_ref().expect("only places that are used are noted");
            hasher.hash_one(scope)
        };
        slots.insert_unique(hash(&slot), slot, hash);
    }

    pub fn get(&self, slot: Slot) -> Option<&ScopeAccounts> {
        self.places.get(slot as usize)?.as_ref().map(|(_, accounts)| accounts)
    }

    pub fn get_mut(&mut self, slot: Slot) -> Option<&mut ScopeAccounts> {
        self.places.get_mut(slot as usize)?.as_mut().map(|(_, accounts)| accounts)
    }

    pub fn name(&self, slot: Slot) -> Option<&Scope> {
        self.places.get(slot as usize)?.as_ref().map(|(scope, _)| scope)
    }

    pub fn named(&self, scope: &Scope) -> Option<&ScopeAccounts> {
        self.get(self.slot(scope)?)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Scope, &ScopeAccounts)> {
        self.places.iter().flatten().map(|(scope, accounts)| (scope, accounts))
    }

    /// How many places there are, used or not.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    pub fn forget(&mut self, slot: Slot) {
        let Some(scope) = self.name(slot) else { return };
        if let Ok(noted) = self.slots.find_entry(self.hasher.hash_one(scope), |other| *other == slot) {
            noted.remove();
        }
        self.places[slot as usize] = None;
        self.free.push(slot);
    }
}

/// The places in their order, so that numbers mean the same after they were read again.
impl Serialize for Scopes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut places = serializer.serialize_seq(Some(self.places.len()))?;
        for place in &self.places {
            places.serialize_element(place)?;
        }
        places.end()
    }
}

impl<'de> Deserialize<'de> for Scopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Places;
        impl<'de> Visitor<'de> for Places {
            type Value = Scopes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the places of scopes")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scopes, A::Error> {
                let mut scopes = Scopes::default();
                scopes.places.reserve_exact(seq.size_hint().unwrap_or(0).min(PLACES_TOLD_MAX));
                while let Some(place) = seq.next_element::<Option<(Scope, ScopeAccounts)>>()? {
                    let slot = Slot::try_from(scopes.places.len()).map_err(serde::de::Error::custom)?;
                    let is_used = place.is_some();
                    scopes.places.push(place);
                    if is_used {
                        scopes.note(slot);
                    } else {
                        scopes.free.push(slot);
                    }
                }
                scopes.places.shrink_to_fit();
                Ok(scopes)
            }
        }
        deserializer.deserialize_seq(Places)
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::Error;

    use super::*;

    #[test]
    fn what_is_no_list_of_places_is_refused_with_what_was_expected() {
        let read = Scopes::deserialize(IntoDeserializer::<Error>::into_deserializer(7_u32));
        let refused = read.expect_err("a number is no list");
        assert_eq!(refused.to_string(), "invalid type: integer `7`, expected the places of scopes");
    }
}
