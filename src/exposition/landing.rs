//! [`Landing`]: the page at the root of a process, and what all constant pages here are sent with.
//!
//! Rule kept here: what is shown may come from anywhere, so it is escaped, and a policy lets nothing run but the page's own.

use ::http::{HeaderName, HeaderValue, header};

use crate::web::{Body, Data, Render, Request, Resource, escape_html};

/// The page at `/`: what this process is, and where its other pages are.
///
/// Who opens the address of a scrape target in a browser is to find the way, as with the exporters of Prometheus.
///
/// ```
/// use dosimeter::exposition::Landing;
/// use dosimeter::web::Branch;
/// use dosimeter::MetricsResource;
///
/// let root = Branch::new();
/// root.put_child("metrics", MetricsResource::new());
/// root.put_child("", Landing::new("orders", "2.1.0").about("Takes orders.").link("metrics", "Metrics"));
/// ```
#[derive(Debug, Clone)]
pub struct Landing {
    head: String,
    about: String,
    links: String,
}

impl Landing {
    /// A page for the program of this name and version.
    pub fn new(name: &str, version: &str) -> Self {
        let (name, version) = (escape_html(name), escape_html(version));
        let head = format!("<title>{name}</title>\n</head>\n<body>\n<h1>{name} <small>{version}</small></h1>\n");
        Landing { head, about: String::new(), links: String::new() }
    }

    /// Says in a sentence or two what the program is for.
    #[must_use]
    pub fn about(mut self, text: &str) -> Self {
        self.about = format!("<p>{}</p>\n", escape_html(text));
        self
    }

    /// Adds a link to `path`, relative to the path of this page.
    #[must_use]
    pub fn link(mut self, path: &str, text: &str) -> Self {
        let (path, text) = (escape_html(path), escape_html(text));
        self.links += &format!("<li><a href=\"{path}\">{text}</a></li>\n");
        self
    }
}

impl Resource for Landing {
    fn render_get(&self, request: Request) -> Render {
        let page = format!("{OPENING}{}{}<ul>\n{}</ul>\n</body>\n</html>\n", self.head, self.about, self.links);
        File::new(page, "text/html; charset=utf-8").render_get(request)
    }
}

/// A constant page, or a part of one.
pub(super) struct File(Data);

impl File {
    pub(super) fn new(text: impl Into<Body>, content_type: &'static str) -> Self {
        File(Data::new(text, content_type))
    }
}

impl Resource for File {
    fn render_get(&self, mut request: Request) -> Render {
        for (name, value) in FIELDS {
            request.set_header(name.clone(), HeaderValue::from_static(value));
        }
        self.0.render_get(request)
    }
}

const OPENING: &str = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
                       <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
                       <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n";

/// With every part. A new version of the program has a new page, so browsers ask whether theirs is still the one.
const FIELDS: &[(HeaderName, &str)] = &[
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-cache"),
];

/// The page's own files, and figures from where it came from. The icon is an empty one in the page, so that browsers do not
/// ask for another.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
