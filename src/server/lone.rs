//! Runtimes beside the main one.

use std::io;
use std::mem::ManuallyDrop;

use tokio::runtime::{Builder, Handle};

/// How much nicer reads are to other threads: where both want a core, a read gets a third of it.
const READ_NICENESS: i32 = 5;
/// And copies: against a read, a quarter.
const COPY_NICENESS: i32 = 10;

/// A runtime of one thread of that name, until the process ends. What is given to such a thread wakes only it, where a
/// runtime of several has the woken one wake the next to look for more.
///
/// # Errors
/// When the system gives no thread.
pub fn runtime(name: &str) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// Where queries run, until the process ends: on threads that stand back for those that scrape, write what others scrape, and
/// beat. Questions that ask for more than the machine has must not make the others take this peer for dead.
///
/// # Errors
/// When the system gives no threads.
pub fn reading() -> io::Result<Handle> {
    standing_back("reading", READ_NICENESS)
}

/// Where chunks are copied, to this peer and from it: on threads that stand back for queries too. After a death all that held
/// less than R copies is copied at once, just when people look.
///
/// # Errors
/// When the system gives no threads.
pub fn copying() -> io::Result<Handle> {
    standing_back("copying", COPY_NICENESS)
}

/// A runtime of threads that are so much nicer to others, until the process ends.
fn standing_back(name: &str, niceness: i32) -> io::Result<Handle> {
    let stand_back = move || {
        // Of the calling thread alone, on Linux. Where that is refused, it is as urgent as all else.
        let _ = rustix::process::setpriority_process(None, niceness);
    };
    let runtime = Builder::new_multi_thread().thread_name(name).on_thread_start(stand_back).enable_all().build()?;
    // Dropped, it would wait for what runs.
    Ok(ManuallyDrop::new(runtime).handle().clone())
}
