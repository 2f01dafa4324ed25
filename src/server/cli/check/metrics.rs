//! `promesh check metrics`: whether an exposition parses, and whether its names follow the conventions.
//!
//! Source: prometheus `util/promlint`; the texts are its.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use promesh_textparse::{Event, Parser as _, RawLabels, TextParser};

use super::super::{Done, Failure};

/// What is read from standard input at most.
const INPUT_BYTES_MAX: u64 = 1 << 30;

/// One family, as far as it is known.
#[derive(Debug, Default)]
struct Family {
    kind: &'static str,
    help: Option<String>,
    series: usize,
    labels: BTreeSet<String>,
}

/// Checks standard input.
pub(super) fn run(extended: bool) -> Done {
    let mut input = Vec::new();
    let read = std::io::stdin().take(INPUT_BYTES_MAX).read_to_end(&mut input);
    read.map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    let families = match families(&input) {
        Ok(families) => families,
        Err(error) => {
            eprintln!("error while linting: {error}");
            return Err(Failure::quiet());
        }
    };
    let problems = problems(&families);
    for (metric, problem) in &problems {
        eprintln!("{metric} {problem}");
    }
    if extended {
        show_cardinality(&families);
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure { message: String::new(), exit_code: super::EXIT_LINT }) }
}

fn families(input: &[u8]) -> Result<BTreeMap<String, Family>, String> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut parser = TextParser::new(input);
    let mut labels = RawLabels::default();
    loop {
        let is_sample = match parser.next(None).map_err(|error| error.to_string())? {
            None => return Ok(families),
            Some(Event::Type { family, kind }) => {
                families.entry(family.into_owned()).or_default().kind = kind;
                false
            }
            Some(Event::Help { family, text }) => {
                let help = text.into_owned();
                families.entry(family.into_owned()).or_default().help = Some(help);
                false
            }
            Some(Event::Sample(_)) => true,
            Some(_) => false,
        };
        if is_sample {
            labels.0.clear();
            parser.labels(&mut labels);
            let name = labels.0.iter().find(|(name, _)| name == "__name__").map_or("", |(_, value)| value);
            let family = families.entry(family_of(name, &families)).or_default();
            family.series += 1;
            family.labels.extend(labels.0.iter().map(|(name, _)| name.clone()).filter(|name| name != "__name__"));
        }
    }
}

/// The family of a sample: histograms and summaries have suffixes.
fn family_of(name: &str, families: &BTreeMap<String, Family>) -> String {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(base) = name.strip_suffix(suffix)
            && families.get(base).is_some_and(|family| matches!(family.kind, "histogram" | "summary"))
        {
            return base.to_owned();
        }
    }
    name.to_owned()
}

fn problems(families: &BTreeMap<String, Family>) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, family) in families {
        let mut say = |text: String| found.push((name.clone(), text));
        if family.help.as_ref().is_none_or(String::is_empty) {
            say("no help text".to_owned());
        }
        units(name, &mut say);
        let is_counter = family.kind == "counter";
        if is_counter && !name.ends_with("_total") {
            say("counter metrics should have \"_total\" suffix".to_owned());
        }
        if !is_counter && name.ends_with("_total") {
            say("non-counter metrics should not have \"_total\" suffix".to_owned());
        }
        let (histogram, summary) = (family.kind == "histogram", family.kind == "summary");
        if !histogram && name.ends_with("_bucket") {
            say("non-histogram metrics should not have \"_bucket\" suffix".to_owned());
        }
        if !histogram && !summary {
            for suffix in ["_count", "_sum"] {
                if name.ends_with(suffix) {
                    say(format!("non-histogram and non-summary metrics should not have \"{suffix}\" suffix"));
                }
            }
        }
        if !histogram && family.labels.contains("le") {
            say("non-histogram metrics should not have \"le\" label".to_owned());
        }
        if !summary && family.labels.contains("quantile") {
            say("non-summary metrics should not have \"quantile\" label".to_owned());
        }
        let words: Vec<&str> = name.split('_').collect();
        for kind in ["counter", "gauge", "summary", "histogram"] {
            if family.kind == kind && words.iter().any(|word| word.eq_ignore_ascii_case(kind)) {
                say(format!("metric name should not include type '{kind}'"));
            }
        }
        if name.contains(':') {
            say("metric names should not contain ':'".to_owned());
        }
        if is_camel(name) {
            say("metric names should be written in 'snake_case' not 'camelCase'".to_owned());
        }
        if family.labels.iter().any(|label| is_camel(label)) {
            say("label names should be written in 'snake_case' not 'camelCase'".to_owned());
        }
        for abbreviation in ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"] {
            if words.iter().skip(1).any(|word| *word == abbreviation) {
                say("metric names should not contain abbreviated units".to_owned());
                break;
            }
        }
    }
    found
}

fn is_camel(name: &str) -> bool {
    name.as_bytes().windows(2).any(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase())
}

/// Units that are not the base unit.
fn units(name: &str, say: &mut impl FnMut(String)) {
    const BASES: [(&str, &str); 17] = [
        ("amperes", "amperes"),
        ("bytes", "bytes"),
        ("celsius", "celsius"),
        ("grams", "grams"),
        ("joules", "joules"),
        ("meters", "meters"),
        ("metres", "metres"),
        ("ratio", "ratio"),
        ("seconds", "seconds"),
        ("volts", "volts"),
        ("moles", "moles"),
        ("hours", "seconds"),
        ("minutes", "seconds"),
        ("days", "seconds"),
        ("weeks", "seconds"),
        ("fahrenheit", "celsius"),
        ("bits", "bytes"),
    ];
    const PREFIXES: [&str; 17] = [
        "pico", "nano", "micro", "milli", "centi", "deci", "deca", "hecto", "kilo", "kibi", "mega", "mebi", "giga",
        "gibi", "tera", "tebi", "peta",
    ];
    for word in name.split('_') {
        for (unit, base) in BASES {
            let prefixed = word.strip_suffix(unit).is_some_and(|prefix| PREFIXES.contains(&prefix));
            if prefixed || (word == unit && unit != base) {
                say(format!("use base unit \"{base}\" instead of \"{word}\""));
                return;
            }
        }
    }
}

fn show_cardinality(families: &BTreeMap<String, Family>) {
    let total: usize = families.values().map(|family| family.series).sum();
    let mut all: Vec<(&String, usize)> = families.iter().map(|(name, family)| (name, family.series)).collect();
    all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    println!("{:<50}{:>12}{:>12}", "Metric", "Cardinality", "Percentage");
    for (name, series) in all {
        println!("{name:<50}{series:>12}{:>11.2}%", series as f64 / total.max(1) as f64 * 100.0);
    }
    println!("{:<50}{total:>12}{:>11.2}%", "Total", 100.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let found = problems(&families(text.as_bytes()).expect("it parses"));
        let found: Vec<String> = found.into_iter().map(|(metric, text)| format!("{metric} {text}")).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_that_break_the_conventions_are_told_as_promtool_tells_them() {
        check("# HELP a_seconds x\n# TYPE a_seconds gauge\na_seconds 1\n", &[]);
        check("# TYPE c counter\nc 1\n", &["c no help text", "c counter metrics should have \"_total\" suffix"]);
        check(
            "# HELP a_milliseconds x\n# TYPE a_milliseconds gauge\na_milliseconds 1\n",
            &["a_milliseconds use base unit \"seconds\" instead of \"milliseconds\""],
        );
        check("# HELP h x\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n", &[]);
        check(
            "# HELP aB x\n# TYPE aB gauge\naB{le=\"1\"} 1\n",
            &[
                "aB non-histogram metrics should not have \"le\" label",
                "aB metric names should be written in 'snake_case' not 'camelCase'",
            ],
        );
    }
}
