//! Checkpoints: ours are read by somebody else's program, and strangers' are refused.

use proptest::prelude::*;
use tollgate_audit::note::{Checkpoint, Note, NoteError, Signer, Verifier, origin};

use crate::books::{Log, all_kinds, signer};

#[test]
fn the_rival_reads_our_checkpoints() {
    let log = Log::of(&all_kinds());
    let note = log.checkpoint(&signer());
    let text = Note::parse(&note).expect("a note").text;
    let theirs = tlog_tiles::Checkpoint::from_bytes(text.as_bytes()).expect("a checkpoint");
    let ours = signer().verifier().checkpoint(&note).expect("signed");
    assert_eq!((theirs.origin(), theirs.size(), theirs.hash().0), (ours.origin.as_str(), ours.size, ours.root));
    assert_eq!(theirs.to_bytes(), text.as_bytes());
    assert_eq!((ours.size, ours.root), (log.frontier.size(), log.frontier.root()));
}

#[test]
fn a_key_reads_back_from_its_text_and_from_no_other() {
    let verifier = signer().verifier();
    let text = verifier.to_string();
    assert!(
        text.starts_with("gate.example/audit+") && text.split('+').nth(1).is_some_and(|id| id.len() == 8),
        "{text}"
    );
    assert_eq!(Verifier::parse(&text), Ok(verifier));
    for bad in ["", "a", "a+b", "a+00000000+AQ==", &text.replace("gate", "gate2"), &format!("{text}x")] {
        assert_eq!(Verifier::parse(bad), Err(NoteError::MalformedKey), "{bad}");
    }
    // That of Go's checksum database, which everybody who uses Go has.
    let known = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8";
    assert_eq!(Verifier::parse(known).map(|verifier| verifier.to_string()), Ok(known.to_owned()));
}

#[test]
fn names_of_logs_have_neither_space_nor_plus() {
    for (issuer, expected) in
        [("tollgate", "tollgate/audit"), ("A + B\u{a0}c", "A---B-c/audit"), ("https://x.y", "https://x.y/audit")]
    {
        assert_eq!(origin(issuer), expected);
        let signer = Signer::new(&origin(issuer), &[1; 32]);
        assert_eq!(Verifier::parse(&signer.verifier().to_string()), Ok(signer.verifier()));
    }
}

#[test]
fn a_checkpoint_is_three_lines_and_strictly_those() {
    let root = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let good = format!("a/audit\n7\n{root}\n");
    assert_eq!(Checkpoint::parse(&good).map(|checkpoint| checkpoint.text()), Ok(good.clone()));
    assert!(Checkpoint::parse(&format!("{good}an extension\n")).is_ok(), "others may say more");
    for bad in [
        "".to_owned(),
        "a\n7\n".to_owned(),
        format!("a\n07\n{root}\n"),
        format!("a\n+7\n{root}\n"),
        format!("a\n-7\n{root}\n"),
        format!("a b\n7\n{root}\n"),
        format!("\n7\n{root}\n"),
        format!("a\n7\n{}\n", &root[1..]),
        format!("a\n7\n{}V=\n", &root[..42]),
        format!("a\n7\n{root}"),
        format!("a\n7\n{root}\n\n"),
        format!("a\n7\n{root}\n{}", "x\n".repeat(9)),
        format!("a\n99999999999999999999\n{root}\n"),
    ] {
        assert_eq!(Checkpoint::parse(&bad), Err(NoteError::NoCheckpoint), "{bad:?}");
    }
}

#[test]
fn signatures_of_witnesses_may_stand_beside_ours_and_a_stranger_s_is_not_ours() {
    let log = Log::of(&all_kinds());
    let note = log.checkpoint(&signer());
    let other = Signer::new("witness.example", &[9; 32]);
    let theirs = other.sign(Note::parse(&note).expect("a note").text);
    let both = format!("{note}{}", theirs.rsplit("\n\n").next().expect("a signature"));
    assert!(signer().verifier().checkpoint(&both).is_ok());
    let stranger = Signer::new("gate.example/audit", &[9; 32]);
    assert_eq!(stranger.verifier().checkpoint(&note), Err(NoteError::NotSigned));
    let twenty = format!("{note}{}", theirs.rsplit("\n\n").next().expect("a signature").repeat(20));
    assert!(signer().verifier().checkpoint(&twenty).is_err(), "there is a limit");
}

#[test]
fn every_single_changed_bit_of_a_checkpoint_is_noticed() {
    let note = Log::of(&all_kinds()).checkpoint(&signer());
    let verifier = signer().verifier();
    for bit in 0..note.len() * 8 {
        let mut changed = note.clone().into_bytes();
        changed[bit / 8] ^= 1 << (bit % 8);
        let Ok(changed) = String::from_utf8(changed) else { continue };
        assert!(verifier.checkpoint(&changed).is_err(), "bit {bit}: {changed}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_a_parser_panic(text in "(.|\n|\u{2014} a b){0,200}") {
        let _ = Note::parse(&text);
        let _ = Checkpoint::parse(&text);
        let _ = Verifier::parse(&text);
        let _ = signer().verifier().checkpoint(&text);
    }
}
