//! Making connections: dial, greet, install; and waiting before dialling again in vain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use promesh_model::PeerId;
use quinn::ConnectionError;
use tokio::time::{sleep, timeout};
use tracing::debug;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::accept;
use crate::counters::RefusalReason;
use crate::endpoint::Shared;
use crate::event::Class;
use crate::hello::{HELLO_BYTES_MAX, Hello};
use crate::identity::read_certificate;
use crate::link::{CODE_REFUSED, DialFailure, Link, LinkState};
use crate::stream::FrameReceiver;

/// After so long without being wanted, an address is forgotten with its failures.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Which TLS alerts say that a certificate was not taken: handshake_failure to decrypt_error, certificate_required.
fn is_certificate_alert(code: u64) -> bool {
    matches!(code.checked_sub(0x100), Some(40..=51 | 116))
}

/// What a failed handshake says about the other side.
pub(crate) fn classify(error: &ConnectionError) -> RefusalReason {
    let code = match error {
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        ConnectionError::TimedOut | ConnectionError::Reset => return RefusalReason::Timeout,
        _ => return RefusalReason::Protocol,
    };
    if is_certificate_alert(code) { RefusalReason::Certificate } else { RefusalReason::Protocol }
}

/// Who the certificate of a finished handshake names, and the hash of its key.
pub(crate) fn certified(connection: &quinn::Connection) -> Option<(Option<PeerId>, [u8; 32])> {
    let chain = connection.peer_identity()?.downcast::<Vec<rustls_pki_types::CertificateDer<'static>>>().ok()?;
    read_certificate(chain.first()?)
}

/// Checks a hello against the certificate; gives the version that the pair speaks.
pub(crate) fn check_hello(own: &Hello, other: &Hello, certified: Option<PeerId>) -> Result<u16, RefusalReason> {
    if certified.is_some_and(|peer| peer != other.peer) {
        return Err(RefusalReason::Hello);
    }
    own.common_version(other).ok_or(RefusalReason::Protocol)
}

impl Shared {
    /// The connection to an address, made now if there is none.
    pub async fn link(self: &Arc<Self>, to: SocketAddr, class: Class) -> Result<Arc<Link>, DialFailure> {
        loop {
            let mut watch = {
                let mut links = self.links.lock();
                let slot = links.slots.entry((to, class)).or_default();
                let state = slot.state.borrow().clone();
                match state {
                    LinkState::Up(link) if link.is_open() => return Ok(link),
                    LinkState::Cooling(failure) => return Err(failure),
                    LinkState::Dialing => {}
                    LinkState::Up(_) | LinkState::Down => {
                        slot.state.send_replace(LinkState::Dialing);
                        self.runtime.spawn(Arc::clone(self).dial(to, class));
                    }
                }
                slot.state.subscribe()
            };
            let settled = watch.wait_for(|state| !matches!(state, LinkState::Dialing)).await;
            match settled.map(|state| state.clone()) {
                Ok(LinkState::Up(link)) => return Ok(link),
                Ok(LinkState::Cooling(failure)) => return Err(failure),
                // Lost again at once, or forgotten: try anew.
                Ok(LinkState::Down | LinkState::Dialing) | Err(_) => {}
            }
        }
    }

    pub async fn dial(self: Arc<Self>, to: SocketAddr, class: Class) {
        let connected = timeout(self.options.dial_timeout, self.connect(to, class)).await;
        let connected = connected.unwrap_or_else(|_| Err(unreachable("no answer in time")));
        let installed = connected.and_then(|link| {
            let refused = link.connection.clone();
            accept::install(&self, link).inspect_err(|_| refused.close(CODE_REFUSED, b"key changed"))
        });
        if let Err(failure) = installed {
            debug!(%to, ?class, ?failure, "cannot connect to peer");
            self.cool(to, class, failure).await;
        }
    }

    async fn connect(&self, to: SocketAddr, class: Class) -> Result<Link, DialFailure> {
        let client = self.client.load_full();
        let server_name = client.server_name.clone().unwrap_or_else(|| to.ip().to_string());
        let config = client.configs[class.index()].clone();
        let connecting = self.endpoint.connect_with(config, to, &server_name).map_err(unreachable)?;
        let connection = connecting.await.map_err(|error| self.explain(to, &error))?;
        let (named, key) = certified(&connection).ok_or_else(|| unreachable("shows no certificate"))?;
        let hello = self.greet(&connection, class).await.map_err(|why| match connection.close_reason() {
            Some(error) => self.explain(to, &error),
            None => unreachable(why),
        })?;
        if hello.peer == self.hello.peer && hello.boot == self.hello.boot {
            connection.close(CODE_REFUSED, b"oneself");
            return Err(DialFailure::Oneself);
        }
        let version = check_hello(&self.hello, &hello, named).map_err(|reason| {
            connection.close(CODE_REFUSED, reason.name().as_bytes());
            unreachable(format!("the hellos do not fit: {}", reason.name()))
        })?;
        let (peer, boot, dialed_by) = (hello.peer, hello.boot, self.hello.peer);
        self.partners.note(to);
        Ok(Link { connection, addr: to, class, peer, key, boot, version, dialed_by })
    }

    async fn greet(&self, connection: &quinn::Connection, class: Class) -> Result<Hello, String> {
        let (mut send, recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        send.write_all(&self.hello.encode()).await.map_err(|error| error.to_string())?;
        let _ = send.finish();
        let context = self.context(connection.remote_address());
        let answer = FrameReceiver::new(recv, class, HELLO_BYTES_MAX, context).recv().await;
        let (kind, payload) = answer.map_err(|error| error.to_string())?.ok_or("no hello")?;
        Hello::decode(kind, &payload).ok_or_else(|| "what answers is not a hello of ours".to_owned())
    }

    fn explain(&self, to: SocketAddr, error: &ConnectionError) -> DialFailure {
        let reason = classify(error);
        if reason == RefusalReason::Certificate {
            self.log_refusal(to, reason, error);
            return unreachable("the other side has another secret, label or PKI, or a certificate that ran out");
        }
        unreachable(error)
    }

    /// Waits before the next attempt, longer each time; forgets the address when nobody wants it any more.
    async fn cool(&self, to: SocketAddr, class: Class, failure: DialFailure) {
        let pause = {
            let mut links = self.links.lock();
            let slot = links.slots.entry((to, class)).or_default();
            if slot.open_link().is_some() {
                return; // the other side was quicker
            }
            for _ in slot.pending.drain(..) {
                crate::counters::bump(&self.counters.datagrams_dropped);
            }
            slot.failures = slot.failures.saturating_add(1);
            slot.state.send_replace(LinkState::Cooling(failure));
            self.back_off(to, slot.failures)
        };
        sleep(pause).await;
        self.thaw(to, class);
        sleep(FORGET_AFTER).await;
        let mut links = self.links.lock();
        let key = (to, class);
        if links.slots.get(&key).is_some_and(|slot| matches!(&*slot.state.borrow(), LinkState::Down)) {
            links.slots.remove(&key);
        }
    }

    fn thaw(&self, to: SocketAddr, class: Class) {
        let links = self.links.lock();
        if let Some(slot) = links.slots.get(&(to, class)) {
            slot.state.send_if_modified(|state| {
                let cold = matches!(state, LinkState::Cooling(_));
                if cold {
                    *state = LinkState::Down;
                }
                cold
            });
        }
    }

    /// Doubles with each failure, a quarter more or less by the address, so that peers do not dial in step.
    fn back_off(&self, to: SocketAddr, failures: u32) -> Duration {
        let doubled = self.options.back_off_min.saturating_mul(1 << (failures - 1).min(16));
        let pause = doubled.min(self.options.back_off_max);
        let draw = xxh3_64_with_seed(format!("{to} {failures}").as_bytes(), self.hello.boot) % 1024;
        pause * 3 / 4 + pause / 2 * draw as u32 / 1024
    }
}

fn unreachable(why: impl std::fmt::Display) -> DialFailure {
    DialFailure::Unreachable(why.to_string().into())
}
