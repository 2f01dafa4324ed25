//! How alerts and silences are printed: amtool's three forms.
//!
//! Source: alertmanager cli/format; Go's text/tabwriter.

use std::collections::BTreeMap;

use promesh_alerting::api::parse_rfc3339;
use promesh_config::alertmanager::matchers::matcher_text;
use promesh_model::{MatchOp, Matcher};
use promesh_template::clock::Time;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Failure;

/// One of amtool's forms.
pub(super) struct Form {
    kind: Kind,
    /// A layout of Go.
    dates: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Simple,
    Extended,
    Json,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    starts_at: String,
    ends_at: String,
    #[serde(default, rename = "generatorURL")]
    generator_url: String,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    state: String,
}

/// A silence as it is listed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Silence {
    pub id: String,
    starts_at: String,
    pub ends_at: String,
    updated_at: String,
    pub created_by: String,
    comment: String,
    matchers: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    name: String,
    value: String,
    is_regex: bool,
    is_equal: Option<bool>,
}

impl Form {
    pub fn of(name: &str, dates: String) -> Result<Form, Failure> {
        let kind = match name {
            "simple" => Kind::Simple,
            "extended" => Kind::Extended,
            "json" => Kind::Json,
            other => {
                return Err(Failure::usage(format!("--output: {other:?} is not one of simple, extended, json")));
            }
        };
        Ok(Form { kind, dates })
    }

    pub fn is_json(&self) -> bool {
        self.kind == Kind::Json
    }

    pub fn is_extended(&self) -> bool {
        self.kind == Kind::Extended
    }

    fn date(&self, text: &str) -> String {
        parse_rfc3339(text).map_or_else(|| text.to_owned(), |at| Time::from(at).format(&self.dates))
    }

    /// A list of alerts, as the API gave it.
    pub fn alerts(&self, body: &[u8]) -> Result<String, Failure> {
        let bad = |error| Failure::new(format!("the answer is no list of alerts: {error}"));
        if self.kind == Kind::Json {
            let alerts: Vec<Box<RawValue>> = serde_json::from_slice(body).map_err(bad)?;
            return Ok(json_list(alerts.iter()));
        }
        let mut alerts: Vec<Alert> = serde_json::from_slice(body).map_err(bad)?;
        alerts.sort_by_key(|alert| parse_rfc3339(&alert.starts_at));
        let labels = |labels: &BTreeMap<String, String>| {
            let pairs: Vec<_> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
            pairs.join(" ")
        };
        let value = |labels: &BTreeMap<String, String>, name: &str| labels.get(name).cloned().unwrap_or_default();
        let simple = |alert: &Alert| {
            vec![
                value(&alert.labels, "alertname"),
                self.date(&alert.starts_at),
                value(&alert.annotations, "summary"),
                alert.status.state.clone(),
            ]
        };
        let extended = |alert: &Alert| {
            vec![
                labels(&alert.labels),
                labels(&alert.annotations),
                self.date(&alert.starts_at),
                self.date(&alert.ends_at),
                alert.generator_url.clone(),
                alert.status.state.clone(),
            ]
        };
        Ok(match self.kind {
            Kind::Simple => table(&["Alertname", "Starts At", "Summary", "State"], alerts.iter().map(simple)),
            _ => {
                let head = ["Labels", "Annotations", "Starts At", "Ends At", "Generator URL", "State"];
                table(&head, alerts.iter().map(extended))
            }
        })
    }

    /// Silences, each also as the API gave it.
    pub fn silences(&self, mut silences: Vec<(Silence, Box<RawValue>)>) -> Result<String, Failure> {
        if self.kind == Kind::Json {
            return Ok(json_list(silences.iter().map(|(_, raw)| raw)));
        }
        silences.sort_by_key(|(silence, _)| parse_rfc3339(&silence.ends_at));
        let silences = silences.iter().map(|(silence, _)| silence);
        let texts =
            |silence: &Silence| -> Result<Vec<String>, Failure> { silence.matchers.iter().map(Listed::text).collect() };
        let mut rows = Vec::new();
        for silence in silences {
            let matchers = texts(silence)?;
            let (author, comment) = (silence.created_by.clone(), silence.comment.clone());
            let ends = self.date(&silence.ends_at);
            rows.push(match self.kind {
                Kind::Simple => vec![silence.id.clone(), matchers.join(" "), ends, author, comment],
                _ => vec![
                    silence.id.clone(),
                    format!("{{{}}}", matchers.join(",")),
                    self.date(&silence.starts_at),
                    ends,
                    self.date(&silence.updated_at),
                    author,
                    comment,
                ],
            });
        }
        let head: &[&str] = match self.kind {
            Kind::Simple => &["ID", "Matchers", "Ends At", "Created By", "Comment"],
            _ => &["ID", "Matchers", "Starts At", "Ends At", "Updated At", "Created By", "Comment"],
        };
        Ok(table(head, rows.into_iter()))
    }
}

impl Listed {
    fn text(&self) -> Result<String, Failure> {
        let op = match (self.is_equal.unwrap_or(true), self.is_regex) {
            (true, false) => MatchOp::Equal,
            (false, false) => MatchOp::NotEqual,
            (true, true) => MatchOp::Regex,
            (false, true) => MatchOp::NotRegex,
        };
        let built = Matcher::within_lines(op, &*self.name, &*self.value);
        built.map(|built| matcher(&built)).map_err(|error| Failure::new(error.to_string()))
    }
}

/// A matcher as upstream prints it.
pub(super) fn matcher(matcher: &Matcher) -> String {
    matcher_text(matcher)
}

fn json_list<'a>(items: impl Iterator<Item = &'a Box<RawValue>>) -> String {
    let items: Vec<&str> = items.map(|item| item.get()).collect();
    format!("[{}]\n", items.join(","))
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut text = format!("{}\t\n", head.join("\t"));
    rows.for_each(|row| text.push_str(&format!("{}\t\n", row.join("\t"))));
    align(&text)
}

/// Lines of cells, each ended by a tab, in columns two blanks apart. A column is as wide as the widest of the cells that
/// lie directly above one another; lines with fewer cells end it.
fn align(text: &str) -> String {
    let whole = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<Vec<&str>> = whole.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut from = 0;
        while from < lines.len() {
            let has = |line: &usize| widths[*line].len() > column;
            if !has(&from) {
                from += 1;
                continue;
            }
            let to = (from..lines.len()).find(|line| !has(line)).unwrap_or(lines.len());
            let widest = lines[from..to].iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0) + 2;
            widths[from..to].iter_mut().for_each(|widths| widths[column] = widest);
            from = to;
        }
    }
    let mut out = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        for (index, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            let width = widths.get(index).copied().unwrap_or(0);
            out.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_the_cells_that_touch() {
        assert_eq!(align("a\tbb\t\nccc\td\t\n"), "a    bb  \nccc  d   \n");
        // A line break within a cell ends the columns after it.
        assert_eq!(align("a\tb\t\nlong\nx\t\ny\tz\t\n"), "a  b  \nlong\nx  \ny  z  \n");
        assert_eq!(align("ü\t\nab\t\n"), "ü   \nab  \n");
    }

    #[test]
    fn alerts_are_printed_in_three_forms() {
        let body = br#"[{"labels":{"alertname":"B"},"annotations":{},"startsAt":"2024-01-02T00:00:00.000Z",
            "endsAt":"2024-01-03T00:00:00.000Z","status":{"state":"active"}},
            {"labels":{"alertname":"A","x":"y\"z"},"annotations":{"summary":"s"},"startsAt":"2024-01-01T00:00:00.000Z",
            "endsAt":"2024-01-03T00:00:00.000Z","generatorURL":"http://g","status":{"state":"suppressed"}}]"#;
        let form = |name: &str| {
            Form::of(name, "2006-01-02 15:04:05 MST".to_owned()).expect("a form").alerts(body).expect("alerts")
        };
        assert_eq!(
            form("simple"),
            "Alertname  Starts At                Summary  State       \n\
             A          2024-01-01 00:00:00 UTC  s        suppressed  \n\
             B          2024-01-02 00:00:00 UTC           active      \n"
        );
        assert!(form("extended").contains("alertname=\"A\" x=\"y\"z\""), "{}", form("extended"));
        assert!(form("json").starts_with("[{\"labels\":{\"alertname\":\"B\"}") && form("json").ends_with("}]\n"));
        assert!(Form::of("yaml", String::new()).is_err());
    }
}
