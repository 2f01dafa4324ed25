//! What the transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::event::Class;

/// Why a handshake came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// The certificate is of another secret, another label or another PKI, or ran out.
    Certificate,
    /// Speaks no protocol of ours, or no version of it that this build knows.
    Protocol,
    /// Another key under the id of a peer that is connected.
    KeyChanged,
    /// The hello is not as its sender's certificate says, or not a hello.
    Hello,
    /// Too slow.
    Timeout,
    /// Too many handshakes or connections at once.
    Busy,
}

impl RefusalReason {
    /// All of them, in the order of their counters.
    pub const ALL: [RefusalReason; 6] = [
        RefusalReason::Certificate,
        RefusalReason::Protocol,
        RefusalReason::KeyChanged,
        RefusalReason::Hello,
        RefusalReason::Timeout,
        RefusalReason::Busy,
    ];

    /// The value of a `reason` label.
    pub const fn name(self) -> &'static str {
        match self {
            RefusalReason::Certificate => "certificate",
            RefusalReason::Protocol => "protocol",
            RefusalReason::KeyChanged => "key_changed",
            RefusalReason::Hello => "hello",
            RefusalReason::Timeout => "timeout",
            RefusalReason::Busy => "busy",
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub refused: [AtomicU64; RefusalReason::ALL.len()],
    pub datagrams_garbage: AtomicU64,
    pub datagrams_reset: AtomicU64,
    pub datagrams_repeated: AtomicU64,
    pub datagrams_dropped: AtomicU64,
    pub messages_dropped: AtomicU64,
    pub streams_malformed: AtomicU64,
    pub bytes_in: [AtomicU64; 2],
    pub bytes_out: [AtomicU64; 2],
}

/// The counters as they stand; all count from the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CounterSnapshot {
    /// Handshakes from outside that came to nothing, in the order of [`RefusalReason::ALL`].
    pub refused: [u64; RefusalReason::ALL.len()],
    /// UDP datagrams that are not QUIC, or of no connection this peer ever had.
    pub datagrams_garbage: u64,
    /// UDP datagrams from the address of a peer, in form a stateless reset: of a peer that was started again, or forged.
    pub datagrams_reset: u64,
    /// UDP datagrams that came before, within the last few thousand: no packet of QUIC is sent twice.
    pub datagrams_repeated: u64,
    /// SWIM datagrams dropped here: no connection in time, or nobody took them.
    pub datagrams_dropped: u64,
    /// Messages dropped here: too many under way, or no connection.
    pub messages_dropped: u64,
    /// Streams stopped because what came was no frame or too long.
    pub streams_malformed: u64,
    /// Bytes of frames and datagrams received, by [`Class::ALL`].
    pub bytes_in: [u64; 2],
    /// Bytes of frames and datagrams sent, by [`Class::ALL`].
    pub bytes_out: [u64; 2],
}

impl CounterSnapshot {
    /// Handshakes refused for one reason.
    pub fn refused_for(&self, reason: RefusalReason) -> u64 {
        self.refused[reason as usize]
    }
}

pub(crate) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub fn received(&self, class: Class, bytes: usize) {
        self.bytes_in[class.index()].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn sent(&self, class: Class, bytes: usize) {
        self.bytes_out[class.index()].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> CounterSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterSnapshot {
            refused: std::array::from_fn(|index| read(&self.refused[index])),
            datagrams_garbage: read(&self.datagrams_garbage),
            datagrams_reset: read(&self.datagrams_reset),
            datagrams_repeated: read(&self.datagrams_repeated),
            datagrams_dropped: read(&self.datagrams_dropped),
            messages_dropped: read(&self.messages_dropped),
            streams_malformed: read(&self.streams_malformed),
            bytes_in: std::array::from_fn(|index| read(&self.bytes_in[index])),
            bytes_out: std::array::from_fn(|index| read(&self.bytes_out[index])),
        }
    }
}
