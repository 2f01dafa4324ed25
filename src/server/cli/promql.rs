//! `promesh promql …`: work on the text of queries.

use clap::{Arg, ArgMatches, Command};
use promesh_model::Matcher;
use promesh_model::matcher::MatchOp;
use promesh_promql::parser::{self, Expr, ParseOptions, VectorSelector};

use super::{Done, Failure};

pub(super) fn command() -> Command {
    let query = Arg::new("query").required(true).help("PromQL expression");
    Command::new("promql")
        .about("Work on the text of queries")
        .subcommand_required(true)
        .subcommand(Command::new("format").about("Print a query in its canonical form").arg(query.clone()))
        .subcommand(
            Command::new("label-matchers")
                .about("Change the label matchers of all selectors of a query")
                .subcommand_required(true)
                .subcommand(
                    Command::new("set").about("Set a matcher, in place of others of its label").args([
                        Arg::new("type")
                            .short('t')
                            .long("type")
                            .value_parser(["=", "!=", "=~", "!~"])
                            .default_value("=")
                            .help("How it matches"),
                        query.clone(),
                        label(),
                        Arg::new("value").required(true).help("What it matches"),
                    ]),
                )
                .subcommand(Command::new("delete").about("Delete the matchers of a label").args([query, label()])),
        )
}

fn label() -> Arg {
    Arg::new("name").required(true).help("Name of the label")
}

/// Changes every selector of an expression.
fn change(expr: &mut Expr, edit: &dyn Fn(&mut VectorSelector)) {
    match expr {
        Expr::Vector(selector) => edit(selector),
        Expr::Matrix(matrix) => edit(&mut matrix.selector),
        Expr::Subquery(subquery) => change(&mut subquery.expr, edit),
        Expr::Aggregate(node) => {
            change(&mut node.expr, edit);
            if let Some(param) = &mut node.param {
                change(param, edit);
            }
        }
        Expr::Binary(node) => {
            change(&mut node.lhs, edit);
            change(&mut node.rhs, edit);
        }
        Expr::Call(node) => node.args.iter_mut().for_each(|arg| change(arg, edit)),
        Expr::Paren(node) => change(&mut node.expr, edit),
        Expr::Unary(node) => change(&mut node.expr, edit),
        Expr::Number(_) | Expr::String(_) => {}
    }
}

fn label_matchers(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    let text = |name: &str| matches.get_one::<String>(name).expect("a required argument or one with a default").clone();
    let mut expr =
        parser::parse(&text("query"), &ParseOptions::everything()).map_err(|error| Failure::new(error.to_string()))?;
    let label = text("name");
    let new = match name {
        "set" => {
            let op = match text("type").as_str() {
                "=" => MatchOp::Equal,
                "!=" => MatchOp::NotEqual,
                "=~" => MatchOp::Regex,
                _ => MatchOp::NotRegex,
            };
            Some(Matcher::new(op, &label, text("value")).map_err(|error| Failure::new(error.to_string()))?)
        }
        _ => None,
    };
    change(&mut expr, &|selector| {
        selector.matchers.retain(|matcher| matcher.name != label);
        if label == "__name__" {
            selector.name.clear();
        }
        if let Some(new) = &new {
            // The condition on the name stands last.
            let place = selector.matchers.iter().position(|matcher| matcher.name == "__name__");
            selector.matchers.insert(place.unwrap_or(selector.matchers.len()), new.clone());
        }
    });
    println!("{}", parser::prettify(&expr));
    Ok(())
}

pub(super) fn run(matches: &ArgMatches) -> Done {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    if name == "label-matchers" {
        return label_matchers(matches);
    }
    let query = matches.get_one::<String>("query").expect("a required argument");
    let expr = parser::parse(query, &ParseOptions::everything()).map_err(|error| Failure::new(error.to_string()))?;
    println!("{}", parser::prettify(&expr));
    Ok(())
}
