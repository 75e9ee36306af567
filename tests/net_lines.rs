//! Protocols of lines and of strings, in memory: what comes out however it arrives, and what is refused.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use dosimeter::Result;
use dosimeter::net::{
    ConnectionLost, Int32StringReceiver, LineProtocol, LineReceiver, LineTransport, NetstringReceiver, Protocol,
    StringProtocol, StringRefused, StringTransport,
};
use dosimeter::testing::{MemoryTransport, flush_all_logged_errors};

// ---- lines ------------------------------------------------------------------------------------------

#[test]
fn lines_come_whole_and_in_order_however_they_arrive() {
    let input = b"one\r\n\r\ntwo \r three\n\r\r\n\r\r\nfour\r\n";
    let expected = ["one", "", "two \\r three\\n\\r", "\\r", "four"];
    for size in 1..=input.len() {
        let told = Told::default();
        let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told)));
        input.chunks(size).for_each(|piece| wire.receive(piece));
        assert_eq!(told.lines(), expected, "in pieces of {size}");
    }
}

#[test]
fn a_delimiter_may_be_any_bytes_and_ends_what_is_sent_as_well() {
    for delimiter in ["\n", "--", "aab", "\0\0\0\0"] {
        let told = Told::default();
        let lines = Lines::new(&told).on_line(|lines, line| lines.send_line(line));
        let wire = MemoryTransport::new(LineReceiver::new(lines).delimiter(delimiter));
        let input = format!("x{delimiter}y-a{delimiter}-aa{delimiter}");
        input.bytes().for_each(|byte| wire.receive([byte]));
        assert_eq!(told.lines(), ["x", "y-a", "-aa"], "{delimiter:?}");
        assert_eq!(wire.take(), input.as_bytes());
    }
}

#[test]
#[should_panic(expected = "a line ends in something")]
fn an_empty_delimiter_is_a_mistake() {
    let _ = LineReceiver::new(Lines::new(&Told::default())).delimiter(b"");
}

#[test]
fn a_line_without_its_end_is_dropped_with_the_connection() {
    let told = Told::default();
    let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told)));
    wire.receive("whole\r\nhalf");
    wire.receive_end();
    assert_eq!(told.lines(), ["whole", "(lost: the connection was closed)"]);
}

#[test]
fn a_line_may_be_as_long_as_the_limit_and_no_longer() {
    for size in [1, 2, 5, usize::MAX] {
        let check = |line: &str, ok: bool| {
            let told = Told::default();
            let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told)).max_length(5));
            format!("{line}\r\nnext\r\n").as_bytes().chunks(size.min(100)).for_each(|piece| wire.receive(piece));
            let expected = if ok { vec![line, "next"] } else { vec!["(lost: the connection was closed)"] };
            assert_eq!(told.lines(), expected, "in pieces of {size}");
        };
        check("12345", true);
        check("123456", false);
        check("1234567", false);
        check(&"x".repeat(100), false);
    }
}

#[test]
fn a_line_that_is_too_long_is_refused_before_its_end_is_there() {
    let told = Told::default();
    let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told)));
    wire.receive(vec![b'x'; 16_384]);
    assert!(wire.is_connected(), "the delimiter may come yet");
    wire.receive("x");
    assert!(wire.is_connected(), "it may have begun");
    wire.receive("x");
    assert!(!wire.is_connected());
}

#[test]
fn a_protocol_may_forgive_a_line_that_is_too_long() {
    for size in [1, 3, 4, usize::MAX] {
        let told = Told::default();
        let lines = Lines::new(&told).on_too_long(|lines| lines.send_line("500 too long"));
        let wire = MemoryTransport::new(LineReceiver::new(lines).max_length(4));
        let input = b"one\r\n12345678901234567890\r\r\ntwo\r\n54321\r\nend\r\n";
        input.chunks(size.min(100)).for_each(|piece| wire.receive(piece));
        assert_eq!(told.lines(), ["one", "two", "end"], "in pieces of {size}");
        assert_eq!(wire.take(), b"500 too long\r\n500 too long\r\n", "once for each");
    }
}

#[test]
fn after_lose_connection_no_line_is_handed_out_that_was_read_already() {
    let told = Told::default();
    let lines = Lines::new(&told).on_line(|lines, line| {
        if line == b"quit" {
            lines.lose_connection();
        }
    });
    let wire = MemoryTransport::new(LineReceiver::new(lines));
    wire.receive("one\r\nquit\r\ntwo\r\n");
    assert_eq!(told.lines(), ["one", "quit", "(lost: the connection was closed)"]);
}

#[test]
fn an_error_in_a_line_ends_the_connection_and_no_line_comes_after_it() {
    let told = Told::default();
    let lines = Lines::new(&told).on_line_try(|_, line| if line == b"two" { Err("no two".into()) } else { Ok(()) });
    let wire = MemoryTransport::new(LineReceiver::new(lines));
    wire.receive("one\r\ntwo\r\nthree\r\n");
    assert_eq!(told.lines(), ["one", "two", "(lost: the protocol failed: no two)"]);
    assert_eq!(flush_all_logged_errors().len(), 1);
}

#[test]
fn a_pause_inside_a_line_holds_back_those_behind_it() {
    let told = Told::default();
    let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told).on_line(|lines, _| lines.pause_reading())));
    wire.receive("one\r\ntwo\r\nthree\r\nfo");
    assert_eq!(told.lines(), ["one"]);
    wire.transport().resume_reading();
    wire.memory().settle();
    assert_eq!(told.lines(), ["one", "two"]);
    wire.receive("ur\r\n");
    for _ in 0..4 {
        wire.transport().resume_reading();
        wire.memory().settle();
    }
    assert_eq!(told.lines(), ["one", "two", "three", "four"]);
}

#[test]
fn a_pause_that_ends_within_the_same_line_is_none() {
    let told = Told::default();
    let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told).on_line(|lines, _| {
        lines.pause_reading();
        lines.resume_reading();
    })));
    wire.receive("one\r\ntwo\r\nthree\r\n");
    assert_eq!(told.lines(), ["one", "two", "three"]);
}

#[test]
fn lines_held_back_come_before_the_end_of_the_peer() {
    let told = Told::default();
    let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told).on_line(|lines, line| {
        if line == b"one" {
            lines.pause_reading();
        }
    })));
    wire.receive("one\r\ntwo\r\n");
    wire.receive_end();
    wire.transport().resume_reading();
    wire.memory().settle();
    assert_eq!(told.lines(), ["one", "two", "(lost: the connection was closed)"]);
}

#[test]
fn an_error_in_a_line_that_was_held_back_is_the_reason_of_the_end() {
    let told = Told::default();
    let lines = Lines::new(&told).on_line_try(|lines, line| match line {
        b"one" => {
            lines.pause_reading();
            Ok(())
        }
        _ => Err("no two".into()),
    });
    let wire = MemoryTransport::new(LineReceiver::new(lines));
    wire.receive("one\r\ntwo\r\n");
    wire.transport().resume_reading();
    wire.memory().settle();
    assert_eq!(wire.lost().as_deref(), Some("the protocol failed: no two"));
    assert_eq!(flush_all_logged_errors().len(), 1);
}

#[test]
fn a_peer_that_does_not_read_its_answers_has_no_further_lines_handled() {
    let told = Told::default();
    let lines = Lines::new(&told).on_line(|lines, _| lines.send_line(vec![b'x'; 40_000]));
    let wire = MemoryTransport::new(LineReceiver::new(lines));
    wire.stop_reading(0);
    wire.receive("1\r\n2\r\n3\r\n4\r\n5\r\n");
    assert_eq!(told.lines(), ["1", "2"]);
    wire.resume_reading();
    assert_eq!(told.lines(), ["1", "2", "3", "4", "5"]);
    assert_eq!(wire.take().len(), 5 * 40_002);
}

#[test]
fn raw_data_begin_where_they_are_asked_for_and_lines_where_they_end() {
    let input = b"3\r\nab\n\r\n0\r\n4\r\n\r\n\r\n2\r\nxyrest\r\n";
    for size in 1..=input.len() {
        let told = Told::default();
        let wire = MemoryTransport::new(LineReceiver::new(Counted::new(&told)));
        input.chunks(size).for_each(|piece| wire.receive(piece));
        assert_eq!(
            told.lines(),
            ["raw ab\\n", "", "raw ", "raw \\r\\n\\r\\n", "raw xy", "rest"],
            "in pieces of {size}"
        );
    }
}

#[test]
fn raw_data_without_a_method_for_them_are_an_error() {
    let told = Told::default();
    let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told).on_line(|lines, _| lines.set_raw_mode())));
    wire.receive("go\r\n");
    assert!(wire.is_connected());
    wire.receive("data");
    let reason = wire.lost().expect("an error");
    assert!(reason.contains("raw_data_received is not implemented"), "{reason}");
    assert_eq!(flush_all_logged_errors().len(), 1);
}

#[test]
fn a_rest_that_is_more_than_the_data_is_all_of_them() {
    let told = Told::default();
    let lines = Lines::new(&told)
        .on_line(|lines, line| {
            if line == b"raw" {
                lines.set_raw_mode();
            }
        })
        .on_raw(|lines, _| lines.set_line_mode(usize::MAX));
    let wire = MemoryTransport::new(LineReceiver::new(lines));
    wire.receive("raw\r\none\r\ntwo\r\n");
    assert_eq!(told.lines(), ["raw", "one", "two"]);
}

#[test]
fn a_hundred_thousand_lines_of_one_read_need_no_more_stack_than_one() {
    let lines = std::thread::Builder::new().stack_size(256 * 1024).spawn(|| {
        let told = Told::default();
        let wire = MemoryTransport::new(LineReceiver::new(Lines::new(&told)).delimiter(b"\n"));
        wire.receive(vec![b'\n'; 100_000]);
        told.lines().len()
    });
    assert_eq!(lines.expect("a thread").join().expect("it ends"), 100_000);
}

// ---- strings ----------------------------------------------------------------------------------------

#[test]
fn strings_come_whole_and_in_order_however_they_arrive() {
    check_strings(Int32StringReceiver::new, b"\0\0\0\x03abc\0\0\0\0\0\0\0\x05,:,:,");
    check_strings(NetstringReceiver::new, b"3:abc,0:,5:,:,:,,");
}

fn check_strings<P: Protocol>(receiver: impl Fn(Strings) -> P, input: &[u8]) {
    for size in 1..=input.len() {
        let told = Told::default();
        let wire = MemoryTransport::new(receiver(Strings(told.clone())));
        input.chunks(size).for_each(|piece| wire.receive(piece));
        assert_eq!(told.lines(), ["abc", "", ",:,:,"], "in pieces of {size}");
        assert_eq!(wire.take(), input, "they are sent back in the same form");
    }
}

#[test]
fn a_string_may_be_as_long_as_the_limit_and_no_longer() {
    let told = Told::default();
    let wire = MemoryTransport::new(Int32StringReceiver::new(Strings(told.clone())).max_length(5));
    wire.receive(b"\0\0\0\x05abcde\0\0\0\x06");
    assert_eq!(told.lines()[1], "(a string of 6 bytes, over the limit of 5)");
    assert!(!wire.is_connected(), "before a byte of it came");

    let told = Told::default();
    let wire = MemoryTransport::new(NetstringReceiver::new(Strings(told.clone())).max_length(5));
    wire.receive("5:abcde,6");
    assert_eq!(told.lines()[1], "(a string of 6 bytes, over the limit of 5)");
    assert!(!wire.is_connected(), "before its length was whole");
}

#[test]
fn the_default_limit_is_that_of_twisted() {
    for (length, ok) in [(99_999_u32, true), (100_000, false)] {
        let told = Told::default();
        let wire = MemoryTransport::new(Int32StringReceiver::new(Strings(told.clone())));
        wire.receive(length.to_be_bytes());
        wire.receive(vec![b'x'; length as usize]);
        assert_eq!(wire.is_connected(), ok, "{length}");
        let wire = MemoryTransport::new(NetstringReceiver::new(Strings(told.clone())));
        wire.receive(format!("{length}:"));
        assert_eq!(wire.is_connected(), ok, "{length}");
    }
}

#[test]
fn what_is_no_netstring_ends_the_connection() {
    let cases = [
        ":abc,", "03:abc,", "00:,", " 3:abc,", "+3:abc,", "-1:,", "3 :abc,", "3abc,", "3;abc,", "a", ",", "3:abcd,",
        "3:abc;", "0:x", "1:x\n",
    ];
    for input in cases {
        let told = Told::default();
        let wire = MemoryTransport::new(NetstringReceiver::new(Strings(told.clone())));
        wire.receive(input);
        wire.receive("1:x,");
        assert_eq!(told.lines(), ["(not a netstring)", "(lost: the connection was closed)"], "{input:?}");
    }
}

#[test]
fn a_number_too_big_for_any_machine_is_refused_as_too_long() {
    let told = Told::default();
    let wire = MemoryTransport::new(NetstringReceiver::new(Strings(told.clone())).max_length(usize::MAX));
    wire.receive("9".repeat(100));
    assert!(told.lines()[0].starts_with("(a string of 9999999999 bytes"), "{:?}", told.lines());
}

#[test]
fn a_pause_inside_a_string_holds_back_those_behind_it() {
    struct Pausing(Told);

    impl StringProtocol for Pausing {
        fn string_received(&mut self, strings: &StringTransport, string: &[u8]) -> Result<()> {
            self.0.tell(string);
            strings.pause_reading();
            Ok(())
        }
    }

    let told = Told::default();
    let wire = MemoryTransport::new(NetstringReceiver::new(Pausing(told.clone())));
    wire.receive("1:a,1:b,");
    assert_eq!(told.lines(), ["a"]);
    wire.transport().resume_reading();
    wire.memory().settle();
    assert_eq!(told.lines(), ["a", "b"]);
}

// ---- what tells -------------------------------------------------------------------------------------

#[derive(Clone, Default)]
struct Told(Rc<RefCell<Vec<String>>>);

impl Told {
    fn tell(&self, what: &[u8]) {
        self.0.borrow_mut().push(what.escape_ascii().to_string());
    }

    fn lines(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

type OnLine = Box<dyn FnMut(&LineTransport, &[u8]) -> Result<()>>;

/// Tells the lines it gets, and does with them what the test wants.
struct Lines {
    told: Told,
    on_line: OnLine,
    on_raw: Option<OnLine>,
    on_too_long: Option<OnLine>,
}

impl Lines {
    fn new(told: &Told) -> Self {
        Lines { told: told.clone(), on_line: Box::new(|_, _| Ok(())), on_raw: None, on_too_long: None }
    }

    fn on_line(self, function: impl Fn(&LineTransport, &[u8]) + 'static) -> Self {
        self.on_line_try(move |lines, line| {
            function(lines, line);
            Ok(())
        })
    }

    fn on_line_try(mut self, function: impl Fn(&LineTransport, &[u8]) -> Result<()> + 'static) -> Self {
        self.on_line = Box::new(function);
        self
    }

    fn on_raw(mut self, function: impl Fn(&LineTransport, &[u8]) + 'static) -> Self {
        self.on_raw = Some(Box::new(move |lines, data| {
            function(lines, data);
            Ok(())
        }));
        self
    }

    fn on_too_long(mut self, function: impl Fn(&LineTransport) + 'static) -> Self {
        self.on_too_long = Some(Box::new(move |lines, _| {
            function(lines);
            Ok(())
        }));
        self
    }
}

impl LineProtocol for Lines {
    fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()> {
        self.told.tell(line);
        (self.on_line)(lines, line)
    }

    fn raw_data_received(&mut self, lines: &LineTransport, data: &[u8]) -> Result<()> {
        match &mut self.on_raw {
            Some(function) => function(lines, data),
            None => NoRaw.raw_data_received(lines, data),
        }
    }

    fn line_length_exceeded(&mut self, lines: &LineTransport) -> Result<()> {
        match &mut self.on_too_long {
            Some(function) => function(lines, b""),
            None => NoRaw.line_length_exceeded(lines),
        }
    }

    fn connection_lost(&mut self, _lines: &LineTransport, reason: ConnectionLost) {
        self.told.tell(format!("(lost: {reason})").as_bytes());
    }
}

/// Does what a protocol does that overrides nothing.
struct NoRaw;

impl LineProtocol for NoRaw {
    fn line_received(&mut self, _lines: &LineTransport, _line: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Lines of digits, each followed by so many raw bytes; other lines are told.
struct Counted {
    told: Told,
    missing: usize,
    data: VecDeque<u8>,
}

impl Counted {
    fn new(told: &Told) -> Self {
        Counted { told: told.clone(), missing: 0, data: VecDeque::new() }
    }

    fn end_raw(&mut self, lines: &LineTransport, rest: usize) {
        let data: Vec<u8> = self.data.drain(..).collect();
        self.told.tell(&[b"raw ", &*data].concat());
        lines.set_line_mode(rest);
    }
}

impl LineProtocol for Counted {
    fn line_received(&mut self, lines: &LineTransport, line: &[u8]) -> Result<()> {
        match std::str::from_utf8(line)?.parse() {
            Ok(0) => self.end_raw(lines, 0),
            Ok(missing) => {
                self.missing = missing;
                lines.set_raw_mode();
            }
            Err(_) => self.told.tell(line),
        }
        Ok(())
    }

    fn raw_data_received(&mut self, lines: &LineTransport, data: &[u8]) -> Result<()> {
        let count = self.missing.min(data.len());
        self.data.extend(&data[..count]);
        self.missing -= count;
        if self.missing == 0 {
            self.end_raw(lines, data.len() - count);
        }
        Ok(())
    }
}

/// Tells the strings it gets and sends them back.
struct Strings(Told);

impl StringProtocol for Strings {
    fn string_received(&mut self, strings: &StringTransport, string: &[u8]) -> Result<()> {
        self.0.tell(string);
        strings.send_string(string);
        Ok(())
    }

    fn string_refused(&mut self, _strings: &StringTransport, reason: StringRefused) -> Result<()> {
        self.0.tell(format!("({reason})").as_bytes());
        Ok(())
    }

    fn connection_lost(&mut self, _strings: &StringTransport, reason: ConnectionLost) {
        self.0.tell(format!("(lost: {reason})").as_bytes());
    }
}
