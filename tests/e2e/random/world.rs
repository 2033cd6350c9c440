//! A world in which a script is played: its clients, and what they read.

use crate::random::differences::ProcessIds;
use crate::random::differences::comparable;
use crate::random::differences::settle;
use crate::random::owed::Owed;
use crate::random::script::Deed;
use crate::random::script::Turn;
use crate::support::dice::number;
use crate::support::raw::Client;
use crate::support::raw::Target;

/// Start-up packets, by number: what is added to a plain one.
pub type Packets = [&'static [(&'static str, &'static str)]];

/// What a client did or read, in the order of the whole story.
pub type Line = (usize, String);

pub struct World<'a> {
    target: Target,
    packets: &'a Packets,
    actors: Vec<Actor>,
    ids: ProcessIds,
    story: Vec<Line>,
}

struct Actor {
    client: Client,
    owed: Owed,
}

impl<'a> World<'a> {
    /// Plays `script` with `clients` clients that connect to `target`, to its end or to where a client is cut off.
    pub fn play(target: Target, packets: &'a Packets, clients: usize, script: &[Turn]) -> Vec<Line> {
        let mut world =
            Self { target, packets, actors: Vec::new(), ids: ProcessIds::new(), story: Vec::new() };
        for number in 0..clients {
            let actor = world.arrive(number, number % packets.len());
            world.actors.push(actor);
        }
        let mut deeds = script.iter().flat_map(|turn| turn.deeds.iter().map(|deed| (turn.client, deed)));
        if deeds.all(|(number, deed)| world.act(number, deed)) {
            world.actors.drain(..).for_each(|actor| actor.client.leave());
        }
        std::mem::take(&mut world.story)
    }

    fn arrive(&mut self, number: usize, packet: usize) -> Actor {
        let packet = self.packets[packet].iter();
        let target = packet.fold(self.target.clone(), |target, (name, value)| target.with(name, value));
        let client = Client::connect(&target).expect("a login");
        self.ids.insert(client.pid);
        self.story.extend(client.transcript.iter().map(|line| (number, format!("login {line}"))));
        Actor { client, owed: Owed::default() }
    }

    /// Tells whether the story goes on.
    fn act(&mut self, number: usize, deed: &Deed) -> bool {
        match deed {
            Deed::Say(frames) => self.say(number, frames),
            Deed::Return(packet) => {
                self.story.push((number, format!("> leave, and come back with packet {packet}")));
                let actor = self.actors.remove(number);
                actor.client.leave();
                let actor = self.arrive(number, *packet);
                self.actors.insert(number, actor);
                true
            }
        }
    }

    fn say(&mut self, number: usize, frames: &[Vec<u8>]) -> bool {
        let actor = &mut self.actors[number];
        for frame in frames {
            let body = frame[5..].escape_ascii();
            self.story.push((number, format!("> {} {body}", char::from(frame[0]))));
            actor.owed.say(frame[0]);
        }
        actor.client.transcript.clear();
        let (mut lines, mut goes_on) = (Vec::new(), actor.client.try_send(&frames.concat()));
        while goes_on && actor.owed.expects() {
            let Some(message) = actor.client.next() else {
                goes_on = false;
                break;
            };
            goes_on = actor.owed.hear(message.tag).is_some();
            lines.extend(comparable(&message, actor.client.pid, &self.target.database, &self.ids));
        }
        self.story.extend(settle(lines).into_iter().map(|line| (number, line)));
        if !goes_on {
            self.story.push((number, CUT_OFF.to_owned()));
        }
        goes_on
    }
}

impl Drop for World<'_> {
    /// Where nobody answered any more.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let last =
                self.story.iter().skip(self.story.len().saturating_sub(number("CONTEXT").unwrap_or(60)));
            last.for_each(|(number, line)| eprintln!("  {number}: {line}"));
            // They hold what they hold until somebody has looked.
            std::mem::forget(std::mem::take(&mut self.actors));
        }
    }
}

/// The last line of a story in which a client lost its connection, or was told what it had not asked for.
pub const CUT_OFF: &str = "cut off";
