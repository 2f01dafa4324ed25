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
    /// What could not be read, in Go's words.
    broken: Option<String>,
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

    /// That everything could be read: some endpoints ask, most take what they can read.
    pub fn check(&self) -> Result<(), ApiError> {
        match &self.broken {
            None => Ok(()),
            Some(why) => Err(ApiError::bad_data(format!("error parsing form values: {why}"))),
        }
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
    parse_form(bytes).0
}

/// The pairs that can be read, and what is wrong with the others: the first bad escape, or a semicolon.
fn parse_form(bytes: &[u8]) -> (Vec<(String, String)>, Option<String>) {
    let (mut pairs, mut broken) = (Vec::new(), None);
    for pair in bytes.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
        // It separates nothing since Go 1.17.
        if pair.contains(&b';') {
            broken = Some("invalid semicolon separator in query".to_owned());
            continue;
        }
        let split = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        match (decode(&pair[..split]), decode(pair.get(split + 1..).unwrap_or_default())) {
            (Ok(key), Ok(value)) => pairs.push((key, value)),
            (Err(why), _) | (_, Err(why)) => broken = broken.or(Some(why)),
        }
    }
    (pairs, broken)
}

/// Percent escapes and plus signs, as Go's `url.QueryUnescape`. Bytes that are no text are told apart from none.
fn decode(part: &[u8]) -> Result<String, String> {
    let is_hex = |at: usize| part.get(at).is_some_and(u8::is_ascii_hexdigit);
    let is_bad = |at: &usize| part[*at] == b'%' && !(is_hex(at + 1) && is_hex(at + 2));
    if let Some(at) = (0..part.len()).find(is_bad) {
        let escape = String::from_utf8_lossy(&part[at..part.len().min(at + 3)]);
        return Err(format!("invalid URL escape {}", promesh_model::labels::quoted(&escape)));
    }
    let spaced: Vec<u8> = part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    Ok(percent_decode(&spaced).decode_utf8_lossy().into_owned())
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
        let (address, broken) = parse_form(request.uri().query().unwrap_or("").as_bytes());
        if !has_form(&request) {
            return Ok(Form { body: Vec::new(), address, broken });
        }
        let body = Limited::new(request.into_body(), FORM_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| ApiError::bad_data(format!("error parsing form values: {error}")).into_response())?;
        let (body, broken_body) = parse_form(&body.to_bytes());
        Ok(Form { body, address, broken: broken_body.or(broken) })
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
        assert_eq!(parse_pairs(b"a;b=1&c=2&d=%ff&e=%zz"), text(&[("c", "2"), ("d", "\u{fffd}")]));
        let broken = |bytes: &[u8]| parse_form(bytes).1;
        assert_eq!(broken(b"a=1&b=%4"), Some("invalid URL escape \"%4\"".to_owned()));
        assert_eq!(broken(b"%zz=1&b=2"), Some("invalid URL escape \"%zz\"".to_owned()));
        assert_eq!(broken(b"a=1;b=2"), Some("invalid semicolon separator in query".to_owned()));
        assert_eq!(broken(b"a=1&b=%41"), None);
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
