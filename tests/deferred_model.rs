//! Random programs, run against Deferreds and against a naive model of them: both must tell the same story.
//!
//! The model is Twisted's Deferred put down as plainly as can be: one object with a list of closures, a result that is there
//! or not, and recursion wherever something follows from something else. It knows nothing of stages, relays or loops.

#[path = "support/log.rs"]
mod log_capture;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use dosimeter::{Canceller, Completer, Deferred, Metrics, Pause, Reactor};
use log_capture::{logged, note};
use proptest::prelude::*;

/// A result as it is written in the story.
type Story = Result<i64, String>;

/// A step of a program. Chains are named by their number, counted round those that there are.
#[derive(Debug, Clone)]
enum Op {
    Pair,
    Add(usize, Callback),
    Fire(usize, Story),
    OnCancel(usize, Asked),
    Cancel(usize),
    Pause(usize),
    Unpause(usize),
    DropTail(usize),
    DropCompleter(usize),
    ChainInto(usize, usize),
    /// Puts a task between: `async { chain.await }` is the chain itself.
    Await(usize),
}

/// What a canceller does.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Nothing,
    Fires(i64),
    DropsCompleter,
    CancelsAgain,
}

#[derive(Debug, Clone)]
struct Callback {
    id: u16,
    on_value: bool,
    on_failure: bool,
    inside: Option<Box<Op>>,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Passes,
    Adds(i64),
    Fails,
    Panics,
    /// It returns the chain with a number so much higher than its own: waits go one way, so that there are no circles.
    Waits(usize),
}

/// The two things that can run a program.
trait World: 'static {
    fn chains(&self) -> usize;
    fn apply(self: &Rc<Self>, op: &Op);
    /// What there is at the tail of a chain, if somebody still holds it.
    fn describe(&self, chain: usize) -> String;
}

impl Callback {
    /// The part that is the same in both worlds; `None` passes the input on.
    fn run(&self, world: &Rc<impl World>, input: &Story) -> Option<End> {
        if !(if input.is_ok() { self.on_value } else { self.on_failure }) {
            return None;
        }
        note(format!("{} called with {input:?}", self.id));
        if let Some(op) = &self.inside {
            world.apply(op);
        }
        Some(self.end)
    }
}

/// Runs a program and then ends everything it has left; gives what happened.
fn story<W: World>(world: Rc<W>, program: &[Op]) -> Vec<String> {
    logged(|| {
        program.iter().for_each(|op| world.apply(op));
        let all = |op: fn(usize) -> Op| (0..world.chains()).for_each(|chain| world.apply(&op(chain)));
        let describe_all = || (0..world.chains()).for_each(|chain| note(format!("{chain}: {}", world.describe(chain))));
        all(Op::Unpause);
        describe_all();
        all(Op::DropCompleter);
        describe_all();
        all(Op::DropTail);
        // Callbacks that run now make chains and pauses of their own.
        for _ in program {
            all(Op::Unpause);
            all(Op::DropCompleter);
            all(Op::DropTail);
        }
    })
    .iter()
    .map(|line| abridge(line))
    .collect()
}

/// Of what is logged, the part that the model knows as well.
fn abridge(line: &str) -> String {
    if let Some(rest) = line.strip_prefix("ERROR unhandled failure in a Deferred made at ") {
        let text = rest.split_once(": ").expect("a place and a report").1;
        return format!("unhandled {}", text.lines().next().expect("a text"));
    }
    if line.starts_with("WARN a Deferred made at ") { "fired late".to_string() } else { line.to_string() }
}

// ---- the model ----------------------------------------------------------------------------------------

#[derive(Default)]
struct Model {
    chains: RefCell<Vec<Object>>,
    gates: RefCell<Vec<Gate>>,
}

/// Twisted's Deferred.
#[derive(Default)]
struct Object {
    called: bool,
    running: bool,
    result: Option<Story>,
    callbacks: VecDeque<(Kind, Step)>,
    waits_for: Option<usize>,
    at_gate: bool,
    canceller: Option<Asked>,
    asked: bool,
    cancelling: bool,
    fired_by_hand: bool,
    tail: Tail,
    pauses: Vec<usize>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Tail {
    #[default]
    Held,
    Dropped,
    Moved,
}

#[derive(Default)]
struct Gate {
    open: bool,
    held: Option<(usize, Story)>,
}

/// What a callback was added for.
enum Kind {
    Work,
    /// It hands the result to another chain and does nothing else.
    HandsTo(usize),
}

type Step = Box<dyn FnOnce(&Rc<Model>, Story) -> Next>;

enum Next {
    Result(Story),
    Wait(usize),
    AtGate,
    Gone,
}

impl Model {
    fn with<R>(&self, chain: usize, look: impl FnOnce(&mut Object) -> R) -> R {
        look(&mut self.chains.borrow_mut()[chain])
    }

    fn add(self: &Rc<Self>, chain: usize, kind: Kind, step: impl FnOnce(&Rc<Model>, Story) -> Next + 'static) {
        self.with(chain, |object| object.callbacks.push_back((kind, Box::new(step))));
        self.run(chain);
    }

    fn fire(self: &Rc<Self>, chain: usize, result: Story) {
        self.with(chain, |object| (object.called, object.canceller, object.result) = (true, None, Some(result)));
        self.run(chain);
    }

    fn fire_in_time(self: &Rc<Self>, chain: usize, result: Story) {
        match self.with(chain, |object| (object.called, object.asked)) {
            (false, _) => self.fire(chain, result),
            (true, true) => note("fired late".into()),
            (true, false) => {}
        }
    }

    fn run(self: &Rc<Self>, chain: usize) {
        if self.with(chain, |object| object.running || object.at_gate || object.waits_for.is_some()) {
            return;
        }
        while let Some((step, input)) = self.with(chain, |object| match object.result.take() {
            Some(result) if object.callbacks.is_empty() => {
                object.result = Some(result);
                None
            }
            result => result.map(|result| (object.callbacks.pop_front().expect("not empty").1, result)),
        }) {
            self.with(chain, |object| object.running = true);
            let next = step(self, input);
            self.with(chain, |object| object.running = false);
            match next {
                Next::Result(result) => self.with(chain, |object| object.result = Some(result)),
                Next::AtGate => return self.with(chain, |object| object.at_gate = true),
                Next::Gone => return,
                Next::Wait(inner) => {
                    self.with(chain, |object| object.waits_for = Some(inner));
                    return self.add(inner, Kind::HandsTo(chain), move |model, result| {
                        model.with(chain, |object| (object.waits_for, object.result) = (None, Some(result)));
                        model.run(chain);
                        Next::Gone
                    });
                }
            }
        }
        self.bury(chain);
    }

    /// What is left at the end of a chain that nobody holds.
    fn bury(&self, chain: usize) {
        let result = self.with(chain, |object| if object.tail == Tail::Dropped { object.result.take() } else { None });
        if let Some(Err(text)) = result
            && text != "cancelled"
        {
            note(format!("unhandled {text}"));
        }
    }

    fn cancel(self: &Rc<Self>, mut chain: usize) {
        while let Some(inner) = self.with(chain, |object| object.waits_for) {
            chain = inner;
        }
        if self.with(chain, |object| object.called || object.cancelling) {
            return;
        }
        if let Some(asked) = self.with(chain, |object| object.canceller.take()) {
            note(format!("{chain} asked"));
            self.with(chain, |object| (object.asked, object.cancelling) = (true, true));
            match asked {
                Asked::Nothing => {}
                Asked::Fires(value) => self.apply(&Op::Fire(chain, Ok(value))),
                Asked::DropsCompleter => self.apply(&Op::DropCompleter(chain)),
                Asked::CancelsAgain => self.cancel(chain),
            }
            self.with(chain, |object| object.cancelling = false);
        }
        if !self.with(chain, |object| object.called) {
            self.fire(chain, Err("cancelled".into()));
        }
    }

    /// As a user does who holds the tail: meanwhile nobody else has it.
    fn add_at_tail(self: &Rc<Self>, chain: usize, step: impl FnOnce(&Rc<Model>, Story) -> Next + 'static) {
        if self.take_tail(chain) {
            self.add(chain, Kind::Work, step);
            self.with(chain, |object| object.tail = Tail::Held);
        }
    }

    fn pause(self: &Rc<Self>, chain: usize) {
        if !self.with(chain, |object| object.tail == Tail::Held) {
            return;
        }
        let gate = self.gates.borrow().len();
        self.gates.borrow_mut().push(Gate::default());
        self.with(chain, |object| object.pauses.push(gate));
        self.add_at_tail(chain, move |model, result| {
            let gate = &mut model.gates.borrow_mut()[gate];
            if gate.open {
                return Next::Result(result);
            }
            gate.held = Some((chain, result));
            Next::AtGate
        });
    }

    fn unpause(self: &Rc<Self>, chain: usize) {
        let Some(gate) = self.with(chain, |object| object.pauses.pop()) else { return };
        self.gates.borrow_mut()[gate].open = true;
        let held = self.gates.borrow_mut()[gate].held.take();
        if let Some((chain, result)) = held {
            self.with(chain, |object| (object.at_gate, object.result) = (false, Some(result)));
            self.run(chain);
        }
    }

    /// Whether anybody would notice if the chain were fired.
    fn has_audience(&self, chain: usize) -> bool {
        let next = self.with(chain, |object| match object.callbacks.front() {
            None => Err(object.tail != Tail::Dropped),
            Some((Kind::Work, _)) => Err(true),
            Some((Kind::HandsTo(other), _)) => Ok(*other),
        });
        next.map_or_else(
            |known| known,
            |other| {
                let waits = self.with(other, |object| !object.called || object.waits_for == Some(chain));
                waits && self.has_audience(other)
            },
        )
    }

    /// Uses up the completer; false when it is gone already.
    fn take_completer(&self, chain: usize) -> bool {
        self.with(chain, |object| !std::mem::replace(&mut object.fired_by_hand, true))
    }

    fn take_tail(&self, chain: usize) -> bool {
        self.with(chain, |object| {
            let held = object.tail == Tail::Held;
            if held {
                object.tail = Tail::Moved;
            }
            held
        })
    }
}

impl World for Model {
    fn chains(&self) -> usize {
        self.chains.borrow().len()
    }

    fn apply(self: &Rc<Self>, op: &Op) {
        let count = self.chains();
        if count == 0 && !matches!(op, Op::Pair) {
            return;
        }
        let held = |chain: usize| self.with(chain, |object| object.tail == Tail::Held);
        match op.clone() {
            Op::Pair => self.chains.borrow_mut().push(Object::default()),
            Op::Add(chain, callback) => {
                let chain = chain % count;
                self.add_at_tail(chain, move |model, input| match callback.run(model, &input) {
                    None | Some(End::Passes) => Next::Result(input),
                    Some(End::Adds(number)) => Next::Result(Ok(input.unwrap_or(0) + number)),
                    Some(End::Fails) => Next::Result(Err(format!("failure {}", callback.id))),
                    Some(End::Panics) => Next::Result(Err(format!("panicked: on purpose {}", callback.id))),
                    Some(End::Waits(more)) => {
                        let inner = chain + 1 + more;
                        if inner < model.chains() && model.take_tail(inner) {
                            Next::Wait(inner)
                        } else {
                            Next::Result(Ok(0))
                        }
                    }
                });
            }
            Op::Fire(chain, result) => {
                let chain = chain % count;
                if self.take_completer(chain) {
                    self.fire_in_time(chain, result);
                }
            }
            Op::OnCancel(chain, asked) => self.with(chain % count, |object| {
                if !object.fired_by_hand && !object.called {
                    object.canceller = Some(asked);
                }
            }),
            Op::Cancel(chain) => self.cancel(chain % count),
            Op::Pause(chain) => self.pause(chain % count),
            Op::Unpause(chain) => self.unpause(chain % count),
            Op::DropTail(chain) if held(chain % count) => {
                self.with(chain % count, |object| object.tail = Tail::Dropped);
                let idle = self.with(chain % count, |object| !object.running && object.callbacks.is_empty());
                if idle {
                    self.bury(chain % count);
                }
            }
            Op::DropCompleter(chain) => {
                let chain = chain % count;
                if self.take_completer(chain) {
                    if self.with(chain, |object| object.called || object.cancelling) {
                        return;
                    }
                    if self.has_audience(chain) {
                        return self
                            .fire(chain, Err("abandoned: the Completer was dropped without being fired".into()));
                    }
                    self.with(chain, |object| (object.called, object.canceller) = (true, None));
                }
            }
            Op::ChainInto(chain, other) => {
                let (chain, other) = (chain % count, other % count);
                if chain > other && held(chain) && self.take_completer(other) {
                    self.with(chain, |object| object.tail = Tail::Moved);
                    self.add(chain, Kind::HandsTo(other), move |model, result| {
                        model.fire_in_time(other, result);
                        Next::Gone
                    });
                }
            }
            Op::Await(chain) => self.add_at_tail(chain % count, |_, result| Next::Result(result)),
            Op::DropTail(_) => {}
        }
    }

    fn describe(&self, chain: usize) -> String {
        self.with(chain, |object| {
            let idle = object.waits_for.is_none() && !object.at_gate;
            match (&object.result, object.tail) {
                (Some(result), Tail::Held) if idle => format!("{result:?}"),
                (_, Tail::Held) => "pending".to_string(),
                _ => "gone".to_string(),
            }
        })
    }
}

// ---- the real thing -----------------------------------------------------------------------------------

struct Real {
    reactor: Reactor,
    chains: RefCell<Vec<Rc<Slot>>>,
}

#[derive(Default)]
struct Slot {
    tail: Cell<Option<Deferred<i64>>>,
    completer: Cell<Option<Completer<i64>>>,
    /// Of the last tail there was.
    canceller: Cell<Option<Canceller>>,
    pauses: RefCell<Vec<Pause>>,
}

impl Slot {
    fn put(&self, tail: Deferred<i64>) {
        self.canceller.set(Some(tail.canceller()));
        self.tail.set(Some(tail));
    }

    fn change(&self, change: impl FnOnce(Deferred<i64>) -> Deferred<i64>) {
        // Callbacks may run while it changes, and find no tail.
        if let Some(tail) = self.tail.take() {
            self.put(change(tail));
        }
    }

    fn cancel(&self) {
        let canceller = self.canceller.take();
        self.canceller.set(canceller.clone());
        canceller.iter().for_each(Canceller::cancel);
    }
}

fn told(result: &dosimeter::Result<i64>) -> Story {
    result.as_ref().map(|value| *value).map_err(ToString::to_string)
}

impl World for Real {
    fn chains(&self) -> usize {
        self.chains.borrow().len()
    }

    fn apply(self: &Rc<Self>, op: &Op) {
        let count = self.chains();
        if count == 0 && !matches!(op, Op::Pair) {
            return;
        }
        let slot = |chain: usize| self.chains.borrow()[chain % count].clone();
        match op.clone() {
            Op::Pair => {
                let (completer, deferred) = Deferred::pair();
                let slot = Rc::new(Slot::default());
                slot.completer.set(Some(completer));
                slot.put(deferred);
                self.chains.borrow_mut().push(slot);
            }
            Op::Add(chain, callback) => {
                let (world, own) = (self.clone(), chain % count);
                slot(chain).change(|tail| {
                    tail.add_both(move |result| match callback.run(&world, &told(&result)) {
                        None | Some(End::Passes) => Deferred::from(result),
                        Some(End::Adds(number)) => Deferred::succeed(result.unwrap_or(0) + number),
                        Some(End::Fails) => Deferred::fail(format!("failure {}", callback.id)),
                        Some(End::Panics) => panic!("on purpose {}", callback.id),
                        Some(End::Waits(more)) => {
                            let inner = world.chains.borrow().get(own + 1 + more).cloned();
                            inner.and_then(|inner| inner.tail.take()).unwrap_or_else(|| Deferred::succeed(0))
                        }
                    })
                });
            }
            Op::Fire(chain, result) => {
                if let Some(completer) = slot(chain).completer.take() {
                    completer.fire(result.map_err(Into::into));
                }
            }
            Op::OnCancel(chain, asked) => {
                let (world, own) = (self.clone(), chain % count);
                let slot = slot(chain);
                if let Some(completer) = slot.completer.take() {
                    completer.on_cancel(move || {
                        note(format!("{own} asked"));
                        match asked {
                            Asked::Nothing => {}
                            Asked::Fires(value) => world.apply(&Op::Fire(own, Ok(value))),
                            Asked::DropsCompleter => world.apply(&Op::DropCompleter(own)),
                            Asked::CancelsAgain => world.chains.borrow()[own].clone().cancel(),
                        }
                    });
                    slot.completer.set(Some(completer));
                }
            }
            Op::Cancel(chain) => slot(chain).cancel(),
            Op::Pause(chain) => {
                let slot = slot(chain);
                slot.clone().change(|tail| {
                    let (paused, pause) = tail.pause();
                    slot.pauses.borrow_mut().push(pause);
                    paused
                });
            }
            Op::Unpause(chain) => {
                let pause = slot(chain).pauses.borrow_mut().pop();
                drop(pause);
            }
            Op::DropTail(chain) => drop(slot(chain).tail.take()),
            Op::DropCompleter(chain) => drop(slot(chain).completer.take()),
            Op::ChainInto(chain, other) => {
                let (from, to) = (slot(chain), slot(other));
                if chain % count > other % count
                    && let Some(tail) = from.tail.take()
                {
                    match to.completer.take() {
                        Some(completer) => tail.chain_into(completer),
                        None => from.tail.set(Some(tail)),
                    }
                }
            }
            Op::Await(chain) => slot(chain).change(|tail| self.reactor.spawn(tail)),
        }
    }

    fn describe(&self, chain: usize) -> String {
        let slot = self.chains.borrow()[chain].clone();
        let Some(tail) = slot.tail.take() else { return "gone".to_string() };
        match tail.into_result() {
            Ok(result) => {
                let text = format!("{:?}", told(&result));
                slot.tail.set(Some(Deferred::from(result)));
                text
            }
            Err(pending) => {
                slot.tail.set(Some(pending));
                "pending".to_string()
            }
        }
    }
}

// ---- the programs -------------------------------------------------------------------------------------

fn result() -> impl Strategy<Value = Story> {
    prop_oneof![(0..100_i64).prop_map(Ok), Just(Err("fired".to_string()))]
}

fn chain() -> impl Strategy<Value = usize> {
    0..6_usize
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Passes),
        (1..100_i64).prop_map(End::Adds),
        Just(End::Fails),
        Just(End::Panics),
        (0..3_usize).prop_map(End::Waits),
        (0..3_usize).prop_map(End::Waits),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    prop_oneof![
        Just(Asked::Nothing),
        (100..200_i64).prop_map(Asked::Fires),
        Just(Asked::DropsCompleter),
        Just(Asked::CancelsAgain),
    ]
}

fn callback(inside: impl Strategy<Value = Op> + 'static) -> impl Strategy<Value = Callback> {
    let kind = prop_oneof![Just((true, false)), Just((false, true)), Just((true, true))];
    (any::<u16>(), kind, proptest::option::of(inside.prop_map(Box::new)), end())
        .prop_map(|(id, (on_value, on_failure), inside, end)| Callback { id, on_value, on_failure, inside, end })
}

/// A step without the callbacks, so that it can be taken from inside one.
fn plain_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => Just(Op::Pair),
        4 => (chain(), result()).prop_map(|(chain, result)| Op::Fire(chain, result)),
        2 => (chain(), asked()).prop_map(|(chain, asked)| Op::OnCancel(chain, asked)),
        3 => chain().prop_map(Op::Cancel),
        2 => chain().prop_map(Op::Pause),
        2 => chain().prop_map(Op::Unpause),
        1 => chain().prop_map(Op::DropTail),
        1 => chain().prop_map(Op::DropCompleter),
        2 => (chain(), chain()).prop_map(|(chain, other)| Op::ChainInto(chain, other)),
        2 => chain().prop_map(Op::Await),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let inside = || {
        prop_oneof![plain_op(), (chain(), callback(plain_op())).prop_map(|(chain, callback)| Op::Add(chain, callback)),]
    };
    prop_oneof![
        1 => Just(Op::Pair),
        2 => plain_op(),
        3 => (chain(), callback(inside())).prop_map(|(chain, callback)| Op::Add(chain, callback)),
    ]
}

/// Panics on purpose are part of the story and not of the output.
fn hush_panics_on_purpose() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload().downcast_ref::<String>();
            if !text.is_some_and(|text| text.starts_with("on purpose")) {
                loud(info);
            }
        }));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_program_tells_the_same_story_in_the_model(program in proptest::collection::vec(op(), 1..40)) {
        hush_panics_on_purpose();
        let mut program = program;
        program.splice(0..0, [Op::Pair, Op::Pair, Op::Pair]);
        let reactor = Reactor::builder().metrics(Metrics::Off).signal_handlers(false).build().expect("a reactor");
        let expected = story(Rc::new(Model::default()), &program);
        let real = Rc::new(Real { reactor, chains: RefCell::default() });
        let told = story(real.clone(), &program);
        prop_assert_eq!(told, expected);
        // Cancellers hold the world that holds them, until their chain is fired; all chains have ended by now.
        prop_assert_eq!(Rc::strong_count(&real), 1, "something is still alive");
    }
}
