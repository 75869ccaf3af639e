//! What a tenant takes of memory, part by part: of a store as it lies on the disk, without a server around it. What the
//! whole process takes is `make scale`'s to say.
//!
//! ```sh
//! cargo run --profile profiling -p tollgate-gateway --example memory -- DIR MASTER_KEY_FILE
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use tollgate_admission::{Index, Laws};
use tollgate_store::vault::{MasterKey, Vault};
use tollgate_store::{snapshot, store};
use tollgate_types::ids;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// What the allocator has given out, each block as large as it really is.
fn in_use() -> f64 {
    regorus::flush_thread_memory_counters();
    regorus_mimalloc::global_allocation_stats_snapshot().allocated as f64
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, master_key] = arguments.as_slice() else {
        return Err("usage: memory DIR MASTER_KEY_FILE".into());
    };
    let layout = store::Layout::of(Path::new(dir));
    let master_key = MasterKey::from_hex(&std::fs::read_to_string(master_key)?)?;
    ids::sharing(|| parts(&layout, master_key))
}

fn parts(layout: &store::Layout, master_key: MasterKey) -> Result<()> {
    let nothing = in_use();
    let vault = Vault::open(&layout.keys, Box::new(master_key))?;
    let with_vault = in_use();
    let state = snapshot::latest(&layout.snapshots);
    let (tenants, keys) = (state.directory.tenants.len(), state.directory.keys.len());
    let index = Index::under(&state.directory, &Index::default(), Arc::new(Laws::default()));
    let with_all = in_use();
    drop(state.ledger);
    let without_ledger = in_use();
    drop(index);
    let without_index = in_use();
    drop(state.directory);
    let without_directory = in_use();
    drop(vault);

    println!("{tenants} tenants with {keys} keys; bytes a tenant, its keys included");
    let per = |what: &str, bytes: f64| println!("{what:<10} {:>8.0}", bytes / tenants.max(1) as f64);
    per("data keys", with_vault - nothing);
    per("ledger", with_all - without_ledger);
    per("index", without_ledger - without_index);
    per("directory", without_index - without_directory);
    per("all", with_all - nothing);
    Ok(())
}
