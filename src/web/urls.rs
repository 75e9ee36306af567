//! URLs made from the names of routes, and why there is none: [`UrlError`].
//!
//! Rule kept here: what comes out leads back to the route, with the same values; a value that would not is an error.

use std::error::Error;
use std::fmt::{self, Display};

use crate::web::pattern::{Misfit, quote_query};
use crate::web::routes::{Routes, Table};

/// Why there is no URL; see [`Router::url_for`](super::Router::url_for).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum UrlError {
    /// No route has this name.
    #[non_exhaustive]
    UnknownRoute {
        /// The name.
        route: String,
    },
    /// The pattern has a value that was not given.
    #[non_exhaustive]
    MissingValue {
        /// The name of the route.
        route: String,
        /// The name of the value.
        name: String,
    },
    /// With this value the pattern would not match what comes out.
    #[non_exhaustive]
    WrongValue {
        /// The name of the route.
        route: String,
        /// The name of the value.
        name: String,
        /// The value.
        value: String,
    },
}

impl UrlError {
    fn new(route: &str, misfit: Misfit, value_of: impl Fn(&str) -> Option<String>) -> Self {
        let route = route.to_owned();
        match misfit {
            Misfit::Missing(name) => UrlError::MissingValue { route, name: name.to_string() },
            Misfit::Wrong(name) => {
                let value = value_of(&name).unwrap_or_default();
                UrlError::WrongValue { route, name: name.to_string(), value }
            }
        }
    }
}

impl Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UrlError::UnknownRoute { route } => write!(f, "no route is called {route:?}"),
            UrlError::MissingValue { route, name } => write!(f, "the URL of {route:?} lacks its {name:?}"),
            UrlError::WrongValue { route, name, value } => {
                write!(f, "{value:?} cannot be the {name:?} in the URL of {route:?}")
            }
        }
    }
}

impl Error for UrlError {}

/// The URL of the route called `name`; see [`Router::url_for`](super::Router::url_for).
pub(crate) fn url_for(table: &Table, name: &str, values: &[(&str, &dyn Display)]) -> Result<String, UrlError> {
    let way = Routes::locate(table, name, &mut Vec::new());
    let way = way.ok_or_else(|| UrlError::UnknownRoute { route: name.to_owned() })?;
    let value_of = |wanted: &str| Some(values.iter().find(|(known, _)| *known == wanted)?.1.to_string());
    let mut url = String::new();
    for rule in &way {
        rule.build(&mut url, value_of).map_err(|misfit| UrlError::new(name, misfit, value_of))?;
    }
    if url.is_empty() {
        url.push('/');
    }
    let mut mark = '?';
    for (name, value) in values.iter().filter(|(name, _)| !way.iter().any(|rule| rule.pattern.has(name))) {
        url.push(std::mem::replace(&mut mark, '&'));
        quote_query(&mut url, name);
        url.push('=');
        quote_query(&mut url, &value.to_string());
    }
    Ok(url)
}
