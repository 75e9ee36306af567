//! Opens what a path means below a directory, and nothing outside of it.
//!
//! Rules kept here:
//! - Each name is looked up in the directory that the one before it opened, and never by a path of several: whoever changes
//!   directories and links meanwhile changes what is found, not whether it is inside.
//! - The system follows no link for us. Links are read and walked here, where a step out of the root is seen.
//! - Nothing is opened that could do something by being opened, or make the opener wait: only directories and regular files.
//! - All of it waits for disks: it is for the thread pool.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

/// Why something cannot be had.
#[derive(Debug)]
pub(crate) enum Denied {
    /// There is no such thing, or it is nothing that is served.
    Missing,
    /// The system does not let this process have it.
    Forbidden,
    /// Something is wrong on our side.
    Broken(io::Error),
}

impl From<Errno> for Denied {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::INVAL
            | Errno::NXIO
            | Errno::STALE => Denied::Missing,
            Errno::ACCESS | Errno::PERM => Denied::Forbidden,
            error => Denied::Broken(error.into()),
        }
    }
}

impl From<io::Error> for Denied {
    fn from(error: io::Error) -> Self {
        Errno::from_io_error(&error).map_or_else(|| Denied::Broken(error), Denied::from)
    }
}

/// What a path led to.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A regular file, open for reading.
    File(File, Metadata),
    /// A directory; the [`Walk`] stands in it.
    Directory,
}

/// A walk through a tree of directories that cannot leave it.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The root, and the directories on the way from it.
    directories: Vec<OwnedFd>,
    /// What the last file is called in its directory.
    last: OsString,
    follows_links: bool,
}

impl Walk {
    /// Stands in `root`, which may be a link itself.
    pub(crate) fn new(root: &Path, follows_links: bool) -> io::Result<Self> {
        let root = openat(CWD, root, ENTER.difference(OFlags::NOFOLLOW), Mode::empty())?;
        Ok(Walk { directories: vec![root], last: OsString::new(), follows_links })
    }

    /// Goes to what `names` mean from where it stands, one below the other.
    pub(crate) fn go(&mut self, names: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Entry, Denied> {
        let mut to_go: Vec<OsString> = names.into_iter().map(Into::into).collect();
        to_go.reverse();
        let mut links = 0;
        while let Some(name) = to_go.pop() {
            match self.kind(&name)? {
                FileType::Directory => self.enter(&name)?,
                FileType::RegularFile if to_go.is_empty() => return self.open(name),
                FileType::Symlink if self.follows_links && links < MAX_LINKS => {
                    links += 1;
                    self.follow(&name, &mut to_go)?;
                }
                _ => return Err(Denied::Missing),
            }
        }
        Ok(Entry::Directory)
    }

    /// What `name` is in the directory where it stands. A step out of the root is a step to nothing.
    fn kind(&self, name: &OsStr) -> Result<FileType, Denied> {
        if matches!(name.as_bytes(), b"." | b"..") {
            return Ok(FileType::Directory);
        }
        let stat = statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
    }

    fn enter(&mut self, name: &OsStr) -> Result<(), Denied> {
        match name.as_bytes() {
            b"." => {}
            b".." if self.directories.len() > 1 => drop(self.directories.pop()),
            b".." => return Err(Denied::Missing),
            _ if self.directories.len() > MAX_DEPTH => return Err(Denied::Missing),
            _ => self.directories.push(openat(self.here(), name, ENTER, Mode::empty())?),
        }
        Ok(())
    }

    /// What it is may have changed since it was looked at. A file that is something else by now was opened in a way that
    /// waits for nobody.
    fn open(&mut self, name: OsString) -> Result<Entry, Denied> {
        let file = File::from(openat(self.here(), &name, READ, Mode::empty())?);
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(Denied::Missing);
        }
        self.last = name;
        Ok(Entry::File(file, metadata))
    }

    /// Puts the path that a link holds in front of what is to go. One from the root of the system leads out of ours.
    fn follow(&self, name: &OsStr, to_go: &mut Vec<OsString>) -> Result<(), Denied> {
        let target = readlinkat(self.here(), name, Vec::new())?.into_bytes();
        if target.starts_with(b"/") {
            return Err(Denied::Missing);
        }
        let names = target.split(|&byte| byte == b'/').rev().filter(|name| !name.is_empty());
        to_go.extend(names.map(|name| OsString::from_vec(name.to_vec())));
        Ok(())
    }

    fn here(&self) -> &OwnedFd {
        self.directories.last().expect("the root stays")
    }

    /// Whether there is anything of that name where it stands.
    pub(crate) fn has(&self, name: &str) -> bool {
        statat(self.here(), name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The regular file beside the one that was opened last whose name is longer by `suffix`.
    pub(crate) fn sibling(&mut self, suffix: &str) -> Option<(File, Metadata)> {
        let mut name = self.last.clone();
        name.push(suffix);
        match self.kind(&name).ok()? {
            FileType::RegularFile => match self.open(name).ok()? {
                Entry::File(file, metadata) => Some((file, metadata)),
                Entry::Directory => None,
            },
            _ => None,
        }
    }

    /// Up to `most` of the names in the directory where it stands, and whether each is a directory. Only what can be opened
    /// is named, as far as can be told without opening it.
    pub(crate) fn list(&self, most: usize, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, bool)>, Denied> {
        let directory = openat(self.here(), ".", LIST, Mode::empty())?;
        let mut found = Vec::new();
        for entry in Dir::new(directory)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if !is_wanted(name) {
                continue;
            }
            if let Some(is_directory) = self.is_directory(name, entry.file_type()) {
                found.push((name.to_owned(), is_directory));
            }
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }

    /// None if it is neither a directory nor a file.
    fn is_directory(&self, name: &str, kind: FileType) -> Option<bool> {
        let kind = match kind {
            FileType::Unknown => self.kind(OsStr::new(name)).ok()?,
            kind => kind,
        };
        match kind {
            FileType::Directory => Some(true),
            FileType::RegularFile => Some(false),
            FileType::Symlink if self.follows_links => {
                let mut aside = self.try_clone().ok()?;
                Some(matches!(aside.go([name]).ok()?, Entry::Directory))
            }
            _ => None,
        }
    }

    fn try_clone(&self) -> io::Result<Self> {
        let directories = self.directories.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        Ok(Walk { directories, last: self.last.clone(), follows_links: self.follows_links })
    }
}

/// Searching a directory takes no right to read it where the system knows the difference.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SEARCH: OFlags = OFlags::PATH;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEARCH: OFlags = OFlags::RDONLY;

const ENTER: OFlags = SEARCH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Should it be a pipe or a terminal by now, opening it neither waits nor takes it over.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Linux follows as many before it calls them a circle.
const MAX_LINKS: usize = 40;

/// Each directory on the way is a descriptor for as long as the walk takes: with ten threads, 320 of the 1024 that a process
/// commonly has.
pub(crate) const MAX_DEPTH: usize = 32;
