//! The threads that scrape.
//!
//! Scraping has threads of its own: neither queries nor pages that are served keep a slot waiting, and what belongs to a
//! scrape (its task, its connection, its timers) lives on one thread and wakes no other. Each runs one task at a time, so
//! what takes long does not belong here: long answers are read elsewhere.

use std::io;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use promesh_replication::SourceId;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// A thread reads two million samples a second, more than its share of a machine's disk: there need not be one a core.
const CORES_PER_THREAD: usize = 4;
const THREADS_MAX: usize = 8;

/// Threads for scrapes.
pub struct Scrapers {
    handles: Vec<Handle>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ended: CancellationToken,
}

impl Scrapers {
    /// Starts them.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor.
    pub fn start() -> io::Result<Scrapers> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ended = CancellationToken::new();
        let (mut handles, mut threads) = (Vec::new(), Vec::new());
        for _ in 0..(cores / CORES_PER_THREAD).clamp(1, THREADS_MAX) {
            let runtime = Builder::new_current_thread().enable_all().thread_name("scrape").build()?;
            handles.push(runtime.handle().clone());
            let ended = ended.clone();
            let body = move || runtime.block_on(ended.cancelled());
            threads.push(std::thread::Builder::new().name("scrape".to_owned()).spawn(body)?);
        }
        Ok(Scrapers { handles, threads: Mutex::new(threads), ended })
    }

    /// Where a source is scraped: always on the same thread, as its connection is.
    pub fn of(&self, source: SourceId) -> &Handle {
        &self.handles[(source.0 % self.handles.len() as u128) as usize]
    }

    /// Ends them, and whatever they still do.
    pub fn end(&self) {
        self.ended.cancel();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}
