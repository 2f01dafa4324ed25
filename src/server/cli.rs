//! The command line: a peer's flags without a command, or one of the commands that do promtool's and amtool's work.

mod check;
mod cluster;
mod debug;
mod http;
mod man;
mod manager;
mod progress;
mod promql;
mod push;
mod query;
mod relabel;
mod test;
#[cfg(test)]
mod tests;
mod tsdb;
mod unit;

use std::ffi::OsString;
use std::io::{self, Write as _};

use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use crate::options::{Options, OptionsError, add_flags, alertmanager_command};

/// What a command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Run a peer.
    Serve(Box<Options>),
    /// A command did its work, or could not; the process ends with this code.
    Exit(u8),
}

/// The command's work is done, but what it looked at is not right; also for errors of no other code.
const EXIT_FAILURE: u8 = 1;
/// The command line is wrong.
const EXIT_USAGE: u8 = 2;

/// Reads the command line and does what it asks, all but running a peer.
pub fn interpret<T: Into<OsString> + Clone>(args: impl IntoIterator<Item = T>) -> Invocation {
    let matches = match command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version are "errors" that go to standard output; a closed one is nobody's problem.
            let _ = error.print();
            return Invocation::Exit(error.exit_code() as u8);
        }
    };
    match matches.subcommand() {
        Some(("alertmanager", matches)) => serve(Options::of_alertmanager(matches)),
        Some((name, matches)) => Invocation::Exit(run_command(name, matches)),
        None => serve(Options::from_matches(&matches)),
    }
}

fn serve(options: Result<Options, OptionsError>) -> Invocation {
    match options {
        Ok(options) => Invocation::Serve(Box::new(options)),
        Err(error) => {
            eprintln!("promesh: {error}");
            Invocation::Exit(error.exit_code)
        }
    }
}

/// The whole command line, as clap knows it.
pub fn command() -> Command {
    let command = Command::new("promesh")
        .version(concat!(env!("CARGO_PKG_VERSION")))
        .about("Prometheus, Alertmanager and their high availability: identical peers of one binary")
        .max_term_width(110)
        .next_line_help(true)
        .args_conflicts_with_subcommands(true)
        .subcommand(alertmanager_command())
        .subcommand(cluster::command())
        .subcommand(check::command())
        .subcommand(query::command())
        .subcommand(test::command())
        .subcommand(promql::command())
        .subcommand(tsdb::command())
        .subcommand(relabel::command())
        .subcommand(push::command())
        .subcommand(debug::command())
        .subcommands(manager::commands())
        .subcommand(check::alertmanager::command("check-config").hide(true))
        .subcommand(Command::new("man").about("Print the manual page"))
        .subcommand(completions());
    add_flags(command)
}

fn completions() -> Command {
    Command::new("completions")
        .about("Print a completion script for a shell")
        .arg(Arg::new("shell").required(true).value_parser(value_parser!(Shell)))
}

fn run_command(name: &str, matches: &ArgMatches) -> u8 {
    let result = match name {
        "cluster" => cluster::run(matches),
        "check" => check::run(matches),
        "query" => query::run(matches),
        "test" => test::run(matches),
        "promql" => promql::run(matches),
        "tsdb" => tsdb::run(matches),
        "relabel" => relabel::run(matches),
        "push" => push::run(matches),
        "debug" => debug::run(matches),
        "alerts" | "silences" | "config" | "template" => manager::run(name, matches),
        "check-config" => check::alertmanager::run(matches),
        "man" => {
            // A closed pipe is nobody's problem.
            let _ = io::stdout().write_all(man::page(&command()).as_bytes());
            Ok(())
        }
        "completions" => {
            let shell = *matches.get_one::<Shell>("shell").expect("a required argument");
            // Into memory first: clap_complete panics when what it writes to is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command(), "promesh", &mut script);
            let _ = io::stdout().write_all(&script);
            Ok(())
        }
        other => unreachable!("clap knows the commands of `command()` only, not {other:?}"),
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("promesh: {}", failure.message);
            }
            failure.exit_code
        }
    }
}

/// Why a command did not succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    exit_code: u8,
}

impl Failure {
    fn new(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit_code: EXIT_FAILURE }
    }

    /// A failure of which everything has been said.
    fn quiet() -> Failure {
        Failure { message: String::new(), exit_code: EXIT_FAILURE }
    }

    fn usage(message: impl Into<String>) -> Failure {
        Failure { message: message.into(), exit_code: EXIT_USAGE }
    }
}

type Done = Result<(), Failure>;

/// The address of a peer's HTTP side, for commands that ask one.
fn url_argument() -> Arg {
    Arg::new("url").long("url").value_name("URL").default_value("http://127.0.0.1:9090").help("HTTP address of a peer")
}
