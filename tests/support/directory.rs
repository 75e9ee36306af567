//! A directory of files that is gone after its test, and a server for it; beside `support/web.rs`, under the name `support`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use dosimeter::web::StaticFiles;

use super::support::{Reply, Server};

pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("dosimeter-{}-{}", process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = fs::canonicalize(std::env::temp_dir()).unwrap().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and makes the directories that it is in. A name may hold anything but a slash.
    ///
    /// It says that it is of the [`past`]: the tag of one that has just changed is another one some milliseconds later.
    pub fn write(&self, path: &str, content: &str) {
        let file = self.0.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
        self.date(path, past());
    }

    pub fn open(&self, path: &str) -> File {
        File::options().write(true).open(self.0.join(path)).unwrap()
    }

    /// Has a file say that it was changed at this time.
    pub fn date(&self, path: &str, date: SystemTime) {
        self.open(path).set_modified(date).unwrap();
    }

    /// What this process has open in here.
    pub fn open_files(&self) -> Vec<String> {
        let descriptors = fs::read_dir("/proc/self/fd").unwrap();
        let paths = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(&self.0)).map(|path| path.display().to_string()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server for a directory with these files.
pub fn serve(files: &[(&str, &str)]) -> (Directory, Server) {
    let directory = Directory::new();
    for (path, content) in files {
        directory.write(path, content);
    }
    let server = Server::new(StaticFiles::new(directory.path()));
    (directory, server)
}

/// Asks with more header lines, `|` between them.
#[track_caller]
pub fn ask(server: &Server, method: &str, target: &str, lines: &str) -> Reply {
    let lines: String = lines.split('|').filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
    let mut client = server.connect();
    client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n"));
    let reply = client.reply_to(method);
    client.expect_end();
    reply
}

/// A time long enough ago that a file of it has a strong tag.
pub fn past() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
}

pub const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
