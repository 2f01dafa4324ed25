//! `sigv4` of remote write and of Alertmanagers: requests signed for AWS.

use promesh_config::prometheus::SigV4Config;
use promesh_model::{Secret, Timestamp};

use crate::Request;
use crate::aws::{self, AwsKey};

/// What Amazon's service for Prometheus is called in a signature.
const SERVICE: &str = "aps";

/// Who signs, and for what.
#[derive(Clone, Debug)]
pub struct Signer {
    key: AwsKey,
    region: String,
    service: String,
}

impl Signer {
    /// By the key of the configuration, else that of the environment.
    ///
    /// # Errors
    /// What is not there, and what is not built: profiles and roles.
    pub fn new(config: &SigV4Config) -> Result<Signer, String> {
        Signer::with(config, &|name| std::env::var(name).unwrap_or_default())
    }

    fn with(config: &SigV4Config, environment: &dyn Fn(&str) -> String) -> Result<Signer, String> {
        for (what, given) in [("profile", !config.profile.is_empty()), ("role_arn", !config.role_arn.is_empty())] {
            if given {
                return Err(format!("sigv4: {what} is not built yet: give access_key and secret_key"));
            }
        }
        let named = !config.access_key.is_empty();
        let key = if named {
            AwsKey { id: config.access_key.clone(), secret: config.secret_key.clone(), token: Secret::default() }
        } else {
            AwsKey {
                id: environment("AWS_ACCESS_KEY_ID"),
                secret: Secret::new(environment("AWS_SECRET_ACCESS_KEY")),
                token: Secret::new(environment("AWS_SESSION_TOKEN")),
            }
        };
        if key.id.is_empty() || key.secret.is_empty() {
            let why = "neither access_key and secret_key nor AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are given";
            return Err(format!("sigv4: {why}"));
        }
        let region = if config.region.is_empty() { environment("AWS_REGION") } else { config.region.clone() };
        if region.is_empty() {
            return Err("sigv4: neither region nor AWS_REGION is given".to_owned());
        }
        let service = if config.service_name.is_empty() { SERVICE } else { &config.service_name };
        Ok(Signer { key, region, service: service.to_owned() })
    }

    /// Signs a request as it will be sent.
    ///
    /// # Errors
    /// A key that cannot stand in a header.
    pub fn sign(&self, request: &mut Request, at: Timestamp) -> Result<(), String> {
        aws::sign(request, &self.key, (&self.region, &self.service), at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(access_key: &str, secret_key: &str, region: &str) -> SigV4Config {
        SigV4Config {
            access_key: access_key.to_owned(),
            secret_key: Secret::new(secret_key.to_owned()),
            region: region.to_owned(),
            ..SigV4Config::default()
        }
    }

    fn signed(config: &SigV4Config, environment: &dyn Fn(&str) -> String) -> Result<String, String> {
        let signer = Signer::with(config, environment)?;
        let url = "https://aps-workspaces.eu-central-1.amazonaws.com/workspaces/w/api/v1/remote_write";
        let mut request = Request::get(url.parse().expect("a URL"));
        signer.sign(&mut request, Timestamp(1_440_938_160_000))?;
        Ok(request.headers["authorization"].to_str().expect("text").to_owned())
    }

    #[test]
    fn the_key_is_the_configurations_or_the_environments() {
        let nothing = |_: &str| String::new();
        let variables = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => "ENVID".to_owned(),
            "AWS_SECRET_ACCESS_KEY" => "envsecret".to_owned(),
            "AWS_REGION" => "us-east-1".to_owned(),
            _ => String::new(),
        };
        let own = signed(&config("ID", "secret", "eu-central-1"), &nothing).expect("signed");
        assert!(own.contains("Credential=ID/20150830/eu-central-1/aps/aws4_request"), "{own}");
        let from_outside = signed(&config("", "", ""), &variables).expect("signed");
        assert!(from_outside.contains("Credential=ENVID/20150830/us-east-1/aps/aws4_request"), "{from_outside}");
        for (config, expected) in [
            (config("", "", "eu-central-1"), "AWS_ACCESS_KEY_ID"),
            (config("ID", "secret", ""), "AWS_REGION"),
            (SigV4Config { role_arn: "arn:x".to_owned(), ..config("ID", "secret", "r") }, "role_arn is not built"),
            (SigV4Config { profile: "p".to_owned(), ..config("ID", "secret", "r") }, "profile is not built"),
        ] {
            let why = signed(&config, &nothing).expect_err("something is missing");
            assert!(why.contains(expected) && !why.contains("secret\""), "{why}");
        }
    }
}
