//! `check_price_book` under libFuzzer; see the property in the library.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::price_book::check_price_book(data));
