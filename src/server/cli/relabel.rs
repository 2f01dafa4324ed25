//! `promesh relabel`: what each rule of a job does to a target.

use std::path::Path;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_config::prometheus::{self, ScrapeConfig};
use promesh_discovery::{ADDRESS, TargetGroup};
use promesh_model::relabel::{Rule, Step, steps};
use promesh_model::{Labels, labels};
use promesh_scrape::targets;
use serde_json::Value;

use super::{Done, Failure, http};
use crate::files::Disk;

pub(super) fn command() -> Command {
    let file = Arg::new("config.file")
        .long("config.file")
        .value_name("FILE")
        .default_value("prometheus.yml")
        .help("The configuration with the job");
    let url = Arg::new("url")
        .long("url")
        .value_name("URL")
        .conflicts_with("config.file")
        .help("HTTP address of a running peer to take rules and discovered labels from");
    let job = Arg::new("job").required(true).help("Name of the job");
    let target = Arg::new("target").required(true).action(ArgAction::Append).num_args(1..).help(
        "Labels of the target as NAME=VALUE or one JSON object; one text without = is its address. With --url, the \
         address, instance or scrape URL of a target of that peer",
    );
    Command::new("relabel")
        .about("Show what each relabelling rule of a job does to a target")
        .args([file, url, job, target])
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let job = text("job").expect("a required argument");
    let target: Vec<&str> =
        matches.get_many::<String>("target").expect("a required argument").map(String::as_str).collect();
    match text("url") {
        Some(url) => of_peer(url, job, target[0]),
        None => of_file(text("config.file").expect("an argument with a default"), job, &target),
    }
}

fn of_file(file: &str, job: &str, written: &[&str]) -> Done {
    let loaded = prometheus::load(Path::new(file), &Disk).map_err(|errors| Failure::new(errors.to_string()))?;
    let names: Vec<&str> = loaded.jobs.iter().map(|job| job.job_name.as_str()).collect();
    let unknown = || Failure::new(format!("{file}: no job {job:?}; it has: {}", names.join(", ")));
    let config: Arc<ScrapeConfig> =
        Arc::new(loaded.jobs.iter().find(|candidate| candidate.job_name == job).ok_or_else(unknown)?.clone());
    let own = written_labels(written)?;
    let before = targets::discovered_labels(&config, &own);
    print!("{}", steps_text(&before, &config.relabel_configs));
    let group = TargetGroup { source: String::new(), targets: vec![own], labels: Labels::empty() };
    let populated = targets::from_groups(&config, [&group], "<this peer>");
    if let Some(target) = populated.targets.first() {
        println!("scraped at {}\n  with {}", promesh_client::redacted(&target.url), target.labels);
    } else if let Some((_, why)) = populated.failed.first() {
        println!("cannot be scraped: {why}");
    } else {
        println!("dropped");
    }
    Ok(())
}

/// The labels that arguments say.
fn written_labels(written: &[&str]) -> Result<Labels, Failure> {
    if let [json] = written
        && json.trim_start().starts_with('{')
    {
        return serde_json::from_str(json).map_err(|error| Failure::usage(format!("labels: {error}")));
    }
    let mut builder = promesh_model::LabelsBuilder::default();
    for text in written {
        match text.split_once('=') {
            Some((name, value)) => builder.set(name, value.trim_matches('"')),
            None => builder.set(ADDRESS, text),
        };
    }
    Ok(builder.build())
}

fn of_peer(url: &str, job: &str, wanted: &str) -> Done {
    let pool = || vec![("scrapePool", job.to_owned())];
    let found = http::get(url, "/api/v1/targets", &pool())?.data;
    let all =
        ["activeTargets", "droppedTargets"].into_iter().flat_map(|list| found[list].as_array().into_iter().flatten());
    let is_it = |target: &&Value| {
        [&target["discoveredLabels"][ADDRESS], &target["labels"]["instance"], &target["scrapeUrl"]]
            .into_iter()
            .any(|name| name == wanted)
    };
    let missing = || Failure::new(format!("the peer has no target {wanted:?} in job {job:?}"));
    let target = all.into_iter().find(is_it).ok_or_else(missing)?;
    let before: Labels = serde_json::from_value(target["discoveredLabels"].clone())
        .map_err(|error| Failure::new(format!("discovered labels: {error}")))?;
    let mut query = pool();
    query.push(("labels", target["discoveredLabels"].to_string()));
    let answer = http::get(url, "/api/v1/targets/relabel_steps", &query)?.data;
    println!("{}", before_text(&before));
    let mut last = before;
    for (index, step) in answer["steps"].as_array().into_iter().flatten().enumerate() {
        let keep = step["keep"] == true;
        let output = serde_json::from_value(step["output"].clone()).unwrap_or_default();
        print!("{}", step_text(index, &rule_of(&step["rule"]), keep, &last, &output));
        if !keep {
            println!("dropped");
            return Ok(());
        }
        last = output;
    }
    println!("kept with {}", last.without(|name| name.starts_with("__")));
    Ok(())
}

/// A rule's JSON in a line.
fn rule_of(rule: &Value) -> String {
    let text = |name: &str| rule[name].as_str().unwrap_or_default().to_owned();
    let sources: Vec<&str> = rule["source_labels"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut line = text("action");
    for (name, value) in [
        ("source_labels", format!("[{}]", sources.join(", "))),
        ("regex", text("regex")),
        ("modulus", rule["modulus"].as_u64().map_or_else(String::new, |modulus| modulus.to_string())),
        ("target_label", text("target_label")),
        ("replacement", text("replacement")),
    ] {
        if !value.is_empty() && value != "[]" {
            line.push_str(&format!(" {name}: {value}"));
        }
    }
    line
}

fn before_text(before: &Labels) -> String {
    let mut out = "discovered:".to_owned();
    for (name, value) in before {
        out.push_str(&format!("\n  {name}={}", labels::quoted(value)));
    }
    out
}

fn steps_text(before: &Labels, rules: &[Rule]) -> String {
    let mut out = format!("{}\n", before_text(before));
    let mut last = before.clone();
    for (index, step) in steps(rules, before).into_iter().enumerate() {
        let Step { rule, output, keep } = step;
        let rule = serde_json::to_value(rule).unwrap_or_default();
        out.push_str(&step_text(index, &rule_of(&rule), keep, &last, &output));
        if !keep {
            break;
        }
        last = output;
    }
    out
}

/// One step: the rule, and what it changed.
fn step_text(index: usize, rule: &str, keep: bool, before: &Labels, after: &Labels) -> String {
    let mut out = format!("{}. {rule}\n", index + 1);
    if !keep {
        out.push_str("     drops the target\n");
        return out;
    }
    let mut changes = String::new();
    for (name, value) in before {
        if after.get(name) != Some(value) {
            changes.push_str(&format!("   - {name}={}\n", labels::quoted(value)));
        }
    }
    for (name, value) in after {
        if before.get(name) != Some(value) {
            changes.push_str(&format!("   + {name}={}\n", labels::quoted(value)));
        }
    }
    out.push_str(if changes.is_empty() { "     changes nothing\n" } else { &changes });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_shows_what_it_changed() {
        let text = "scrape_configs:\n- job_name: j\n  relabel_configs:\n  - {source_labels: [__address__], regex: '(.*):.*', target_label: host}\n  \
             - {source_labels: [nothing], regex: x, target_label: y}\n  - {regex: host, action: labeldrop}\n  - {source_labels: [__address__], regex: b.*, action: keep}\n  - {target_label: z, replacement: 1}\n";
        let loaded = prometheus::load_text("p.yml", text.as_bytes(), Path::new("/"), &Disk).expect("it loads");
        let before = Labels::from_pairs([("__address__", "a:1")]);
        let shown = steps_text(&before, &loaded.jobs[0].relabel_configs);
        expect_test::expect![[r#"
            discovered:
              __address__="a:1"
            1. replace source_labels: [__address__] regex: (.*):.* target_label: host replacement: $1
               + host="a"
            2. replace source_labels: [nothing] regex: x target_label: y replacement: $1
                 changes nothing
            3. labeldrop regex: host replacement: $1
               - host="a"
            4. keep source_labels: [__address__] regex: b.* replacement: $1
                 drops the target
        "#]]
        .assert_eq(&shown);
    }

    #[test]
    fn labels_are_read_in_three_forms() {
        let text = |written: &[&str]| written_labels(written).expect("labels").to_string();
        assert_eq!(text(&["a:1"]), r#"{__address__="a:1"}"#);
        assert_eq!(text(&["a:1", "x=y", "z=\"q\""]), r#"{__address__="a:1", x="y", z="q"}"#);
        assert_eq!(text(&[r#"{"x": "y"}"#]), r#"{x="y"}"#);
        assert!(written_labels(&["{x"]).is_err());
    }
}
