//! What proves to other peers that this one belongs to them, and its renewal while the process runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use promesh_model::{PeerId, Timestamp};
use promesh_transport::{ClusterSecret, PeerKey, PkiFiles, TlsIdentity, Transport};

use crate::clock;
use crate::options::{ClusterOptions, TrustOptions};

/// How often the certificate's age is looked at: a machine may sleep, and clocks step.
const LOOK_PERIOD: Duration = Duration::from_secs(60);
/// After a failure it is tried again so soon: a third of a certificate's life is left then.
const RETRY_AFTER: Duration = Duration::from_secs(15 * 60);

/// Where this peer's identity comes from.
pub struct Trust {
    source: TrustOptions,
    label: String,
    id: PeerId,
    key: PeerKey,
}

impl Trust {
    /// Of a peer with its own key.
    pub fn new(cluster: &ClusterOptions, id: PeerId, key: PeerKey) -> Trust {
        Trust { source: cluster.trust.clone(), label: cluster.label.clone(), id, key }
    }

    /// A certificate made now, from the files as they are now.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn identity(&self, now: Timestamp) -> Result<TlsIdentity, promesh_transport::IdentityError> {
        let secret = match &self.source {
            TrustOptions::TlsConfig(path) => return TlsIdentity::from_pki(&PkiFiles::read(path)?, self.id),
            TrustOptions::SecretFile(path) => ClusterSecret::read(path)?,
            TrustOptions::Development => ClusterSecret::development(),
        };
        TlsIdentity::from_secret(&secret, &self.label, self.id, &self.key, now)
    }

    /// Renews the certificate in use for as long as the process runs. Connections that are open stay.
    /// `ends` shows when the one in use runs out.
    pub async fn renew(self, transport: Transport, first: TlsIdentity, ends: Arc<AtomicI64>) {
        let mut due = first.renew_at(self.id.0 as u64);
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let now = clock::wall();
            if now < due {
                continue;
            }
            match self.renewed(&transport, now) {
                Ok(identity) => {
                    ends.store(identity.expires_at().ms(), Ordering::Relaxed);
                    tracing::info!(expires = %identity.expires_at(), "the certificate was renewed");
                    // A file that is as old as before must not be read every minute.
                    due = identity.renew_at(self.id.0 as u64).max(now.after(RETRY_AFTER));
                }
                Err(error) => {
                    tracing::error!(error, "the certificate could not be renewed, it is tried again");
                    due = now.after(RETRY_AFTER);
                }
            }
        }
    }

    fn renewed(&self, transport: &Transport, now: Timestamp) -> Result<TlsIdentity, String> {
        let identity = self.identity(now).map_err(|error| error.to_string())?;
        transport.set_identity(&identity).map_err(|error| error.to_string())?;
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_certificate_lives_thirty_days_from_its_renewal() {
        let trust = Trust {
            source: TrustOptions::Development,
            label: "default".to_owned(),
            id: PeerId(7),
            key: PeerKey::generate().expect("a key"),
        };
        const DAY: i64 = 86_400_000;
        let first = trust.identity(Timestamp(20_000 * DAY)).expect("an identity");
        let due = first.renew_at(7);
        assert!(due < first.expires_at() && due > Timestamp(20_010 * DAY));
        let second = trust.identity(due).expect("an identity");
        assert!(second.expires_at() >= Timestamp(due.ms() + 29 * DAY));
        assert!(second.renew_at(7) > due);
    }
}
