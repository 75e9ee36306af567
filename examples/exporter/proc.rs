//! What the files of `/proc` say: text in, numbers out; see proc(5) and the documents of the kernel on diskstats and psi.
//!
//! Rule kept here: what is not understood is an error that shows the line, never a zero.

use std::error::Error;
use std::fmt;

/// A line that says something else than it should.
#[derive(Debug, PartialEq)]
pub struct Misread {
    what: &'static str,
    line: String,
}

impl Misread {
    fn new(what: &'static str, line: &str) -> Self {
        Misread { what, line: line.to_owned() }
    }
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} expected, {:?} found", self.what, self.line)
    }
}

impl Error for Misread {}

/// `/proc/loadavg`: the load of the last 1, 5 and 15 minutes.
pub fn load(text: &str) -> Result<[f64; 3], Misread> {
    let misread = || Misread::new("three averages", text.lines().next().unwrap_or_default());
    let mut averages = text.split_ascii_whitespace().map(|word| word.parse().ok());
    let mut next = || averages.next().flatten().ok_or_else(misread);
    Ok([next()?, next()?, next()?])
}

/// `/proc/meminfo`: the fields, those of memory in bytes.
pub fn memory(text: &str) -> Result<Vec<(&str, u64)>, Misread> {
    let field = |line| memory_field(line).ok_or_else(|| Misread::new("a field of memory", line));
    text.lines().map(field).collect()
}

fn memory_field(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once(':')?;
    let mut words = rest.split_ascii_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    // Says kB and means KiB. Fields without a unit are counts.
    match words.next() {
        Some("kB") => Some((name, number.checked_mul(1024)?)),
        Some(_) => None,
        None => Some((name, number)),
    }
}

/// What one disk has done since the system was started.
#[derive(Debug, Default, PartialEq)]
pub struct Disk<'a> {
    pub name: &'a str,
    pub reads: u64,
    pub read_bytes: u64,
    pub read_seconds: f64,
    pub writes: u64,
    pub written_bytes: u64,
    pub write_seconds: f64,
    /// Under way now.
    pub in_progress: u64,
    /// With at least one under way.
    pub busy_seconds: f64,
    /// The same, counted for each of them.
    pub weighted_seconds: f64,
}

/// `/proc/diskstats`: each line for itself, so that one that is misread costs one disk. Parts of disks, and what is none, are
/// left out: they would be counted twice.
pub fn disks(text: &str) -> impl Iterator<Item = Result<Disk<'_>, Misread>> {
    let disks = text.lines().map(|line| disk(line).ok_or_else(|| Misread::new("figures of a disk", line)));
    disks.filter(|disk| disk.as_ref().is_ok_and(|disk| is_whole(disk.name)) || disk.is_err())
}

fn disk(line: &str) -> Option<Disk<'_>> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let name = words.next()?;
    // Newer systems have more fields behind these eleven.
    let figures: Vec<u64> = words.take(11).map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let [reads, _, sectors_read, reading, writes, _, sectors_written, writing, in_progress, busy, weighted] =
        figures.try_into().ok()?;
    let seconds = |millis: u64| millis as f64 / 1e3;
    Some(Disk {
        name,
        reads,
        read_bytes: sectors_read.checked_mul(SECTOR)?,
        read_seconds: seconds(reading),
        writes,
        written_bytes: sectors_written.checked_mul(SECTOR)?,
        write_seconds: seconds(writing),
        in_progress,
        busy_seconds: seconds(busy),
        weighted_seconds: seconds(weighted),
    })
}

/// Whether it is a disk, and no part of one (`sda1`, `nvme0n1p1`) and nothing in memory or a file.
fn is_whole(name: &str) -> bool {
    let stem = name.trim_end_matches(|char: char| char.is_ascii_digit());
    let has_number = stem.len() < name.len();
    let is_unreal = ["loop", "ram", "zram", "fd"].contains(&stem);
    let is_lettered = ["sd", "hd", "vd", "xvd"].iter().any(|kind| {
        stem.strip_prefix(kind)
            .is_some_and(|letters| !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_lowercase()))
    });
    let is_part = ["nvme", "mmcblk"].iter().any(|kind| name.starts_with(kind)) && stem.ends_with('p');
    !(has_number && (is_unreal || is_lettered || is_part))
}

/// For how long something was waited for, in seconds since the system was started.
#[derive(Debug, PartialEq)]
pub struct Pressure {
    /// By at least one task.
    pub some: f64,
    /// By all that had something to do. Old systems do not tell of the processor.
    pub full: Option<f64>,
}

/// A file of `/proc/pressure`.
pub fn pressure(text: &str) -> Result<Pressure, Misread> {
    let (mut some, mut full) = (None, None);
    for line in text.lines() {
        let (kind, total) = pressure_line(line).ok_or_else(|| Misread::new("a line of pressure", line))?;
        match kind {
            "some" => some = Some(total),
            "full" => full = Some(total),
            _ => {}
        }
    }
    let some = some.ok_or_else(|| Misread::new("a line that begins with \"some\"", text))?;
    Ok(Pressure { some, full })
}

fn pressure_line(line: &str) -> Option<(&str, f64)> {
    let mut words = line.split_ascii_whitespace();
    let kind = words.next()?;
    let micros: u64 = words.find_map(|word| word.strip_prefix("total="))?.parse().ok()?;
    Some((kind, micros as f64 / 1e6))
}

/// Bytes of what diskstats calls a sector, whatever the disk does.
const SECTOR: u64 = 512;
