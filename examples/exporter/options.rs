//! What the exporter is told when it is started.

use std::path::PathBuf;

/// What somebody wants of the program.
#[derive(Debug, PartialEq)]
pub enum Wish {
    Help,
    Version,
    Serve(Options),
}

#[derive(Debug, PartialEq)]
pub struct Options {
    pub listen: String,
    pub proc: PathBuf,
    /// Parts that are left out.
    pub without: Vec<String>,
}

pub const HELP: &str = "\
Tells Prometheus how this host is: load, memory, disks and pressure.

Usage: exporter [OPTIONS]

Options:
  --listen ADDRESS  where to serve /metrics [default: 127.0.0.1:9101]
  --proc DIRECTORY  where the system tells of itself [default: /proc]
  --without PART    leave out load, memory, disks or pressure; may be given again
  --help            this text
  --version         the version
";

/// Reads the arguments; `parts` are the names there are.
///
/// # Errors
/// What is wrong with them, for whoever has written them.
pub fn parse(args: impl IntoIterator<Item = String>, parts: &[&str]) -> Result<Wish, String> {
    let mut options =
        Options { listen: "127.0.0.1:9101".to_owned(), proc: PathBuf::from("/proc"), without: Vec::new() };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        // `--listen=ADDRESS` is as good as `--listen ADDRESS`.
        let (name, attached) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), None),
        };
        if let (true, Some(_)) = (matches!(name, "--help" | "-h" | "--version"), &attached) {
            return Err(format!("{name} takes no value"));
        }
        let mut value = || attached.clone().or_else(|| args.next()).ok_or_else(|| format!("{name} needs a value"));
        match name {
            "--help" | "-h" => return Ok(Wish::Help),
            "--version" => return Ok(Wish::Version),
            "--listen" => options.listen = value()?,
            "--proc" => options.proc = PathBuf::from(value()?),
            "--without" => options.without.push(part(value()?, parts)?),
            _ => return Err(format!("there is no option {arg:?}")),
        }
    }
    Ok(Wish::Serve(options))
}

fn part(name: String, parts: &[&str]) -> Result<String, String> {
    match parts.contains(&name.as_str()) {
        true => Ok(name),
        false => Err(format!("there is no part {name:?}, only {}", parts.join(", "))),
    }
}
