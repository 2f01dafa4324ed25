//! The thread that connections live on.
//!
//! All that QUIC does is done by one thread with a runtime of its own. A packet that comes wakes this thread, and what
//! follows from it up to the channel of events wakes no other; on a runtime of several threads each wakes the next to look
//! for work. On a machine with time to spare a wake-up costs more than the packet that it is for.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, TokioRuntime};
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// A running thread of that kind; clones are the same thread.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    handle: Handle,
    life: Arc<Life>,
}

#[derive(Debug)]
struct Life {
    ends: watch::Sender<bool>,
    /// Closed once the thread has dropped everything it ran.
    ended: watch::Receiver<()>,
}

impl Runtime {
    /// Starts the thread.
    pub fn start() -> io::Result<Runtime> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (ends, mut told) = watch::channel(false);
        let (alive, ended) = watch::channel(());
        std::thread::Builder::new().name("transport".to_owned()).spawn(move || {
            // An error means that nobody is left who could end it.
            let _ = runtime.block_on(told.wait_for(|ends| *ends));
            // Nobody waits for what a task may have given to a thread that may block.
            runtime.shutdown_background();
            drop(alive);
        })?;
        Ok(Runtime { handle, life: Arc::new(Life { ends, ended }) })
    }

    /// Runs a task on the thread. It must not block: every connection would wait.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Drops all that the thread runs, and waits until that is done.
    pub async fn end(&self) {
        self.life.ends.send_replace(true);
        let mut ended = self.life.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

impl quinn::Runtime for Runtime {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        let _here = self.handle.enter();
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.handle.spawn(task);
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let _here = self.handle.enter();
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }
}
