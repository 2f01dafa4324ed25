//! AWS' signature version 4 over one request.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, HeaderValue};
use promesh_model::{Secret, Timestamp};
use sha2::{Digest as _, Sha256};

use crate::Request;

/// Who signs.
#[derive(Clone, Debug)]
pub struct AwsKey {
    /// The half that is sent.
    pub id: String,
    /// The half that is not.
    pub secret: Secret,
    /// Of temporary keys; empty for others.
    pub token: Secret,
}

/// Bytes as digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

/// `20260102T030405Z`.
fn basic_format(at: Timestamp) -> String {
    let text = Timestamp(at.ms().div_euclid(1000) * 1000).to_string();
    text.chars().filter(|sign| !matches!(sign, '-' | ':')).collect()
}

/// As AWS wants paths and queries written.
fn escaped(text: &str) -> String {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    percent_encoding::utf8_percent_encode(text, KEPT).to_string()
}

/// Signs a request, of whose headers host, date, content type and those of AWS itself are signed.
///
/// # Errors
/// A key that cannot stand in a header.
///
/// Source: AWS General Reference, "Signature Version 4 signing process".
pub fn sign(request: &mut Request, key: &AwsKey, (region, service): (&str, &str), at: Timestamp) -> Result<(), String> {
    let date = basic_format(at);
    let host = request.url.host_str().unwrap_or("").to_owned();
    let host = request.url.port().map_or(host.clone(), |port| format!("{host}:{port}"));
    secret_header(request, "x-amz-date", &date)?;
    if !key.token.is_empty() {
        secret_header(request, "x-amz-security-token", key.token.expose())?;
    }
    let mut headers = vec![("host".to_owned(), host)];
    for (name, value) in &request.headers {
        if name == "content-type" || name.as_str().starts_with("x-amz-") {
            headers.push((name.as_str().to_owned(), value.to_str().unwrap_or("").trim().to_owned()));
        }
    }
    headers.sort();
    let mut query: Vec<String> =
        request.url.query_pairs().map(|(name, value)| format!("{}={}", escaped(&name), escaped(&value))).collect();
    query.sort();
    let signed = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!(
        "{}\n{}\n{}\n{lines}\n{signed}\n{}",
        request.method,
        request.url.path(),
        query.join("&"),
        hex(&Sha256::digest(&request.body))
    );
    let scope = format!("{}/{region}/{service}/aws4_request", &date[..8]);
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut signing_key = format!("AWS4{}", key.secret.expose()).into_bytes();
    for part in [&date[..8], region, service, "aws4_request"] {
        signing_key = hmac(&signing_key, part);
    }
    let signature = hex(&hmac(&signing_key, &to_sign));
    let value =
        format!("AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}", key.id);
    secret_header(request, "authorization", &value)
}

fn secret_header(request: &mut Request, name: &'static str, value: &str) -> Result<(), String> {
    let value = HeaderValue::from_str(value).map_err(|_| format!("the value for the header {name} cannot be sent"));
    let mut value = value?;
    value.set_sensitive(true);
    request.headers.insert(HeaderName::from_static(name), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of AWS' own description: `GET iam ListUsers`.
    #[test]
    fn aws_own_example_is_signed_as_aws_signs_it() {
        let url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08".parse().expect("a URL");
        let mut request = Request::get(url);
        let form = "application/x-www-form-urlencoded; charset=utf-8";
        request.headers.insert("content-type", form.parse().expect("a header"));
        let key = AwsKey {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            token: Secret::default(),
        };
        // 2015-08-30T12:36:00Z
        sign(&mut request, &key, ("us-east-1", "iam"), Timestamp(1_440_938_160_000)).expect("signed");
        assert_eq!(
            request.headers["authorization"],
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, \
             Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
        );
        assert!(!format!("{request:?}").contains("AKIDEXAMPLE"), "credentials are never printed");
    }
}
