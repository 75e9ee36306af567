//! [`Dashboard`]: the figures of a process as plots, in a browser.
//!
//! Rules kept here:
//! - The page needs this server and nothing else: no other host, no framework, no font.
//! - The server sends figures and the browser draws them. So the page costs the loop a scrape every two seconds for each
//!   browser that has it open, and nothing when there is none.
//! - Nothing from outside is markup: the page is constant but for a name that is escaped, and its policy lets no script run but
//!   its own.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ::http::{HeaderValue, StatusCode, header};

use crate::exposition::landing::File;
use crate::exposition::resource::MetricsResource;
use crate::reactor::Reactor;
use crate::reactor::watch::{Slow, Watch};
use crate::web::{Render, Request, Resource, Response, escape_html};

/// A page that draws what the loop and the servers on it do, live: how busy the loop is and how long its turns take, requests
/// by route and status, latency, connections, Deferreds, and which callbacks held up the loop.
///
/// Of several reactors in one registry it shows this one first, and the others where they are chosen.
///
/// It is one page with its script, and reads the figures it draws from `metrics` below its own path every two seconds. It goes on
/// when the process was started again, and shows for how long there was no answer. It needs a path that ends in a slash, and
/// redirects to it.
///
/// It knows the figures by their names, so those of a registry with a prefix of its own are not drawn, which the page says.
///
/// Who sees the page sees all metrics: like `/metrics` itself it is for those who run the program, and not for everybody.
///
/// ```no_run
/// use dosimeter::web::{Branch, Site};
/// use dosimeter::{Dashboard, Reactor};
///
/// # fn main() -> dosimeter::Result<()> {
/// let reactor = Reactor::new()?;
/// let root = Branch::new();
/// root.put_child("dashboard", Dashboard::new(&reactor));
/// reactor.listen_tcp("127.0.0.1:8000", Site::new(root))?;
/// reactor.run()
/// # }
/// ```
#[derive(Clone)]
pub struct Dashboard {
    page: Rc<File>,
    style: Rc<File>,
    script: Rc<File>,
    slow: Rc<SlowList>,
    metrics: Rc<MetricsResource>,
}

impl Dashboard {
    /// A dashboard of `reactor`, and of the registry that it publishes its figures in.
    pub fn new(reactor: &Reactor) -> Self {
        let metrics = reactor.registry().map_or_else(MetricsResource::new, MetricsResource::with_registry);
        Dashboard::of(reactor.loop_watch().clone(), reactor.label(), metrics)
    }

    /// A dashboard of the loop that is watched and has this label, which may be another one than that which serves it.
    pub(super) fn of(watch: Arc<Watch>, label: &str, metrics: MetricsResource) -> Self {
        let page = include_str!("dashboard/page.html").replace(LABEL, &escape_html(label));
        Dashboard {
            page: Rc::new(File::new(page, "text/html; charset=utf-8")),
            style: Rc::new(File::new(include_str!("dashboard/dashboard.css"), "text/css; charset=utf-8")),
            script: Rc::new(File::new(include_str!("dashboard/dashboard.js"), "text/javascript; charset=utf-8")),
            slow: Rc::new(SlowList(watch)),
            metrics: Rc::new(metrics),
        }
    }

    /// The same with the figures of this resource: of several registries, say, or compressed.
    #[must_use]
    pub fn with_metrics(self, metrics: MetricsResource) -> Self {
        Dashboard { metrics: Rc::new(metrics), ..self }
    }
}

impl Resource for Dashboard {
    fn child(&self, name: &str, _request: &Request) -> Option<Rc<dyn Resource>> {
        self.known_child(name)
    }

    fn known_child(&self, name: &str) -> Option<Rc<dyn Resource>> {
        Some(match name {
            "" => self.page.clone(),
            "dashboard.css" => self.style.clone(),
            "dashboard.js" => self.script.clone(),
            "slow" => self.slow.clone(),
            "metrics" => self.metrics.clone(),
            _ => return None,
        })
    }

    /// The page names its files relative to its own path.
    fn render_get(&self, request: Request) -> Render {
        let name = request.path().rsplit('/').next().unwrap_or_default();
        Response::redirect(StatusCode::PERMANENT_REDIRECT, &format!("./{name}/")).into()
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dashboard")
    }
}

/// The callbacks that held up the loop of late, the latest first: a table without need of escapes, for no place of a program
/// has a tabulator in it.
struct SlowList(Arc<Watch>);

impl Resource for SlowList {
    fn render_get(&self, _request: Request) -> Render {
        let mut table = "kind\tseconds\tended\tplace\n".to_owned();
        for Slow { kind, name, duration, ended } in self.0.slow() {
            let ended = ended.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
            let place = name.map_or(String::new(), |name| name.to_string());
            table += &format!("{}\t{:.6}\t{ended:.3}\t{place}\n", kind.name(), duration.as_secs_f64());
        }
        let content_type = HeaderValue::from_static("text/tab-separated-values; charset=utf-8");
        let response = Response::new(table).with_content_type(content_type);
        response.with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store")).into()
    }
}

/// What stands in the page for the label of its reactor.
const LABEL: &str = "{label}";
