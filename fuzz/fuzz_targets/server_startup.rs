//! See `claims/server_startup.rs`.

#![no_main]

#[path = "../claims/server_startup.rs"]
mod claims;

libfuzzer_sys::fuzz_target!(|input: &[u8]| claims::server_startup(input));
