//! What a text may do to the session that runs it: read once, then believed only as far as "cannot have".
//!
//! A false alarm costs a question to the server. These a text cannot show, and so they are limits:
//! - what happens inside functions, procedures, triggers, rules, column defaults, views, operators and the scripts
//!   of extensions;
//! - CREATE TABLE makes a temporary table without saying so while `search_path` begins with `pg_temp`
//!   (the caller knows that setting, and sees [`Effect::DDL`]);
//! - EXECUTE runs what an earlier PREPARE said, and that text had its own effect then;
//! - `set_config($1, …, true)` leaves a setting of the form `a.b` empty where it was unset before;
//! - a server in a single-byte Turkish locale reads more letters as an `i` than we do.

use std::fmt;
use std::ops::BitOr;
use std::ops::BitOrAssign;

use crate::sql::dialect::Dialect;
use crate::sql::dialect::Encoding;
use crate::sql::dialect::Strings;
use crate::sql::lexer::Lexer;
use crate::sql::statement::Reading;
use crate::sql::statement::Within;

/// A set of things that a text may do. Empty for the texts that any server can run and forget.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Effect(u32);

impl Effect {
    /// Nothing that outlives the transaction.
    pub const NONE: Self = Self(0);
    /// May change what the server can be asked about: settings, role, temporary tables, session advisory locks,
    /// channels, SQL-prepared statements, holdable cursors.
    pub const TOUCHES: Self = Self(1);
    /// `currval` and `lastval` may mean something in this session, or are asked for.
    pub const SEQUENCE: Self = Self(1 << 1);
    /// `setseed`: what `random()` will say.
    pub const SEED: Self = Self(1 << 2);
    /// LOAD.
    pub const LIBRARY: Self = Self(1 << 3);
    /// Changes settings of the form `a.b`, which `pg_settings` does not show until a library defines them. With
    /// [`Effect::LOCAL`] alone their values are back after the transaction, but where one was unset it is empty.
    /// [`custom_settings`] names every one of them, so they can be asked for one by one.
    pub const CUSTOM: Self = Self(1 << 4);
    /// Runs SQL that the text does not show (DO with EXECUTE, CALL, `query_to_xml` …), sets a setting whose name it
    /// does not show, or leaves what cannot be asked for.
    pub const OPAQUE: Self = Self(1 << 5);
    /// Was not read to its end, or could not be: anything may have happened.
    pub const UNREAD: Self = Self(1 << 6);
    /// Sets something back to what this session began with (RESET, SET … TO DEFAULT, SET ROLE NONE, DISCARD ALL).
    pub const RESETS: Self = Self(1 << 7);
    /// DISCARD ALL. It can fail: only the command tag says that it was done.
    pub const DISCARD_ALL: Self = Self(1 << 8);
    /// DISCARD SEQUENCES, likewise.
    pub const DISCARD_SEQUENCES: Self = Self(1 << 9);
    /// Calls `pg_cancel_backend` or `pg_terminate_backend`.
    pub const SIGNALS: Self = Self(1 << 10);
    /// CREATE, ALTER or DROP: plans made before may not fit any more.
    pub const DDL: Self = Self(1 << 11);
    /// DROP: what pins a session may be gone.
    pub const DROPS: Self = Self(1 << 12);
    /// ALTER ROLE, USER or DATABASE … SET or RESET, ALTER SYSTEM: new sessions may begin otherwise.
    pub const ALTER_DEFAULTS: Self = Self(1 << 13);
    /// CREATE, ALTER or DROP DATABASE.
    pub const DATABASE_DDL: Self = Self(1 << 14);
    /// PREPARE, EXECUTE or DEALLOCATE: speaks of prepared statements by the names that the *server* knows.
    pub const STATEMENTS: Self = Self(1 << 15);
    /// DEALLOCATE ALL.
    pub const DEALLOCATE_ALL: Self = Self(1 << 16);
    /// Sets something for the rest of the transaction (SET LOCAL, `set_config(…, true)`).
    pub const LOCAL: Self = Self(1 << 17);

    /// What is to be believed of a text that cannot be read.
    pub const UNKNOWN: Self = Self(Self::TOUCHES.0 | Self::UNREAD.0);
    /// What the server cannot be asked about afterwards. CUSTOM is not in it: its names are known.
    pub const UNASKABLE: Self =
        Self(Self::SEQUENCE.0 | Self::SEED.0 | Self::LIBRARY.0 | Self::OPAQUE.0 | Self::UNREAD.0);

    /// Makes `currval` and `lastval` forget.
    pub const DISCARDS_SEQUENCES: Self = Self(Self::DISCARD_ALL.0 | Self::DISCARD_SEQUENCES.0);
    /// May end all prepared statements.
    pub const FORGETS: Self = Self(Self::DISCARD_ALL.0 | Self::DEALLOCATE_ALL.0);

    const NAMES: [(&'static str, Self); 18] = [
        ("TOUCHES", Self::TOUCHES),
        ("SEQUENCE", Self::SEQUENCE),
        ("SEED", Self::SEED),
        ("LIBRARY", Self::LIBRARY),
        ("CUSTOM", Self::CUSTOM),
        ("OPAQUE", Self::OPAQUE),
        ("UNREAD", Self::UNREAD),
        ("RESETS", Self::RESETS),
        ("DISCARD_ALL", Self::DISCARD_ALL),
        ("DISCARD_SEQUENCES", Self::DISCARD_SEQUENCES),
        ("SIGNALS", Self::SIGNALS),
        ("DDL", Self::DDL),
        ("DROPS", Self::DROPS),
        ("ALTER_DEFAULTS", Self::ALTER_DEFAULTS),
        ("DATABASE_DDL", Self::DATABASE_DDL),
        ("STATEMENTS", Self::STATEMENTS),
        ("DEALLOCATE_ALL", Self::DEALLOCATE_ALL),
        ("LOCAL", Self::LOCAL),
    ];

    /// Whether nothing is in this set.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// Whether any of `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// This set without those of `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// What `text` (to its first NUL or its end) may do to the session. Any bytes are taken; nothing is allocated.
/// If the caller has only the beginning of a text, it adds [`Effect::UNKNOWN`].
pub fn effect(text: &[u8], dialect: Dialect) -> Effect {
    read(text, dialect, None)
}

/// Calls `named` for each setting of the form `a.b` that `text` sets or resets, as written but in lower case.
/// A name may come twice. Worth calling for texts with [`Effect::CUSTOM`].
pub fn custom_settings(text: &[u8], dialect: Dialect, named: &mut dyn FnMut(&str)) {
    read(text, dialect, Some(named));
}

fn read(text: &[u8], dialect: Dialect, mut named: Option<&mut dyn FnMut(&str)>) -> Effect {
    let escapes = dialect.strings == Strings::Escaped;
    let mut reading = Reading::new(text, escapes, Within::Script);
    let mut effect = reading.run(&mut named);
    if dialect.strings == Strings::Either && reading.backslash_seen() {
        effect |= Reading::new(text, true, Within::Script).run(&mut named);
    }
    match dialect.encoding {
        Encoding::AsciiUnsafe if !Lexer::new(text, false).text().is_ascii() => effect | Effect::UNKNOWN,
        Encoding::AsciiUnsafe | Encoding::AsciiSafe => effect,
    }
}

impl BitOr for Effect {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for Effect {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.with(other);
    }
}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Self::NAMES.iter().filter(|(_, bit)| self.has(*bit));
        let names: Vec<_> = names.map(|(name, _)| *name).collect();
        write!(f, "Effect({})", names.join(" | "))
    }
}
