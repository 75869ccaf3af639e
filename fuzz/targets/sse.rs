//! `check_sse` under libFuzzer; see the property in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::sse::check_sse(data));
