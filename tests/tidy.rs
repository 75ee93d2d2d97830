//! The house rules that a machine can check.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 460;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file of the project.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&entry).expect("text");
                found.push((entry, text));
            }
        }
    }
    let mut found = Vec::new();
    for folder in
        ["src", "domain", "infra", "command-api", "projections", "query-api", "sagas", "webhooks", "tests"]
    {
        walk(&root().join(folder), &mut found);
    }
    assert!(found.len() > 50, "the walk misses most of the project");
    found
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//! ")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "without a `//!` header: {silent:?}");
}

#[test]
fn no_file_is_a_warehouse() {
    let long = |(path, text): &(PathBuf, String)| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("{} has {lines} lines", path.display()))
    };
    let long: Vec<_> = sources().iter().filter_map(long).collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:#?}");
}

#[test]
fn the_domain_is_pure() {
    let manifest = fs::read_to_string(root().join("domain/Cargo.toml")).expect("a manifest");
    let (_, rest) = manifest.split_once("[dependencies]").expect("dependencies");
    let (dependencies, _) = rest.split_once("\n[").expect("more sections");
    let names: BTreeSet<_> = dependencies
        .lines()
        .filter_map(|line| line.split(['.', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    assert_eq!(names, BTreeSet::from(["chrono", "serde", "serde_json", "sha2", "thiserror", "uuid"]));
}

#[test]
fn dependencies_point_one_way() {
    let allowed = [
        ("domain", vec![]),
        ("infra", vec!["domain"]),
        ("command-api", vec!["domain", "infra"]),
        ("projections", vec!["domain", "infra"]),
        ("query-api", vec!["domain", "infra", "projections"]),
        ("sagas", vec!["domain", "infra"]),
        ("webhooks", vec!["domain", "infra"]),
    ];
    let crates: Vec<_> = allowed.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in &allowed {
        let manifest = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        let uses = |other: &&&str| manifest.contains(&format!("\n{other}.workspace"));
        let used: Vec<_> = crates.iter().filter(uses).copied().collect();
        assert_eq!(&used, allowed, "of {name}");
    }
}

#[test]
fn only_execute_and_its_writer_append() {
    let appends = |(path, text): &(PathBuf, String)| {
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let log = path.components().any(|part| part.as_os_str() == "log" || part.as_os_str() == "tests");
        let appends = ["log.append(", "log.append_batch(", "writer.append("];
        (!log && appends.iter().any(|call| product.contains(call)))
            .then(|| path.strip_prefix(root()).expect("below").to_owned())
    };
    let who: BTreeSet<_> = sources().iter().filter_map(appends).collect();
    assert_eq!(who, ["infra/src/execute.rs", "infra/src/writer/resolve.rs"].map(PathBuf::from).into());
}

/// `clock_timestamp()` may be another one for each row, so no index serves a condition on it: every row is looked at,
/// however many there are. `statement_timestamp()` is one for all of them.
#[test]
fn no_condition_takes_a_new_time_for_each_row() {
    const VOLATILE: &str = "clock_timestamp()";
    let comparisons = ["<", "<=", ">", ">="].into_iter();
    let comparisons: Vec<_> =
        comparisons.flat_map(|than| [format!(" {than} {VOLATILE}"), format!("{VOLATILE} {than} ")]).collect();
    let is_compared = |line: &&str| comparisons.iter().any(|comparison| line.contains(comparison));
    let mut found = Vec::new();
    for (path, text) in sources() {
        found.extend(text.lines().filter(is_compared).map(|line| format!("{}: {line}", path.display())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_maps_name_what_exists() {
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(document)).expect(document);
        let quoted = text.split('`').skip(1).step_by(2);
        let looks_like_a_path = |name: &&str| {
            let known = [
                "domain/",
                "infra/",
                "command-api/",
                "projections/",
                "query-api/",
                "sagas/",
                "webhooks/",
                "src/",
                "tests/",
                "benches/",
                ".ci/",
            ];
            known.iter().any(|folder| name.starts_with(folder)) && !name.contains(['*', '{', ' ', '<'])
        };
        for name in quoted.filter(looks_like_a_path) {
            assert!(root().join(name).exists(), "{document} names `{name}`, which does not exist");
        }
    }
}

#[test]
fn the_readme_and_the_makefile_agree() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("a Makefile");
    let targets: Vec<_> =
        makefile.lines().filter_map(|line| line.split_once(": ").map(|(target, _)| target)).collect();
    let readme = fs::read_to_string(root().join("README.md")).expect("a README");
    for named in readme.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next()) {
        assert!(targets.contains(&named), "the README names `make {named}`");
    }
}

/// What has gone wrong in other shops is shown not to go wrong here, by a test of its number.
#[test]
fn every_failure_that_must_not_happen_has_its_test() {
    const FAILURES: std::ops::RangeInclusive<u32> = 1..=20;
    // Card data never comes here, but for a provider's token, and there are no promotions.
    const NONE_OF_OURS: [u32; 2] = [15, 16];
    let sources = sources();
    let is_shown = |number: &u32| {
        let name = format!("fn f{number:02}_");
        sources.iter().any(|(_, text)| {
            text.lines().any(|line| {
                let line = line.trim_start();
                line.strip_prefix("async ").unwrap_or(line).starts_with(&name)
            })
        })
    };
    let missing: Vec<_> =
        FAILURES.filter(|number| !NONE_OF_OURS.contains(number) && !is_shown(number)).collect();
    assert!(missing.is_empty(), "no test shows that these do not happen: {missing:?}");
}
