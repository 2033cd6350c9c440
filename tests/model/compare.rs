//! The two worlds beside each other: in one each client has a server of its own, in the other they share. Whoever
//! reads another byte can tell.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use stagedoor::wire::frame::HEADER_BYTES;

use crate::dice::Dice;
use crate::pooled::Counted;
use crate::pooled::Move;
use crate::pooled::World;
use crate::pooled::Wrong;
use crate::postgres::Database;
use crate::postgres::Session;
use crate::script::Say;
use crate::script::Story;
use crate::script::Then;

type Databases = Vec<Rc<RefCell<Database>>>;

fn databases(story: &Story) -> Databases {
    let most = story.homes.iter().map(|home| home.database + 1).max().unwrap_or(1);
    (0..most).map(|_| Rc::default()).collect()
}

/// What a client says, one after the other, and what it reads on a server of its own.
#[derive(Debug)]
pub struct Alone {
    pub says: Vec<Say>,
    pub bytes: Vec<u8>,
    /// What the server would have sent on a Flush: we may have sent one.
    unsent: Vec<u8>,
    /// How much it has read when each of `says` was answered as far as it will be.
    pub after: Vec<usize>,
    /// It has said what no client says.
    is_nonsense: bool,
}

pub fn alone(story: &Story, at: usize, databases: &Databases) -> Alone {
    let home = &story.homes[at];
    let mut session = Session::new(databases[home.database].clone(), &home.startup);
    let of_client = story.lines.iter().filter(|line| line.client == at);
    let mut says: Vec<Say> = of_client.flat_map(|line| line.says.iter().cloned()).collect();
    let end = says.iter().position(|say| matches!(say, Say::Goodbye | Say::Vanish));
    says.truncate(end.map_or(says.len(), |end| end + 1));
    if end.is_none() {
        says.push(Say::Goodbye);
    }
    let (mut bytes, mut after) = (Vec::new(), Vec::new());
    let mut unsent = Vec::new();
    for say in &says {
        unsent = session.unsent();
        if let Some((&tag, frame)) = say.frame().split_first() {
            session.hear(tag, &frame[HEADER_BYTES - 1..]);
        } else {
            session.hear_the_end();
        }
        while let Some(frame) = session.say() {
            bytes.extend_from_slice(&frame);
        }
        after.push(bytes.len());
    }
    Alone { says, bytes, unsent, after, is_nonsense: session.is_confused() }
}

/// Tells a story in both worlds.
///
/// # Errors
/// What a client could tell, or what the core had promised and did not keep.
pub fn tell(story: &Story) -> Result<Counted, Wrong> {
    let (private, shared) = (databases(story), databases(story));
    let alone: Vec<Alone> = (0..story.homes.len()).map(|at| alone(story, at, &private)).collect();
    if alone.iter().any(|alone| alone.is_nonsense) {
        return Ok(Counted::default());
    }
    let world = World::new(story, shared.clone());
    let clients = alone.len();
    let mut telling = Telling { world, alone, said: vec![0; clients], checked: vec![0; clients] };
    match story.dice {
        Some(seed) => telling.by_chance(&mut Dice::new(seed ^ 0x5eed))?,
        None => telling.in_order(story)?,
    }
    telling.compare_ends(&private, &shared, story)?;
    Ok(telling.world.counted())
}

/// A story has some hundred frames, and each moves a few times.
const STEPS_MAX: usize = 20_000;

struct Telling {
    world: World,
    alone: Vec<Alone>,
    /// How many messages each client has sent.
    said: Vec<usize>,
    /// How much of what each has read was compared.
    checked: Vec<usize>,
}

impl Telling {
    /// The client sends its next message. Tells whether it had one.
    fn say(&mut self, at: usize) -> bool {
        let Some(say) = self.alone[at].says.get(self.said[at]) else { return false };
        self.said[at] += 1;
        match say {
            Say::Vanish => self.world.vanish(at),
            say => self.world.say(at, say.frame()),
        }
        true
    }

    fn make(&mut self, step: Move) -> Result<(), Wrong> {
        self.world.make(step)?;
        match step {
            Move::Read(at) | Move::Hear(at) | Move::Advance(at) => self.check(at),
            Move::Work(_) | Move::Bury => Ok(()),
        }
    }

    fn check(&mut self, at: usize) -> Result<(), Wrong> {
        let (read, alone) = (self.world.received(at), &self.alone[at]);
        let with_unsent;
        let expected = if read.len() <= alone.bytes.len() {
            &alone.bytes
        } else {
            with_unsent = [alone.bytes.as_slice(), &alone.unsent].concat();
            &with_unsent
        };
        let from = self.checked[at];
        self.checked[at] = read.len();
        if expected.get(from..read.len()) == Some(&read[from..]) {
            return Ok(());
        }
        let rest = expected.get(from..).unwrap_or_default();
        Err(format!(
            "client {at} can tell:\n  pooled  {}\n  private {}",
            read[from..].escape_ascii(),
            rest[..rest.len().min(read.len() - from + 60)].escape_ascii()
        ))
    }

    fn moves(&self) -> impl Iterator<Item = Move> + use<> {
        let each = |at| [Move::Read(at), Move::Work(at), Move::Hear(at), Move::Advance(at)];
        (0..self.alone.len()).flat_map(each).chain([Move::Bury])
    }

    fn all_are_gone(&self) -> bool {
        (0..self.alone.len()).all(|at| self.world.is_gone(at))
    }

    /// Whoever moves next does so by chance.
    fn by_chance(&mut self, dice: &mut Dice) -> Result<(), Wrong> {
        let patient: Vec<bool> = self.alone.iter().map(|_| dice.below(3) > 0).collect();
        let (mut stuck, mut steps) = (0, 0);
        while !self.all_are_gone() {
            steps += 1;
            if steps > STEPS_MAX {
                return Err("it does not end".to_owned());
            }
            let mut can: Vec<Option<Move>> = Vec::new();
            let speakers: Vec<usize> =
                (0..self.alone.len()).filter(|&at| self.may_say(at, patient[at])).collect();
            can.extend(self.moves().filter(|&step| self.world.can(step)).map(Some));
            let choice = dice.below(can.len() + speakers.len() + 1);
            if can.is_empty() && speakers.is_empty() {
                stuck += 1;
                if stuck > 40 {
                    return Err("nobody moves, and not all are gone".to_owned());
                }
                self.world.tick(Duration::from_millis(100))?;
                continue;
            }
            stuck = 0;
            if let Some(Some(step)) = can.get(choice) {
                self.make(*step)?;
            } else if let Some(&at) = speakers.get(choice - can.len()) {
                self.say(at);
            } else {
                self.world.tick(Duration::from_millis(40))?;
            }
        }
        Ok(())
    }

    /// A client that is patient reads the answer to what it has said first.
    fn may_say(&self, at: usize, patient: bool) -> bool {
        let (said, alone) = (self.said[at], &self.alone[at]);
        if said >= alone.says.len() || self.world.is_gone(at) {
            return false;
        }
        let answered = said == 0 || self.world.received(at).len() >= alone.after[said - 1];
        !patient || answered
    }

    /// The lines say who moves when.
    fn in_order(&mut self, story: &Story) -> Result<(), Wrong> {
        for line in &story.lines {
            for _ in &line.says {
                self.say(line.client);
            }
            match line.then {
                Then::Rest => self.settle()?,
                Then::Ahead => self.read_ahead(line.client)?,
                Then::Unread => {}
            }
        }
        self.settle()?;
        for at in 0..self.alone.len() {
            while self.say(at) {}
            self.settle()?;
        }
        for _ in 0..40 {
            self.world.tick(Duration::from_millis(100))?;
            self.settle()?;
        }
        if self.all_are_gone() { Ok(()) } else { Err("not all are gone".to_owned()) }
    }

    fn settle(&mut self) -> Result<(), Wrong> {
        while let Some(step) = self.moves().find(|&step| self.world.can(step)) {
            self.make(step)?;
        }
        Ok(())
    }

    fn read_ahead(&mut self, at: usize) -> Result<(), Wrong> {
        while let Some(step) =
            [Move::Read(at), Move::Advance(at)].into_iter().find(|&step| self.world.can(step))
        {
            self.make(step)?;
        }
        Ok(())
    }

    /// What each has read in the end, and what the databases hold.
    fn compare_ends(&self, private: &Databases, shared: &Databases, story: &Story) -> Result<(), Wrong> {
        for (at, alone) in self.alone.iter().enumerate() {
            if self.world.received(at).len() < alone.bytes.len() {
                return Err(format!("client {at} has not read all"));
            }
            let (table, number) = (format!("public.log_{at}"), story.homes[at].database);
            let rows = |of: &Databases| of[number].borrow().tables.get(&table).cloned().unwrap_or_default();
            let (private, shared) = (rows(private), rows(shared));
            if private != shared {
                return Err(format!("client {at} wrote {shared:?} instead of {private:?}"));
            }
        }
        Ok(())
    }
}

/// A shorter story in which something is wrong as well, told in order where that shows it.
pub fn shrink(story: &Story) -> Story {
    let Err(wrong) = tell(story) else { return story.clone() };
    let class = class(&wrong);
    let mut best = story.clone();
    let mut again = true;
    while again {
        again = false;
        for candidate in shorter(&best) {
            if let Some(failing) = failing(&candidate, &class) {
                best = failing;
                again = true;
                break;
            }
        }
    }
    best
}

/// The candidate, by the dice under which it fails.
fn failing(candidate: &Story, class: &str) -> Option<Story> {
    let dice = candidate.dice.map_or_else(Vec::new, |seed| (0..30).map(|add| Some(seed + add)).collect());
    [None].into_iter().chain(dice).find_map(|dice| {
        let candidate = Story { dice, ..candidate.clone() };
        let wrong = tell(&candidate).err()?;
        (self::class(&wrong) == class).then_some(candidate)
    })
}

/// What is wrong, as far as two stories can have it in common.
fn class(wrong: &str) -> String {
    let lines = wrong.lines().map(|line| line.split("\\x00").next().unwrap_or_default());
    lines.flat_map(|line| line.chars().filter(|c| !c.is_ascii_digit()).take(40)).collect()
}

/// Stories with one thing less.
fn shorter(story: &Story) -> Vec<Story> {
    let mut shorter = Vec::new();
    let mut add = |change: &dyn Fn(&mut Story)| {
        let mut candidate = story.clone();
        change(&mut candidate);
        shorter.push(candidate);
    };
    for at in (0..story.homes.len()).rev() {
        if story.lines.iter().any(|line| line.client == at) {
            add(&|story| story.lines.retain(|line| line.client != at));
        }
    }
    for at in 0..story.lines.len() {
        add(&|story| drop(story.lines.remove(at)));
    }
    for at in 0..story.lines.len() {
        for say in 0..story.lines[at].says.len() {
            if story.lines[at].says.len() > 1 {
                add(&|story| drop(story.lines[at].says.remove(say)));
            }
        }
        for then in [Then::Rest, Then::Ahead, Then::Unread] {
            if story.dice.is_none() && rank(then) < rank(story.lines[at].then) {
                add(&|story| story.lines[at].then = then);
            }
        }
    }
    if story.gathered_max < usize::MAX {
        add(&|story| story.gathered_max = usize::MAX);
    }
    if story.servers > 1 {
        add(&|story| story.servers -= 1);
    }
    for at in 0..story.homes.len() {
        if story.homes[at] != crate::script::Home::default() {
            add(&|story| story.homes[at] = crate::script::Home::default());
        }
    }
    if story.dice.is_some() {
        for then in [Then::Unread, Then::Ahead] {
            add(&|story| {
                story.dice = None;
                story.lines.iter_mut().for_each(|line| line.then = then);
            });
        }
    }
    shorter
}

fn rank(then: Then) -> usize {
    match then {
        Then::Rest => 0,
        Then::Ahead => 1,
        Then::Unread => 2,
    }
}
