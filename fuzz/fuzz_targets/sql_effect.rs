//! Any bytes have an effect, and not knowing a setting never hides one.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stagedoor::sql::dialect::Dialect;
use stagedoor::sql::dialect::Strings;
use stagedoor::sql::effect::effect;
use stagedoor::sql::signal::rewrite_pids;

fuzz_target!(|text: &[u8]| {
    let read = |strings| effect(text, Dialect { strings, ..Dialect::default() });
    let both = read(Strings::Standard) | read(Strings::Escaped);
    assert_eq!(read(Strings::Either), both);
    rewrite_pids(text, Dialect::default(), &mut |pid| Some(pid / 2));
});
