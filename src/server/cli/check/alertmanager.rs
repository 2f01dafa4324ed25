//! `promesh check alertmanager`, also `promesh check-config`: amtool's check of configuration files.
//!
//! Source: alertmanager cli/check_config.go.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use clap::{Arg, ArgMatches, Command};
use promesh_config::Source as _;
use promesh_config::alertmanager::matchers::MatcherMode;
use promesh_config::alertmanager::{self, AlertmanagerConfig};
use promesh_template::Template;

use super::super::{Done, Failure};
use crate::files::Disk;

/// The command, under the name by which it is called.
pub fn command(name: &'static str) -> Command {
    Command::new(name)
        .about("Check alertmanager.yml and the templates it names")
        .args([
            Arg::new("enable-feature")
                .long("enable-feature")
                .value_parser(["classic-mode", "utf8-strict-mode"])
                .help("How matchers are read"),
            Arg::new("files").value_name("FILE").num_args(0..).help("Files to check; standard input by default"),
        ])
        .after_help("Example:\n  promesh check alertmanager alertmanager.yml")
}

/// As amtool says it: each file by itself, and an exit code of 1 if one is not sound.
///
/// # Errors
/// When one is not.
pub fn run(matches: &ArgMatches) -> Done {
    let mode = match matches.get_one::<String>("enable-feature").map(String::as_str) {
        Some("classic-mode") => MatcherMode::Classic,
        Some("utf8-strict-mode") => MatcherMode::Utf8Strict,
        _ => MatcherMode::Fallback,
    };
    let files: Vec<&String> = matches.get_many("files").into_iter().flatten().collect();
    let mut failed = 0;
    for file in &files {
        let content = std::fs::read(file).map_err(|error| format!("open {file}: {error}"));
        failed += check(file, content, mode);
    }
    if files.is_empty() {
        let mut input = std::io::stdin();
        if input.is_terminal() {
            return Err(Failure::new("Failed to read from standard input"));
        }
        let mut content = Vec::new();
        let read = input.read_to_end(&mut content).map(|_| content).map_err(|error| error.to_string());
        failed += check("/dev/stdin", read, mode);
    }
    if failed > 0 { Err(Failure::new(format!("failed to validate {failed} file(s)"))) } else { Ok(()) }
}

/// Checks one file; gives how much is wrong with it.
fn check(name: &str, content: Result<Vec<u8>, String>, mode: MatcherMode) -> usize {
    let folder = Path::new(name).parent().unwrap_or(Path::new(""));
    let loaded = content
        .and_then(|content| alertmanager::load_in(name, &content, folder, mode).map_err(|errors| errors.to_string()));
    print!("Checking '{name}'");
    let failed = match loaded {
        Err(why) => {
            println!("  FAILED: {why}");
            1
        }
        Ok(loaded) => {
            println!("  SUCCESS");
            loaded.remarks.iter().for_each(|remark| println!("  WARNING: {remark}"));
            found(&loaded.config)
        }
    };
    println!();
    failed
}

fn found(config: &AlertmanagerConfig) -> usize {
    println!("Found:\n - global config\n - route");
    println!(" - {} inhibit rules", config.inhibit_rules.len());
    println!(" - {} receivers", config.receivers.len());
    println!(" - {} templates", config.templates.len());
    if config.templates.is_empty() {
        return 0;
    }
    match templates(config) {
        Ok(()) => {
            println!("  SUCCESS");
            0
        }
        Err(why) => {
            println!("  FAILED: {why}");
            1
        }
    }
}

fn templates(config: &AlertmanagerConfig) -> Result<(), String> {
    let mut template = Template::alertmanager();
    for pattern in &config.templates {
        for file in Disk.glob(&pattern.0).map_err(|error| format!("{}: {error}", pattern.0))? {
            let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            template.add(&name, &text).map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    Ok(())
}
