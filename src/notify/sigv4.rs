//! Amazon's signature version 4, for one request with a body.
//!
//! Source: AWS "Create a signed AWS API request"; the published test suite.

use hmac::{Hmac, KeyInit as _, Mac as _};
use promesh_model::Timestamp;
use promesh_template::clock::Time;
use sha2::{Digest as _, Sha256};

/// Whose signature, and for what.
pub struct Signer<'a> {
    /// The public half of the key.
    pub access_key: &'a str,
    /// The secret half.
    pub secret_key: &'a str,
    /// `eu-central-1`.
    pub region: &'a str,
    /// `sns`.
    pub service: &'a str,
}

/// A request to sign; header names in lower case.
pub struct Unsigned<'a> {
    /// `POST`.
    pub method: &'a str,
    /// The path, `/` at least.
    pub path: &'a str,
    /// The headers that are signed, `host` among them, without the date.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

impl Signer<'_> {
    /// The values of `x-amz-date` and `authorization`.
    pub fn sign(&self, request: &Unsigned<'_>, now: Timestamp) -> (String, String) {
        let at = Time::from(now);
        let (day, instant) = (at.format("20060102"), at.format("20060102T150405Z"));
        let mut headers: Vec<(&str, &str)> = request.headers.to_vec();
        headers.push(("x-amz-date", &instant));
        headers.sort_unstable();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
        let body = hex(&Sha256::digest(request.body));
        let canonical = format!("{}\n{}\n\n{lines}\n{names}\n{body}", request.method, request.path);
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let hashed = hex(&Sha256::digest(canonical.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{instant}\n{scope}\n{hashed}");
        let mut key = format!("AWS4{}", self.secret_key).into_bytes();
        for part in [&*day, self.region, self.service, "aws4_request"] {
            key = mac(&key, part);
        }
        let signature = hex(&mac(&key, &to_sign));
        let credential = format!("{}/{scope}", self.access_key);
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}");
        (instant, authorization)
    }
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `get-vanilla` and `post-vanilla` of the published test suite.
    #[test]
    fn signatures_are_amazons() {
        let signer = Signer {
            access_key: "AKIDEXAMPLE",
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            service: "service",
        };
        for (method, signature) in [
            ("GET", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ] {
            let headers = [("host", "example.amazonaws.com")];
            let request = Unsigned { method, path: "/", headers: &headers, body: b"" };
            let (at, authorization) = signer.sign(&request, Timestamp(1_440_938_160_000));
            assert_eq!(at, "20150830T123600Z");
            assert!(authorization.ends_with(&format!("Signature={signature}")), "{method}: {authorization}");
        }
    }
}
