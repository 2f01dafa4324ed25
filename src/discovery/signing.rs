//! Signatures that clouds ask for: AWS' version 4, and JSON web tokens of service accounts.

use promesh_client::Request;
use promesh_client::aws;
pub(crate) use promesh_client::aws::{AwsKey, hex};
use promesh_model::{Secret, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{self, RsaEncoding, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::DiscoveryError;

/// Signs a request as AWS wants it.
///
/// # Errors
/// A key that cannot be sent.
pub(crate) fn sign_aws(
    request: &mut Request,
    key: &AwsKey,
    scope: (&str, &str),
    at: Timestamp,
) -> Result<(), DiscoveryError> {
    aws::sign(request, key, scope, at).map_err(DiscoveryError::Settings)
}

/// Which hash a token is signed with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RsaHash {
    Sha256,
    Sha512,
}

/// A JSON web token, signed with an RSA key in PEM.
///
/// Source: RFC 7519, RFC 7518 §3.3.
pub(crate) fn web_token(
    key_pem: &str,
    key_id: &str,
    claims: &serde_json::Value,
    hash: RsaHash,
) -> Result<Secret, DiscoveryError> {
    let unusable = |what: &dyn std::fmt::Display| DiscoveryError::Settings(format!("the private key: {what}"));
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|error| unusable(&error))?;
    let pair = match &key {
        PrivateKeyDer::Pkcs8(der) => RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(unusable(&"it is no RSA key")),
    };
    let pair = pair.map_err(|error| unusable(&error))?;
    let (name, encoding): (_, &'static dyn RsaEncoding) = match hash {
        RsaHash::Sha256 => ("RS256", &signature::RSA_PKCS1_SHA256),
        RsaHash::Sha512 => ("RS512", &signature::RSA_PKCS1_SHA512),
    };
    let header = serde_json::json!({"alg": name, "typ": "JWT", "kid": key_id});
    let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(claims));
    let mut bytes = vec![0; pair.public().modulus_len()];
    // PKCS #1 signatures are determined by key and text; the randomness only blinds the computation.
    pair.sign(encoding, &SystemRandom::new(), signed.as_bytes(), &mut bytes).map_err(|error| unusable(&error))?;
    Ok(Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_none_is_refused_without_being_shown() {
        let error = web_token("hunter2", "1", &serde_json::json!({}), RsaHash::Sha256).expect_err("no key");
        assert!(error.to_string().contains("the private key") && !error.to_string().contains("hunter2"));
    }
}
