//! `promesh config show` and `promesh config routes show|test`: the configuration of a server, and its route tree.
//!
//! Source: alertmanager cli/config.go, cli/routing.go, cli/test_routing.go; xlab/treeprint.

use std::path::Path;

use clap::{Arg, ArgAction, ArgMatches, Command};
use promesh_alerting::route::RouteTree;
use promesh_config::alertmanager::matchers::parse_one;
use promesh_config::alertmanager::{self, AlertmanagerConfig};
use promesh_model::Labels;
use serde_json::Value;

use super::format::Form;
use super::{Common, Done, Failure, add_pair, with_common};

/// A name of its own: the peer's flag has a default.
const FILE: &str = "routes.config.file";

pub(super) fn command() -> Command {
    let file = || {
        let help = "Configuration file; stronger than --alertmanager.url";
        Arg::new(FILE).long("config.file").value_name("FILE").global(true).help(help)
    };
    let routes = Command::new("routes")
        .about("Look at the route tree of a file or a server")
        .arg(file())
        .subcommand(
            Command::new("show")
                .about("Print the tree; what `routes` alone does")
                .after_help("Example:\n  promesh config routes show --config.file=alertmanager.yml"),
        )
        .subcommand(
            Command::new("test")
                .about("Print the receivers of an alert with these labels")
                .args([
                    Arg::new("verify.receivers")
                        .long("verify.receivers")
                        .value_name("RECEIVERS")
                        .help("What must come out, comma separated: else the exit code is 1"),
                    Arg::new("tree").long("tree").action(ArgAction::SetTrue).help("Print the routes that match, too"),
                    Arg::new("labels").value_name("NAME=VALUE").num_args(0..).help("Labels of the alert"),
                ])
                .after_help(
                    "Example:\n  promesh config routes test --config.file=alertmanager.yml \
                     --verify.receivers=team-db service=database",
                ),
        );
    let command = Command::new("config")
        .about("Look at the alerting configuration of a server, and test its routes")
        .subcommand(Command::new("show").about("Print the configuration; what `config` alone does"))
        .subcommand(routes);
    with_common(command)
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    match matches.subcommand() {
        Some(("routes", matches)) => match matches.subcommand() {
            Some(("test", matches)) => test(matches),
            Some((_, matches)) => show_tree(matches),
            None => show_tree(matches),
        },
        Some((_, matches)) => show(matches),
        None => show(matches),
    }
}

fn status(common: &Common) -> Result<(Vec<u8>, Value), Failure> {
    let body = common.server()?.get("/status", &[])?;
    let status =
        serde_json::from_slice(&body).map_err(|error| Failure::new(format!("the answer is no status: {error}")))?;
    Ok((body, status))
}

fn show(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let (body, status) = status(&common)?;
    print!("{}", shown(&common.form, &body, &status));
    Ok(())
}

fn shown(form: &Form, body: &[u8], status: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let original = text(&status["config"]["original"]);
    if form.is_json() {
        return format!("{}\n", String::from_utf8_lossy(body).trim_end());
    }
    let mut out = format!("{original}\n");
    if form.is_extended() {
        for field in ["buildUser", "goVersion", "revision", "version", "branch", "buildDate"] {
            out.push_str(&format!("{field} {}\n", text(&status["versionInfo"][field])));
        }
        out.push_str(&format!("uptime {}\n", text(&status["uptime"])));
    }
    out
}

fn configuration(common: &Common, matches: &ArgMatches) -> Result<AlertmanagerConfig, Failure> {
    let file = matches.get_one::<String>(FILE);
    let (name, text, folder) = match file {
        Some(file) => {
            if common.names_a_server(matches) {
                eprintln!("Warning: --config.file flag overrides the --alertmanager.url.");
            }
            let text = std::fs::read(file).map_err(|error| Failure::new(format!("{file}: {error}")))?;
            (file.as_str(), text, Path::new(file).parent().unwrap_or(Path::new("")).to_owned())
        }
        None if !common.names_a_server(matches) => {
            let text = "You have to specify one of --config.file or --alertmanager.url flags.";
            return Err(Failure::new(text));
        }
        None => {
            let (_, status) = status(common)?;
            let text = status["config"]["original"].as_str().unwrap_or_default().as_bytes().to_vec();
            (common.url.as_str(), text, Path::new("").to_owned())
        }
    };
    let loaded = alertmanager::load_in(name, &text, &folder, common.mode);
    loaded.map(|loaded| loaded.config).map_err(|errors| Failure::new(errors.to_string()))
}

fn show_tree(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let tree = RouteTree::new(&configuration(&common, matches)?);
    println!("Routing tree:\n{}", drawn(&branch(&tree, 0)));
    Ok(())
}

fn test(matches: &ArgMatches) -> Done {
    let common = Common::of(matches)?;
    let tree = RouteTree::new(&configuration(&common, matches)?);
    let mut labels = std::collections::BTreeMap::new();
    for text in matches.get_many::<String>("labels").into_iter().flatten() {
        let matcher =
            parse_one(text, common.mode).map_err(|error| Failure::new(format!("Failed to parse labels: {error}")))?;
        add_pair(&mut labels, matcher, "Labels")?;
    }
    let labels: Labels = labels.iter().collect();
    if matches.get_flag("tree") {
        println!("Matching routes:\n{}\n", drawn(&matching_branch(&tree, 0, &labels)));
    }
    let receivers: Vec<&str> =
        tree.matching(&labels).into_iter().map(|node| tree.node(node).receiver.as_str()).collect();
    let receivers = receivers.join(",");
    println!("{receivers}");
    match matches.get_one::<String>("verify.receivers").filter(|expected| !expected.is_empty()) {
        Some(expected) if *expected != receivers => {
            println!("WARNING: Expected receivers did not match resolved receivers.");
            Err(Failure::quiet())
        }
        _ => Ok(()),
    }
}

/// A node as it is drawn.
struct Branch {
    text: String,
    children: Vec<Branch>,
}

fn text_of(tree: &RouteTree, at: usize, shows_continue: bool, shows_receiver: bool) -> String {
    let node = tree.node(at);
    let mut text = if node.matchers.0.is_empty() { "default-route".to_owned() } else { node.matchers.to_string() };
    if node.continues && shows_continue {
        text.push_str("  continue: true");
    }
    if shows_receiver {
        text.push_str(&format!("  receiver: {}", node.receiver));
    }
    text
}

fn branch(tree: &RouteTree, at: usize) -> Branch {
    let children = tree.node(at).children.iter().map(|child| branch(tree, *child)).collect();
    Branch { text: text_of(tree, at, true, true), children }
}

/// The part of the tree that an alert goes through.
fn matching_branch(tree: &RouteTree, at: usize, labels: &Labels) -> Branch {
    let mut children = Vec::new();
    for child in &tree.node(at).children {
        if tree.node(*child).matchers.matches(labels) {
            children.push(matching_branch(tree, *child, labels));
            if !tree.node(*child).continues {
                break;
            }
        }
    }
    Branch { text: text_of(tree, at, false, children.is_empty()), children }
}

fn drawn(root: &Branch) -> String {
    let mut out = String::from(".\n");
    draw(&mut out, "", std::slice::from_ref(root));
    out
}

fn draw(out: &mut String, before: &str, branches: &[Branch]) {
    for (index, branch) in branches.iter().enumerate() {
        let is_last = index + 1 == branches.len();
        out.push_str(&format!("{before}{} {}\n", if is_last { "└──" } else { "├──" }, branch.text));
        let before = format!("{before}{}", if is_last { "    " } else { "│   " });
        draw(out, &before, &branch.children);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const ROUTES: &str = "
route:
  receiver: a
  routes:
  - {matchers: [job=node], receiver: b, continue: true, routes: [{matchers: [env=prod], receiver: c}]}
  - {matchers: [job=node]}
receivers: [{name: a}, {name: b}, {name: c}]
";

    #[test]
    fn trees_are_drawn_as_amtool_draws_them() {
        let config = alertmanager::load("a.yml", ROUTES.as_bytes(), Path::new("")).expect("it loads");
        let tree = RouteTree::new(&config);
        expect![[r#"
            .
            └── default-route  receiver: a
                ├── {job="node"}  continue: true  receiver: b
                │   └── {env="prod"}  receiver: c
                └── {job="node"}  receiver: a
        "#]]
        .assert_eq(&drawn(&branch(&tree, 0)));
        let labels = Labels::from_pairs([("job", "node"), ("env", "prod")]);
        expect![[r#"
            .
            └── default-route
                ├── {job="node"}
                │   └── {env="prod"}  receiver: c
                └── {job="node"}  receiver: a
        "#]]
        .assert_eq(&drawn(&matching_branch(&tree, 0, &labels)));
    }
}
