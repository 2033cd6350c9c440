//! See `claims/exchange.rs`.

#![no_main]

#[path = "../claims/mod.rs"]
mod claims;

libfuzzer_sys::fuzz_target!(|input: &[u8]| claims::EXCHANGE.1(input));
