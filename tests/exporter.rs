//! The example `exporter`: how it reads `/proc` and what it is told, on texts. (How it serves them is in `tests/e2e`.)

#[path = "../examples/exporter/options.rs"]
mod options;
#[path = "../examples/exporter/proc.rs"]
mod proc;

use std::path::PathBuf;

use options::{HELP, Options, Wish};
use proc::{Disk, Pressure};

// ---- load and memory --------------------------------------------------------------------------------

#[test]
fn the_load_is_the_first_three_numbers() {
    assert_eq!(proc::load("0.52 1.00 12.25 3/812 40961\n"), Ok([0.52, 1.0, 12.25]));
}

#[test]
fn a_load_that_is_none_is_an_error_and_no_zero() {
    for text in ["", "\n", "0.5 0.5", "0.5 x 0.5 1/2 3", "a b c"] {
        let error = proc::load(text).unwrap_err().to_string();
        assert!(error.starts_with("three averages expected"), "{text:?}: {error}");
    }
}

#[test]
fn memory_is_told_in_bytes_and_counts_as_they_are() {
    let text = "MemTotal:       24683652 kB\nMemFree:               0 kB\nHugePages_Total:       4\n";
    let fields = [("MemTotal", 24_683_652 * 1024), ("MemFree", 0), ("HugePages_Total", 4)];
    assert_eq!(proc::memory(text), Ok(fields.to_vec()));
}

#[test]
fn memory_in_another_unit_or_without_a_number_is_an_error_that_shows_the_line() {
    for line in
        ["MemTotal: 24 MB", "MemTotal: kB", "MemTotal 24 kB", "MemTotal: -1 kB", "MemTotal: 99999999999999999999 kB"]
    {
        let error = proc::memory(&format!("MemFree: 1 kB\n{line}\n")).unwrap_err().to_string();
        assert_eq!(error, format!("a field of memory expected, {line:?} found"));
    }
}

// ---- disks ------------------------------------------------------------------------------------------

const VDA: &str = " 254       0 vda 1200 30 48000 600 500 20 16000 2500 3 1750 3100 0 0 0 0 12 90";

fn vda() -> Disk<'static> {
    Disk {
        name: "vda",
        reads: 1200,
        read_bytes: 48_000 * 512,
        read_seconds: 0.6,
        writes: 500,
        written_bytes: 16_000 * 512,
        write_seconds: 2.5,
        in_progress: 3,
        busy_seconds: 1.75,
        weighted_seconds: 3.1,
    }
}

#[test]
fn figures_of_a_disk_have_their_units() {
    assert_eq!(proc::disks(VDA).collect::<Vec<_>>(), [Ok(vda())]);
    let old = VDA.strip_suffix(" 0 0 0 0 12 90").unwrap();
    assert_eq!(proc::disks(old).collect::<Vec<_>>(), [Ok(vda())], "of a kernel before 4.18");
}

#[test]
fn parts_of_disks_and_what_is_none_are_left_out() {
    let line = |name: &str| VDA.replacen("vda", name, 1);
    let names = [
        "sda",
        "sda1",
        "sdab",
        "sdab12",
        "vdb",
        "vdb3",
        "xvda1",
        "nvme0n1",
        "nvme0n1p2",
        "mmcblk0",
        "mmcblk0p1",
        "loop0",
        "ram15",
        "zram0",
        "fd0",
        "dm-0",
        "md127",
        "sr0",
    ];
    let text = names.map(line).join("\n");
    let kept: Vec<&str> = proc::disks(&text).map(|disk| disk.unwrap().name).collect();
    assert_eq!(kept, ["sda", "sdab", "vdb", "nvme0n1", "mmcblk0", "dm-0", "md127", "sr0"]);
}

#[test]
fn a_line_that_is_misread_costs_one_disk() {
    for bad in ["", "254 0 sda", "254 0 sda 1 2 3 4 5 6 7 8 9 10", "254 0 sda 1 2 3 4 5 6 x 8 9 10 11"] {
        let text = format!("{bad}\n{VDA}\n");
        let disks: Vec<_> = proc::disks(&text).collect();
        assert!(matches!(&disks[..], [Err(_), Ok(disk)] if *disk == vda()), "{bad:?}: {disks:?}");
    }
}

// ---- pressure ---------------------------------------------------------------------------------------

#[test]
fn pressure_is_the_total_in_seconds() {
    let text = "some avg10=96.75 avg60=89.05 avg300=87.98 total=3385182024\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n";
    assert_eq!(proc::pressure(text), Ok(Pressure { some: 3385.182024, full: Some(0.5) }));
    let old = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
    assert_eq!(proc::pressure(old), Ok(Pressure { some: 0.0, full: None }));
}

#[test]
fn pressure_without_a_total_is_an_error() {
    for text in ["", "full avg10=0.00 total=1\n", "some avg10=0.00\n", "some total=x\n", "some total=1\n\n"] {
        assert!(proc::pressure(text).is_err(), "{text:?}");
    }
}

// ---- what it is told --------------------------------------------------------------------------------

fn parse(args: &[&str]) -> Result<Wish, String> {
    options::parse(args.iter().map(|arg| (*arg).to_owned()), &["load", "disks"])
}

#[test]
fn without_arguments_it_serves_the_defaults_that_its_help_names() {
    let options = Options { listen: "127.0.0.1:9101".to_owned(), proc: PathBuf::from("/proc"), without: Vec::new() };
    assert!(HELP.contains("[default: 127.0.0.1:9101]") && HELP.contains("[default: /proc]"));
    assert_eq!(parse(&[]), Ok(Wish::Serve(options)));
}

#[test]
fn options_take_their_value_either_way() {
    let args = ["--listen", "[::]:9999", "--proc=/host/proc", "--without", "load", "--without=disks"];
    let without = vec!["load".to_owned(), "disks".to_owned()];
    let options = Options { listen: "[::]:9999".to_owned(), proc: PathBuf::from("/host/proc"), without };
    assert_eq!(parse(&args), Ok(Wish::Serve(options)));
    assert_eq!(parse(&["--help"]), Ok(Wish::Help));
    assert_eq!(parse(&["--listen", "x", "-h"]), Ok(Wish::Help));
    assert_eq!(parse(&["--version"]), Ok(Wish::Version));
}

#[test]
fn what_is_wrong_is_said() {
    for (args, error) in [
        (&["--listne", "x"][..], "there is no option \"--listne\""),
        (&["9101"], "there is no option \"9101\""),
        (&["--listen"], "--listen needs a value"),
        (&["--without", "cpu"], "there is no part \"cpu\", only load, disks"),
        (&["--help=yes"], "--help takes no value"),
    ] {
        assert_eq!(parse(args), Err(error.to_owned()), "{args:?}");
    }
}
