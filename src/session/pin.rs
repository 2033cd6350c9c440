//! Why a lease must be kept beyond its transaction.

/// A reason to keep a client on its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pin {
    /// `pool.mode: session`.
    Session,
    TempTable,
    AdvisoryLock,
    Listen,
    HoldCursor,
    /// A prepared statement with a name, by the protocol or by PREPARE.
    PreparedStatement,
    /// What `currval` and `lastval` would say.
    Sequence,
    /// What `setseed` did to `random()`.
    Seed,
    /// LOAD.
    Library,
    /// A setting with a dot in its name: no view shows it, so nobody can be asked.
    CustomSetting,
    /// Something that we did not understand, or a probe without an answer.
    Unknown,
}

impl Pin {
    pub const ALL: [Self; 11] = [
        Self::Session,
        Self::TempTable,
        Self::AdvisoryLock,
        Self::Listen,
        Self::HoldCursor,
        Self::PreparedStatement,
        Self::Sequence,
        Self::Seed,
        Self::Library,
        Self::CustomSetting,
        Self::Unknown,
    ];

    /// The `reason` label of `stagedoor_pins_total`.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Session => "session_mode",
            Self::TempTable => "temp_table",
            Self::AdvisoryLock => "advisory_lock",
            Self::Listen => "listen",
            Self::HoldCursor => "hold_cursor",
            Self::PreparedStatement => "prepared_statement",
            Self::Sequence => "sequence",
            Self::Seed => "seed",
            Self::Library => "library",
            Self::CustomSetting => "custom_setting",
            Self::Unknown => "unknown",
        }
    }

    /// Whether `DISCARD ALL` removes every trace of it.
    #[must_use]
    pub const fn is_discardable(self) -> bool {
        match self {
            Self::Session
            | Self::TempTable
            | Self::AdvisoryLock
            | Self::Listen
            | Self::HoldCursor
            | Self::PreparedStatement
            | Self::Sequence => true,
            Self::Seed | Self::Library | Self::CustomSetting | Self::Unknown => false,
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A set of pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    pub const NONE: Self = Self(0);

    pub const fn insert(&mut self, pin: Pin) {
        self.0 |= pin.bit();
    }

    pub const fn remove(&mut self, pin: Pin) {
        self.0 &= !pin.bit();
    }

    #[must_use]
    pub const fn contains(self, pin: Pin) -> bool {
        self.0 & pin.bit() != 0
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |pin| self.contains(*pin))
    }

    /// Whether `DISCARD ALL` removes them all.
    #[must_use]
    pub fn are_discardable(self) -> bool {
        self.iter().all(Pin::is_discardable)
    }
}

impl FromIterator<Pin> for Pins {
    fn from_iter<I: IntoIterator<Item = Pin>>(pins: I) -> Self {
        pins.into_iter().fold(Self::NONE, |mut set, pin| {
            set.insert(pin);
            set
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut pins: Pins = [Pin::Listen, Pin::Unknown].into_iter().collect();
        pins.remove(Pin::Unknown);
        assert_eq!(pins.iter().collect::<Vec<_>>(), [Pin::Listen]);
        assert!(pins.are_discardable());
        assert!(Pin::ALL.iter().enumerate().all(|(at, pin)| *pin as usize == at));
    }
}
