use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;

use parking_lot::Mutex;
use promesh_model::{Labels, Monotonic, Now, Timestamp};

use super::*;
use crate::queue::OutSeries;

/// The machine's clock.
#[derive(Debug)]
struct Machine(std::time::Instant);

impl Clock for Machine {
    #[allow(clippy::disallowed_methods)] // a test looks at the clock
    fn now(&self) -> Now {
        let elapsed = self.0.elapsed();
        Now {
            monotonic: Monotonic(elapsed.as_nanos() as u64),
            wall: Timestamp(1_700_000_000_000 + elapsed.as_millis() as i64),
        }
    }
}

/// What a receiver answers, in order, the last for ever; and the requests that it got.
struct Receiver {
    url: String,
    got: Arc<Mutex<Vec<Vec<u8>>>>,
}

fn receiver(answers: &[&str]) -> Receiver {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/write", listener.local_addr().expect("bound"));
    let got: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let mut answers: VecDeque<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let seen = Arc::clone(&got);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    break;
                }
                if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = text.trim().parse().expect("a number");
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            seen.lock().push(snap::raw::Decoder::new().decompress_vec(&body).expect("snappy"));
            let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
            let mut stream = stream;
            let _ =
                write!(stream, "HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", answer.expect("one"));
        }
    });
    Receiver { url, got }
}

fn sender(receiver: &Receiver, more: &str) -> Arc<Sender> {
    let text = format!("remote_write:\n- url: {}\n{more}", receiver.url);
    let loaded = promesh_config::prometheus::load_text("p.yml", text.as_bytes(), std::path::Path::new(""), &Nothing)
        .expect("it loads");
    let config = loaded.config.remote_write[0].clone();
    #[allow(clippy::disallowed_methods)]
    let clock = Arc::new(Machine(std::time::Instant::now()));
    Arc::new(Sender::new(config, clock).expect("usable"))
}

/// No files.
struct Nothing;

impl promesh_config::Source for Nothing {
    fn read(&self, _: &std::path::Path) -> std::io::Result<Vec<u8>> {
        Err(std::io::ErrorKind::NotFound.into())
    }
    fn glob(&self, _: &str) -> std::io::Result<Vec<std::path::PathBuf>> {
        Ok(Vec::new())
    }
    fn variable(&self, _: &str) -> Option<String> {
        None
    }
}

fn items(count: i64, may_repeat: bool) -> Vec<Item> {
    let series = Arc::new(OutSeries::new(Labels::from_pairs([("__name__", "a")]), None));
    let item = |at| Item { series: Arc::clone(&series), at, start: 0, value: Value::Float(1.0), may_repeat };
    (1..=count).map(item).collect()
}

async fn delivered(sender: &Arc<Sender>, items: Vec<Item>) -> bool {
    let never = CancellationToken::new();
    let deliver = sender.deliver(items, &never);
    tokio::time::timeout(Duration::from_secs(20), deliver).await.expect("in time")
}

fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test]
async fn what_fails_on_the_receivers_side_is_tried_again_and_what_it_refuses_is_not() {
    let server = receiver(&["503 no", "500 no", "204 ok"]);
    let sending = sender(&server, "");
    assert!(delivered(&sending, items(3, false)).await);
    assert_eq!((count(&sending.counters.samples), count(&sending.counters.retried)), (3, 6));
    assert_eq!(server.got.lock().len(), 3);

    let server = receiver(&["404 no"]);
    let sending = sender(&server, "");
    assert!(delivered(&sending, items(3, false)).await);
    assert_eq!((count(&sending.counters.samples), count(&sending.counters.failed)), (0, 3));
    assert_eq!(server.got.lock().len(), 1);
}

#[tokio::test]
async fn a_receiver_that_takes_nothing_is_not_asked_about_every_sample() {
    let server = receiver(&["400 no"]);
    let sending = sender(&server, "");
    assert!(delivered(&sending, items(1000, false)).await);
    assert_eq!((count(&sending.counters.samples), count(&sending.counters.failed)), (0, 1000));
    assert!(server.got.lock().len() < 100);
}

#[tokio::test]
async fn too_many_requests_are_tried_again_only_if_so_configured_and_when_the_receiver_says() {
    let server = receiver(&["429 slow\r\nRetry-After: 1", "204 ok"]);
    let sending = sender(&server, "");
    assert!(delivered(&sending, items(1, false)).await);
    assert_eq!(count(&sending.counters.failed), 1);

    let server = receiver(&["429 slow\r\nRetry-After: 1", "204 ok"]);
    let sending = sender(&server, "  queue_config: {retry_on_http_429: true}\n");
    let began = sending.clock.now().monotonic;
    assert!(delivered(&sending, items(1, false)).await);
    assert_eq!(count(&sending.counters.samples), 1);
    assert!(sending.clock.now().monotonic.since(began) >= Duration::from_secs(1));
}

#[tokio::test]
async fn of_samples_that_may_repeat_only_the_repeats_are_lost() {
    // The whole is refused, then its first half; the second half is new.
    let server = receiver(&["400 out of order", "400 out of order", "400 out of order", "204 ok"]);
    let sending = sender(&server, "");
    assert!(delivered(&sending, items(4, true)).await);
    assert_eq!((count(&sending.counters.samples), count(&sending.counters.failed)), (3, 0));
}

#[tokio::test]
async fn a_receiver_of_one_that_takes_messages_of_two_without_reading_them_is_no_success() {
    let two = "  protobuf_message: io.prometheus.write.v2.Request\n";
    for (answer, taken) in [
        ("204 ok\r\nX-Prometheus-Remote-Write-Samples-Written: 3", 3),
        ("200 ok\r\nX-Prometheus-Remote-Write-Samples-Written: 0", 0),
        ("204 ok", 0),
    ] {
        let server = receiver(&[answer]);
        let sending = sender(&server, two);
        assert!(delivered(&sending, items(3, false)).await);
        let counted = (count(&sending.counters.samples), count(&sending.counters.failed));
        assert_eq!(counted, (taken, 3 - taken), "{answer}");
        assert_eq!(server.got.lock().len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_receiver_that_knows_only_one_gets_one_from_then_on() {
    let server = receiver(&["415 what is this?", "204 ok"]);
    let sending = sender(&server, "  protobuf_message: io.prometheus.write.v2.Request\n");
    assert!(delivered(&sending, items(2, false)).await && delivered(&sending, items(2, false)).await);
    assert_eq!((count(&sending.counters.samples), count(&sending.counters.failed)), (4, 0));
    let got = server.got.lock();
    // Series are field 5 in messages of 2.0, after the symbols in field 4, and field 1 in those of 1.0.
    assert_eq!(got.iter().map(|message| message[0] >> 3).collect::<Vec<_>>(), [4, 1, 1]);
}

#[tokio::test]
async fn a_refusal_is_a_refusal_whatever_its_words() {
    let two = "  protobuf_message: io.prometheus.write.v2.Request\n";
    // A receiver of 2.0 has written what it could: nothing is sent again.
    for answer in ["400 partly", "401 no", "404 no", "413 large", "429 slow"] {
        let server = receiver(&[answer]);
        let sending = sender(&server, two);
        assert!(delivered(&sending, items(5, true)).await);
        assert_eq!(server.got.lock().len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn told_to_stop_it_lets_go_of_what_has_not_arrived() {
    let server = receiver(&["503 no"]);
    let sending = sender(&server, "");
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(!sending.deliver(items(1, false), &stop).await);
}

#[test]
fn retry_after_is_seconds_or_an_instant() {
    let of = |text: &'static str| {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]);
        retry_after(&headers, 784_111_770_000)
    };
    assert_eq!(of("120"), Some(Duration::from_secs(120)));
    assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
    assert_eq!(of("soon"), None);
    // What is past, or no time at all, would be a request after the other.
    assert_eq!(of("Sun, 06 Nov 1994 08:49:30 GMT"), None);
    assert_eq!(of("0"), None);
}
