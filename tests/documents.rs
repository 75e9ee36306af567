//! README, ARCHITECTURE and CHANGELOG, checked against the sources.
//!
//! Rule this file enforces: what the documents name exists, and the figures they give are those of the code. Prose that
//! nothing checks goes stale. (That the programs in the README compile is checked by the documentation tests.)

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_test_that_an_invariant_names_exists() {
    let named = backticked(&read("ARCHITECTURE.md"), |line| line.contains("Fails:"));
    let tests: Vec<String> = named.into_iter().filter(|name| is_identifier(name) && name.contains('_')).collect();
    assert!(tests.len() > 15, "the invariants name {} tests: has their form changed?", tests.len());
    let sources: String = rust_files("tests").chain(rust_files("src")).map(|path| read(&path)).collect();
    let missing: Vec<_> = tests.iter().filter(|name| !sources.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names tests that do not exist: {missing:?}");
}

#[test]
fn the_code_map_names_every_source_file_and_none_that_is_gone() {
    let map = section(&read("ARCHITECTURE.md"), "## 6.");
    let named: Vec<String> = backticked(&map, |_| true)
        .into_iter()
        .filter(|name| name.ends_with(".rs") && !name.contains("tests/"))
        .collect();
    let files: Vec<String> =
        rust_files("src").map(|path| path.strip_prefix("src/").expect("below src").to_owned()).collect();
    let unnamed: Vec<_> =
        files.iter().filter(|file| *file != "lib.rs" && !is_declaration(file) && !named.contains(file)).collect();
    assert!(unnamed.is_empty(), "ARCHITECTURE.md, section 6, lacks {unnamed:?}");
    let gone: Vec<_> = named.iter().filter(|name| !files.contains(name)).collect();
    assert!(gone.is_empty(), "ARCHITECTURE.md, section 6, names {gone:?}, which are gone");
    let count = |file: &String| map.matches(&format!("`{file}`: ")).count();
    let told_twice: Vec<_> = files.iter().filter(|file| count(file) > 1).collect();
    assert!(told_twice.is_empty(), "ARCHITECTURE.md, section 6, tells more than once what {told_twice:?} are");
}

/// Two changes that are put together keep what both of them have, and often what neither should.
#[test]
fn no_document_says_a_line_twice() {
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "src/lib.rs", "src/guide/mod.rs"] {
        let text = read(file);
        let mut lines: Vec<&str> = text.lines().filter(|line| line.len() > 40).collect();
        lines.sort_unstable();
        let twice: Vec<_> = lines.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert!(twice.is_empty(), "{file} says more than once: {twice:#?}");
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    let mut rows = 0;
    for line in section(&read("ARCHITECTURE.md"), "## 7.").lines().filter(|line| line.starts_with("| `")) {
        let [name, value, file] = backticked(line, |_| true).try_into().unwrap_or_else(|row| panic!("{line}: {row:?}"));
        let source = read(format!("src/{file}"));
        let is_constant = source
            .lines()
            .any(|line| line.contains(&format!("const {name}: ")) && line.ends_with(&format!(" = {value};")));
        let is_default = [",", " }"].iter().any(|end| source.contains(&format!(" {name}: {value}{end}")));
        assert!(is_constant || is_default, "{name} = {value} is not in src/{file}");
        rows += 1;
    }
    assert!(rows > 12, "{rows} limits: has the form of the table changed?");
}

#[test]
fn every_line_of_the_log_has_a_target_that_is_told_of() {
    let told = section(&read("ARCHITECTURE.md"), "## 7.");
    let told = told.lines().find(|line| line.starts_with("- **Logs.**")).expect("a paragraph on logs").to_owned();
    for path in rust_files("src") {
        let source = read(&path);
        for target in
            source.split("\"dosimeter::").skip(1).filter_map(|rest| rest.split_once('"')).map(|(target, _)| target)
        {
            let is_target = !target.contains("::") && is_identifier(target);
            assert!(
                !is_target || told.contains(&format!("::{target}`")),
                "ARCHITECTURE.md does not tell of the target {target:?} of {path}"
            );
        }
        let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
        let untargeted = code.flat_map(|line| line.split_once("log::")).filter(|(_, call)| {
            let level = call.split("!(").next().unwrap_or_default();
            call.contains("!(\"") && ["error", "warn", "info", "debug", "trace"].contains(&level)
        });
        assert_eq!(untargeted.count(), 0, "{path} logs without a target");
    }
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let example = read("examples/metrics_server.rs");
    let program = example.split_once("\n\n").expect("a comment, then the program").1;
    assert!(
        read("README.md").contains(&format!("```rust,no_run\n{program}```\n")),
        "README.md shows another metrics_server"
    );
}

#[test]
fn the_readme_lists_every_example() {
    let readme = read("README.md");
    // A directory is one program, which begins in its main.rs.
    let is_program = |path: &String| path.matches('/').count() == 1 || path.ends_with("/main.rs");
    let programs = rust_files("examples").filter(is_program);
    let unlisted: Vec<_> = programs.filter(|path| !readme.contains(&format!("]({path}) |"))).collect();
    assert!(unlisted.is_empty(), "README.md does not list {unlisted:?}");
}

#[test]
fn the_documents_agree_on_the_rust_version() {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'));
    let version = version.expect("Cargo.toml has a rust-version");
    for (file, text) in [
        ("README.md", format!("minimum Rust version is {version}")),
        ("ARCHITECTURE.md", format!("minimum Rust version, in `Cargo.toml`, is {version}")),
        ("CHANGELOG.md", format!("Needs Rust {version}.")),
    ] {
        assert!(read(file).contains(&text), "{file} does not say {text:?}");
    }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a directory and those below, relative to the crate, sorted.
fn rust_files(directory: &str) -> impl Iterator<Item = String> {
    let (mut found, mut open) = (Vec::new(), vec![PathBuf::from(directory)]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(&directory)).expect("a directory") {
            let path = directory.join(entry.expect("an entry").file_name());
            match path.extension() {
                Some(extension) if extension == "rs" => found.push(path.to_str().expect("plain names").to_owned()),
                None => open.push(path),
                Some(_) => {}
            }
        }
    }
    found.sort();
    found.into_iter()
}

/// A `mod.rs` that only declares and re-exports: those with logic are in the code map like any file.
fn is_declaration(file: &str) -> bool {
    file.ends_with("/mod.rs") && !read(format!("src/{file}")).contains("fn ")
}

/// The section of a document that begins with this heading.
fn section(document: &str, heading: &str) -> String {
    let start = document.find(heading).unwrap_or_else(|| panic!("no section {heading:?}"));
    let text = &document[start..];
    let end = text[heading.len()..].find("\n## ").map_or(text.len(), |end| heading.len() + end);
    text[..end].to_owned()
}

/// What stands between backticks in the lines that are wanted.
fn backticked(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = text.lines().filter(|line| wanted(line));
    lines.flat_map(|line| line.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn is_identifier(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
