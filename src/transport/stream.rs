//! Frames on QUIC streams: reading them with limits, writing them with back-pressure.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use promesh_model::frame::{self, FrameError, HEADER_BYTES};
use quinn::VarInt;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Semaphore, mpsc, watch};

use crate::counters::{Counters, bump};
use crate::error::StreamError;
use crate::event::Class;
use crate::notices::{Notices, Trouble};
use crate::runtime::Runtime;

/// The frame kind of "there is no answer, and why"; no other frame may have it.
pub(crate) const KIND_REFUSED: u8 = 0xff;
pub(crate) const REFUSAL_BYTES_MAX: usize = 4096;
/// A request was dropped without an answer.
pub(crate) const CODE_UNANSWERED: VarInt = VarInt::from_u32(1);
/// What came is no frame or over the limit.
pub(crate) const CODE_MALFORMED: VarInt = VarInt::from_u32(2);
/// The first byte of a uni stream: one message follows, or a stream of frames.
pub(crate) const UNI_MESSAGE: u8 = 1;
pub(crate) const UNI_STREAM: u8 = 2;
const READ_BYTES: usize = 16 << 10;
/// What a frame costs in the queue beside its bytes, so that empty frames are bounded too.
const FRAME_COST: usize = 64;
const WRITE_BATCH: usize = 32;

/// What streams share with the transport.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub counters: Arc<Counters>,
    pub notices: Arc<Notices>,
    /// The other side.
    pub remote: SocketAddr,
    pub runtime: Runtime,
}

/// A frame's bytes, header and all.
pub(crate) fn encode(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    frame::write(&mut out, kind, payload);
    out
}

pub(crate) fn closed(reason: impl std::fmt::Display) -> StreamError {
    StreamError::Closed(reason.to_string().into())
}

/// Writes one frame and ends the stream; what is left of it knows when all has arrived.
pub(crate) async fn write_last_frame(
    mut send: quinn::SendStream,
    class: Class,
    kind: u8,
    payload: &[u8],
    context: &Context,
) -> Result<quinn::SendStream, StreamError> {
    check_length(payload.len(), class.frame_bytes_max())?;
    let bytes = encode(kind, payload);
    context.counters.sent(class, bytes.len());
    send.write_all(&bytes).await.map_err(closed)?;
    send.finish().map_err(closed)?;
    Ok(send)
}

fn check_length(bytes: usize, limit: usize) -> Result<(), StreamError> {
    if bytes > limit { Err(StreamError::TooLarge { bytes, limit }) } else { Ok(()) }
}

/// The reading end of a stream of frames. QUIC's flow control reaches the sender when frames are not taken.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: quinn::RecvStream,
    buffer: BytesMut,
    limit: usize,
    class: Class,
    context: Context,
    /// What these frames answer.
    asked: Option<quinn::SendStream>,
}

impl FrameReceiver {
    pub(crate) fn new(stream: quinn::RecvStream, class: Class, limit: usize, context: Context) -> FrameReceiver {
        FrameReceiver { stream, buffer: BytesMut::new(), limit, class, context, asked: None }
    }

    /// These frames answer what was sent there.
    pub(crate) fn to(mut self, asked: quinn::SendStream) -> FrameReceiver {
        self.asked = Some(asked);
        self
    }

    /// Waits until the other side's transport has the whole request that these frames answer, busy as the rest of it may be.
    ///
    /// # Errors
    /// `Closed` when the connection is gone before that is known.
    pub async fn arrival(&mut self) -> Result<(), StreamError> {
        match self.asked.take() {
            Some(asked) => asked.stopped().await.map(drop).map_err(closed),
            None => Ok(()),
        }
    }

    pub(crate) fn with_limit(mut self, limit: usize) -> FrameReceiver {
        self.limit = limit;
        self
    }

    /// The next frame's kind and payload; `None` once the sender has finished.
    ///
    /// Cancel safe: a frame that was read in part is read on by the next call.
    ///
    /// # Errors
    /// `Malformed` for bytes that are no frame or over the limit, `Closed` when the stream was reset or the connection
    /// is gone. After an error there is nothing more to come.
    pub async fn recv(&mut self) -> Result<Option<(u8, Bytes)>, StreamError> {
        loop {
            match frame::read(&self.buffer, self.limit) {
                Ok((frame, total)) => {
                    let kind = frame.kind;
                    let mut payload = self.buffer.split_to(total).freeze();
                    payload.advance(HEADER_BYTES);
                    return Ok(Some((kind, payload)));
                }
                Err(FrameError::Short) => {}
                Err(error) => return Err(self.malformed(error)),
            }
            if !self.read_more().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(self.malformed(FrameError::Short)) };
            }
        }
    }

    /// Stops the stream; the sender sees it closed.
    pub fn stop(mut self) {
        let _ = self.stream.stop(CODE_UNANSWERED);
    }

    async fn read_more(&mut self) -> Result<bool, StreamError> {
        let wanted = frame::frame_bytes(&self.buffer, self.limit).unwrap_or(HEADER_BYTES);
        self.buffer.reserve(wanted.saturating_sub(self.buffer.len()).max(READ_BYTES));
        let read = self.stream.read_buf(&mut self.buffer).await.map_err(closed)?;
        self.context.counters.received(self.class, read);
        Ok(read > 0)
    }

    fn malformed(&mut self, error: FrameError) -> StreamError {
        bump(&self.context.counters.streams_malformed);
        self.context.notices.say(Trouble::Malformed, self.context.remote, error);
        let _ = self.stream.stop(CODE_MALFORMED);
        StreamError::Malformed(error)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    Open,
    Finished,
    Failed(Arc<str>),
}

/// The writing end of a stream of frames. Clones write to the same stream, each frame whole.
///
/// Frames wait in a queue of about twice the class' largest frame; beyond it [`FrameSender::send`] waits and
/// [`FrameSender::try_send`] says `Full`. The stream finishes, everything queued first, when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct FrameSender {
    queue: mpsc::UnboundedSender<Bytes>,
    room: Arc<Semaphore>,
    ended: watch::Receiver<Ended>,
    class: Class,
}

impl FrameSender {
    /// Starts the task that writes; `first` goes out ahead of everything.
    pub(crate) fn spawn(send: quinn::SendStream, class: Class, context: Context, first: Option<Bytes>) -> FrameSender {
        let (queue, frames) = mpsc::unbounded_channel();
        let (end, ended) = watch::channel(Ended::Open);
        let room = Arc::new(Semaphore::new(queue_bytes_max(class)));
        if let Some(first) = first {
            // The queue is open: its other end moves into the task below.
            let _ = queue.send(first);
        }
        let runtime = context.runtime.clone();
        runtime.spawn(write_frames(send, frames, Arc::clone(&room), end, class, context));
        FrameSender { queue, room, ended, class }
    }

    /// Queues one frame, waiting for room.
    ///
    /// # Errors
    /// `TooLarge` beyond the class' limit, `Closed` when the stream is over. Frames queued before may be lost then.
    pub async fn send(&self, kind: u8, payload: &[u8]) -> Result<(), StreamError> {
        check_length(payload.len(), self.class.frame_bytes_max())?;
        let room = self.room.acquire_many(frame_cost(payload.len())).await.map_err(|_| self.why())?;
        room.forget();
        self.queue.send(encode(kind, payload).into()).map_err(|_| self.why())
    }

    /// Queues one frame if there is room for it now.
    ///
    /// # Errors
    /// `Full` when there is none, else as [`FrameSender::send`].
    pub fn try_send(&self, kind: u8, payload: &[u8]) -> Result<(), StreamError> {
        check_length(payload.len(), self.class.frame_bytes_max())?;
        match self.room.try_acquire_many(frame_cost(payload.len())) {
            Ok(room) => room.forget(),
            Err(tokio::sync::TryAcquireError::NoPermits) => return Err(StreamError::Full),
            Err(tokio::sync::TryAcquireError::Closed) => return Err(self.why()),
        }
        self.queue.send(encode(kind, payload).into()).map_err(|_| self.why())
    }

    /// Bytes queued and not yet handed to QUIC, about.
    pub fn queued_bytes(&self) -> usize {
        queue_bytes_max(self.class).saturating_sub(self.room.available_permits())
    }

    /// Whether the stream is over.
    pub fn is_closed(&self) -> bool {
        *self.ended.borrow() != Ended::Open
    }

    /// Waits until the stream is over; says why.
    pub async fn closed(&self) -> StreamError {
        let mut ended = self.ended.clone();
        // An error means that the writing task is gone, and with it the stream.
        let _ = ended.wait_for(|ended| *ended != Ended::Open).await;
        self.why()
    }

    /// Ends the stream after everything queued; returns when QUIC has it all. The other side may not have it yet.
    ///
    /// # Errors
    /// `Closed` when the stream broke before. With other clones alive it waits until they are dropped.
    pub async fn finish(self) -> Result<(), StreamError> {
        let FrameSender { queue, mut ended, .. } = self;
        drop(queue);
        let last = ended.wait_for(|ended| *ended != Ended::Open).await.map(|ended| ended.clone());
        match last {
            Ok(Ended::Failed(why)) => Err(StreamError::Closed(why)),
            Ok(_) => Ok(()),
            Err(_) => Err(closed("the runtime is shutting down")),
        }
    }

    fn why(&self) -> StreamError {
        match &*self.ended.borrow() {
            Ended::Failed(why) => StreamError::Closed(Arc::clone(why)),
            Ended::Open | Ended::Finished => closed("stream finished"),
        }
    }
}

const fn queue_bytes_max(class: Class) -> usize {
    2 * class.frame_bytes_max()
}

fn frame_cost(payload: usize) -> u32 {
    (payload + FRAME_COST) as u32
}

async fn write_frames(
    mut send: quinn::SendStream,
    mut frames: mpsc::UnboundedReceiver<Bytes>,
    room: Arc<Semaphore>,
    end: watch::Sender<Ended>,
    class: Class,
    context: Context,
) {
    let mut batch = Vec::with_capacity(WRITE_BATCH);
    let last = loop {
        let stopped = send.stopped();
        let received = tokio::select! {
            received = frames.recv_many(&mut batch, WRITE_BATCH) => received,
            stopped = stopped => break match stopped {
                Ok(_) => Ended::Failed("stopped by the receiver".into()),
                Err(error) => Ended::Failed(error.to_string().into()),
            },
        };
        if received == 0 {
            let _ = send.finish();
            break Ended::Finished;
        }
        let cost: usize = batch.iter().map(|frame| frame.len() - HEADER_BYTES + FRAME_COST).sum();
        let bytes: usize = batch.iter().map(Bytes::len).sum();
        if let Err(error) = send.write_all_chunks(&mut batch).await {
            break Ended::Failed(error.to_string().into());
        }
        context.counters.sent(class, bytes);
        batch.clear();
        room.add_permits(cost);
    };
    room.close();
    end.send_replace(last);
}
