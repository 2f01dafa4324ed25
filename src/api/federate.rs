//! `/federate`: the newest sample of each series, for another Prometheus to scrape.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use promesh_model::Labels;
use promesh_model::labels::{METRIC_NAME, is_classic_label_name, is_classic_metric_name};
use promesh_model::storage::{Budget, Queryable, SelectHints, SelectRequest, SeriesColumns, StorageError};
use promesh_model::value::{format_float_g, is_stale};
use promesh_promql::parser;

use crate::form::Form;
use crate::query::CancelOnDrop;
use crate::respond::text;
use crate::router::Api;
use crate::status::text_format;

pub(crate) async fn federate(State(api): State<Api>, form: Form) -> Response {
    let sets: Result<Vec<_>, _> = form.all("match[]").map(parser::parse_selector).collect();
    let sets = match sets {
        Ok(sets) => sets,
        Err(error) => return text(StatusCode::BAD_REQUEST, error),
    };
    let now = api.backend.now().wall;
    let start = now.before(api.backend.engine().options().lookback_delta);
    let request = |matchers| SelectRequest { matchers, start, end: now, hints: SelectHints::default() };
    let requests: Vec<_> = sets.into_iter().map(request).collect();
    let storage: Arc<dyn Queryable> = api.backend.storage();
    let external = api.backend.external_labels();
    let budget = Budget::unlimited();
    let _guard = CancelOnDrop(budget.clone());
    let running = api.backend.reading().spawn_blocking(move || render(storage.as_ref(), &requests, &budget, &external));
    match running.await {
        Ok(Ok(exposition)) => text_format(exposition),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "federation panicked: this is a bug"),
    }
}

fn render(
    storage: &dyn Queryable,
    requests: &[SelectRequest],
    budget: &Budget,
    external: &Labels,
) -> Result<String, StorageError> {
    let mut newest: BTreeMap<(String, Labels), (i64, f64)> = BTreeMap::new();
    for selection in storage.select(requests, budget)? {
        for series in &selection.series {
            if let (Some(name), Some(sample)) = (series.labels.metric_name(), newest_float(series)) {
                newest.insert((name.to_owned(), series.labels.clone()), sample);
            }
        }
    }
    let mut out = String::new();
    let mut family = "";
    for ((name, labels), (at, value)) in &newest {
        if name != family {
            // Writing to a String cannot fail, here and below.
            let _ = writeln!(out, "# TYPE {} untyped", underscored(name, is_classic_metric_name));
            family = name;
        }
        let _ = writeln!(out, "{} {} {at}", line_head(labels, external), format_float_g(*value));
    }
    Ok(out)
}

/// The newest sample, unless it says that the series ended, or is a histogram: the text format has none.
fn newest_float(series: &SeriesColumns) -> Option<(i64, f64)> {
    let (at, value) = (*series.timestamps.last()?, *series.values.last()?);
    let newer_histogram = series.histograms.last().is_some_and(|point| point.timestamp > at);
    (!newer_histogram && !is_stale(value)).then_some((at, value))
}

/// `name{label="value",…}`: own labels, then external ones and an empty `instance` where they are not set.
fn line_head(labels: &Labels, external: &Labels) -> String {
    let own = labels.iter().filter(|(name, _)| *name != METRIC_NAME);
    let mut added: BTreeMap<&str, &str> = external.iter().collect();
    added.entry("instance").or_insert("");
    let added = added.into_iter().filter(|(name, _)| labels.get(name).is_none());
    let mut out = underscored(labels.value(METRIC_NAME), is_classic_metric_name);
    for (index, (name, value)) in own.chain(added).enumerate() {
        out.push(if index == 0 { '{' } else { ',' });
        let value = value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
        let _ = write!(out, "{}=\"{value}\"", underscored(name, is_classic_label_name));
    }
    out.push('}');
    out
}

/// A name with underscores for what the classic charset has not, as the content type says.
fn underscored(name: &str, is_classic: fn(&str) -> bool) -> String {
    if is_classic(name) {
        return name.to_owned();
    }
    let mut escaped = String::with_capacity(name.len());
    for (index, sign) in name.chars().enumerate() {
        let fits = sign.is_ascii_alphabetic() || matches!(sign, '_' | ':') || (index > 0 && sign.is_ascii_digit());
        escaped.push(if fits { sign } else { '_' });
    }
    escaped
}
