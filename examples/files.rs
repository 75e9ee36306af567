//! Serves a directory: `cargo run --release --example files 8080 /srv/www [--listing]`.
//!
//! With `--features gzip` also compressed on the way; what lies compressed beside its file is used in any case.

use dosimeter::Reactor;
use dosimeter::web::{Site, StaticFiles};

fn main() -> dosimeter::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().unwrap_or("8080".to_owned());
    let port: u16 = port.parse().map_err(|_| "usage: files [PORT [DIRECTORY [--listing]]]")?;
    let directory = arguments.next().unwrap_or(".".to_owned());
    std::fs::read_dir(&directory).map_err(|error| format!("cannot serve {directory}: {error}"))?;
    let mut files = StaticFiles::new(directory).with_precompressed();
    if arguments.next().is_some_and(|flag| flag == "--listing") {
        files = files.with_listing();
    }
    #[cfg(feature = "gzip")]
    let files = dosimeter::web::Gzip::new(files);

    let reactor = Reactor::new()?;
    reactor.listen_tcp(port, Site::new(files))?;
    reactor.run()
}
