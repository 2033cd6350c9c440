//! See `claims/sql.rs`.

#![no_main]

#[path = "../claims/mod.rs"]
mod claims;

libfuzzer_sys::fuzz_target!(|input: &[u8]| claims::SQL_REWRITE.1(input));
