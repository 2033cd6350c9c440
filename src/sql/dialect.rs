//! What must be known of a session before its texts can be read: two settings change where strings end.

/// How to read a text. The default holds for every session with a safe `client_encoding`: it only costs a second
/// reading of texts that have a backslash in an ordinary string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dialect {
    pub strings: Strings,
    pub encoding: Encoding,
}

/// Whether a backslash escapes the next byte of an ordinary `'…'` string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strings {
    /// `standard_conforming_strings = on`: no.
    Standard,
    /// `standard_conforming_strings = off`: yes, as in `E'…'`.
    Escaped,
    /// Not known, for instance while a SET is under way: both readings count.
    #[default]
    Either,
}

/// Whether bytes below 0x80 always mean ASCII in this `client_encoding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    AsciiSafe,
    /// SJIS, BIG5, GBK, UHC, GB18030, JOHAB: the second byte of a character can look like a letter, a digit or
    /// a backslash. Texts with bytes from 0x80 up are not read.
    AsciiUnsafe,
}

impl Encoding {
    /// The kind of an encoding by the name that `client_encoding` has. PostgreSQL ignores case and punctuation
    /// in these names; one that we do not know is taken as unsafe.
    pub fn of(name: &str) -> Self {
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let plain = plain.to_ascii_lowercase();
        if ASCII_SAFE.iter().any(|safe| plain.starts_with(safe)) {
            Self::AsciiSafe
        } else {
            Self::AsciiUnsafe
        }
    }
}

/// How the names of the safe encodings begin, aliases included (`pg_encname_tbl` in encnames.c).
const ASCII_SAFE: &[&str] = &[
    "abc",
    "alt",
    "euc",
    "iso8859",
    "koi8",
    "latin",
    "mule",
    "sqlascii",
    "tcvn",
    "unicode",
    "utf8",
    "vscii",
    "win125",
    "win866",
    "win874",
    "windows125",
    "windows866",
    "windows874",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_encodings_are_read_as_postgres_reads_them() {
        for safe in ["UTF8", "utf-8", "Unicode", "LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP", "KOI8R"] {
            assert_eq!(Encoding::of(safe), Encoding::AsciiSafe, "{safe}");
        }
        for unsafe_ in
            ["SJIS", "Shift_JIS", "BIG5", "GBK", "UHC", "GB18030", "johab", "WIN949", "klingon", ""]
        {
            assert_eq!(Encoding::of(unsafe_), Encoding::AsciiUnsafe, "{unsafe_}");
        }
    }
}
