//! The floor plan of the crate, checked against its sources.
//!
//! Rules this file enforces:
//! 1. A file names only files of lower floors, or files to its left in its own folder. Hence no cycles.
//! 2. Every file stands in [`PLAN`]. The plan may be ahead of the sources, never behind.
//! 3. Each absence that makes the crate easy to change is a line of [`ABSENCES`], not a habit.
//!
//! The sources are read as tokens, so comments, strings, documentation and `#[cfg(test)]` items do not
//! count, and a path is the same path however it is spelled: `use crate::{net::{self, tcp}}`, `super::tcp`
//! or `crate::net::tcp::listen()` in the middle of an expression.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// The floors, top to bottom. `a <- b` means that b may name a; a comma separates files of one column,
/// which may not name each other. A folder's `mod` stands to the right of its files unless placed.
/// To add a file, write its name where it belongs.
const PLAN: &str = "
    9                lib
    8  testing/      clock, results, reply, logged <- reactor <- client, datagrams <- transport, web <- pump
    8  guide/        mod
    7  exposition/   lines, isolate <- text, openmetrics <- negotiate <- gather <- renders <- resource, landing <- dashboard <- monitor
    6  web/          accept, beneath, coding, metrics, ranges, response, kind, path, limits, forwarded, disconnected, patience, waiter <- pattern, body <- error, listing, encode <- exchange, multipart <- forms, walk, company, coded, failing <- request <- conditional, cookies, form_stream, resource <- branch, sessions, data, instrumented, later, pages, redirect, vhost, handler <- rule, error_handlers, send_stream, answer, guests, drain, access_log, client <- auth, shared, routes <- compress, content, connection, route, urls <- static_files, reading, streaming, closing, site, router
    5  net/          accept, address, producer <- outbox <- transport <- port, socket <- protocol, memory, packets <- stream, inbox, timeout, limit <- listen, lines, strings <- tcp, unix, systemd <- datagram, client <- udp, resolve <- race, receiving <- dial, connector <- connecting, reconnect <- connect <- endpoint
    5                task, looping, source, react, cooperator
    4  reactor/      watch, error <- metrics, poller <- remote, signals, threads, triggers, pace, process, publish <- mod <- life, sources <- work, builder <- cores
    3  instrument/   metric, capped <- hook <- subject <- mod
    2  deferred/     trace <- links <- mod <- timeout, combine, sync, future
    1  http/         error, limits <- grammar <- target, body, state, response <- head <- connection
    1                schedule <- clock
    0                failure, buffer, slots
";

/// What is deliberately not there, each with its reason on the line below. A name with `::` is a path,
/// another is an identifier wherever it stands; `*` is any ending.
const ABSENCES: &str = "
    mio                                 only in reactor/poller, source, net/socket, net/memory, net/tcp, net/unix, net/datagram, net/race, net/dial
        the polling library is known to the poller, to the socket types, and to sources of the program
    Mutex, RwLock, Condvar, std::sync::atomic   only in reactor/remote, reactor/threads, reactor/metrics, reactor/watch, reactor/signals, exposition/monitor, deferred/future, exposition/isolate, instrument/capped
        the loop is single-threaded; what other threads may touch lives in few files
    Send                                only in reactor/mod, reactor/poller, reactor/remote, reactor/threads, reactor/work, reactor/cores, reactor/metrics, reactor/signals, exposition/monitor, deferred/future, exposition/renders, failure
        few files hand values to another thread
    Instant::now                        only in reactor/poller, reactor/mod, instrument/hook
        a turn has one `now`; everything else is given the time by a Clock
    std::fs, rustix                     only in web/static_files, web/content, web/beneath, net/accept, net/unix, reactor/process, reactor/threads
        a disk makes who asks it wait: the thread pool, and who opens a port
    elapsed                             only in instrument/hook
        `elapsed` reads the clock behind the reader's back
    std::net, std::io                   never in http/*
        the protocol core performs no I/O
    Instant, SystemTime                 never in http/*
        the protocol core reads no clock
    crate::reactor, crate::deferred, crate::net     never in http/*
        bytes in, events out, bytes out
    Protocol                            never in net/transport
        the driver owns both; a transport that knew its protocol would make the two own each other
    unsafe                              never in *
        the crate forbids unsafe code
";

#[test]
fn the_sources_keep_the_floor_plan() {
    let sources = sources_of(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path());
    assert!(!sources.is_empty(), "no sources found: this test would check nothing");
    let violations = check(&Plan::parse(PLAN), &Absence::parse_all(ABSENCES), &sources);
    let report: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(report.is_empty(), "\n{}\n", report.join("\n"));
}

#[test]
fn the_crate_forbids_unsafe_code() {
    let Ok(text) = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs")) else {
        return;
    };
    let words: Vec<String> = lex(&text).into_iter().map(|token| token.text).collect();
    let forbid = ["#", "!", "[", "forbid", "(", "unsafe_code"];
    assert!(words.windows(forbid.len()).any(|window| window == forbid));
}

// ---- the checker, checked ---------------------------------------------------------------------------

#[test]
fn naming_a_higher_floor_is_reported() {
    let reports = check_one("src/net/tcp.rs", "use std::rc::Rc;\n\nuse crate::web::site::Site;\n");
    assert_eq!(
        reports,
        ["src/net/tcp.rs:3: `crate::web::site::Site`: net/tcp (floor 5) may not name web/site (floor 6): \
          only lower floors, or files to the left in net/"]
    );
}

#[test]
fn a_path_is_found_however_it_is_spelled() {
    for text in [
        "use crate::web::site::Site;",
        "use crate::{clock::Clock, web::{self, site::*}};",
        "use {std::rc::Rc, crate::web::site};",
        "use super::super::web::site::{Site as S};",
        "use super::super::{web};",
        "pub(crate) use crate::web;",
        "fn f() { crate::web::site::serve::<u8>() }",
        "fn f<T: Into<crate::web::Site>>() {}",
        "fn f() -> Vec<<crate::web::Site as Iterator>::Item> {}",
        "mod inner { fn f() { super::super::super::web::site::serve() } }",
        "macro_rules! m { () => { $crate::web::serve() }; }",
        "use crate::Reexported;",
        "fn f(_: &'static str, _: char) { g('\"', b'\\'', 'x'); crate::web::serve() }",
        "fn f() { for x in crate::web::all() {} }",
    ] {
        assert!(!check_one("src/net/tcp.rs", text).is_empty(), "not found: {text}");
    }
}

#[test]
fn what_is_not_code_does_not_count() {
    for text in [
        "//! See `crate::web::Site`.",
        "/* crate::web /* crate::web */ crate::web */",
        "/// ```\n/// use crate::web::Site;\n/// ```\nfn f() {}",
        "const A: &str = \"crate::web \\\" crate::web unsafe\";",
        "const A: &str = r#\"crate::web \" crate::web\"#;",
        "const A: &[u8] = br\"crate::web\\\";",
        "#[cfg(test)]\nmod tests { use crate::web::Site; mod deep { use crate::web::Site; } }",
        "#[cfg(all(test, unix))]\n#[allow(unused)]\nuse crate::web::{Site, serve};",
        "#[cfg(test)]\nfn f(_: [u8; 3]) { crate::web::serve() }",
        "pub(in crate::net) fn f() {}",
        "pub(crate) struct A<'a>(&'a str);",
        "use super::transport::Transport; use crate::{reactor::Reactor, failure, http::error};",
        "mod inner { use super::listen; use super::super::protocol; }",
        "fn f() { self::listen(); Self::listen(); self.web::<u8>() }",
    ] {
        assert_eq!(check_one("src/net/tcp.rs", text), [""; 0], "wrongly reported: {text}");
    }
}

#[test]
fn code_under_cfg_not_test_counts() {
    let reports = check_one("src/net/tcp.rs", "#[cfg(not(test))]\nuse crate::web::Site;");
    assert_eq!(reports.len(), 1);
}

#[test]
fn a_cycle_inside_a_folder_is_reported_in_both_columns() {
    let right = check_one("src/http/error.rs", "\nuse super::connection::Connection;");
    assert_eq!(
        right,
        ["src/http/error.rs:2: `super::connection::Connection`: http/error (floor 1) may not name \
          http/connection (floor 1): only lower floors, or files to the left in http/"]
    );
    assert_eq!(check_one("src/http/body.rs", "use super::state::State;").len(), 1, "one column");
    assert_eq!(check_one("src/http/state.rs", "use super::body::Body;").len(), 1, "one column");
    assert_eq!(check_one("src/http/connection.rs", "use super::{head, body};"), [""; 0]);
}

#[test]
fn a_neighbour_on_the_same_floor_is_reported() {
    assert_eq!(check_one("src/task.rs", "use crate::net::tcp;").len(), 1);
    assert_eq!(check_one("src/clock.rs", "use crate::http;").len(), 1);
    assert_eq!(check_one("src/slots.rs", "use crate::buffer::Buffer;").len(), 1);
}

#[test]
fn a_folder_re_exports_its_files_and_its_files_do_not_use_the_re_export() {
    assert_eq!(check_one("src/net/mod.rs", "mod tcp; pub use tcp::listen; use self::tcp::A;"), [""; 0]);
    assert_eq!(check_one("src/net/tcp.rs", "use crate::net::Transport;").len(), 1);
    assert_eq!(check_one("src/net/tcp.rs", "use super::Transport;").len(), 1);
}

#[test]
fn a_mod_file_with_logic_re_exports_what_stands_to_its_right_and_uses_none_of_it() {
    let re_export = "mod combine; pub use combine::race; pub(crate) use self::sync::Lock;";
    assert_eq!(check_one("src/deferred/mod.rs", re_export), [""; 0]);
    assert_eq!(check_one("src/deferred/mod.rs", "mod combine; use combine::race;").len(), 1);
    assert_eq!(check_one("src/deferred/mod.rs", "fn f() { combine::race() }").len(), 1);
    assert_eq!(check_one("src/deferred/combine.rs", "use super::Deferred;"), [""; 0]);
}

#[test]
fn a_file_missing_from_the_plan_is_reported() {
    for path in ["src/web/teapot.rs", "src/teapot.rs", "src/teapot/mod.rs", "src/web/deep/site.rs"] {
        let reports = check_one(path, "");
        assert_eq!(reports, [format!("{path}:1: not in PLAN: write its name where it belongs")]);
    }
}

#[test]
fn a_file_missing_from_the_plan_is_reported_once_however_many_name_it() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
    let sources = [
        source("src/http/teapot.rs", ""),
        source("src/http/body.rs", "use super::teapot::Tea; use crate::http::teapot::{Pot, Lid};"),
    ];
    let violations = check(&Plan::parse(PLAN), &Absence::parse_all(ABSENCES), &sources);
    assert_eq!(violations.len(), 1);
    assert_eq!(violations[0].path, "src/http/teapot.rs");
}

#[test]
fn an_absence_that_is_broken_is_reported_with_its_reason() {
    let reports = check_one("src/web/site.rs", "use std::rc::Rc;\nuse std::{sync::Mutex as M};");
    assert_eq!(reports.len(), 1, "{reports:?}");
    let beginning = "src/web/site.rs:2: web/site (floor 6) may not name `Mutex`: the loop is single-threaded; \
                     what other threads may touch lives in few files (only in reactor/remote, ";
    assert!(reports[0].starts_with(beginning), "{}", reports[0]);
}

#[test]
fn every_absence_is_noticed_and_its_exceptions_are_kept() {
    for (path, text, broken) in [
        ("src/web/site.rs", "use mio::Poll;", 1),
        ("src/web/site.rs", "fn f() { ::mio::Poll::new() }", 1),
        ("src/reactor/poller.rs", "use mio::Poll;", 0),
        ("src/web/site.rs", "use std::sync::atomic::AtomicU64;", 1),
        ("src/reactor/remote.rs", "use std::sync::{Mutex, atomic::AtomicBool}; fn f<T: Send>() {}", 0),
        ("src/failure.rs", "fn f<T: Send + Sync>() {}", 0),
        ("src/failure.rs", "use std::sync::Mutex;", 1),
        ("src/web/site.rs", "fn f<T: Send + Sync>() {}", 1),
        ("src/clock.rs", "fn f() { std::time::Instant::now(); }", 1),
        ("src/clock.rs", "fn f() { a.unwrap_or_else(Instant::now); }", 1),
        ("src/clock.rs", "fn f() { start.elapsed() }", 1),
        ("src/instrument/hook.rs", "fn f() { Instant::now().elapsed() }", 0),
        ("src/http/head.rs", "use std::{io, net::TcpStream, time::{Duration, Instant}};", 3),
        ("src/http/head.rs", "use crate::failure::Failure; use http::Method;", 0),
        ("src/net/transport.rs", "struct A(Rc<dyn Protocol>);", 1),
        ("src/net/tcp.rs", "struct A(Rc<dyn Protocol>);", 0),
        ("src/slots.rs", "fn f() { unsafe { g() } }", 1),
    ] {
        assert_eq!(check_one(path, text).len(), broken, "{path}: {text}");
    }
}

#[test]
fn the_loop_reads_the_clock_in_one_place() {
    let source = |path: &str| Source { path: path.into(), text: "fn f() { Instant::now() }".into() };
    let sources = [source("src/reactor/mod.rs"), source("src/reactor/poller.rs")];
    let violations = check(&Plan::parse(PLAN), &Absence::parse_all(ABSENCES), &sources);
    assert_eq!(violations.len(), 1);
    assert_eq!(
        violations[0].to_string(),
        "src/reactor/poller.rs:1: `Instant::now` again: src/reactor/mod.rs:1 reads it already, \
         and a turn has one `now`"
    );
}

#[test]
#[should_panic(expected = "stands in the plan twice")]
fn a_file_stands_in_the_plan_once() {
    Plan::parse("1 net/ tcp, udp <- tcp");
}

/// Checks one invented file against the real plan and gives back the reports.
fn check_one(path: &str, text: &str) -> Vec<String> {
    let source = Source { path: path.into(), text: text.into() };
    let violations = check(&Plan::parse(PLAN), &Absence::parse_all(ABSENCES), &[source]);
    violations.iter().map(Violation::to_string).collect()
}

// ---- the check --------------------------------------------------------------------------------------

struct Source {
    /// Relative to the crate, as in `src/net/tcp.rs`.
    path: String,
    text: String,
}

struct Violation {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

struct Absence {
    names: Vec<&'static str>,
    scope: Scope,
    because: &'static str,
}

enum Scope {
    /// Names of files.
    OnlyIn(Vec<&'static str>),
    /// A pattern of names of files.
    NeverIn(&'static str),
}

fn check(plan: &Plan, absences: &[Absence], sources: &[Source]) -> Vec<Violation> {
    let (planned, unknown): (Vec<&Source>, Vec<&Source>) =
        sources.iter().partition(|source| plan.places.contains_key(plan_name(&source.path)));
    let message = "not in PLAN: write its name where it belongs";
    let mut violations: Vec<Violation> = unknown.iter().map(|source| source.violation(1, message.into())).collect();
    let unknown: BTreeSet<&str> = unknown.iter().map(|source| plan_name(&source.path)).collect();
    let mut clock_readings = Vec::new();
    for source in planned {
        let place = &plan.places[plan_name(&source.path)];
        let code = Code::read(&source.text, module_of(place.name));
        check_floors(plan, &unknown, place, source, &code, &mut violations);
        for absence in absences {
            check_absence(absence, place, source, &code, &mut violations);
        }
        if place.folder == Some("reactor") {
            let readings = code.occurrences("Instant::now");
            clock_readings.extend(readings.iter().map(|(line, _)| (source, *line)));
        }
    }
    check_one_now(&clock_readings, &mut violations);
    violations
}

fn check_floors(
    plan: &Plan,
    unknown: &BTreeSet<&str>,
    from: &Place,
    source: &Source,
    code: &Code,
    violations: &mut Vec<Violation>,
) {
    for path in &code.paths {
        let Some(segments) = path.absolute(plan, from) else {
            continue;
        };
        // A file that has no place yet is reported once, as itself, not by everyone who names it.
        if (1..=segments.len().min(2)).any(|depth| unknown.contains(&*segments[..depth].join("/"))) {
            continue;
        }
        let target = plan.resolve(&segments);
        if !from.may_name(target, path.is_re_export) {
            let path_text = path.segments.join("::");
            let allowed = from.folder.map_or(String::new(), |folder| format!(", or files to the left in {folder}/"));
            let message = format!("`{path_text}`: {from} may not name {target}: only lower floors{allowed}");
            violations.push(source.violation(path.line, message));
        }
    }
}

fn check_absence(absence: &Absence, place: &Place, source: &Source, code: &Code, violations: &mut Vec<Violation>) {
    let (is_allowed, exceptions) = match &absence.scope {
        Scope::OnlyIn(files) => (files.contains(&place.name), format!(" (only in {})", files.join(", "))),
        Scope::NeverIn(pattern) => (!matches(pattern, place.name), String::new()),
    };
    if is_allowed {
        return;
    }
    for (line, name) in absence.names.iter().flat_map(|name| code.occurrences(name)) {
        let because = absence.because;
        let message = format!("{place} may not name `{name}`: {because}{exceptions}");
        violations.push(source.violation(line, message));
    }
}

fn check_one_now(readings: &[(&Source, usize)], violations: &mut Vec<Violation>) {
    let Some(((first, first_line), others)) = readings.split_first() else {
        return;
    };
    for (source, line) in others {
        let first = format!("{}:{first_line}", first.path);
        let message = format!("`Instant::now` again: {first} reads it already, and a turn has one `now`");
        violations.push(source.violation(*line, message));
    }
}

impl Source {
    fn violation(&self, line: usize, message: String) -> Violation {
        Violation { path: self.path.clone(), line, message }
    }
}

impl Absence {
    fn parse_all(text: &'static str) -> Vec<Absence> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.chunks(2).map(|pair| Absence::parse(pair[0], pair[1])).collect()
    }

    fn parse(rule: &'static str, because: &'static str) -> Absence {
        let list = |text: &'static str| text.split(',').map(str::trim).collect();
        let (names, scope) = match rule.split_once(" only in ") {
            Some((names, files)) => (names, Scope::OnlyIn(list(files))),
            None => {
                let rule = rule.split_once(" never in ");
                let (names, pattern) = rule.expect("a rule says `only in` or `never in`");
                (names, Scope::NeverIn(pattern))
            }
        };
        Absence { names: list(names), scope, because }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    }
}

/// `src/net/tcp.rs` is `net/tcp` in the plan.
fn plan_name(path: &str) -> &str {
    path.trim_start_matches("src/").trim_end_matches(".rs")
}

/// `net/tcp` is the module `net::tcp`, `net/mod` is `net`, `lib` is the root.
fn module_of(name: &str) -> Vec<String> {
    let segments = name.split('/').filter(|segment| !["mod", "lib"].contains(segment));
    segments.map(String::from).collect()
}

// ---- the plan ---------------------------------------------------------------------------------------

struct Plan {
    places: BTreeMap<&'static str, Place>,
}

struct Place {
    /// As in `net/tcp`.
    name: &'static str,
    folder: Option<&'static str>,
    floor: u32,
    /// Counted from the left.
    column: usize,
}

impl Plan {
    fn parse(text: &'static str) -> Plan {
        let mut plan = Plan { places: BTreeMap::new() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            plan.add_line(line);
        }
        plan
    }

    fn add_line(&mut self, line: &'static str) {
        let (floor, files) = line.split_once(' ').expect("a line is a floor and files");
        let floor = floor.parse().expect("a line starts with the number of its floor");
        let (folder, files) = match files.split_once('/') {
            Some((folder, files)) => (Some(folder.trim()), files),
            None => (None, files),
        };
        let columns: Vec<&str> = files.split("<-").collect();
        for (column, files) in columns.iter().enumerate() {
            for file in files.split(',') {
                self.add(folder, file.trim(), floor, column);
            }
        }
        if let Some(folder) = folder.filter(|folder| !self.places.contains_key(&*format!("{folder}/mod"))) {
            self.add(Some(folder), "mod", floor, columns.len());
        }
    }

    fn add(&mut self, folder: Option<&'static str>, file: &'static str, floor: u32, column: usize) {
        let name = match folder {
            Some(folder) => &*format!("{folder}/{file}").leak(),
            None => file,
        };
        let twice = self.places.insert(name, Place { name, folder, floor, column });
        assert!(twice.is_none(), "{name} stands in the plan twice");
    }

    /// The file that holds the item with this path from the root of the crate.
    fn resolve(&self, segments: &[String]) -> &Place {
        let found = match segments {
            [] => None,
            [top, rest @ ..] => {
                let file = rest.first().and_then(|file| self.places.get(&*format!("{top}/{file}")));
                let folder = || self.places.get(&*format!("{top}/mod"));
                file.or_else(folder).or_else(|| self.places.get(&**top))
            }
        };
        found.unwrap_or_else(|| &self.places["lib"])
    }
}

impl Place {
    fn may_name(&self, target: &Place, is_re_export: bool) -> bool {
        let same_folder = self.folder.is_some() && self.folder == target.folder;
        // Files of no folder stand on different floors; those of one floor are a row like any other.
        let same_row = same_folder || (self.folder == target.folder && self.floor == target.floor);
        let left = same_row && target.column < self.column;
        let re_exported = same_folder && self.is_module_file() && is_re_export;
        self.name == target.name || target.floor < self.floor || left || re_exported
    }

    /// Whether files below this one are declared here, and so can be named without `self::`.
    fn is_module_file(&self) -> bool {
        self.name == "lib" || self.name.ends_with("/mod")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (floor {})", self.name, self.floor)
    }
}

// ---- reading code -----------------------------------------------------------------------------------

/// What is left of a source file once comments, literals and test items are gone.
struct Code {
    tokens: Vec<Token>,
    paths: Vec<CodePath>,
}

struct Token {
    line: usize,
    text: String,
}

/// One `a::b::c`, with the braces of a `use` multiplied out.
struct CodePath {
    line: usize,
    segments: Vec<String>,
    /// The module the path stands in, from the root of the crate.
    module: Vec<String>,
    is_re_export: bool,
}

impl Code {
    fn read(text: &str, module: Vec<String>) -> Code {
        let tokens = without_tests(lex(text));
        let paths = PathReader { tokens: &tokens, at: 0, depth: 0, module, inline: vec![], paths: vec![] }.read();
        Code { tokens, paths }
    }
}

impl Code {
    /// The lines on which `name` stands, each with what was found there.
    fn occurrences(&self, name: &str) -> Vec<(usize, String)> {
        if name.contains("::") {
            let hits = self.paths.iter().filter(|path| path.matches(name));
            return hits.map(|path| (path.line, name.to_string())).collect();
        }
        let hits = self.tokens.iter().filter(|token| matches(name, &token.text));
        hits.map(|token| (token.line, token.text.clone())).collect()
    }
}

impl CodePath {
    /// Whether the path starts with `wanted` or, as in `Type::function`, ends with it.
    fn matches(&self, wanted: &str) -> bool {
        let path = format!("::{}::", self.segments.join("::"));
        path.starts_with(&format!("::{wanted}::"))
            || wanted.starts_with(char::is_uppercase) && path.ends_with(&format!("::{wanted}::"))
    }

    /// The path from the root of this crate, or none for a path into another crate.
    fn absolute(&self, plan: &Plan, from: &Place) -> Option<Vec<String>> {
        let mut module = self.module.clone();
        let mut rest = self.segments.as_slice();
        match rest[0].as_str() {
            "crate" => module.clear(),
            "self" | "super" => {}
            child => {
                let file = format!("{}/{child}", module.join("/"));
                let declared_here = from.is_module_file() && plan.places.contains_key(&*file);
                return declared_here.then(|| [module, rest.to_vec()].concat());
            }
        }
        while let [first, others @ ..] = rest
            && ["crate", "self", "super"].contains(&first.as_str())
        {
            if first == "super" {
                module.pop();
            }
            rest = others;
        }
        module.extend_from_slice(rest);
        Some(module)
    }
}

/// Walks the tokens once, knowing in which inline module it is.
struct PathReader<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    module: Vec<String>,
    /// Depths at which inline modules were opened.
    inline: Vec<usize>,
    paths: Vec<CodePath>,
}

impl PathReader<'_> {
    fn read(mut self) -> Vec<CodePath> {
        let mut is_re_export = false;
        while self.at < self.tokens.len() {
            if self.starts_path() {
                self.read_tree(&mut Vec::new(), is_re_export);
                continue;
            }
            match self.text(0) {
                "use" => is_re_export = ["pub", ")"].contains(&self.text(-1)),
                ";" => is_re_export = false,
                "{" => self.open_brace(),
                "}" => self.close_brace(),
                _ => {}
            }
            self.at += 1;
        }
        self.paths
    }

    /// The text of the token `offset` away, or nothing beyond either end.
    fn text(&self, offset: isize) -> &str {
        let token = self.at.checked_add_signed(offset).and_then(|at| self.tokens.get(at));
        token.map_or("", |token| token.text.as_str())
    }

    fn starts_path(&self) -> bool {
        let continues = self.text(-1) == "::" && (is_identifier(self.text(-2)) || self.text(-2) == ">");
        let visibility = self.text(-1) == "in" && self.text(-2) == "(" && self.text(-3) == "pub";
        let is_path = self.text(1) == "::" || self.text(-1) == "use";
        is_identifier(self.text(0)) && is_path && !continues && !visibility && self.text(-1) != "."
    }

    /// Reads `a::b`, `a::{b, c::d}` or `a::*` and records every leaf.
    fn read_tree(&mut self, prefix: &mut Vec<String>, is_re_export: bool) {
        let length = prefix.len();
        while is_identifier(self.text(0)) {
            prefix.push(self.text(0).to_string());
            self.at += 1;
            let goes_on = is_identifier(self.text(1)) || ["{", "*"].contains(&self.text(1));
            if self.text(0) != "::" || !goes_on {
                break;
            }
            self.at += 1;
        }
        match self.text(0) {
            "{" if self.text(-1) == "::" => self.read_group(prefix, is_re_export),
            "*" if self.text(-1) == "::" => {
                self.at += 1;
                self.record(prefix, is_re_export);
            }
            _ => self.record(prefix, is_re_export),
        }
        prefix.truncate(length);
    }

    fn read_group(&mut self, prefix: &mut Vec<String>, is_re_export: bool) {
        self.at += 1;
        while !["}", ""].contains(&self.text(0)) {
            if is_identifier(self.text(0)) && self.text(-1) != "as" {
                let before = self.at;
                self.read_tree(prefix, is_re_export);
                debug_assert!(self.at > before);
            } else {
                self.at += 1;
            }
        }
        self.at += 1;
    }

    fn record(&mut self, segments: &[String], is_re_export: bool) {
        // `a::{self}` names a.
        let named = match segments {
            [rest @ .., last] if last == "self" && !rest.is_empty() => rest,
            all => all,
        };
        let line = self.tokens[self.at - 1].line;
        let module = self.module.clone();
        self.paths.push(CodePath { line, segments: named.to_vec(), module, is_re_export });
    }

    fn open_brace(&mut self) {
        self.depth += 1;
        if self.text(-2) == "mod" {
            let name = self.text(-1).to_string();
            self.module.push(name);
            self.inline.push(self.depth);
        }
    }

    fn close_brace(&mut self) {
        if self.inline.last() == Some(&self.depth) {
            self.inline.pop();
            self.module.pop();
        }
        self.depth = self.depth.saturating_sub(1);
    }
}

/// Drops every item under `#[cfg(test)]` or a `cfg` that requires `test`.
fn without_tests(tokens: Vec<Token>) -> Vec<Token> {
    let mut kept = Vec::new();
    let mut rest = tokens.as_slice();
    while let [first, others @ ..] = rest {
        match test_attribute(rest) {
            Some(length) => rest = after_item(&rest[length..]),
            None => {
                kept.push(Token { line: first.line, text: first.text.clone() });
                rest = others;
            }
        }
    }
    kept
}

/// The length of the attribute at the start, if it switches its item to test builds.
fn test_attribute(tokens: &[Token]) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    if (text(0), text(1), text(2)) != ("#", "[", "cfg") {
        return None;
    }
    let length = tokens.iter().position(|token| token.text == "]")? + 1;
    let condition = &tokens[..length];
    let has = |word: &str| condition.iter().any(|token| token.text == word);
    (has("test") && !has("not") && !has("any")).then_some(length)
}

/// What follows one item: its end is a `;`, or the brace that closes its first block.
fn after_item(tokens: &[Token]) -> &[Token] {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 {
                    return &tokens[at + 1..];
                }
            }
            ";" if depth == 0 => return &tokens[at + 1..],
            _ => {}
        }
    }
    &[]
}

// ---- tokens -----------------------------------------------------------------------------------------

/// Splits Rust source into identifiers, numbers, `::` and single characters; drops the rest.
fn lex(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let dropped = dropped_length(rest);
        let length = dropped.unwrap_or_else(|| token_length(rest));
        let (text, after) = rest.split_at(length);
        if dropped.is_none() && !first.is_whitespace() {
            tokens.push(Token { line, text: text.to_string() });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

fn token_length(rest: &str) -> usize {
    if rest.starts_with("::") {
        return 2;
    }
    let word = rest.find(|c: char| !is_identifier_part(c)).unwrap_or(rest.len());
    if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) }
}

/// The length of the comment, string, character or lifetime at the start.
fn dropped_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment_length(rest));
    }
    let unprefixed = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - unprefixed.len();
    if prefix > 1 {
        return None;
    }
    let literal = match unprefixed.chars().next()? {
        'r' => raw_string_length(unprefixed),
        '"' => Some(quoted_length(unprefixed, '"')),
        '\'' => Some(character_or_lifetime_length(unprefixed)),
        _ => None,
    };
    literal.map(|length| prefix + length)
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    loop {
        // Block comments nest in Rust: the first `*/` need not be the end.
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += rest[at..].chars().next().map_or(0, char::len_utf8);
        }
        if depth == 0 || at == rest.len() {
            return at;
        }
    }
}

fn raw_string_length(rest: &str) -> Option<usize> {
    let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
    let body = rest[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(2 + hashes + length)
}

fn quoted_length(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn character_or_lifetime_length(rest: &str) -> usize {
    let mut characters = rest.chars().skip(1);
    let (first, second) = (characters.next(), characters.next());
    if first == Some('\\') || second == Some('\'') {
        return quoted_length(rest, '\'');
    }
    1 + rest[1..].find(|c: char| !is_identifier_part(c)).unwrap_or(rest.len() - 1)
}

fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c == '_' || c.is_alphabetic()) && !["use", "as", "in"].contains(&text)
}

fn is_identifier_part(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

// ---- files ------------------------------------------------------------------------------------------

/// Every Rust file below `folder`, in a stable order.
fn sources_of(folder: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the sources can be listed") {
            let path = entry.expect("the sources can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                sources.push(read_source(&path));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn read_source(path: &Path) -> Source {
    let relative = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("sources are inside the crate");
    let text = fs::read_to_string(path).expect("sources are readable UTF-8");
    // One spelling of the separator on every platform.
    let path = relative.to_str().expect("source paths are UTF-8").replace('\\', "/");
    Source { path, text }
}
