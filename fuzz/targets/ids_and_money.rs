//! `check_ids_and_money` under libFuzzer; see the property in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::ids_and_money::check_ids_and_money(data));
