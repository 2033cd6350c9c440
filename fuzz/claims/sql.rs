//! SQL texts: any bytes have an effect, and what is rewritten says the same of other names.

use stagedoor::sql::constants::has_constants;
use stagedoor::sql::dialect::Dialect;
use stagedoor::sql::dialect::Encoding;
use stagedoor::sql::dialect::Strings;
use stagedoor::sql::effect::Effect;
use stagedoor::sql::effect::custom_settings;
use stagedoor::sql::names::rewrite_names;
use stagedoor::sql::shape::shape;
use stagedoor::sql::signal::rewrite_pids;

/// Not knowing a setting never hides an effect.
pub(super) fn effect(text: &[u8]) {
    let read = |strings| effect_in(text, Dialect { strings, ..Dialect::default() });
    let both = read(Strings::Standard) | read(Strings::Escaped);
    assert_eq!(read(Strings::Either), both);
    let mut custom = false;
    custom_settings(text, Dialect::default(), &mut |name| {
        custom = true;
        assert!(name.contains('.') && name.to_ascii_lowercase() == name, "{name:?}");
    });
    assert!(!custom || both.has(Effect::CUSTOM), "a custom setting without its effect");
    let constants = |strings| has_constants(text, Dialect { strings, ..Dialect::default() });
    assert_eq!(constants(Strings::Either), constants(Strings::Standard) || constants(Strings::Escaped));
    shape_of(text);
}

/// What is declared counts as a parameter, and what ends a transaction is never hidden by bytes that cannot be read.
fn shape_of(text: &[u8]) {
    let shape = |declared| shape(text, Encoding::AsciiSafe, declared);
    let (none, some) = (shape(0), shape(3));
    // Where a backslash makes two texts of one, more may be declared than either has.
    assert!(none.parameters.is_none_or(|count| some.parameters == Some(count.max(3))));
    assert_eq!((some.is_silent, some.is_exit), (none.is_silent, none.is_exit));
    if !text.is_ascii() {
        let unread = stagedoor::sql::shape::shape(text, Encoding::AsciiUnsafe, 0);
        assert!(unread.is_exit && !unread.is_silent && unread.parameters.is_none());
    }
}

fn effect_in(text: &[u8], dialect: Dialect) -> Effect {
    stagedoor::sql::effect::effect(text, dialect)
}

/// A rewritten text has no effect that the first one has not, and speaks of what it was told to, in the same order.
pub(super) fn rewrite(text: &[u8]) {
    for strings in [Strings::Standard, Strings::Escaped] {
        let dialect = Dialect { strings, ..Dialect::default() };
        pids(text, dialect);
        names(text, dialect);
    }
}

fn pids(text: &[u8], dialect: Dialect) {
    let mut asked = Vec::new();
    let mut note = |pid| {
        asked.push(pid);
        None
    };
    assert_eq!(rewrite_pids(text, dialect, &mut note), None, "nothing is translated, so nothing changes");
    let Some(other) = rewrite_pids(text, dialect, &mut |pid| Some(pid / 2)) else {
        assert!(asked.is_empty());
        return;
    };
    let known = effect_in(text, dialect);
    assert_eq!(known | effect_in(&other, dialect), known, "{}", show(&other));
    let mut again = Vec::new();
    rewrite_pids(&other, dialect, &mut |pid| {
        again.push(pid);
        None
    });
    let halved: Vec<i64> = asked.iter().map(|pid| pid / 2).collect();
    assert_eq!(again, halved, "{}", show(&other));
}

fn names(text: &[u8], dialect: Dialect) {
    let mut asked = Vec::new();
    let mut note = |mention, name: &[u8]| {
        asked.push((mention, name.to_vec()));
        None
    };
    assert_eq!(rewrite_names(text, dialect, &mut note), None, "nothing is renamed, so nothing changes");
    let mut number = 0;
    let mut renamed = |_, _: &[u8]| {
        number += 1;
        Some(format!("stagedoor:{number}").into_bytes())
    };
    let Some(other) = rewrite_names(text, dialect, &mut renamed) else {
        assert!(asked.is_empty());
        return;
    };
    let known = effect_in(text, dialect);
    assert_eq!(known | effect_in(&other, dialect), known, "{}", show(&other));
    let mut again = Vec::new();
    rewrite_names(&other, dialect, &mut |mention, name| {
        again.push((mention, show(name)));
        None
    });
    let expected: Vec<_> =
        (1..).zip(&asked).map(|(number, (mention, _))| (*mention, format!("stagedoor:{number}"))).collect();
    assert_eq!(again, expected, "{}", show(&other));
}

fn show(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}
