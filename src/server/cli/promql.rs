//! `promesh promql …`: work on the text of queries.

use clap::{Arg, ArgMatches, Command};
use promesh_promql::parser::{self, ParseOptions};

use super::{Done, Failure};

pub(super) fn command() -> Command {
    let query = Arg::new("query").required(true).help("PromQL expression");
    Command::new("promql")
        .about("Work on the text of queries")
        .subcommand_required(true)
        .subcommand(Command::new("format").about("Print a query in its canonical form").arg(query))
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (_, matches) = matches.subcommand().expect("clap demands one");
    let query = matches.get_one::<String>("query").expect("a required argument");
    let expr = parser::parse(query, &ParseOptions::everything()).map_err(|error| Failure::new(error.to_string()))?;
    println!("{}", parser::prettify(&expr));
    Ok(())
}
