//! `promesh check …`: promtool's checks of files, with its exit codes.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_config::yaml::ConfigErrors;
use promesh_config::{prometheus, rules};

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
        Ok(files) => files.iter().all(succeeded),
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
        Ok(file) => succeeded(&file),
        Err(errors) => failed(&errors),
    }
}

fn succeeded(file: &rules::RuleFile) -> bool {
    println!("  SUCCESS: {} rules found", file.groups.iter().map(|group| group.rules.len()).sum::<usize>());
    true
}

fn failed(errors: &ConfigErrors) -> bool {
    println!("  FAILED:\n{errors}");
    false
}
