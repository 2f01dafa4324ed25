//! The grouping key of a path: `/job/<job>{/<label>/<value>}`, each name perhaps with `@base64`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use percent_encoding::percent_decode_str;
use promesh_model::Labels;
use promesh_model::labels::is_classic_label_name;
use thiserror::Error;

/// The end of a label name whose value is encoded.
const BASE64: &str = "@base64";
/// Labels of one key: a path is bounded, and so is what is made of it.
const LABELS_MAX: usize = 64;

/// What is wrong with a path. All are the client's fault: 400.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A name without a value.
    #[error("odd number of components in label string {0:?}")]
    Odd(String),
    /// Not a label's name, or one that is reserved.
    #[error("improper label name {0:?}")]
    Name(String),
    /// A value that is not what its name promises.
    #[error("invalid value for label {name:?}: {why}")]
    Value {
        /// The label.
        name: String,
        /// Why.
        why: String,
    },
    /// The job is not named.
    #[error("job name is required")]
    Job,
    /// More labels than anybody means.
    #[error("more than {LABELS_MAX} labels in the grouping key")]
    Many,
}

/// The labels that a path names: what follows `/metrics/`, still percent-encoded.
///
/// # Errors
/// As [`KeyError`] says.
pub fn grouping_key(path: &str) -> Result<Labels, KeyError> {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let (pairs, rest) = parts.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(KeyError::Odd(path.to_owned()));
    }
    if pairs.len() > LABELS_MAX {
        return Err(KeyError::Many);
    }
    let mut labels = Labels::empty().to_builder();
    for [name, value] in pairs {
        let (name, encoded) = match name.strip_suffix(BASE64) {
            Some(name) => (name, true),
            None => (*name, false),
        };
        if !is_classic_label_name(name) || name.starts_with("__") {
            return Err(KeyError::Name(name.to_owned()));
        }
        let value = decoded(value, encoded).map_err(|why| KeyError::Value { name: name.to_owned(), why })?;
        if name == "job" && value.is_empty() {
            return Err(KeyError::Job);
        }
        labels.set(name, &value);
    }
    let labels = labels.build();
    if labels.value("job").is_empty() { Err(KeyError::Job) } else { Ok(labels) }
}

/// A value in the clear. Padding may be left out or not; the empty value is written as padding alone.
fn decoded(value: &str, encoded: bool) -> Result<String, String> {
    let plain = percent_decode_str(value).decode_utf8().map_err(|error| error.to_string())?;
    if !encoded {
        return Ok(plain.into_owned());
    }
    let bytes = URL_SAFE_NO_PAD.decode(plain.trim_end_matches('=')).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: &str) {
        let found = grouping_key(path).map_or_else(|error| format!("error: {error}"), |labels| labels.to_string());
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn paths_are_read_as_the_pushgateway_reads_them() {
        check("job/some_job", r#"{job="some_job"}"#);
        check("job/some_job/instance/10.0.0.1:80/", r#"{instance="10.0.0.1:80", job="some_job"}"#);
        check("job@base64/c29tZV9qb2I", r#"{job="some_job"}"#);
        check("job/a/path@base64/L3Zhci90bXA=", r#"{job="a", path="/var/tmp"}"#);
        check("job/a/path@base64/L3Zhci90bXA", r#"{job="a", path="/var/tmp"}"#);
        check("job/titan/name/%CE%A0%CF%81", r#"{job="titan", name="Πρ"}"#);
        check("job/titan/name@base64/zqDPgQ", r#"{job="titan", name="Πρ"}"#);
        // An empty value is no label, as everywhere.
        check("job/a/first@base64/=", r#"{job="a"}"#);
        check("job/a%2Fb", r#"{job="a/b"}"#);
        check("job/a/b", "error: odd number of components in label string \"job/a/b\"");
        check("job@base64/=", "error: job name is required");
        check("instance/a", "error: job name is required");
        check("job/a/__name__/x", "error: improper label name \"__name__\"");
        check("job/a/b-c/x", "error: improper label name \"b-c\"");
        check("job/a/b@base64/%21", "error: invalid value for label \"b\": Invalid symbol 33, offset 0.");
        check("job/a/b/%ff", "error: invalid value for label \"b\": invalid utf-8 sequence of 1 bytes from index 0");
        check(&format!("job/a{}", "/b/c".repeat(64)), "error: more than 64 labels in the grouping key");
    }
}
