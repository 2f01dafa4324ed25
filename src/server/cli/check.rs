//! `promesh check …`: promtool's checks of files, with its exit codes.

pub(super) mod alertmanager;
mod discovery;
mod lint;
mod metrics;

use std::path::Path;
use std::sync::Arc;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_config::prometheus::Discovery;
use promesh_config::yaml::ConfigErrors;
use promesh_config::{prometheus, rules};
use promesh_discovery::TargetGroup;
use promesh_promql::parser::{self, ParseOptions};
use promesh_scrape::targets;

use super::{Done, Failure, http};
use crate::files::Disk;
use crate::outside;
use crate::ruling::problems_of;
use lint::Lint;

/// What was looked at breaks a convention.
const EXIT_LINT: u8 = 3;

pub(super) fn command() -> Command {
    let files = || Arg::new("files").value_name("FILE").required(true).num_args(1..).help("Files to check");
    let syntax_only = Arg::new("syntax-only")
        .long("syntax-only")
        .action(ArgAction::SetTrue)
        .help("Look at the file alone, not at the files it names");
    let url = || {
        let text = "HTTP address of the server";
        Arg::new("url").long("url").value_name("URL").default_value("http://localhost:9090").help(text)
    };
    let extended = Arg::new("extended")
        .long("extended")
        .action(ArgAction::SetTrue)
        .help("Show how many series each metric has, too");
    Command::new("check")
        .about("Check files, metrics, a running server")
        .subcommand(Command::new("web-config").about("Check web configuration files").arg(files()))
        .subcommand(
            Command::new("metrics").about("Check metrics on standard input: syntax and conventions").arg(extended),
        )
        .subcommand(Command::new("healthy").about("Check whether a server is healthy").arg(url()))
        .subcommand(Command::new("ready").about("Check whether a server is ready").arg(url()))
        .subcommand_required(true)
        .subcommand(
            Command::new("config").about("Check configuration files").args([syntax_only]).args(lint::arguments()).args(
                [
                    Arg::new("query.lookback-delta")
                        .long("query.lookback-delta")
                        .default_value("5m")
                        .help("The server's lookback: a job scraped less often is too slow for it"),
                    files(),
                ],
            ),
        )
        .subcommand(Command::new("rules").about("Check rule files").args(lint::arguments()).arg(files()))
        .subcommand(alertmanager::command("alertmanager"))
        .subcommand(discovery::command())
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    match name {
        "alertmanager" => return alertmanager::run(matches),
        "service-discovery" => return discovery::run(matches),
        "metrics" => return metrics::run(matches.get_flag("extended")),
        "healthy" | "ready" => {
            let server = matches.get_one::<String>("url").expect("an argument with a default");
            let (status, body) = http::fetch_text(server, &format!("/-/{name}"))?;
            return if status.is_success() {
                println!("{}", body.trim_end());
                Ok(())
            } else {
                Err(Failure::new(format!(
                    "check failed: URL={server}, status={}: {}",
                    status.as_u16(),
                    body.trim_end()
                )))
            };
        }
        _ => {}
    }
    let files: Vec<_> = matches.get_many::<String>("files").expect("a required argument").map(Path::new).collect();
    let mut sound = true;
    if name == "web-config" {
        files.into_iter().for_each(|file| sound &= check_web(file));
        return if sound { Ok(()) } else { Err(Failure::new("some files are not valid")) };
    }
    let mut lint = Lint::of(matches)?;
    for file in files {
        println!("Checking {}", file.display());
        sound &= if name == "config" {
            check_config(file, matches.get_flag("syntax-only"), &mut lint)
        } else {
            check_rules(file, &mut lint)
        };
        println!();
    }
    match (sound, lint.is_fatal()) {
        (false, _) => Err(Failure::new("some files are not valid")),
        (true, true) => Err(Failure { message: "some files break conventions".to_owned(), exit_code: EXIT_LINT }),
        (true, false) => Ok(()),
    }
}

/// As promtool prints it; certificates and keys are read too.
fn check_web(file: &Path) -> bool {
    match promesh_api::Guard::load(file, 0) {
        Ok(_) => {
            eprintln!("{} SUCCESS", file.display());
            true
        }
        Err(error) => {
            eprintln!("{} FAILED: {error}", file.display());
            false
        }
    }
}

fn check_config(file: &Path, syntax_only: bool, lint: &mut Lint) -> bool {
    let loaded = match prometheus::load(file, &Disk) {
        Ok(loaded) => loaded,
        Err(errors) => return failed(&errors),
    };
    println!(" SUCCESS: {} is valid prometheus config file syntax", file.display());
    for problem in loaded.unsupported.iter().chain(&loaded.remarks) {
        println!("  WARNING: {problem}");
    }
    if syntax_only {
        return true;
    }
    let mut problems = missing_files(&loaded);
    problems.extend(wrong_targets(&loaded));
    problems.extend(outside::wrong_addresses(&loaded.config));
    if !problems.is_empty() {
        println!("  FAILED:");
        problems.iter().for_each(|problem| println!("{problem}"));
        return false;
    }
    lint.jobs(&loaded.jobs);
    if loaded.config.rule_files.is_empty() {
        return true;
    }
    println!();
    match rules::load(&loaded.config.rule_files, loaded.config.global.scheme(), &Disk) {
        // Every file is looked at, also after one that is not sound.
        Ok(files) => files.iter().filter(|file| !check_expressions(file, lint)).count() == 0,
        Err(errors) => failed(&errors),
    }
}

/// Files of credentials and certificates that are named and not there, each once.
fn missing_files(loaded: &prometheus::Loaded) -> Vec<String> {
    let mut missing = std::collections::BTreeSet::new();
    for job in &loaded.jobs {
        let (auth, tls) = (&job.http.authorization, &job.http.tls_config);
        let credentials = auth.iter().map(|auth| ("authorization credentials or bearer token", &auth.credentials_file));
        let files = [("client cert", &tls.cert_file), ("client key", &tls.key_file)];
        for (what, path) in credentials.chain(files) {
            if !path.is_empty()
                && let Err(error) = std::fs::metadata(path.as_path())
            {
                missing.insert(format!("error checking {what} file {:?}: {error}", path.as_path()));
            }
        }
    }
    missing.into_iter().collect()
}

/// Targets written in the file that relabelling leaves without a usable address.
fn wrong_targets(loaded: &prometheus::Loaded) -> Vec<String> {
    let mut wrong = Vec::new();
    for job in loaded.jobs.iter().cloned().map(Arc::new) {
        for discovery in &job.discovery.0 {
            let Discovery::Static(groups) = discovery else { continue };
            let written = groups
                .iter()
                .map(|group| TargetGroup::of_addresses("", group.targets.iter().map(String::as_str), &group.labels));
            let written: Vec<TargetGroup> = written.collect();
            let failed = targets::from_groups(&job, &written, "").failed;
            wrong.extend(failed.into_iter().map(|(_, why)| format!("scrape job {:?}: {why}", job.job_name)));
        }
    }
    wrong
}

fn check_rules(file: &Path, lint: &mut Lint) -> bool {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) => {
            println!("  FAILED:\n{}: {error}", file.display());
            return false;
        }
    };
    match rules::load_text(&file.to_string_lossy(), &text, Default::default()) {
        Ok(file) => check_expressions(&file, lint),
        Err(errors) => failed(&errors),
    }
}

/// What the file's form does not show: whether its expressions are PromQL and its texts templates.
fn check_expressions(file: &rules::RuleFile, lint: &mut Lint) -> bool {
    let parse = |text: &str| parser::parse(text, &ParseOptions::everything()).err().map(|error| error.to_string());
    let rules = || file.groups.iter().flat_map(|group| &group.rules);
    let problems: Vec<_> = file.groups.iter().flat_map(|group| problems_of(file, group, &parse)).collect();
    if !problems.is_empty() {
        return failed(&ConfigErrors(problems));
    }
    println!("  SUCCESS: {} rules found", rules().count());
    lint.rules(file);
    true
}

fn failed(errors: &ConfigErrors) -> bool {
    println!("  FAILED:\n{errors}");
    false
}
