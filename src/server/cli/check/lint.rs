//! `--lint`: what is valid and yet hardly meant. With `--lint-fatal` it makes the exit code 3, as promtool's.

use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};
use promesh_config::prometheus::ScrapeConfig;
use promesh_config::rules;
use promesh_model::duration;

use super::super::Failure;

pub(super) fn arguments() -> [Arg; 2] {
    let lint = "Conventions to check: all, duplicate-rules, too-long-scrape-interval, none; comma separated";
    [
        Arg::new("lint").long("lint").default_value("duplicate-rules").help(lint),
        Arg::new("lint-fatal").long("lint-fatal").action(ArgAction::SetTrue).help("Exit with 3 when one is broken"),
    ]
}

/// What is looked for, and whether it was found.
pub(super) struct Lint {
    duplicate_rules: bool,
    /// Jobs scraped less often than this leave gaps.
    longest_interval: Option<Duration>,
    fatal: bool,
    found: bool,
}

impl Lint {
    pub fn of(matches: &ArgMatches) -> Result<Lint, Failure> {
        let names = matches.get_one::<String>("lint").expect("an argument with a default");
        let lookback = matches.try_get_one::<String>("query.lookback-delta").ok().flatten();
        let lookback = lookback.map(|text| duration::parse(text)).transpose();
        let lookback = lookback.map_err(|error| Failure::usage(format!("--query.lookback-delta: {error}")))?;
        let mut lint = Lint {
            duplicate_rules: false,
            longest_interval: None,
            fatal: matches.get_flag("lint-fatal"),
            found: false,
        };
        for name in names.split(',') {
            match name {
                "none" => {}
                "all" => {
                    lint.duplicate_rules = true;
                    lint.longest_interval = lookback;
                }
                "duplicate-rules" => lint.duplicate_rules = true,
                "too-long-scrape-interval" => lint.longest_interval = lookback,
                other => eprintln!("WARNING: unknown lint option: {other:?}"),
            }
        }
        Ok(lint)
    }

    /// Whether something was found that must not be.
    pub fn is_fatal(&self) -> bool {
        self.fatal && self.found
    }

    pub fn rules(&mut self, file: &rules::RuleFile) {
        let repeated = if self.duplicate_rules { repeated_rules(file) } else { Vec::new() };
        if repeated.is_empty() {
            return;
        }
        self.found = true;
        println!("{} duplicate rule(s) found.", repeated.len());
        for (name, labels) in repeated {
            println!("Metric: {name}\nLabel(s):");
            labels.iter().for_each(|(name, value)| println!("\t{name}: {value}"));
        }
        println!("Might cause inconsistency while recording expressions");
    }

    pub fn jobs(&mut self, jobs: &[ScrapeConfig]) {
        let Some(longest) = self.longest_interval else { return };
        for job in jobs.iter().filter(|job| job.scrape_interval > longest) {
            self.found = true;
            let interval = duration::format(job.scrape_interval);
            println!(
                "too long scrape interval found, data point will be marked as stale - job: {}, interval: {interval}",
                job.job_name
            );
        }
    }
}

/// Rules with the name and the labels of one before them, in any group.
fn repeated_rules(file: &rules::RuleFile) -> Vec<(String, promesh_model::Labels)> {
    let mut seen = std::collections::BTreeSet::new();
    let mut repeated = Vec::new();
    for rule in file.groups.iter().flat_map(|group| &group.rules) {
        let name = if rule.record.value.is_empty() { &rule.alert.value } else { &rule.record.value };
        let key = (name.clone(), rule.labels.clone());
        if !seen.insert(key.clone()) && !repeated.contains(&key) {
            repeated.push(key);
        }
    }
    repeated
}
