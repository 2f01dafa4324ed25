//! `promesh test …`: files that test queries.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_promql::script::{self, ScriptOptions};
use regex::Regex;

use super::unit::{self, UnitOptions};
use super::{Done, Failure};

pub(super) fn command() -> Command {
    let files = Arg::new("files").value_name("FILE").required(true).num_args(1..).help("Scripts to run");
    Command::new("test")
        .about("Run tests")
        .subcommand_required(true)
        .subcommand(
            Command::new("promql").about("Run scripts of the query engine's own test language").arg(files.clone()),
        )
        .subcommand(
            Command::new("rules").about("Run unit tests of rule files, as promtool has them").args([
                Arg::new("run")
                    .long("run")
                    .value_name("REGEX")
                    .action(ArgAction::Append)
                    .help("Run only tests whose name matches. Can be repeated"),
                Arg::new("diff").long("diff").action(ArgAction::SetTrue).help("Show differences line by line"),
                Arg::new("ignore-unknown-fields")
                    .long("ignore-unknown-fields")
                    .action(ArgAction::SetTrue)
                    .help("Pass over fields of rule files that are not known"),
                files,
            ]),
        )
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    if name == "rules" {
        return rules(matches);
    }
    let mut passed = true;
    for file in matches.get_many::<String>("files").expect("a required argument") {
        passed &= run_script(Path::new(file))?;
    }
    if passed { Ok(()) } else { Err(Failure::new("some tests failed")) }
}

fn rules(matches: &ArgMatches) -> Done {
    let patterns = matches.get_many::<String>("run").into_iter().flatten();
    let pattern = |text: &String| Regex::new(text).map_err(|error| Failure::usage(format!("--run: {error}")));
    let options = UnitOptions {
        run: patterns.map(pattern).collect::<Result<_, _>>()?,
        ignore_unknown_fields: matches.get_flag("ignore-unknown-fields"),
        diff: matches.get_flag("diff"),
    };
    let files: Vec<&Path> = matches.get_many::<String>("files").expect("a required argument").map(Path::new).collect();
    unit::run(&files, &options)
}

fn run_script(file: &Path) -> Result<bool, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    let report = script::run(&text, &ScriptOptions::default());
    for failure in &report.failures {
        println!("{}:{}: {}", file.display(), failure.line, failure.message);
    }
    println!("{}: {} evaluations, {} failures", file.display(), report.evals, report.failures.len());
    Ok(report.passed())
}
