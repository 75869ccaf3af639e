//! Policy bundles between the store's files and admission: read, verified, compiled, tested. Which one is in force for whom
//! the directory says.

use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tollgate_admission::Laws;
use tollgate_policy::signature::{self, VerifyingKey};
use tollgate_policy::trial::{Outcome, Trial};
use tollgate_policy::{Bundle, Law, archive, folder};
use tollgate_store::store::Layout;
use tollgate_types::directory::Directory;
use tollgate_types::hex;

use crate::digest::sha256;

/// A bundle from outside: signed, if a key is configured; compiled; and its own tests, if it has any, pass. The error is for
/// whoever sent it.
pub fn tested(bytes: &[u8], key: Option<&VerifyingKey>) -> Result<Law, String> {
    let files = archive::unpack(bytes).map_err(|error| error.to_string())?;
    if let Some(key) = key {
        signature::verify(&files, key).map_err(|error| error.to_string())?;
    }
    let bundle = Bundle::from_files(&files).map_err(|error| error.to_string())?;
    passing(&bundle)
}

fn passing(bundle: &Bundle) -> Result<Law, String> {
    let law = Law::compile(bundle).map_err(|error| error.to_string())?;
    let trial = Trial::of(bundle).map_err(|error| error.to_string())?;
    let failed = trial.tests.iter().filter(|test| test.outcome != Outcome::Passed);
    let names: Vec<&str> = failed.map(|test| test.name.as_str()).collect();
    match names.as_slice() {
        [] => Ok(law),
        names => Err(format!("these tests of the bundle do not pass: {}", names.join(", "))),
    }
}

/// The bundle in a folder, whose own tests, if it has any, pass.
pub fn in_folder(dir: &Path) -> Result<Law, String> {
    let bundle = folder::bundle(dir).map_err(|error| error.to_string())?;
    passing(&bundle)
}

/// A bundle that this store keeps.
pub fn kept(dir: &Path, digest: &[u8; 32]) -> Result<Law, String> {
    let path = file(dir, digest);
    let wrong = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
    let bytes = std::fs::read(&path).map_err(|error| wrong(&error))?;
    if sha256(&[&bytes]) != *digest {
        return Err(wrong(&"it is not what was pushed; put it back from a backup, or push the policy again"));
    }
    let bundle = Bundle::from_archive(&bytes).map_err(|error| wrong(&error))?;
    Law::compile(&bundle).map_err(|error| wrong(&error))
}

/// All bundles that are in force, from the store's files.
pub fn all(directory: &Directory, dir: &Path) -> Result<Laws, String> {
    let mut laws = Laws::new();
    for digest in directory.policies_in_force() {
        if let Entry::Vacant(place) = laws.entry(digest) {
            place.insert(Arc::new(kept(dir, &digest)?));
        }
    }
    Ok(laws)
}

/// The bundles in force, of those that were and a new one.
pub fn in_force(directory: &Directory, before: &Laws, new: Option<([u8; 32], Law)>) -> Arc<Laws> {
    let mut known = before.clone();
    if let Some((digest, law)) = new {
        known.entry(digest).or_insert_with(|| Arc::new(law));
    }
    let wanted = directory.policies_in_force();
    Arc::new(wanted.filter_map(|digest| Some((digest, Arc::clone(known.get(&digest)?)))).collect())
}

pub fn file(dir: &Path, digest: &[u8; 32]) -> PathBuf {
    Layout::of(dir).policies.join(format!("{}.tar.gz", hex(digest)))
}
