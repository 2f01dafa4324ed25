//! Sending what waits, with upstream's rules of what is tried again.
//!
//! A receiver that is away or overloaded (no answer, 5xx, 429 if so configured) gets the same request again, later and
//! later, or when its `Retry-After` says; anything else it refuses is gone. Samples that it may have already go in smaller
//! and smaller requests once it refuses them, since a receiver of 1.0 refuses a request for one sample.
//!
//! Source: prometheus `storage/remote/queue_manager.go`, `client.go`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use promesh_client::{HttpClient, Request, Signer, redacted};
use promesh_config::prometheus::{QueueConfig, RemoteWriteConfig, WriteMessage};
use promesh_model::ingest::Metadata;
use promesh_model::time::Clock;
use promesh_trace::Kind;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::encode;
use crate::queue::{Item, Queue, Value};

/// So many items of a request that was not taken are logged, if that is asked for.
const LOGGED_ITEMS_MAX: usize = 100;
/// A request of so many bytes is not split where it is said to be too large.
const SMALL_BYTES: usize = 64 << 10;
/// An answer is read so far: for the log.
const ANSWER_BYTES_MAX: usize = 1024;
/// Parts of one request that are refused before the rest is given up, unless they may be repeats.
const REFUSALS_MAX: usize = 64;
/// Between two looks at the queue while nothing is said.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// How often the number of senders is thought over.
const RESHARD_PERIOD: Duration = Duration::from_secs(10);

/// What was counted of one receiver; names as upstream's.
#[derive(Debug, Default)]
pub struct Counters {
    /// Samples sent.
    pub samples: AtomicU64,
    /// Histograms sent.
    pub histograms: AtomicU64,
    /// Exemplars sent.
    pub exemplars: AtomicU64,
    /// Families of metadata sent.
    pub metadata: AtomicU64,
    /// Items that the receiver refused for good.
    pub failed: AtomicU64,
    /// Items sent again.
    pub retried: AtomicU64,
    /// Items dropped before they were sent: relabelled away, or too old.
    pub dropped: AtomicU64,
    /// Bytes of requests, compressed.
    pub bytes: AtomicU64,
    /// The newest instant sent, in ms.
    pub highest_sent: AtomicI64,
    /// Senders at work.
    pub shards: AtomicU64,
}

/// Everything about one receiver.
pub struct Sender {
    /// Its queue.
    pub queue: Queue,
    /// What was counted.
    pub counters: Counters,
    /// Its settings.
    pub config: RemoteWriteConfig,
    url: Url,
    client: HttpClient,
    headers: HeaderMap,
    /// The receiver answered that it does not know messages of 2.0: it gets those of 1.0 from then on.
    falls_back: AtomicBool,
    /// Who signs requests for AWS.
    signer: Option<Signer>,
    clock: Arc<dyn Clock>,
}

/// What became of a request.
enum Sent {
    Taken,
    Again(Option<Duration>, String),
    /// Not in this form, and now in an older one.
    InOlderForm,
    /// Something in it, or all of it: perhaps a part would be taken.
    RefusedPart(String),
    Refused(String),
}

impl Sender {
    /// A sender that does nothing yet.
    ///
    /// # Errors
    /// What cannot be used of its settings.
    pub fn new(config: RemoteWriteConfig, clock: Arc<dyn Clock>) -> Result<Sender, String> {
        let signer = config.sigv4.as_ref().map(Signer::new).transpose();
        let signer = signer.map_err(|why| format!("remote_write: {why}"))?;
        let url = config.url.as_ref().expect("checked when it was read");
        let url = url.url().clone();
        let client = match config.round_robin_dns {
            true => HttpClient::spread(&config.http.0),
            false => HttpClient::new(&config.http.0),
        };
        let client = client.map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header {name:?}: {error}"))?;
            let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
            headers.insert(name, value);
        }
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("snappy"));
        let falls_back = AtomicBool::new(false);
        let queue = &config.queue_config;
        let capacity = (queue.capacity as usize).saturating_mul(queue.max_shards as usize).min(500_000);
        let (queue, counters) = (Queue::new(capacity), Counters::default());
        Ok(Sender { queue, counters, url, client, headers, falls_back, signer, clock, config })
    }

    /// The message it sends: what was asked for, unless the receiver does not take that.
    pub fn message(&self) -> WriteMessage {
        if self.falls_back.load(Ordering::Relaxed) { WriteMessage::V1 } else { self.config.protobuf_message }
    }

    /// Where it sends, for people.
    pub fn shown_url(&self) -> String {
        redacted(&self.url)
    }

    fn queue_config(&self) -> &QueueConfig {
        &self.config.queue_config
    }

    /// Sends until it is told to stop: as many senders as the backlog asks for.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (min, max) = (self.queue_config().min_shards as u64, self.queue_config().max_shards as u64);
        self.counters.shards.store(min, Ordering::Relaxed);
        let senders: Vec<_> =
            (0..max).map(|number| tokio::spawn(Arc::clone(&self).send_on(number, stop.clone()))).collect();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RESHARD_PERIOD) => {}
            }
            // A backlog of more than two requests a sender asks for more of them; none lets one go.
            let present = self.counters.shards.load(Ordering::Relaxed);
            let requests = (self.queue.pending() / self.queue_config().max_samples_per_send.max(1) as usize) as u64;
            let wanted = match requests {
                0 => present.saturating_sub(1),
                many if many > 2 * present => (present * 2).min(many),
                _ => present,
            };
            self.counters.shards.store(wanted.clamp(min, max), Ordering::Relaxed);
        }
        for sender in senders {
            let _ = sender.await;
        }
    }

    async fn send_on(self: Arc<Self>, number: u64, stop: CancellationToken) {
        let queue = self.queue_config().clone();
        let count = queue.max_samples_per_send as usize;
        while !stop.is_cancelled() {
            let taken = (number < self.counters.shards.load(Ordering::Relaxed))
                .then(|| self.queue.take(count, queue.batch_send_deadline, self.clock.now().monotonic))
                .flatten();
            let Some(mut taken) = taken else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = self.queue.changed(), if number == 0 => {}
                    () = tokio::time::sleep(LOOK_PERIOD) => {}
                }
                continue;
            };
            let (count, items) = (taken.items.len(), std::mem::take(&mut taken.items));
            // Told to stop, it lets go of what has not arrived: whoever comes next finds it by the progress.
            if self.deliver(items, &stop).await {
                self.queue.give_back(&taken, count);
            }
        }
    }

    /// Sends items until they have arrived or are refused; false when it was told to stop before.
    async fn deliver(&self, items: Vec<Item>, stop: &CancellationToken) -> bool {
        let mut stack = vec![items];
        // Refusals in a row: a receiver that takes nothing is not asked about every single sample.
        let mut refusals = 0;
        let mut back_off = self.queue_config().min_backoff;
        while let Some(items) = stack.pop() {
            let items = self.young_enough(items);
            if items.is_empty() {
                continue;
            }
            match self.post(&items).await {
                Sent::Taken => {
                    self.note_sent(&items);
                    refusals = 0;
                    back_off = self.queue_config().min_backoff;
                }
                Sent::RefusedPart(_)
                    if items.len() > 1 && (refusals < REFUSALS_MAX || items.iter().any(|item| item.may_repeat)) =>
                {
                    // Some of it is there already, sent by whoever had the shard before: the rest must not be lost.
                    refusals += 1;
                    let mut first = items;
                    let second = first.split_off(first.len() / 2);
                    stack.push(second);
                    stack.push(first);
                }
                Sent::Refused(why) | Sent::RefusedPart(why) => {
                    refusals += 1;
                    // What was a repeat is where it belongs.
                    let lost = items.iter().filter(|item| !item.may_repeat).count() as u64;
                    if lost > 0 {
                        self.counters.failed.fetch_add(lost, Ordering::Relaxed);
                        tracing::error!(url = %self.shown_url(), count = lost, why, "non-recoverable error while sending samples to remote");
                    }
                }
                // Once: the older form has none before it.
                Sent::InOlderForm => stack.push(items),
                Sent::Again(after, why) => {
                    self.counters.retried.fetch_add(items.len() as u64, Ordering::Relaxed);
                    let wait = after.unwrap_or(back_off);
                    tracing::warn!(url = %self.shown_url(), ?wait, why, "failed to send batch, retrying");
                    back_off = (back_off * 2).min(self.queue_config().max_backoff);
                    stack.push(items);
                    tokio::select! {
                        () = stop.cancelled() => return false,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
        true
    }

    fn young_enough(&self, mut items: Vec<Item>) -> Vec<Item> {
        let limit = self.queue_config().sample_age_limit;
        if !limit.is_zero() {
            let oldest = self.clock.now().wall.before(limit).ms();
            let before = items.len();
            items.retain(|item| item.at >= oldest);
            self.counters.dropped.fetch_add((before - items.len()) as u64, Ordering::Relaxed);
        }
        items
    }

    fn note_sent(&self, items: &[Item]) {
        for item in items {
            let counter = match item.value {
                Value::Float(_) => &self.counters.samples,
                Value::Histogram(_) => &self.counters.histograms,
                Value::Exemplar(_) => &self.counters.exemplars,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            self.counters.highest_sent.fetch_max(item.at, Ordering::Relaxed);
        }
    }

    async fn post(&self, items: &[Item]) -> Sent {
        let is_v2 = self.message() == WriteMessage::V2;
        // Histograms were put in for 2.0; 1.0 has them only where that is asked for.
        let keeps =
            |item: &&Item| is_v2 || self.config.send_native_histograms || !matches!(item.value, Value::Histogram(_));
        let kept: Vec<&Item> = items.iter().filter(keeps).collect();
        if kept.is_empty() {
            return Sent::Taken;
        }
        let message = if is_v2 { encode::v2(&kept) } else { encode::v1(&kept) };
        let (mut sent, headers) = self.post_message(&message, is_v2).await;
        if is_v2 && matches!(sent, Sent::Taken) && !says_written(&headers) {
            let why = "the receiver answered that it took the request and not that it wrote any of it: does it speak \
                       remote write 2.0? Else set protobuf_message: prometheus.WriteRequest";
            sent = Sent::Refused(why.to_owned());
        }
        if let Sent::Again(_, why) | Sent::RefusedPart(why) | Sent::Refused(why) = &sent
            && is_v2
            && self.config.failed_request_logging
        {
            let shown: Vec<String> = items.iter().take(LOGGED_ITEMS_MAX).map(described).collect();
            let (url, count) = (self.shown_url(), items.len());
            tracing::debug!(url, why, count, request = shown.join(", "), "failed to send remote write v2 request");
        }
        sent
    }

    async fn post_message(&self, message: &[u8], is_v2: bool) -> (Sent, HeaderMap) {
        match self.answer_to(message, is_v2).await {
            Ok((sent, headers)) => (sent, headers),
            Err(why) => (Sent::Again(None, why), HeaderMap::new()),
        }
    }

    /// What became of a message, and the headers of the answer.
    ///
    /// # Errors
    /// Why there is no answer, which is always worth another try.
    async fn answer_to(&self, message: &[u8], is_v2: bool) -> Result<(Sent, HeaderMap), String> {
        let body = snap::raw::Encoder::new().compress_vec(message).expect("messages are far below 4 GiB");
        self.counters.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        let (length, mut headers) = (body.len(), self.headers.clone());
        let (content_type, version) = match is_v2 {
            false => ("application/x-protobuf", "0.1.0"),
            true => ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0"),
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("x-prometheus-remote-write-version", HeaderValue::from_static(version));
        let mut request = Request { method: http::Method::POST, url: self.url.clone(), headers, body: body.into() };
        if let Some(signer) = &self.signer {
            signer.sign(&mut request, self.clock.now().wall)?;
        }
        // Settings that cannot be used may be mended while we run, too: a file that appears.
        let timeout = self.config.remote_timeout;
        let span = promesh_trace::span(Kind::Internal, "Remote Send Batch", || {
            vec![("remote_name", self.config.name.clone()), ("remote_url", redacted(&self.url))]
        });
        span.fact("request_size", message.len() as i64);
        let answer = span.around(self.client.send(request, timeout)).await.map_err(|error| {
            span.fail(&error);
            error.to_string()
        })?;
        let (status, headers, mut body) = (answer.status, answer.headers, Vec::new());
        // The status is the answer; a body that is too long or breaks off is cut.
        let whole = promesh_client::read_body(answer.body, &headers, ANSWER_BYTES_MAX << 10, &mut body);
        let _ = tokio::time::timeout(timeout, whole).await;
        if status.is_success() {
            return Ok((Sent::Taken, headers));
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(ANSWER_BYTES_MAX)]).trim().to_owned();
        let why = format!("server returned HTTP status {status}: {text}");
        let again = status.is_server_error() || (status.as_u16() == 429 && self.queue_config().retry_on_http_429);
        let sent = match status.as_u16() {
            _ if again => Sent::Again(retry_after(&headers, self.clock.now().wall.ms()), why),
            415 if is_v2 => {
                self.falls_back.store(true, Ordering::Relaxed);
                tracing::warn!(url = %self.shown_url(), why, "the receiver takes no messages of 2.0: it gets those of 1.0 from now on");
                Sent::InOlderForm
            }
            // A receiver of 2.0 has written what it could.
            400 if !is_v2 => Sent::RefusedPart(why),
            // A small request will not be taken when it is smaller.
            413 if length > SMALL_BYTES => Sent::RefusedPart(why),
            _ => Sent::Refused(why),
        };
        Ok((sent, headers))
    }

    /// Sends metadata of families, as 1.0 has it; what fails is said again with the next round.
    pub async fn send_metadata(&self, families: &[(String, Metadata)]) {
        let count = self.config.metadata_config.max_samples_per_send.max(1) as usize;
        for families in families.chunks(count) {
            match self.post_message(&encode::v1_metadata(families), false).await.0 {
                Sent::Taken => drop(self.counters.metadata.fetch_add(families.len() as u64, Ordering::Relaxed)),
                Sent::InOlderForm => return,
                Sent::Again(_, why) | Sent::Refused(why) | Sent::RefusedPart(why) => {
                    tracing::warn!(url = %self.shown_url(), why, "metadata could not be sent");
                    return;
                }
            }
        }
    }
}

/// Whether a receiver of 2.0 says that it wrote anything at all: one of 1.0 that looks at no content type reads such a
/// message as an empty one, and takes it.
fn says_written(headers: &HeaderMap) -> bool {
    ["samples", "histograms", "exemplars"].iter().any(|what| {
        let written = headers.get(format!("x-prometheus-remote-write-{what}-written"));
        written.and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).is_some_and(|count| count > 0)
    })
}

/// An item for the log.
fn described(item: &Item) -> String {
    let (labels, at) = (&item.series.labels, item.at);
    match &item.value {
        Value::Float(value) => format!("{labels} {value}@{at}"),
        Value::Histogram(_) => format!("{labels} histogram@{at}"),
        Value::Exemplar(exemplar) => format!("{labels} # {} {}@{at}", exemplar.labels, exemplar.value),
    }
}

/// `Retry-After`: seconds, or an instant as HTTP writes it. What names no time to come says nothing.
fn retry_after(headers: &HeaderMap, now_ms: i64) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(600))).filter(|wait| !wait.is_zero());
    }
    let at = http_date(text)?;
    let wait = u64::try_from(at - now_ms).ok().filter(|ms| *ms > 0)?;
    Some(Duration::from_millis(wait.min(600_000)))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in ms since the epoch.
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days from civil, after H. Hinnant.
    let year_from_march = if month <= 2 { year - 1 } else { year };
    let era = year_from_march.div_euclid(400);
    let year_of_era = year_from_march - era * 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((days * 86_400 + hour * 3600 + minute * 60 + second) * 1000)
}

#[cfg(test)]
mod tests;
