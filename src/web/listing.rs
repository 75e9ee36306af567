//! The page that lists a directory.
//!
//! Rule kept here: a name is escaped where it is read and encoded where it is a link, and a link is always one to here: a
//! name like `javascript:x` is no scheme, and `//host` no host.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::web::response::escape_html;

/// A page for the directory of this name with these entries, of which some are directories.
pub(crate) fn page(name: &str, mut entries: Vec<(String, bool)>) -> String {
    entries.sort();
    let is_cut = entries.len() > MAX_LISTED;
    entries.truncate(MAX_LISTED);
    let title = escape_html(name);
    let mut page = format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body><h1>{title}</h1>\n<ul>\n"
    );
    for (name, is_directory) in &entries {
        let slash = if *is_directory { "/" } else { "" };
        let (link, text) = (utf8_percent_encode(name, ENCODED), escape_html(name));
        page.push_str(&format!("<li><a href=\"./{link}{slash}\">{text}{slash}</a></li>\n"));
    }
    page.push_str(if is_cut { "</ul>\n<p>There is more.</p></body></html>\n" } else { "</ul></body></html>\n" });
    page
}

/// All but what RFC 3986 section 2.3 reserves for nothing.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Nobody reads further, and a directory of a million names would be a page of a hundred megabytes.
pub(crate) const MAX_LISTED: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_at_its_limit_and_says_so() {
        let entries = |count| (0..count).map(|at: usize| (at.to_string(), false)).collect();
        for (count, is_cut) in [(MAX_LISTED, false), (MAX_LISTED + 1, true)] {
            let page = page("many", entries(count));
            assert_eq!((page.matches("<li>").count(), page.contains("There is more.")), (MAX_LISTED, is_cut));
        }
    }
}
