//! Rules on single source files. They read the text as rustfmt leaves it, so a line-by-line look is enough.

use std::path::Path;

/// Lines of code a file may have, its tests not counted.
const FILE_LINES_MAX: usize = 500;

/// Lines a function's body may have, blank lines and comments not counted (clippy counts the same way).
const FUNCTION_LINES_MAX: usize = 70;

/// Names that say nothing about what is inside.
const BANNED_MODULES: [&str; 5] = ["utils", "common", "helpers", "misc", "shared"];

/// What a core must not mention: it gets time as an argument and never waits.
const BANNED_IN_CORES: [&str; 6] = [
    "tokio",
    "async fn",
    "async move",
    ".await",
    "Instant::now",
    "SystemTime::now",
];

/// Sans-IO code: these files and everything below these directories.
const CORES: [&str; 8] = [
    "media/src",
    "geo/src",
    "edge-node/src/core",
    "control-plane/src/core",
    "control-plane/src/planner",
    "control-plane/src/placement/score",
    "relay/src/link",
    "relay/src/mesh",
];

/// What is wrong with a file, by its path within the workspace.
pub(crate) fn breaches(path: &Path, text: &str) -> Vec<String> {
    let shown = path.display();
    let mut found = Vec::new();
    if path.file_name().is_some_and(|name| name == "mod.rs") {
        found.push(format!(
            "{shown}: modules are foo.rs beside foo/, not mod.rs"
        ));
    }
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let folders = path
        .components()
        .filter_map(|part| part.as_os_str().to_str());
    if let Some(name) = folders
        .chain([stem])
        .find(|name| BANNED_MODULES.contains(name))
    {
        found.push(format!("{shown}: {name:?} is no name for a module"));
    }
    if is_test(path) {
        return found;
    }
    let code = code_lines(text);
    if code.len() > FILE_LINES_MAX {
        let count = code.len();
        found.push(format!(
            "{shown}: {count} lines of code, at most {FILE_LINES_MAX}"
        ));
    }
    found.extend(
        long_functions(&code)
            .into_iter()
            .map(|(line, name, count)| {
                format!("{shown}:{line}: {name} has {count} lines, at most {FUNCTION_LINES_MAX}")
            }),
    );
    if is_core(path) {
        found.extend(impurities(&code).map(|(line, word)| {
            format!("{shown}:{line}: a core is sans-IO and must not use {word:?}")
        }));
    }
    found
}

/// Files that hold nothing but tests or benchmarks.
fn is_test(path: &Path) -> bool {
    let directory = |name: &str| path.components().any(|part| part.as_os_str() == name);
    let file = path.file_stem().is_some_and(|stem| stem == "tests");
    file || ["tests", "benches", "examples"].into_iter().any(directory)
}

fn is_core(path: &Path) -> bool {
    CORES
        .iter()
        .any(|core| path.starts_with(core) || path == Path::new(core).with_extension("rs"))
}

/// The lines that count, numbered from 1: no blank ones, no comments, nothing from the test module on.
fn code_lines(text: &str) -> Vec<(usize, &str)> {
    let mut lines = Vec::new();
    let mut numbered = text.lines().enumerate().peekable();
    while let Some((index, line)) = numbered.next() {
        let tests_follow = numbered
            .peek()
            .is_some_and(|(_, next)| next.starts_with("mod tests {"));
        if line == "#[cfg(test)]" && tests_follow {
            break;
        }
        let trimmed = line.trim_start();
        if !trimmed.is_empty() && !trimmed.starts_with("//") {
            lines.push((index + 1, line));
        }
    }
    lines
}

/// Functions over the limit: first line, name, lines of code. A function ends where rustfmt puts a brace as far in as
/// the function's own line.
fn long_functions<'a>(code: &[(usize, &'a str)]) -> Vec<(usize, &'a str, usize)> {
    let mut found = Vec::new();
    for (at, (line, text)) in code.iter().enumerate() {
        let Some(name) = function_name(text) else {
            continue;
        };
        let indent = text.len() - text.trim_start().len();
        let closes = |text: &str| text.len() == indent + 1 && text.trim_start() == "}";
        let ends_at_once = text.ends_with('}') || text.ends_with(';');
        let body = code
            .iter()
            .skip(at)
            .skip_while(|(_, text)| !text.ends_with('{'))
            .skip(1);
        let count = body.take_while(|(_, text)| !closes(text)).count();
        if !ends_at_once && count > FUNCTION_LINES_MAX {
            found.push((*line, name, count));
        }
    }
    found
}

/// The name in a line that starts a function.
fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for prefix in [
        "pub ",
        "pub(crate) ",
        "pub(super) ",
        "const ",
        "async ",
        "unsafe ",
    ] {
        rest = rest.strip_prefix(prefix).unwrap_or(rest);
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
}

fn impurities<'a>(code: &'a [(usize, &'a str)]) -> impl Iterator<Item = (usize, &'static str)> {
    code.iter().flat_map(|(line, text)| {
        let text = text.split(" //").next().unwrap_or(text);
        let words = BANNED_IN_CORES
            .into_iter()
            .filter(|word| text.contains(word));
        words.map(|word| (*line, word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, text: &str) -> Vec<String> {
        breaches(Path::new(path), text)
    }

    #[test]
    fn files_have_a_length_without_comments_and_tests() {
        let fits = "/// Doc.\n\nconst A: u8 = 1;\n".repeat(FILE_LINES_MAX);
        assert!(of("relay/src/a.rs", &fits).is_empty());
        let tests = format!("{fits}#[cfg(test)]\nmod tests {{\n{fits}}}\n");
        assert!(of("relay/src/a.rs", &tests).is_empty());
        assert!(of("relay/src/a/tests.rs", &fits.repeat(2)).is_empty());
        let long = of("relay/src/a.rs", &format!("{fits}const B: u8 = 2;\n"));
        assert_eq!(long, ["relay/src/a.rs: 501 lines of code, at most 500"]);
    }

    #[test]
    fn functions_have_a_length() {
        let function = |lines: usize| {
            let body = "        a();\n\n        // Why.\n".repeat(lines);
            format!("impl A {{\n    pub async fn long(&self) {{\n{body}    }}\n}}\n")
        };
        assert!(of("relay/src/a.rs", &function(FUNCTION_LINES_MAX)).is_empty());
        assert_eq!(
            of("relay/src/a.rs", &function(FUNCTION_LINES_MAX + 1)),
            ["relay/src/a.rs:2: long has 71 lines, at most 70"]
        );
        let after = format!(
            "trait T {{\n    fn f(&self);\n    fn g() {{}}\n}}\n{}",
            "a!();\n".repeat(99)
        );
        assert!(of("relay/src/a.rs", &after).is_empty());
    }

    #[test]
    fn names_say_something() {
        assert_eq!(of("relay/src/link/mod.rs", "").len(), 1);
        for bad in ["relay/src/utils.rs", "relay/src/common/a.rs"] {
            assert_eq!(of(bad, "").len(), 1, "{bad}");
        }
        assert!(of("relay/src/sharedness.rs", "").is_empty());
    }

    #[test]
    fn cores_know_no_clock_and_no_runtime() {
        let text = "fn f() {\n    let now = Instant::now(); // tokio\n    g().await;\n}\n";
        for core in [
            "media/src/router.rs",
            "edge-node/src/core/room.rs",
            "relay/src/link.rs",
        ] {
            assert_eq!(of(core, text).len(), 2, "{core}");
        }
        assert!(of("relay/src/worker.rs", text).is_empty());
        assert!(of("relay/src/link/tests.rs", text).is_empty());
        assert!(of("geo/src/rtt.rs", "// Not Instant::now: pure.\n").is_empty());
    }

    #[test]
    fn the_workspace_is_tidy() {
        super::super::run().unwrap();
    }
}
