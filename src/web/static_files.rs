//! [`StaticFiles`]: the files below a directory.
//!
//! Rules kept here:
//! - The loop waits for no disk. Looking up, opening and reading happen in the thread pool.
//! - A path has one meaning: a name that could be read in two ways is no name of a file.
//! - What is not served is as if it were not there.

use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::http::StatusCode;
use ::http::header::{self, HeaderName, HeaderValue};

use crate::failure::Result;
use crate::web::accept::prefers_gzip;
use crate::web::beneath::{Denied, Entry, Walk};
use crate::web::content::{Choice, Wish, modified};
use crate::web::error::RoutingError;
use crate::web::listing;
use crate::web::request::Request;
use crate::web::resource::{Render, Resource, refuse};
use crate::web::response::Response;

/// Serves the files below a directory.
///
/// It answers `GET` and `HEAD`, ranges (also several at once, and `If-Range`) and conditional requests, by an entity tag and a
/// date made from the time and size of the file. Types go by the extension; texts are taken for UTF-8. A directory is
/// answered with its index file, and without the slash at its end with a redirect (308). No request waits for a disk in the
/// reactor's thread: files are read in its thread pool, piece by piece as their client reads.
///
/// ```no_run
/// use dosimeter::web::{Branch, Site, StaticFiles};
///
/// let root = Branch::new();
/// root.put_child("static", StaticFiles::new("/srv/www").with_listing());
/// let site = Site::new(root);
/// ```
///
/// # What is not served
///
/// All of this is answered with 404, as if it were not there:
///
/// - whatever is not below the directory: `..` in any spelling, names with a slash, backslash or NUL in them, names that are
///   not UTF-8, links that lead out of it. Links that stay inside are followed unless [told otherwise](Self::without_links);
///   they have to be relative.
/// - names that begin with a dot, as `.git` and `.env` do, but for `.well-known` (RFC 8615). See
///   [`with_hidden`](Self::with_hidden).
/// - what is neither a file nor a directory: pipes, sockets, devices. They are not even opened.
/// - a directory without an index, unless [lists are wanted](Self::with_listing); a file with a slash behind its name.
///
/// What this process may not read is answered with 403.
///
/// # While files change
///
/// Put a new file in the place of the old one by renaming it: who is being sent the old one gets the rest of it. A file that
/// is written to in place reaches clients as a mixture, as with any server; one that shrinks while it is sent breaks the
/// connection, because the client was told the length. The entity tag of a file is a weak one for some milliseconds after a
/// change (two seconds where the file system counts whole ones), since one more change could have the same time.
#[derive(Clone)]
#[doc(alias = "File")]
pub struct StaticFiles(Arc<Policy>);

/// What is served, and how.
#[derive(Debug, Clone)]
struct Policy {
    root: PathBuf,
    index: Vec<String>,
    default_type: HeaderValue,
    fields: Vec<(HeaderName, HeaderValue)>,
    follows_links: bool,
    shows_hidden: bool,
    lists: bool,
    has_precompressed: bool,
}

impl StaticFiles {
    /// Serves what is below `root`, or `root` itself if it is a file.
    ///
    /// It is looked up anew for each request, so it may be a link that is pointed elsewhere while the server runs. As long as
    /// there is no such directory every request is answered with 500, and logged.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        StaticFiles(Arc::new(Policy {
            root: root.into(),
            index: vec!["index.html".to_owned(), "index.htm".to_owned()],
            default_type: HeaderValue::from_static("application/octet-stream"),
            fields: Vec::new(),
            follows_links: true,
            shows_hidden: false,
            lists: false,
            has_precompressed: false,
        }))
    }

    /// With these names of index files, the first of which that is there answers for its directory; `index.html` and
    /// `index.htm` unless told.
    ///
    /// # Panics
    /// If a name is a path.
    #[must_use]
    #[track_caller]
    #[doc(alias = "indexNames")]
    pub fn with_index(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        for name in &names {
            assert!(is_name(name), "{name:?} is not the name of a file in a directory");
        }
        self.with(|policy| policy.index = names)
    }

    /// With this type for files whose extension says nothing; `application/octet-stream` unless told, which browsers save
    /// and do not show. (Twisted says `text/html`, so that a file of a user's is run as a page of the site.)
    ///
    /// # Panics
    /// If it holds something other than visible ASCII and blanks.
    #[must_use]
    #[track_caller]
    #[doc(alias = "defaultType")]
    pub fn with_default_type(self, content_type: &'static str) -> Self {
        self.with(|policy| policy.default_type = HeaderValue::from_static(content_type))
    }

    /// With one more header field for each file: `Cache-Control`, say.
    ///
    /// ```
    /// use dosimeter::web::{HeaderValue, StaticFiles};
    /// use dosimeter::web::header::CACHE_CONTROL;
    ///
    /// let assets = StaticFiles::new("assets")
    ///     .with_header(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    /// ```
    ///
    /// # Panics
    /// If it is a field that says what the file is: `Content-Type`, `ETag` and their like.
    #[must_use]
    #[track_caller]
    pub fn with_header(self, name: HeaderName, value: HeaderValue) -> Self {
        assert!(!OWN_FIELDS.contains(&name), "{name} is not the same for each file: it is made from the file");
        self.with(|policy| policy.fields.push((name, value)))
    }

    /// With a page that lists a directory which has no index, up to 10,000 names of it.
    #[must_use]
    #[doc(alias = "directoryListing")]
    pub fn with_listing(self) -> Self {
        self.with(|policy| policy.lists = true)
    }

    /// With names that begin with a dot.
    #[must_use]
    pub fn with_hidden(self) -> Self {
        self.with(|policy| policy.shows_hidden = true)
    }

    /// Without links, wherever they lead.
    #[must_use]
    pub fn without_links(self) -> Self {
        self.with(|policy| policy.follows_links = false)
    }

    /// With files that were compressed before: who accepts gzip gets `style.css.gz` for `style.css` if it is there and not
    /// older.
    #[must_use]
    pub fn with_precompressed(self) -> Self {
        self.with(|policy| {
            policy.has_precompressed = true;
            policy.fields.push((header::VARY, HeaderValue::from_static("Accept-Encoding")));
        })
    }

    fn with(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }
}

impl fmt::Debug for StaticFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaticFiles({})", self.0.root.display())
    }
}

impl Resource for StaticFiles {
    fn is_leaf(&self) -> bool {
        true
    }

    fn render_get(&self, request: Request) -> Render {
        let (policy, ask) = (self.0.clone(), Ask::of(&request));
        let answer = self.0.clone();
        let found = request.reactor().defer_to_thread(move || policy.find(&ask));
        found.map(move |found| answer.answer(request, found)).into()
    }
}

/// What is asked for, apart from the request.
struct Ask {
    names: Vec<String>,
    wants_directory: bool,
    accepts_gzip: bool,
    wish: Wish,
}

impl Ask {
    fn of(request: &Request) -> Self {
        let mut names: Vec<String> = request.postpath().map(str::to_owned).collect();
        if names.last().is_some_and(String::is_empty) {
            names.pop();
        }
        let accepted = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case("accept-encoding"));
        Ask {
            names,
            wants_directory: request.path().ends_with('/'),
            accepts_gzip: prefers_gzip(accepted.map(|(_, value)| value)),
            wish: Wish::of(request),
        }
    }
}

/// What there is to say to an [`Ask`].
enum Found {
    Nothing,
    Forbidden,
    /// A directory, asked for without the slash at its end.
    Elsewhere,
    Listing(String),
    File(Choice),
}

/// In a thread of the pool.
impl Policy {
    fn find(&self, ask: &Ask) -> Result<Found> {
        match self.look_up(ask) {
            Ok(found) => Ok(found),
            Err(Denied::Missing) => Ok(Found::Nothing),
            Err(Denied::Forbidden) => Ok(Found::Forbidden),
            Err(Denied::Broken(error)) => Err(error.into()),
        }
    }

    fn look_up(&self, ask: &Ask) -> Result<Found, Denied> {
        if !ask.names.iter().enumerate().all(|(depth, name)| self.serves(depth, name)) {
            return Ok(Found::Nothing);
        }
        let mut walk = match Walk::new(&self.root, self.follows_links) {
            Ok(walk) => walk,
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return self.only_file(ask),
            Err(error) => return Err(self.no_root(error)),
        };
        match walk.go(&ask.names)? {
            Entry::File(..) if ask.wants_directory => Ok(Found::Nothing),
            Entry::File(file, metadata) => {
                let name = ask.names.last().map_or("", String::as_str);
                self.file(ask, walk, name, file, metadata)
            }
            Entry::Directory if !ask.wants_directory => Ok(Found::Elsewhere),
            Entry::Directory => self.directory(ask, walk),
        }
    }

    /// The root is a file, and all that there is.
    fn only_file(&self, ask: &Ask) -> Result<Found, Denied> {
        let (Some(directory), Some(name)) = (self.root.parent(), self.root.file_name()) else {
            return Ok(Found::Nothing);
        };
        if ask.wants_directory || !ask.names.is_empty() {
            return Ok(Found::Nothing);
        }
        let directory = if directory == Path::new("") { Path::new(".") } else { directory };
        let mut walk = Walk::new(directory, self.follows_links).map_err(|error| self.no_root(error))?;
        match walk.go([name])? {
            Entry::File(file, metadata) => self.file(ask, walk, &name.to_string_lossy(), file, metadata),
            Entry::Directory => Ok(Found::Nothing),
        }
    }

    fn no_root(&self, error: io::Error) -> Denied {
        let text = format!("the root of static files, {}: {error}", self.root.display());
        Denied::Broken(io::Error::new(error.kind(), text))
    }

    /// Whether a thing of this name may be served, `depth` directories down.
    fn serves(&self, depth: usize, name: &str) -> bool {
        let is_shown = self.shows_hidden || !name.starts_with('.') || depth == 0 && name == WELL_KNOWN;
        is_name(name) && is_shown
    }

    fn directory(&self, ask: &Ask, mut walk: Walk) -> Result<Found, Denied> {
        if let Some(name) = self.index.iter().find(|name| walk.has(name)) {
            return match walk.go([name])? {
                Entry::File(file, metadata) => self.file(ask, walk, name, file, metadata),
                Entry::Directory => Ok(Found::Nothing),
            };
        }
        if !self.lists {
            return Ok(Found::Nothing);
        }
        let depth = ask.names.len();
        let entries = walk.list(listing::MAX_LISTED + 1, |name| self.serves(depth, name))?;
        Ok(Found::Listing(listing::page(ask.names.last().map_or("/", String::as_str), entries)))
    }

    fn file(&self, ask: &Ask, mut walk: Walk, name: &str, file: File, metadata: Metadata) -> Result<Found, Denied> {
        let content_type = self.content_type(name);
        if self.has_precompressed
            && ask.accepts_gzip
            && let Some((file, compressed)) = walk.sibling(".gz")
            && modified(&compressed) >= modified(&metadata)
        {
            return Ok(Found::File(ask.wish.choose(file, &compressed, content_type, true)?));
        }
        Ok(Found::File(ask.wish.choose(file, &metadata, content_type, false)?))
    }

    fn content_type(&self, name: &str) -> HeaderValue {
        match mime_guess::from_path(name).first_raw() {
            Some(text) if text.starts_with("text/") => {
                HeaderValue::try_from(format!("{text}; charset=utf-8")).expect("a type is visible ASCII")
            }
            Some(other) => HeaderValue::from_static(other),
            None => self.default_type.clone(),
        }
    }
}

/// Whether a segment of a path can be the name of a file, and nothing else anywhere: a backslash separates names on other
/// systems, and in what proxies make of paths.
fn is_name(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && !segment.contains(['/', '\\', '\0'])
}

/// In the reactor's thread.
impl Policy {
    fn answer(&self, request: Request, found: Found) -> Render {
        match found {
            Found::Nothing => refuse(&request, RoutingError::NotFound),
            Found::Forbidden => Response::forbidden().into(),
            Found::Elsewhere => redirect_to_directory(&request).into(),
            Found::Listing(page) => Response::new(page).into(),
            Found::File(choice) => choice.send(request, &self.fields),
        }
    }
}

/// The same URL with a slash, in which the rest of the path does not matter: a path that begins with two slashes would lead
/// to another host, and a name with a colon to another scheme.
fn redirect_to_directory(request: &Request) -> Response {
    let last = request.path().rsplit('/').next().unwrap_or_default();
    let query = request.query_string().map_or(String::new(), |query| format!("?{query}"));
    match HeaderValue::try_from(format!("./{last}/{query}")) {
        Ok(location) => Response::empty(StatusCode::PERMANENT_REDIRECT).with_header(header::LOCATION, location),
        Err(_) => Response::not_found(),
    }
}

const OWN_FIELDS: [HeaderName; 7] = [
    header::ACCEPT_RANGES,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::LAST_MODIFIED,
];

/// RFC 8615: where certificates are asked for, among others.
const WELL_KNOWN: &str = ".well-known";
