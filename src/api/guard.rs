//! Who may come in: the file of `--web.config.file` at work.
//!
//! The file is looked at again when a connection comes, at most once a second, and so are the certificates it names: a
//! renewed certificate is in use without a restart. What is wrong with a changed file is logged, and the old one stays in
//! use. Passwords are bcrypt: costly on purpose, so that a sound answer is remembered (as a keyed hash of what was sent)
//! and a check runs on a thread that may block, few at once. An unknown user costs as much as a wrong password.

mod tls;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};
use parking_lot::Mutex;
use promesh_config::web::{WebConfig, load_text};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::xxh3_128_with_seed;

pub(crate) use tls::Admission;

use crate::respond::text;

/// How often the file is looked at, at most.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// Passwords checked at once; others wait.
const CHECKS_MAX: usize = 2;
/// Sound credentials remembered.
const REMEMBERED_MAX: usize = 1000;
/// A hash that fits no password: what unknown users are checked against.
const NOBODY: &str = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi";

/// One reading of the file and of what it names.
struct Reading {
    config: WebConfig,
    headers: Vec<(HeaderName, HeaderValue)>,
    tls: Option<tls::Tls>,
    /// Of all bytes read.
    digest: u128,
}

struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

/// The door of the HTTP side. Clones share it.
#[derive(Clone)]
pub struct Guard(Arc<Shared>);

struct Shared {
    path: PathBuf,
    reading: ArcSwap<Reading>,
    looked_at: Mutex<Instant>,
    /// Drawn at the start: remembered hashes say nothing to whoever reads memory of another process.
    seed: u64,
    remembered: Mutex<HashMap<u128, bool>>,
    checks: Semaphore,
    bucket: Mutex<Bucket>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Guard {
    /// Reads the file. `seed` is drawn by the caller.
    ///
    /// # Errors
    /// Everything wrong with it, or with certificates that it names.
    #[allow(clippy::disallowed_methods)] // spans between two looks at a file, and a token bucket
    pub fn load(path: &Path, seed: u64) -> Result<Guard, String> {
        let reading = Reading::read(path)?;
        let bucket = Bucket { tokens: reading.config.rate_limit.burst as f64, filled_at: Instant::now() };
        Ok(Guard(Arc::new(Shared {
            path: path.to_owned(),
            reading: ArcSwap::from_pointee(reading),
            looked_at: Mutex::new(Instant::now()),
            seed,
            remembered: Mutex::default(),
            checks: Semaphore::new(CHECKS_MAX),
            bucket: Mutex::new(bucket),
        })))
    }

    /// Whether TLS is spoken, for whoever prints addresses.
    pub fn speaks_tls(&self) -> bool {
        self.0.reading.load().tls.is_some()
    }

    /// How the next connection is to be taken.
    pub(crate) fn admission(&self) -> Admission {
        self.look();
        let reading = self.0.reading.load();
        match &reading.tls {
            Some(tls) => Admission::Tls(tls.secured(reading.config.http_server_config.http2)),
            None => Admission::Clear,
        }
    }

    /// Reads the file again if it, or a certificate, has changed.
    #[allow(clippy::disallowed_methods)]
    fn look(&self) {
        {
            let mut looked_at = self.0.looked_at.lock();
            if looked_at.elapsed() < LOOK_PERIOD {
                return;
            }
            *looked_at = Instant::now();
        }
        match Reading::read(&self.0.path) {
            Ok(reading) if reading.digest == self.0.reading.load().digest => {}
            Ok(reading) => {
                tracing::info!(file = %self.0.path.display(), "the web configuration has changed and is in use");
                self.0.remembered.lock().clear();
                self.0.reading.store(Arc::new(reading));
            }
            Err(error) => {
                tracing::error!(error, "the web configuration could not be read again, the old one stays in use");
            }
        }
    }

    /// Takes a token; false when there is none.
    #[allow(clippy::disallowed_methods)]
    fn has_token(&self, reading: &Reading) -> bool {
        let limit = &reading.config.rate_limit;
        if limit.interval.is_zero() {
            return true;
        }
        let mut bucket = self.0.bucket.lock();
        let now = Instant::now();
        let refill = now.duration_since(bucket.filled_at).as_secs_f64() / limit.interval.as_secs_f64();
        bucket.tokens = (bucket.tokens + refill).min(limit.burst.max(1) as f64);
        bucket.filled_at = now;
        let has = bucket.tokens >= 1.0;
        if has {
            bucket.tokens -= 1.0;
        }
        has
    }

    async fn knows(&self, reading: &Reading, credentials: Option<(String, String)>) -> bool {
        let users = &reading.config.basic_auth_users;
        if users.is_empty() {
            return true;
        }
        let Some((user, password)) = credentials else { return false };
        let known = users.get(&user).map(|hash| hash.expose().to_owned());
        let hash = known.clone().unwrap_or_else(|| NOBODY.to_owned());
        let mut keyed = Vec::with_capacity(user.len() + hash.len() + password.len() + 2);
        for part in [&user, &hash, &password] {
            keyed.extend_from_slice(part.as_bytes());
            keyed.push(0xff);
        }
        let key = xxh3_128_with_seed(&keyed, self.0.seed);
        if let Some(sound) = self.0.remembered.lock().get(&key) {
            return *sound && known.is_some();
        }
        let Ok(_permit) = self.0.checks.acquire().await else { return false };
        let checked = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        let sound = checked.unwrap_or(false) && known.is_some();
        // Only sound answers: whoever guesses must not fill the memory.
        if sound {
            let mut remembered = self.0.remembered.lock();
            if remembered.len() >= REMEMBERED_MAX {
                remembered.clear();
            }
            remembered.insert(key, true);
        }
        sound
    }
}

impl Reading {
    fn read(path: &Path) -> Result<Reading, String> {
        let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let config = load_text(path, &text).map_err(|errors| errors.to_string())?;
        if config.tls_server_config.as_ref().is_some_and(|tls| !tls.prefer_server_cipher_suites) {
            let file = path.display();
            tracing::warn!(%file, "prefer_server_cipher_suites: false has no effect: the server's order counts");
        }
        let mut all = text;
        let tls = match &config.tls_server_config {
            Some(settings) => Some(tls::Tls::build(settings, &mut all)?),
            None => None,
        };
        let header = |(name, value): (&String, &String)| {
            let bad = |why: &dyn std::fmt::Display| format!("{}: header {name:?}: {why}", path.display());
            let name = HeaderName::try_from(name.as_str()).map_err(|error| bad(&error))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| bad(&error))?;
            Ok((name, value))
        };
        let headers = config.http_server_config.headers.iter().filter(|(_, value)| !value.is_empty());
        let headers = headers.map(header).collect::<Result<Vec<_>, String>>()?;
        Ok(Reading { headers, tls, digest: xxh3_128_with_seed(&all, 0), config })
    }
}

fn credentials(request: &Request) -> Option<(String, String)> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// The layer around all routes.
pub(crate) async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    guard.look();
    let reading = guard.0.reading.load_full();
    let mut response = if !guard.has_token(&reading) {
        text(StatusCode::TOO_MANY_REQUESTS, "Too Many Requests")
    } else if guard.knows(&reading, credentials(&request)).await {
        next.run(request).await
    } else {
        let mut response = text(StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
        response
    };
    for (name, value) in &reading.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

#[cfg(test)]
mod tests;
