//! `check_run` under libFuzzer; see the property in the library.
#![no_main]
#![expect(clippy::disallowed_methods, reason = "libFuzzer's macro writes files of its own")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::template::check_run(data));
