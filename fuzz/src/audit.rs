//! What auditors are handed: checkpoints, keys, entries, a tenant's proof. Nothing passes that was not signed, what is taken reads
//! back as it was written, and what is erased can only be written in one way.

use tollgate_audit::heads::Told;
use tollgate_audit::note::{Checkpoint, Signer, Verifier};
use tollgate_audit::tree::leaf_hash;
use tollgate_audit::view::verify_view;

use crate::Target;

pub const TARGET: Target = Target {
    name: "audit",
    check: check_audit,
    seeds: &[
        "tests/audit\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "tests/audit\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n— tests/audit AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        "tests/audit+34fb55d8+Acwy/oeGosu9FUhmGj9cEoME+Ers43wgnM8a19HA8nQP",
        r#"{"n":3,"at":"2026-11-27T12:00:00Z","kind":"request.admitted","tenant":"demo","prev":1,"request":"req_00000000000000000000000000000007","salt":"00"}"#,
        r#"{"n":3,"tenant":"demo","prev":1,"erased":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}"#,
        "\"tests/audit\\n1\\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\\n\\n— tests/audit AAAA\\n\"\n{\"entry\":\"{\\\"n\\\":0,\\\"tenant\\\":\\\"demo\\\",\\\"prev\\\":null}\",\"path\":[]}\n",
    ],
    words: &[
        "\n\n",
        "\n— ",
        "tests/audit",
        "+",
        "0",
        "18446744073709551615",
        "\"prev\":null",
        "\"erased\":\"\"",
        "\"n\":0",
        "AAAA",
        "=",
    ],
    takes_noise: true,
};

pub fn check_audit(data: &[u8]) {
    // It has signed nothing, and never will.
    let own = Signer::new("tests/audit", &[7; 32]).verifier();
    let demo = "demo".parse().expect("a slug");
    assert!(verify_view(data, &demo, Some(&own)).is_err(), "nothing was signed");
    if let Ok(report) = verify_view(data, &demo, None) {
        assert!(!report.signature_checked && report.erased <= report.entries);
    }
    entry(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(own.checkpoint(text).is_err(), "nothing was signed");
    if let Ok(checkpoint) = Checkpoint::parse(text) {
        assert_eq!(Checkpoint::parse(&checkpoint.text()).ok(), Some(checkpoint), "it reads as it was written");
    }
    if let Ok(verifier) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(&verifier.to_string()).ok(), Some(verifier), "it reads as it was written");
    }
}

fn entry(line: &[u8]) {
    let Ok(told) = Told::parse(line) else { return };
    match (&told.erased, told.leaf(line)) {
        (Some(_), Some(left)) => assert_eq!(told.stub(&left).as_bytes(), line, "it is written in one way"),
        (Some(_), None) => panic!("an erased entry has left its hash"),
        (None, leaf) => assert_eq!(leaf, Some(leaf_hash(line))),
    }
}
