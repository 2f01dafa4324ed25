//! Runtimes of one thread: what is given to such a thread wakes only it, where a runtime of several has the woken one wake
//! the next to look for more.

use std::io;

use tokio::runtime::{Builder, Handle};

/// A runtime of one thread of that name, until the process ends.
///
/// # Errors
/// When the system gives no thread.
pub fn runtime(name: &str) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}
