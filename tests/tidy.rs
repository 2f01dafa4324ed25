//! The house keeps its own rules: members and folders agree, licences and bans hold, documents name what exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn members() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the root manifest is readable");
    let list = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).expect("a members list");
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_folder_of_src_is_a_member_and_every_member_a_folder() {
    let mut folders: BTreeSet<String> = fs::read_dir(root().join("src"))
        .expect("src is readable")
        .map(|entry| entry.expect("an entry"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| format!("src/{}", entry.file_name().to_string_lossy()))
        .collect();
    if root().join("sim").is_dir() {
        folders.insert("sim".to_owned());
    }
    assert_eq!(members(), folders);
}

#[test]
fn every_crate_is_in_the_architecture() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md is readable");
    for member in members() {
        let name = member.trim_start_matches("src/");
        assert!(text.contains(&format!("`{name}`")), "ARCHITECTURE.md does not name `{name}`");
    }
}

/// One package of `cargo metadata`: name, version, licence.
fn packages() -> Vec<(String, String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("").to_owned();
    metadata["packages"]
        .as_array()
        .expect("a list of packages")
        .iter()
        .map(|package| (text(&package["name"]), text(&package["version"]), text(&package["license"])))
        .collect()
}

/// As in deny.toml, for machines without cargo-deny.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

#[test]
fn licences_are_permissive() {
    for (name, version, licence) in packages() {
        let allowed = licence.replace('/', " OR ").split(" OR ").any(|alternative| {
            alternative.split(" AND ").all(|part| {
                let part = part.trim_matches(|c| c == '(' || c == ')' || c == ' ');
                LICENCES.contains(&part) || part == "Apache-2.0 WITH LLVM-exception"
            })
        });
        assert!(allowed, "{name} {version} is under {licence:?}, which deny.toml does not allow");
    }
}

#[test]
fn banned_packages_stay_out() {
    let packages = packages();
    for banned in ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"] {
        assert!(!packages.iter().any(|(name, _, _)| name == banned), "{banned} came in: see deny.toml");
    }
    for (name, version, _) in &packages {
        assert!(name != "bincode" || version == "2.0.1", "bincode is pinned to 2.0.1, found {version}");
    }
}

/// The sources below a folder, with their text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).expect("sources are readable");
                found.push((path, text));
            }
        }
    }
    found
}

#[test]
fn bincode_is_named_in_the_codec_only() {
    let all = ["src", "sim"].into_iter().flat_map(sources);
    let offends = |(path, text): &(PathBuf, String)| !path.ends_with("model/codec.rs") && text.contains("bincode::");
    let offenders: Vec<PathBuf> = all.filter(offends).map(|(path, _)| path).collect();
    assert_eq!(offenders, Vec::<PathBuf>::new(), "go through promesh_model::codec");
}

/// Chitchat carries facts for people. No crate that decides anything can even name it, so that cutting its traffic changes
/// no ownership: the simulator, which runs the production minds, has no chitchat at all.
#[test]
fn no_crate_that_decides_knows_chitchat() {
    for member in members() {
        let manifest = fs::read_to_string(root().join(&member).join("Cargo.toml")).expect("a manifest");
        let may = ["src/transport", "src/server"].contains(&member.as_str());
        assert!(may || !manifest.contains("chitchat"), "{member} depends on chitchat");
    }
}

/// Numbers of a byte that are no kind of frame, request or record.
const NO_KINDS: [&str; 14] = [
    "RELEASES_AGAIN",
    "ALL_COMPARED",
    "FLAG_FAILED",
    "FLAG_KEY",
    "STARTING",
    "READY",
    "STOPPING",
    "HOPS_MAX",
    "EXIT_FAILURE",
    "EXIT_USAGE",
    "EXIT_LINT",
    // Inside the form of a push, which has golden bytes as a whole.
    "FLOATS",
    "START",
    "REST",
];

/// The name of a constant of one byte, if a line defines one at the left margin.
fn byte_constant(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub ")).unwrap_or(line);
    rest.strip_prefix("const ")?.split_once(": u8 =").map(|(name, _)| name)
}

/// The bodies of functions that have "golden" in their names.
fn golden_tests(text: &str) -> String {
    let mut bodies = String::new();
    let mut ends_at = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if ends_at.is_none() && line.trim_start().starts_with("fn ") && line.contains("golden") {
            ends_at = Some(indent);
        }
        if let Some(end) = ends_at {
            bodies.push_str(line);
            bodies.push('\n');
            if indent == end && line.trim_start() == "}" {
                ends_at = None;
            }
        }
    }
    bodies
}

fn names(text: &str, name: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).any(|word| word == name)
}

/// A peer of the build before must be understood: a kind without committed bytes can change unnoticed.
#[test]
fn every_kind_that_peers_or_logs_know_has_golden_bytes() {
    let mut without = Vec::new();
    let mut count = 0;
    for member in ["alerting", "cluster", "node", "query", "replication", "server", "transport"] {
        let sources = sources(&format!("src/{member}"));
        let shared: String = sources
            .iter()
            .filter(|(path, _)| path.ends_with("golden.rs") || path.ends_with("tests.rs") || path.ends_with("hello.rs"))
            .map(|(_, text)| golden_tests(text))
            .collect();
        for (path, text) in &sources {
            let own = golden_tests(text);
            for name in text.lines().filter_map(byte_constant).filter(|name| !NO_KINDS.contains(name)) {
                count += 1;
                if !names(&own, name) && !names(&shared, name) {
                    without.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert!(count > 50, "only {count} kinds were found: does this test still see them?");
    assert!(without.is_empty(), "kinds without golden bytes:\n{}", without.join("\n"));
}
