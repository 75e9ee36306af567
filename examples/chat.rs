//! A room for all who come: `cargo run --example chat 7100`, then `nc -C localhost 7100` from several terminals.
//!
//! The first line is the name; what follows goes to everybody else. Who says nothing for ten minutes is asked to leave, and
//! so is who does not read what the others say.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dosimeter::net::{Address, ConnectionLost, LimitConnections, LineProtocol, LineReceiver, LineTransport, Timeout};
use dosimeter::{Reactor, Result};

/// Who is there, by name. One thread: a cell is enough.
#[derive(Clone, Default)]
struct Room(Rc<RefCell<BTreeMap<String, LineTransport>>>);

impl Room {
    /// Lets somebody in under a name that nobody has.
    fn enter(&self, name: &str, lines: &LineTransport) -> bool {
        let mut people = self.0.borrow_mut();
        if people.contains_key(name) {
            return false;
        }
        people.insert(name.to_owned(), lines.clone());
        true
    }

    fn leave(&self, name: &str) {
        self.0.borrow_mut().remove(name);
    }

    fn names(&self) -> String {
        self.0.borrow().keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Writing calls nobody, so the room may be looked at meanwhile.
    fn tell_all_but(&self, name: &str, text: &str) {
        for (_, lines) in self.0.borrow().iter().filter(|(other, _)| *other != name) {
            if lines.unsent() > MOST_UNSENT {
                lines.abort_connection();
            } else {
                lines.send_line(text);
            }
        }
    }
}

/// One of the people, with a name once they have given it.
struct Person {
    room: Room,
    name: Option<String>,
    timeout: Option<Timeout>,
}

impl Person {
    fn introduce(&mut self, lines: &LineTransport, name: &str) {
        if name.is_empty() || name.len() > LONGEST_NAME {
            return lines.send_line(format!("A name has 1 to {LONGEST_NAME} bytes. Your name?"));
        }
        if !self.room.enter(name, lines) {
            return lines.send_line("Somebody has that name. Your name?");
        }
        self.name = Some(name.to_owned());
        lines.send_line(format!("Welcome, {name}. Here are: {}", self.room.names()));
        self.room.tell_all_but(name, &format!("* {name} has come"));
    }
}

impl LineProtocol for Person {
    fn connection_made(&mut self, lines: &LineTransport) -> Result<()> {
        self.timeout = Some(Timeout::lose(lines, IDLE));
        lines.send_line("Your name?");
        Ok(())
    }

    fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()> {
        self.timeout.iter().for_each(Timeout::reset);
        // Nobody gets to move the cursor of the others.
        let text: String = String::from_utf8_lossy(line).chars().filter(|char| !char.is_control()).collect();
        match &self.name {
            None => self.introduce(lines, text.trim()),
            Some(_) if text == "/quit" => lines.lose_connection(),
            Some(_) if text == "/who" => lines.send_line(self.room.names()),
            Some(name) => self.room.tell_all_but(name, &format!("<{name}> {text}")),
        }
        Ok(())
    }

    fn line_length_exceeded(&mut self, lines: &LineTransport) -> Result<()> {
        lines.send_line("* that was too long");
        Ok(())
    }

    fn connection_lost(&mut self, _lines: &LineTransport, _reason: ConnectionLost) {
        if let Some(name) = &self.name {
            self.room.leave(name);
            self.room.tell_all_but(name, &format!("* {name} has left"));
        }
    }
}

fn main() -> Result<()> {
    let port = std::env::args().nth(1).unwrap_or("7100".to_owned());
    let port: u16 = port.parse().map_err(|_| "usage: chat [PORT]")?;
    let room = Room::default();
    let person = move |_: &Address| {
        let person = Person { room: room.clone(), name: None, timeout: None };
        LineReceiver::new(person).max_length(LONGEST_LINE)
    };
    let reactor = Reactor::new()?;
    reactor.listen_tcp(port, LimitConnections::new(person, MOST_PEOPLE))?;
    reactor.run()
}

const IDLE: Duration = Duration::from_secs(600);

const LONGEST_NAME: usize = 32;

const LONGEST_LINE: usize = 1024;

const MOST_PEOPLE: usize = 1000;

/// A thousand lines: who is farther behind is not reading.
const MOST_UNSENT: usize = 1024 * 1024;
