//! `/series`, `/labels`, `/label/<name>/values`, `/query_exemplars`: what there is, without its samples.

use std::sync::Arc;

use axum::extract::{OriginalUri, Path, State};
use axum::response::Response;
use http::Method;

use promesh_model::storage::{Budget, ListRequest, Listing, Queryable, StorageError};
use promesh_model::value::format_float;
use promesh_model::{Labels, Matcher, Timestamp};
use serde_json::json;

use crate::error::{ApiError, ErrorType};
use crate::form::Form;
use crate::json::{write_elements, write_labels, write_text};
use crate::query::{CancelOnDrop, TRUNCATED};
use crate::respond::{Remarks, no_content, success, success_in_pieces};
use crate::router::{Api, not_found};

pub(crate) async fn series(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    form.check()?;
    if form.all("match[]").next().is_none() {
        return Err(ApiError::bad_data("no match[] parameter provided"));
    }
    let (limit, start, end) = bounds(&form)?;
    let sets = form.matcher_sets().map_err(|error| ApiError::parameter("match[]", error))?;
    let request = request(sets, start, end, limit);
    let listing = list(&api, move |storage, budget| storage.series(&request, budget)).await?;
    Ok(answer(listing, limit, |out, labels: &Labels| write_labels(out, labels)))
}

pub(crate) async fn label_names(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let (limit, start, end) = bounds(&form)?;
    let request = request(form.matcher_sets().map_err(ApiError::bad_data)?, start, end, limit);
    let listing = list(&api, move |storage, budget| storage.label_names(&request, budget)).await?;
    Ok(answer(listing, limit, |out, name: &String| write_text(out, name)))
}

pub(crate) async fn label_values(
    State(api): State<Api>,
    Path(name): Path<String>,
    uri: OriginalUri,
    form: Form,
) -> Result<Response, ApiError> {
    if name.is_empty() {
        // `label//values`, which no route should have.
        return Ok(not_found(Method::GET, uri).await);
    }
    let name = unescape(&name);
    if name.is_empty() {
        return Err(ApiError::bad_data("invalid label name: \"\""));
    }
    let (limit, start, end) = bounds(&form)?;
    let request = request(form.matcher_sets().map_err(ApiError::bad_data)?, start, end, limit);
    let listing = list(&api, move |storage, budget| storage.label_values(&name, &request, budget)).await?;
    Ok(answer(listing, limit, |out, value: &String| write_text(out, value)))
}

fn bounds(form: &Form) -> Result<(usize, Timestamp, Timestamp), ApiError> {
    Ok((form.limit()?, form.time_or("start", Timestamp::MIN)?, form.time_or("end", Timestamp::MAX)?))
}

fn request(matcher_sets: Vec<Vec<Matcher>>, start: Timestamp, end: Timestamp, limit: usize) -> ListRequest {
    // One more than is shown, to know whether there are more.
    let limit = if limit == 0 { 0 } else { limit.saturating_add(1) };
    ListRequest { matcher_sets, start, end, limit }
}

pub(crate) async fn list<T: Send + 'static>(
    api: &Api,
    run: impl FnOnce(&dyn Queryable, &Budget) -> Result<Listing<T>, StorageError> + Send + 'static,
) -> Result<Listing<T>, ApiError> {
    let storage: Arc<dyn Queryable> = api.backend.storage();
    let budget = Budget::unlimited();
    let _guard = CancelOnDrop(budget.clone());
    let running = api.backend.reading().spawn_blocking(move || run(storage.as_ref(), &budget));
    let listing = tokio::time::timeout(api.options.query_timeout, running).await;
    let listing = listing.map_err(|_| ApiError::new(ErrorType::Timeout, "listing timed out"))?;
    Ok(listing.map_err(|_| ApiError::new(ErrorType::Internal, "the listing panicked: this is a bug"))??)
}

fn answer<T: Send + Unpin + 'static>(
    mut listing: Listing<T>,
    limit: usize,
    write: impl Fn(&mut Vec<u8>, &T) + Send + Unpin + 'static,
) -> Response {
    if limit > 0 && listing.items.len() > limit {
        listing.items.truncate(limit);
        listing.warnings.push(TRUNCATED.to_owned());
    }
    let (items, mut next) = (listing.items, 0);
    let write_more = move |out: &mut Vec<u8>, enough: usize| !write_elements(out, enough, &mut next, &items, &write);
    success_in_pieces(b"", write_more, Vec::new(), Remarks::warnings(listing.warnings))
}

pub(crate) async fn exemplars(State(api): State<Api>, form: Form) -> Result<Response, ApiError> {
    let (start, end) = (form.time_or("start", Timestamp::MIN)?, form.time_or("end", Timestamp::MAX)?);
    if end < start {
        return Err(ApiError::bad_data("end timestamp must not be before start timestamp"));
    }
    let expr = api.backend.engine().parse(form.get("query")).map_err(ApiError::bad_data)?;
    let selectors: Vec<Vec<Matcher>> = expr.selectors().into_iter().map(<[Matcher]>::to_vec).collect();
    if selectors.is_empty() {
        return Ok(no_content());
    }
    let found = api.backend.exemplars(selectors, start, end).await?;
    let series: Vec<_> = found
        .iter()
        .map(|series| {
            let exemplars: Vec<_> = series
                .exemplars
                .iter()
                .map(|exemplar| {
                    json!({"labels": exemplar.labels, "value": format_float(exemplar.value),
                           "timestamp": exemplar.timestamp.as_secs_f64()})
                })
                .collect();
            json!({"seriesLabels": series.labels, "exemplars": exemplars})
        })
        .collect();
    Ok(success(&series))
}

/// Undoes the escaping of a name that is not of the classic charset: `U__` and `_2e_` for a full stop.
///
/// Source: prometheus/common `model.UnescapeName`, `ValueEncodingEscaping`.
fn unescape(name: &str) -> String {
    let Some(escaped) = name.strip_prefix("U__") else { return name.to_owned() };
    let mut out = String::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some(position) = rest.find('_') {
        out.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('_') {
            out.push('_');
            rest = after;
            continue;
        }
        let code = rest.split_once('_').filter(|(hex, _)| (1..=6).contains(&hex.len()));
        let sign = code.and_then(|(hex, after)| Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, after)));
        // Anything else was never escaped: it is the name itself.
        let Some((sign, after)) = sign else { return name.to_owned() };
        out.push(sign);
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn escaped_names_are_read_back() {
        for (escaped, name) in [
            ("job", "job"),
            ("U__job", "job"),
            ("U__http_2e_status", "http.status"),
            ("U__a__b", "a_b"),
            ("U___zz_", "U___zz_"),
        ] {
            assert_eq!(unescape(escaped), name);
        }
    }
}
