//! One reactor for each core: [`run_on_cores`].
//!
//! Rules kept here:
//! - Nobody runs before everybody is set up, and all end together: when one ends, for whatever reason, the others are asked to.
//! - What goes wrong with one is the result of the whole, and nothing of the others is left behind: no thread, no open port.
//! - The reactors share nothing but what the program gives them. Between them there are messages to the thread that started
//!   them, which itself only waits.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, Scope};

use super::{Builder, Reactor, Remote};
use crate::failure::{Failure, Result, guard};

/// Runs a reactor on each of `cores` threads, set up by `setup`, until one of them stops; 0 cores are those of the machine.
///
/// `setup` is called in each thread, with its reactor: it builds what the reactor serves and listens. The reactors listen at
/// the same TCP and UDP addresses with `SO_REUSEPORT`, without being told to, and the system spreads new connections, and the
/// senders of datagrams, over them. They are named `0`, `1` and so on, which is the label `reactor` of their figures: all are
/// in one registry, and one `/metrics`, on whichever of them, shows all.
///
/// The reactors stop together, after [`stop`](Reactor::stop) in one of them or a signal to the process, each as
/// [`run`](Reactor::run) has it. [`Builder::run_on_cores`] has the options.
///
/// ```no_run
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::{MetricsResource, run_on_cores};
///
/// # fn main() -> dosimeter::Result<()> {
/// run_on_cores(0, |reactor| {
///     let root = Branch::new();
///     root.put_child("metrics", MetricsResource::new());
///     reactor.listen_tcp(8000, Site::new(root))?;
///     Ok(())
/// })
/// # }
/// ```
///
/// # What to know of it
///
/// - A connection stays with the reactor that accepted it. The system chooses by a hash of both addresses and not by load, so
///   this is for many connections: of ten long ones, one core may get seven.
/// - Connections that a reactor has not accepted when it closes its port are reset by the system, even if others still listen.
///   Since 5.14 Linux can hand them over (`sysctl net.ipv4.tcp_migrate_req=1`). This is why all stop at the same time. A site
///   that is shut down first leaves none (`Site::shutdown`).
/// - A second start of the same program listens beside the first, without an error, if the user is the same.
/// - Port 0 is another port for each reactor, and a UNIX socket is for one reactor only.
/// - What `setup` makes belongs to its reactor. What all of them need is shared by the program, in an `Arc`, say.
///
/// # Errors
/// The first thing that went wrong: in `setup`, be it an error or a panic, or in what [`Reactor::run`] can fail with. Nothing
/// runs unless everything is set up. What goes wrong after that is logged.
pub fn run_on_cores(cores: usize, setup: impl Fn(&Reactor) -> Result<()> + Sync) -> Result<()> {
    Reactor::builder().run_on_cores(cores, setup)
}

impl Builder {
    /// As [`run_on_cores`], with reactors made by this builder. A [`name`](Builder::name) gets the number added: `web-0`.
    ///
    /// # Errors
    /// As `run_on_cores`.
    pub fn run_on_cores(self, cores: usize, setup: impl Fn(&Reactor) -> Result<()> + Sync) -> Result<()> {
        let cores = if cores == 0 { thread::available_parallelism()?.get() } else { cores };
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            let mut crew = Crew { start: Vec::new(), remotes: Vec::new(), failure: None };
            for number in 0..cores {
                if let Err(error) = crew.hire(scope, self.for_core(number), &setup, tell.clone()) {
                    crew.disband(Err(error.into()));
                    break;
                }
            }
            // What is left are the senders of the threads: when the last of them has ended, so has this.
            drop(tell);
            for report in told {
                crew.hear(report, cores);
            }
            crew.failure.map_or(Ok(()), Err)
        })
    }

    fn for_core(&self, number: usize) -> Builder {
        let name = if self.name.is_empty() { number.to_string() } else { format!("{}-{number}", self.name) };
        self.clone().name(name).shares_ports()
    }
}

/// What a thread tells.
enum Report {
    /// It is set up and waits for the start.
    Ready(Remote),
    Ended(Result<()>),
}

/// The threads, as the one sees them that started them.
struct Crew {
    /// To be told to start; dropped instead when nobody is to.
    start: Vec<Sender<()>>,
    remotes: Vec<Remote>,
    failure: Option<Failure>,
}

impl Crew {
    fn hire<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        builder: Builder,
        setup: &'scope (impl Fn(&Reactor) -> Result<()> + Sync),
        tell: Sender<Report>,
    ) -> std::io::Result<()> {
        let (start, started) = mpsc::channel();
        let thread = thread::Builder::new().name(format!("reactor-{}", builder.name));
        thread.spawn_scoped(scope, move || {
            let outcome = guard(|| serve(builder, setup, &tell, &started)).flatten();
            // The other end lives as long as any of these threads.
            let _ = tell.send(Report::Ended(outcome));
        })?;
        self.start.push(start);
        Ok(())
    }

    fn hear(&mut self, report: Report, cores: usize) {
        match report {
            Report::Ready(remote) => {
                self.remotes.push(remote);
                if self.remotes.len() == cores {
                    for start in self.start.drain(..) {
                        // Who has ended meanwhile has told so.
                        let _ = start.send(());
                    }
                }
            }
            Report::Ended(outcome) => self.disband(outcome),
        }
    }

    /// One has ended; so shall the others.
    fn disband(&mut self, outcome: Result<()>) {
        if let Err(failure) = outcome {
            match &self.failure {
                None => self.failure = Some(failure),
                Some(_) => failure.log("dosimeter::reactor", format_args!("another reactor failed")),
            }
        }
        self.start.clear();
        for remote in &self.remotes {
            // One that has stopped, or is stopping, does what is asked of it.
            let _ = remote.call_from_thread(|reactor| {
                let _ = reactor.stop();
            });
        }
    }
}

/// The life of one thread.
fn serve(
    builder: Builder,
    setup: &impl Fn(&Reactor) -> Result<()>,
    tell: &Sender<Report>,
    started: &Receiver<()>,
) -> Result<()> {
    let reactor = builder.build()?;
    let outcome = guard(|| setup(&reactor)).flatten();
    if outcome.is_ok() {
        let _ = tell.send(Report::Ready(reactor.remote()));
        if started.recv().is_ok() {
            return reactor.run();
        }
    }
    // Open ports keep a reactor that never ran.
    let over = reactor.shut_down();
    while !over.is_fired() {
        reactor.turn(None)?;
    }
    outcome
}
