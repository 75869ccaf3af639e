//! `check_ids_and_money` under libFuzzer; see the property in the library.
#![no_main]
#![expect(clippy::disallowed_methods, reason = "libFuzzer's macro writes files of its own")]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::ids_and_money::check_ids_and_money(data));
