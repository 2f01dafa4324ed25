use std::path::Path;

use super::*;
use crate::source::MemorySource;

fn loaded(text: &str) -> Result<Loaded, ConfigErrors> {
    load_text("p.yml", text.as_bytes(), Path::new("/etc/p"), &MemorySource::default())
}

#[test]
fn a_small_file_means_all_defaults() {
    let loaded = loaded(
        "global: {scrape_interval: 15s, external_labels: {a: $$x}}\nscrape_configs:\n- job_name: node\n  static_configs:\n  - targets: ['a:9100', 'b:9100']\n",
    )
    .unwrap();
    let job = &loaded.jobs[0];
    assert_eq!(job.scrape_timeout.as_secs(), 10);
    assert_eq!(job.scrape_protocols.len(), 4);
    assert_eq!(loaded.config.external_labels().get("a"), Some("$x"));
    let printed = loaded.config.to_yaml();
    assert_eq!(
        load_text("q.yml", printed.as_bytes(), Path::new("/etc/p"), &MemorySource::default()).unwrap().jobs,
        loaded.jobs,
        "{printed}"
    );
}

#[test]
fn digests_see_content_and_secrets_but_not_paths_and_comments() {
    let digest =
        |text: &str| Loaded::job_digest(&loaded(&format!("scrape_configs:\n- job_name: a\n{text}")).unwrap().jobs[0]);
    let plain = digest("");
    assert_eq!(plain, digest("  # hello\n  scrape_interval: 1m\n"));
    assert_ne!(plain, digest("  scrape_interval: 2m\n"));
    assert_eq!(digest("  file_sd_configs: [{files: [a.json]}]\n"), digest("  file_sd_configs: [{files: [b.json]}]\n"));
    assert_ne!(digest("  bearer_token: a\n"), digest("  bearer_token: b\n"));
}

#[test]
fn what_is_not_built_loads_and_is_named_with_its_line() {
    let loaded =
        loaded("scrape_configs:\n- job_name: a\n  rds_sd_configs:\n  - region: x\n    secret_key: y\n").unwrap();
    assert!(!loaded.config.to_yaml().contains("secret_key: \"y\""));
    let error = loaded.require_supported().unwrap_err().to_string();
    assert!(
        error.starts_with("p.yml:3:3: rds_sd_configs is not supported yet: use http_sd_configs or file_sd_configs"),
        "{error}"
    );
}

#[test]
fn what_has_no_effect_is_named_with_its_line_and_does_not_keep_a_file_from_loading() {
    let text = "runtime: {gogc: 75}\nstorage:\n  tsdb:\n    chunk_encoding: {floats: xor2}\n    \
                stale_series_compaction_threshold: 0.5\n    out_of_order_time_window: 5m\nremote_write:\n- url: http://h/\n  \
                azuread: {cloud: AzurePublic}\n";
    let loaded = loaded(text).expect("it loads");
    let places = |problems: &[Problem]| -> Vec<(u32, String)> {
        let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
        problems.iter().map(|problem| (problem.at.line, first(&problem.message))).collect()
    };
    let named = |line: u32, name: &str| (line, name.to_owned());
    assert_eq!(
        places(&loaded.remarks),
        [
            named(1, "runtime.gogc"),
            named(4, "storage.tsdb.chunk_encoding.floats:"),
            named(5, "storage.tsdb.stale_series_compaction_threshold"),
        ]
    );
    assert_eq!(places(&loaded.unsupported), [named(9, "azuread")]);
    let same = load_text(
        "p.yml",
        b"storage: {tsdb: {chunk_encoding: {floats: xor}}}\n",
        Path::new(""),
        &MemorySource::default(),
    );
    assert!(same.expect("it loads").remarks.is_empty());
}

#[test]
fn what_is_built_is_read_with_its_types_and_its_secrets_are_masked() {
    let text = "scrape_configs:\n- job_name: a\n  ec2_sd_configs:\n  - {region: x, secret_key: hidden, port: 9100, mesh_scope: everywhere}\n";
    let loaded = loaded(text).unwrap();
    assert!(loaded.require_supported().is_ok());
    let Discovery::Everywhere(inner) = &loaded.jobs[0].discovery.0[0] else { panic!("everywhere") };
    let Discovery::Ec2(ec2) = &**inner else { panic!("ec2") };
    assert_eq!((ec2.port, ec2.secret_key.expose()), (9100, "hidden"));
    let shown = loaded.config.to_yaml();
    assert!(shown.contains("mesh_scope: everywhere") && !shown.contains("hidden"), "{shown}");
    let error = load_text(
        "p.yml",
        b"scrape_configs:\n- job_name: a\n  hetzner_sd_configs:\n  - {role: hcloud, port: many}\n  nomad_sd_configs:\n  - {serverr: x}\n",
        Path::new("/"),
        &MemorySource::default(),
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("p.yml:4:26") && error.contains("p.yml:6:6: field serverr not found in type nomad_sd_config"),
        "{error}"
    );
}

#[test]
fn problems_are_told_in_the_order_of_the_lines_and_a_caret_points_into_its_line() {
    let text = b"rule_files: ['a/*/b.yml']\nscrape_configs:\n- job_name: a\n  ec2_sd_configs: [{region: x, secret_keyy: y}]\nglobal: {scrape_interval: 15}\n";
    let error = load_text("p.yml", text, Path::new("/"), &MemorySource::default()).unwrap_err();
    let lines: Vec<u32> = error.0.iter().map(|problem| problem.at.line).collect();
    assert_eq!(lines, [1, 4, 5]);
    let masked = error.0[1].to_string();
    assert!(masked.contains("<secret>") && !masked.contains('^'), "{masked}");
    assert!(error.0[2].to_string().ends_with('^'));
}

mod conformance {
    use super::*;
    use std::collections::BTreeMap;
    use std::io;
    use std::path::PathBuf;

    struct Files;
    impl crate::Source for Files {
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            std::fs::read(path)
        }
        fn glob(&self, pattern: &str) -> io::Result<Vec<PathBuf>> {
            let dir = Path::new(pattern).parent().unwrap_or(Path::new("/"));
            let mut found: Vec<PathBuf> = match std::fs::read_dir(dir) {
                Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
                Err(_) => Vec::new(),
            };
            found.retain(|path| crate::source::glob_matches(pattern, &path.to_string_lossy()).unwrap_or(false));
            found.sort();
            Ok(found)
        }
    }

    fn folder() -> Option<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance");
        if !folder.exists() {
            eprintln!("conformance data is absent: these cases did not run");
            return None;
        }
        Some(folder)
    }

    fn reasons(folder: &Path) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(folder.join("go_tables/config_config_test.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let tables = json["tables"].as_array().unwrap();
        let table = tables.iter().find(|table| table["var"] == "expectedErrors").unwrap();
        let text_of = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        table["value"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (text_of(&row["filename"]), text_of(&row["errMsg"])))
            .collect()
    }

    #[test]
    fn good_files_load_and_bad_ones_are_refused_with_upstreams_reason() {
        let Some(folder) = folder() else { return };
        let reasons = reasons(&folder);
        let mut wrong = Vec::new();
        let mut files: Vec<_> =
            std::fs::read_dir(folder.join("config")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files.iter().filter(|path| path.extension().is_some_and(|ending| ending == "yml")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let result = load(path, &Files);
            match result {
                Ok(loaded) if name.contains(".good.") => {
                    let printed = loaded.config.to_yaml();
                    let again = load_text(&name, printed.as_bytes(), path.parent().unwrap(), &Files);
                    if let Err(error) = again {
                        wrong.push(format!("{name}: as printed it does not load: {error}"));
                    }
                }
                Err(error) if name.contains(".good.") => wrong.push(format!("{name}: {error}")),
                Ok(_) if name.contains(".bad.") => {
                    wrong.push(format!("{name}: loads, expected {:?}", reasons.get(&name)));
                }
                Err(error) => {
                    if let Some(reason) = reasons.get(&name)
                        && !same_reason(&error.to_string(), reason)
                    {
                        wrong.push(format!("{name}: expected {reason:?}, got {error}"));
                    }
                }
                Ok(_) => {}
            }
        }
        assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Our message holds upstream's, which may begin with a file name of its test and a word of its decoder.
    fn same_reason(ours: &str, upstream: &str) -> bool {
        let reason = match upstream.strip_prefix("parsing YAML file ") {
            Some(rest) => rest.split_once(": ").map_or(rest, |(_, reason)| reason),
            None => upstream,
        };
        ours.contains(reason) || (reason == "unmarshal errors" && ours.contains("cannot unmarshal"))
    }
}
