//! `COMPATIBILITY.md` names tests that are there.

use std::{fs, path::Path};

#[test]
fn the_tests_that_it_names_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("COMPATIBILITY.md")).unwrap();
    let (_, table) = text.split_once("and the test that shows it gone").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut tests = Vec::new();
    for row in rows {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let named: Vec<_> = last.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        tests.extend(named.into_iter().map(str::to_owned));
    }
    tests.retain(|name| !name.starts_with("cargo bench"));
    assert!(tests.len() > 40, "{}", tests.len());
    let mut sources = Vec::new();
    for folder in ["pilot-agent", "proxy", "spiffe", "tests", "xds"] {
        collect(&root.join("..").join(folder), &mut sources);
    }
    for test in tests {
        let (file, name) = test.split_once("::").unwrap_or(("", &test));
        // A macro writes the tests of a scene, one for each data plane.
        let function = format!("fn {name}(");
        let holds = |text: &str| {
            text.contains(&function) || (name.starts_with("on_") && text.contains("on_each!("))
        };
        let found = sources
            .iter()
            .any(|(path, text)| path.ends_with(&format!("{file}.rs")) && holds(text));
        assert!(
            found,
            "COMPATIBILITY.md names a test that is not there: {test}"
        );
    }
}

/// All Rust files below `folder`, by path and text.
fn collect(folder: &Path, sources: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            sources.push((path.display().to_string(), text));
        }
    }
}
