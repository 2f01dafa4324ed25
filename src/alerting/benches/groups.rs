//! 100,000 groups in one mind: bytes a group, and how late the last of them is decided.
//!
//! `cargo bench -p promesh-alerting --bench groups`, with `PROMESH_GROUPS=n` for another number. The mind is driven as the server
//! drives it: inputs one after another, a clock that runs on by the processor time that it takes, answers of disk and receiver at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use promesh_alerting::api::AlertFilter;
use promesh_alerting::{AlertPeer, Alerting, Input, Limits, Outcome, Output, PostedAlert, Setup, Timing};
use promesh_model::{Labels, Monotonic, Now, PeerId, Timestamp};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all of it is the system's allocator's; only sizes are added up.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONFIG: &str = "
route: {receiver: hook, group_by: [alertname], group_wait: 2s, group_interval: 10s, repeat_interval: 4h}
receivers: [{name: hook, webhook_configs: [{url: 'http://hook/'}]}]
";
const ME: PeerId = PeerId(1);

/// The mind, and the time it has taken.
struct Driver {
    mind: Alerting,
    /// When it all began, and how much of the wall's time has passed since: what the mind took, and what was waited.
    passed: Duration,
    /// Outputs that want an answer.
    answers: Vec<Input>,
    /// Lateness of each decision to send.
    late: Vec<Duration>,
    slowest: Duration,
}

/// What this thread has had of the processor: how busy the machine is says nothing about the mind.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

const EPOCH_MS: i64 = 1_700_000_000_000;

impl Driver {
    fn now(&self) -> Now {
        let ms = i64::try_from(self.passed.as_millis()).expect("a short run");
        Now { monotonic: Monotonic::default() + self.passed, wall: Timestamp(EPOCH_MS + ms) }
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        let began = processor_time();
        self.mind.handle(input, now);
        let mut outputs = Vec::new();
        while let Some(output) = self.mind.poll_output() {
            outputs.push(output);
        }
        let took = processor_time() - began;
        self.passed += took;
        self.slowest = self.slowest.max(took);
        for output in outputs {
            match output {
                Output::Persist { token, .. } => self.answers.push(Input::Persisted { token }),
                Output::Notify { claim, notification, .. } => {
                    self.late.push(self.now().wall.since(notification.flush));
                    self.answers.push(Input::Notified { claim, outcome: Outcome::Sent { data: Default::default() } });
                }
                _ => {}
            }
        }
    }

    /// Gives answers and timers until so much time has passed.
    fn run_for(&mut self, span: Duration) {
        let until = self.passed + span;
        loop {
            while let Some(answer) = self.answers.pop() {
                self.handle(answer);
            }
            let wake = self.mind.poll_timeout().map_or(span, |at| at.since(Monotonic::default()));
            if self.passed >= until {
                return;
            }
            self.passed = self.passed.max(wake.min(until));
            self.handle(Input::Timeout);
        }
    }
}

fn main() {
    let groups: usize = std::env::var("PROMESH_GROUPS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let config = promesh_config::alertmanager::load("a.yml", CONFIG.as_bytes(), Path::new("")).expect("it loads");
    let setup = Setup {
        me: ME,
        boot: 1,
        seed: 1,
        config: Arc::new(config),
        digest: 7,
        timing: Timing::default(),
        limits: Limits::default(),
        has_seeds: false,
        records: Vec::new(),
    };
    let now = Now { monotonic: Monotonic::default(), wall: Timestamp(EPOCH_MS) };
    let mut driver = Driver {
        mind: Alerting::new(setup, now),
        passed: Duration::ZERO,
        answers: Vec::new(),
        late: Vec::new(),
        slowest: Duration::ZERO,
    };
    let me = AlertPeer { id: ME, ready: true, zone: String::new(), weight: 4, alerting_digest: Some(7) };
    driver.handle(Input::View { members: vec![me], view: 1 });
    driver.run_for(Duration::from_secs(5));
    let before = HELD.load(Ordering::Relaxed);
    // As a storm comes: a thousand at once, over and over, spread over twenty seconds.
    let parts = groups.div_ceil(1000);
    let pause = Duration::from_secs(20) / parts as u32;
    for part in 0..parts {
        let alerts = (part * 1000..((part + 1) * 1000).min(groups)).map(|n| PostedAlert {
            labels: Labels::from_pairs([
                ("alertname", &*format!("Alert{n}")),
                ("instance", "host:9100"),
                ("job", "node"),
            ]),
            annotations: Labels::from_pairs([("summary", "something is wrong with this one, look at it")]),
            ends_at: Some(Timestamp(EPOCH_MS + 3_600_000)),
            ..PostedAlert::default()
        });
        let alerts = alerts.collect();
        driver.handle(Input::Post { token: part as u64, alerts });
        driver.run_for(pause);
    }
    let posted = driver.passed;
    driver.run_for(Duration::from_secs(30));
    let held = HELD.load(Ordering::Relaxed).saturating_sub(before);
    assert_eq!(driver.late.len(), groups, "each group is told once");
    driver.late.sort();
    let quantile = |q: f64| driver.late[((driver.late.len() - 1) as f64 * q) as usize];
    println!("{groups} groups posted within {posted:.1?}");
    println!("bytes a group: {}", held / groups);
    println!("lateness of decisions: p50 {:?}, p99 {:?}, worst {:?}", quantile(0.5), quantile(0.99), quantile(1.0));
    println!("longest input: {:?}", driver.slowest);
    // What a list of all of them takes of the mind, page by page.
    let (mut pages, mut slowest, mut listed, mut after) = (0, Duration::ZERO, 0, None);
    let began = processor_time();
    loop {
        let before = processor_time();
        let page = driver.mind.alerts_page(&AlertFilter::default(), after, driver.now());
        slowest = slowest.max(processor_time() - before);
        (pages, listed, after) = (pages + 1, listed + page.found.len(), page.next);
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, groups, "the list is whole");
    println!("a list of all: {pages} pages, {:?} in all, the longest {slowest:?}", processor_time() - began);
    // With nothing to do but keep them, a second of the mind costs:
    let idle = driver.passed;
    driver.slowest = Duration::ZERO;
    driver.run_for(Duration::from_secs(60));
    println!("then a minute of keeping them: longest input {:?} ({:?} passed)", driver.slowest, driver.passed - idle);
}
