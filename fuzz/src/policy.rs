//! Policy bundles: a module either is a law, which decides within its bounds and whose fingerprint a comment does not change, or
//! is refused; what is unpacked lies inside of the bundle and packs again to the same files.

use tollgate_policy::bundle::{BYTES_MAX, FILES_MAX, PATH_BYTES_MAX, inside};
use tollgate_policy::{Bundle, File, Law, Question, Verdict, archive};

use crate::Target;

pub const MODULE: Target = Target {
    name: "policy_module",
    check: check_module,
    seeds: &[
        "package tollgate.admission\nallow if input.request.route == \"small\"\n",
        "package tollgate.admission\ndefault allow := false\nallow if input.tenant.id in {\"a\", \"b\"}\n\
         deny contains sprintf(\"at most %d\", [8]) if input.request.choices > 8\nobligations := {\"retention_days\": 30}\n",
        "package tollgate.admission\nallow if { some x in [1, 2]; x > 1 } # why\nelse := f(2)\nf(x) := x + 1\n",
        "package a\nimport data.b.c as d\nx[y] := z if { y := d[_].e; z := count({k | some k, _ in d}) }\n",
    ],
    words: &[
        "allow",
        "deny contains ",
        "obligations := ",
        " if ",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "input.",
        "data.",
        "some x in ",
        "every x in ",
        " with input as {}",
        "else := ",
        "default ",
        "not ",
        ":=",
        "==",
        "|",
        "_",
        "\n",
        "#",
        "\"",
        "`",
        "9999999999",
        "concat(\"\", ",
        "walk(",
        "import ",
        "tollgate",
        "request.route",
    ],
    takes_noise: true,
};

pub const ARCHIVE: Target = Target {
    name: "policy_archive",
    check: check_archive,
    seeds: &["a.rego|package a", "/x/data.json|{}", "../x|", "a//b|", "./.manifest|{}", "a:b|", "x\\y|"],
    words: &["..", "/", "./", "\\", "\u{0}", ".rego", "data.json", "|", ":"],
    takes_noise: true,
};

pub fn check_module(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let law = |text: String| {
        let file = File { path: "fuzzed.rego".to_owned(), bytes: text.into_bytes() };
        Law::compile(&Bundle::from_files(&[file]).ok()?).ok()
    };
    let Some(compiled) = law(text.to_owned()) else { return };
    let question = Question { tenant: "a", route: "small", choices: 9, ..Question::default() };
    let said = compiled.decide(&question);
    assert_eq!(said, compiled.decide(&question), "the same is asked twice");
    if let Ok(Verdict::Denied(reasons)) = &said {
        assert!(reasons.iter().all(|reason| !reason.contains(char::is_control)));
    }
    let commented = law(format!("{text}\n# a comment\n")).expect("a comment breaks nothing");
    assert_eq!(commented.fingerprint, compiled.fingerprint);
}

/// The input is both an archive, and the path and contents of a file to be packed.
pub fn check_archive(data: &[u8]) {
    if let Ok(files) = archive::unpack(data) {
        check_files(&files);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, contents) = text.split_once('|').unwrap_or((text, ""));
    let file = File { path: path.to_owned(), bytes: contents.as_bytes().to_vec() };
    match (inside(path), archive::pack(std::slice::from_ref(&file))) {
        (Ok(path), Ok(packed)) => {
            let files = archive::unpack(&packed).expect("what was packed");
            assert_eq!(files, [File { path: path.to_owned(), bytes: file.bytes }]);
            check_files(&files);
        }
        (Err(_), Err(_)) => {}
        // A path that tar cannot hold.
        (Ok(_), Err(_)) => {}
        (Err(error), Ok(_)) => panic!("packed, though {error}"),
    }
}

fn check_files(files: &[File]) {
    assert!(files.len() <= FILES_MAX && files.iter().map(|file| file.bytes.len()).sum::<usize>() <= BYTES_MAX);
    for File { path, .. } in files {
        assert!(
            !path.starts_with('/') && path.len() <= PATH_BYTES_MAX && path.split('/').all(|part| part != ".."),
            "{path}"
        );
        assert_eq!(inside(path).as_deref(), Ok(path.as_str()));
    }
}
