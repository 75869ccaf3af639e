//! `check_journal_frame` under libFuzzer; see the property in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::journal_frame::check_journal_frame(data));
