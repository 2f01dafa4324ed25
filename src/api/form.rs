//! Parameters, from the address and from a form in the body, as Go's `ParseForm` reads them.

use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse as _, Response};
use http::Method;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, Limited};
use percent_encoding::percent_decode;
use promesh_model::Matcher;
use promesh_promql::parser;

use crate::error::ApiError;

/// Go's limit on forms.
const FORM_BYTES_MAX: usize = 10 << 20;

/// All parameters of a request; those of the body first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Form {
    body: Vec<(String, String)>,
    address: Vec<(String, String)>,
}

impl Form {
    /// The first value of a parameter; empty when it is absent, which means the same.
    pub fn get(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or("")
    }

    /// All values of a parameter.
    pub fn all<'s>(&'s self, name: &str) -> impl Iterator<Item = &'s str> {
        let named = move |(key, value): &'s (String, String)| (key == name).then_some(value.as_str());
        self.body.iter().chain(&self.address).filter_map(named)
    }

    /// The first value in the address alone: some parameters are not looked for in the body.
    pub fn in_address(&self, name: &str) -> &str {
        self.address.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// `limit`: nothing or 0 for none.
    pub fn limit(&self) -> Result<usize, ApiError> {
        let limit = match self.get("limit") {
            "" => 0,
            text => atoi(text).map_err(|error| ApiError::parameter("limit", error))?,
        };
        usize::try_from(limit).map_err(|_| ApiError::parameter("limit", "limit must be non-negative"))
    }

    /// `match[]` as sets of matchers, each with at least one that does not match everything.
    pub fn matcher_sets(&self) -> Result<Vec<Vec<Matcher>>, String> {
        let sets: Result<Vec<_>, _> = self.all("match[]").map(parser::parse_selector).collect();
        let sets = sets.map_err(|error| error.to_string())?;
        let selects = |set: &Vec<Matcher>| set.iter().any(|matcher| !matcher.matches(""));
        if sets.iter().all(selects) {
            Ok(sets)
        } else {
            Err("match[] must contain at least one non-empty matcher".to_owned())
        }
    }
}

/// Go's `strconv.Atoi`, with its texts.
pub(crate) fn atoi(text: &str) -> Result<i64, String> {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    text.parse().map_err(|error: std::num::ParseIntError| {
        let why = match error.kind() {
            PosOverflow | NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        format!("strconv.Atoi: parsing {}: {why}", promesh_model::labels::quoted(text))
    })
}

/// Go's `strconv.ParseBool`, with its text.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", promesh_model::labels::quoted(text))),
    }
}

/// `a=b&c=d`, in order. Pairs that are not decodable are left out, as Go does when nobody asks for the error.
pub(crate) fn parse_pairs(bytes: &[u8]) -> Vec<(String, String)> {
    let decode = |part: &[u8]| {
        let spaced: Vec<u8> = part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        percent_decode(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
    };
    let pair = |pair: &[u8]| {
        let split = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        Some((decode(&pair[..split])?, decode(pair.get(split + 1..).unwrap_or_default())?))
    };
    // A semicolon separates nothing since Go 1.17: such a pair is an error, hence left out.
    let pairs = bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty() && !pair.contains(&b';'));
    pairs.filter_map(pair).collect()
}

fn has_form(request: &Request) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH)
        && media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Response;

    async fn from_request(request: Request, _state: &S) -> Result<Form, Response> {
        let address = parse_pairs(request.uri().query().unwrap_or("").as_bytes());
        if !has_form(&request) {
            return Ok(Form { body: Vec::new(), address });
        }
        let body = Limited::new(request.into_body(), FORM_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| ApiError::bad_data(format!("error parsing form values: {error}")).into_response())?;
        Ok(Form { body: parse_pairs(&body.to_bytes()), address })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_go_reads_them() {
        let text = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(
            parse_pairs(b"a=b+c&d=%7B%7d&e&=f&&g=h=i"),
            text(&[("a", "b c"), ("d", "{}"), ("e", ""), ("", "f"), ("g", "h=i")])
        );
        assert_eq!(parse_pairs(b"a;b=1&c=2&d=%ff"), text(&[("c", "2")]));
    }

    #[test]
    fn numbers_fail_with_gos_texts() {
        assert_eq!(atoi("12"), Ok(12));
        assert_eq!(atoi("a").unwrap_err(), "strconv.Atoi: parsing \"a\": invalid syntax");
        assert_eq!(
            atoi("99999999999999999999").unwrap_err(),
            "strconv.Atoi: parsing \"99999999999999999999\": value out of range"
        );
    }
}
