//! What clients say, as text and as frames: a story is lines of `client: message / message`.

use std::fmt;

use stagedoor::wire::message::push_frame;

/// One message of a client. An empty name is written `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    Query(String),
    Parse {
        name: String,
        text: String,
    },
    /// `given` counts parameters, and no statement takes any.
    Bind {
        portal: String,
        name: String,
        given: u16,
    },
    DescribeStatement(String),
    DescribePortal(String),
    Execute {
        portal: String,
        limit: u32,
    },
    CloseStatement(String),
    ClosePortal(String),
    Sync,
    Flush,
    CopyData(String),
    CopyDone,
    CopyFail,
    /// A function call, of `pi()`.
    Call,
    /// Terminate.
    Goodbye,
    /// The connection ends.
    Vanish,
}

impl Say {
    /// The frame; none where the connection ends.
    pub fn frame(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut push = |tag, parts: &[&[u8]]| push_frame(&mut out, tag, parts);
        match self {
            Self::Query(text) => push(b'Q', &[text.as_bytes(), b"\0"]),
            Self::Parse { name, text } => push(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"]),
            Self::Bind { portal, name, given } => {
                let count = given.to_be_bytes();
                let values = b"\0\0\0\x01x".repeat(usize::from(*given));
                let parts: [&[u8]; 8] =
                    [portal.as_bytes(), b"\0", name.as_bytes(), b"\0", b"\0\0", &count, &values, b"\0\0"];
                push(b'B', &parts);
            }
            Self::DescribeStatement(name) => push(b'D', &[b"S", name.as_bytes(), b"\0"]),
            Self::DescribePortal(name) => push(b'D', &[b"P", name.as_bytes(), b"\0"]),
            Self::Execute { portal, limit } => push(b'E', &[portal.as_bytes(), b"\0", &limit.to_be_bytes()]),
            Self::CloseStatement(name) => push(b'C', &[b"S", name.as_bytes(), b"\0"]),
            Self::ClosePortal(name) => push(b'C', &[b"P", name.as_bytes(), b"\0"]),
            Self::Sync => push(b'S', &[]),
            Self::Flush => push(b'H', &[]),
            Self::CopyData(text) => push(b'd', &[text.as_bytes(), b"\n"]),
            Self::CopyDone => push(b'c', &[]),
            Self::CopyFail => push(b'f', &[b"no more\0"]),
            Self::Call => push(b'F', &[&1610_u32.to_be_bytes(), &[0; 6]]),
            Self::Goodbye => push(b'X', &[]),
            Self::Vanish => {}
        }
        out
    }

    fn read(text: &str) -> Self {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        let name = |name: &str| if name == "-" { String::new() } else { name.to_owned() };
        match word {
            "Q" => Self::Query(rest.to_owned()),
            "P" => Self::Parse { name: name(first), text: second.to_owned() },
            "B" => {
                let (second, given) = second.split_once(' ').unwrap_or((second, "0"));
                Self::Bind {
                    portal: name(first),
                    name: name(second),
                    given: given.parse().expect("a number"),
                }
            }
            "DS" => Self::DescribeStatement(name(first)),
            "DP" => Self::DescribePortal(name(first)),
            "E" => Self::Execute { portal: name(first), limit: second.parse().expect("a number") },
            "CS" => Self::CloseStatement(name(first)),
            "CP" => Self::ClosePortal(name(first)),
            "S" => Self::Sync,
            "H" => Self::Flush,
            "d" => Self::CopyData(rest.to_owned()),
            "c" => Self::CopyDone,
            "f" => Self::CopyFail,
            "F" => Self::Call,
            "X" => Self::Goodbye,
            "!" => Self::Vanish,
            other => panic!("{other}: {text}"),
        }
    }
}

impl fmt::Display for Say {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &str| if name.is_empty() { "-".to_owned() } else { name.to_owned() };
        match self {
            Self::Query(text) => write!(f, "Q {text}"),
            Self::Parse { name: of, text } => write!(f, "P {} {text}", name(of)),
            Self::Bind { portal, name: of, given: 0 } => write!(f, "B {} {}", name(portal), name(of)),
            Self::Bind { portal, name: of, given } => write!(f, "B {} {} {given}", name(portal), name(of)),
            Self::DescribeStatement(of) => write!(f, "DS {}", name(of)),
            Self::DescribePortal(of) => write!(f, "DP {}", name(of)),
            Self::Execute { portal, limit } => write!(f, "E {} {limit}", name(portal)),
            Self::CloseStatement(of) => write!(f, "CS {}", name(of)),
            Self::ClosePortal(of) => write!(f, "CP {}", name(of)),
            Self::Sync => write!(f, "S"),
            Self::Flush => write!(f, "H"),
            Self::CopyData(text) => write!(f, "d {text}"),
            Self::CopyDone => write!(f, "c"),
            Self::CopyFail => write!(f, "f"),
            Self::Call => write!(f, "F"),
            Self::Goodbye => write!(f, "X"),
            Self::Vanish => write!(f, "!"),
        }
    }
}

/// What happens between a line and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// `:` All comes to rest.
    Rest,
    /// `~` The proxy has read the line, and nobody has answered.
    Ahead,
    /// `,` Nobody has read it.
    Unread,
}

/// What one client says at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub client: usize,
    pub then: Then,
    pub says: Vec<Say>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = match self.then {
            Then::Rest => ':',
            Then::Ahead => '~',
            Then::Unread => ',',
        };
        let says: Vec<String> = self.says.iter().map(ToString::to_string).collect();
        write!(f, "{}{then} {}", self.client, says.join(" / "))
    }
}

/// Where a client comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home {
    pub database: usize,
    /// What it says in its StartupMessage.
    pub startup: Vec<(String, String)>,
    /// `pool.mode: session`.
    pub session_mode: bool,
}

/// Clients, the servers that they share, and what they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Story {
    pub servers: usize,
    pub homes: Vec<Home>,
    pub lines: Vec<Line>,
    /// Who moves when, where the lines do not say.
    pub dice: Option<u64>,
    /// Of longer frames only so many bytes are looked at.
    pub gathered_max: usize,
    /// Every frame is printed.
    pub loud: bool,
}

/// Words: `servers=1 dice=7 gathered=100`, then for each client `client=database[,session][,name=value]…`, then
/// the lines of the story.
pub fn read(text: &str) -> Story {
    let mut story = Story {
        servers: 1,
        homes: Vec::new(),
        lines: Vec::new(),
        dice: None,
        gathered_max: usize::MAX,
        loud: false,
    };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let digits = line.find(|c: char| !c.is_ascii_digit()).unwrap_or(0);
        if digits == 0 {
            for (key, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
                match key {
                    "servers" => story.servers = value.parse().expect("a number"),
                    "dice" => story.dice = Some(value.parse().expect("a number")),
                    "gathered" => story.gathered_max = value.parse().expect("a number"),
                    _ => story.homes.push(home(value)),
                }
            }
            continue;
        }
        let then = match &line[digits..=digits] {
            ":" => Then::Rest,
            "~" => Then::Ahead,
            _ => Then::Unread,
        };
        let client = line[..digits].parse().expect("a number");
        let says = line[digits + 1..].split(" / ").map(|say| Say::read(say.trim())).collect();
        story.lines.push(Line { client, then, says });
    }
    let most = story.lines.iter().map(|line| line.client + 1).max().unwrap_or(0);
    story.homes.resize_with(most.max(story.homes.len()), Home::default);
    story
}

fn home(words: &str) -> Home {
    let mut words = words.split(',');
    let database = words.next().and_then(|number| number.parse().ok()).expect("a database");
    let mut home = Home { database, ..Home::default() };
    for word in words {
        match word.split_once('=') {
            Some((name, value)) => home.startup.push((name.to_owned(), value.to_owned())),
            None => home.session_mode = word == "session",
        }
    }
    home
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "servers={}", self.servers)?;
        if let Some(dice) = self.dice {
            write!(f, " dice={dice}")?;
        }
        if self.gathered_max < usize::MAX {
            write!(f, " gathered={}", self.gathered_max)?;
        }
        for home in &self.homes {
            write!(f, " client={}", home.database)?;
            if home.session_mode {
                write!(f, ",session")?;
            }
            for (name, value) in &home.startup {
                write!(f, ",{name}={value}")?;
            }
        }
        for line in &self.lines {
            write!(f, "\n        {line}")?;
        }
        Ok(())
    }
}
