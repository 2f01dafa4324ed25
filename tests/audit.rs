//! Whatever the configuration can say is read by somebody.
//!
//! Retention and exemplars were once parsed, printed, compared between peers and followed by nobody. The compiler knows
//! who reads a field: under the feature `audit` of `promesh-config` every field is deprecated, and each use of it in
//! another crate is a warning that names it. A field without one must stand in `src/config/unread.txt` with the reason:
//! what it became while it was read, or the words it is refused or warned of with. A test binary of its own, so that
//! nothing else of the suite runs beside the compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// Fields by module, section and name, and the files that read each, `promesh-config` itself aside.
fn readers() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["check", "--workspace", "--locked", "--message-format=json", "--features=promesh-config/audit"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo check runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut fields = BTreeMap::<String, BTreeSet<String>>::new();
    for line in String::from_utf8(output.stdout).expect("JSON is UTF-8").lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("a message a line");
        let text = line["message"]["message"].as_str().unwrap_or_default();
        let Some(path) = text.strip_prefix("use of deprecated field `").and_then(|rest| rest.strip_suffix('`')) else {
            continue;
        };
        let is_own = line["target"]["name"] == "promesh_config";
        // Others name a section by where it is exported, and the crate itself by where it stands.
        let parts: Vec<&str> = path.split("::").skip(usize::from(!is_own)).collect();
        let [first, .., section, field] = parts[..] else { panic!("{path} is no path of a field") };
        if !is_own && !path.starts_with("promesh_config::") {
            continue;
        }
        let readers = fields.entry(format!("{first}::{section}::{field}")).or_default();
        if !is_own {
            let spans = line["message"]["spans"].as_array().into_iter().flatten();
            readers.extend(spans.filter_map(|span| span["file_name"].as_str()).map(str::to_owned));
        }
    }
    fields
}

#[test]
fn every_field_of_the_configuration_is_read_or_says_why_not() {
    let fields = readers();
    if std::env::var_os("PROMESH_AUDIT").is_some() {
        for (field, readers) in &fields {
            println!("{field} {}", readers.iter().cloned().collect::<Vec<_>>().join(" "));
        }
    }
    assert!(fields.len() > 500, "only {} fields were seen: does `section!` still mark them?", fields.len());
    let unread: BTreeSet<&str> =
        fields.iter().filter(|(_, readers)| readers.is_empty()).map(|(field, _)| field.as_str()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/unread.txt");
    let table = std::fs::read_to_string(path).expect("the table is readable");
    let mut excused = BTreeSet::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (field, reason) = line.split_once(' ').unwrap_or((line, ""));
        assert!(!reason.trim().is_empty(), "{field} has no reason in src/config/unread.txt");
        excused.insert(field);
    }
    let forgotten: Vec<_> = unread.difference(&excused).collect();
    assert!(forgotten.is_empty(), "nobody reads what these say; follow, refuse or warn of them: {forgotten:#?}");
    let outdated: Vec<_> = excused.difference(&unread).collect();
    assert!(outdated.is_empty(), "these are read now, or gone: take them out of src/config/unread.txt: {outdated:#?}");
}
