//! `promesh check …`: promtool's checks of files, with its exit codes.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_config::yaml::{ConfigErrors, Problem};
use promesh_config::{prometheus, rules};
use promesh_promql::parser::{self, ParseOptions};

use super::{Done, Failure};
use crate::files::Disk;

pub(super) fn command() -> Command {
    let files = || Arg::new("files").value_name("FILE").required(true).num_args(1..).help("Files to check");
    let syntax_only = Arg::new("syntax-only")
        .long("syntax-only")
        .action(ArgAction::SetTrue)
        .help("Look at the file alone, not at the files it names");
    Command::new("check")
        .about("Check files")
        .subcommand_required(true)
        .subcommand(Command::new("config").about("Check configuration files").args([syntax_only, files()]))
        .subcommand(Command::new("rules").about("Check rule files").arg(files()))
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    let files: Vec<_> = matches.get_many::<String>("files").expect("a required argument").map(Path::new).collect();
    let mut sound = true;
    for file in files {
        println!("Checking {}", file.display());
        sound &= if name == "config" { check_config(file, matches.get_flag("syntax-only")) } else { check_rules(file) };
        println!();
    }
    if sound { Ok(()) } else { Err(Failure::new("some files are not valid")) }
}

fn check_config(file: &Path, syntax_only: bool) -> bool {
    let loaded = match prometheus::load(file, &Disk) {
        Ok(loaded) => loaded,
        Err(errors) => return failed(&errors),
    };
    println!(" SUCCESS: {} is valid prometheus config file syntax", file.display());
    for problem in &loaded.unsupported {
        println!("  WARNING: {problem}");
    }
    if syntax_only || loaded.config.rule_files.is_empty() {
        return true;
    }
    println!();
    match rules::load(&loaded.config.rule_files, loaded.config.global.scheme(), &Disk) {
        // Every file is looked at, also after one that is not sound.
        Ok(files) => files.iter().filter(|file| !check_expressions(file)).count() == 0,
        Err(errors) => failed(&errors),
    }
}

fn check_rules(file: &Path) -> bool {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) => {
            println!("  FAILED:\n{}: {error}", file.display());
            return false;
        }
    };
    match rules::load_text(&file.to_string_lossy(), &text, Default::default()) {
        Ok(file) => check_expressions(&file),
        Err(errors) => failed(&errors),
    }
}

/// What the file's form does not show: whether its expressions are PromQL.
fn check_expressions(file: &rules::RuleFile) -> bool {
    let rules = || file.groups.iter().flat_map(|group| &group.rules);
    let problem = |rule: &rules::Rule| -> Option<Problem> {
        let error = parser::parse(&rule.expr.value, &ParseOptions::everything()).err()?;
        Some(file.problem(rule.expr.at, format!("could not parse expression: {error}")))
    };
    let problems: Vec<_> = rules().filter_map(problem).collect();
    if !problems.is_empty() {
        return failed(&ConfigErrors(problems));
    }
    println!("  SUCCESS: {} rules found", rules().count());
    true
}

fn failed(errors: &ConfigErrors) -> bool {
    println!("  FAILED:\n{errors}");
    false
}
