//! `promesh test …`: files that test queries.

use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use promesh_promql::script::{self, ScriptOptions};

use super::{Done, Failure};

pub(super) fn command() -> Command {
    let files = Arg::new("files").value_name("FILE").required(true).num_args(1..).help("Scripts to run");
    Command::new("test")
        .about("Run tests")
        .subcommand_required(true)
        .subcommand(Command::new("promql").about("Run scripts of the query engine's own test language").arg(files))
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (_, matches) = matches.subcommand().expect("clap demands one");
    let mut passed = true;
    for file in matches.get_many::<String>("files").expect("a required argument") {
        passed &= run_script(Path::new(file))?;
    }
    if passed { Ok(()) } else { Err(Failure::new("some tests failed")) }
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
