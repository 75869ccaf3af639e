//! `check_headers` under libFuzzer; see the property in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::headers::check_headers(data));
