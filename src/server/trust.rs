//! What proves to other peers that this one belongs to them, and its renewal while the process runs.
//!
//! A secret is changed without a restart, by files beside the one of `--cluster.secret-file`: what lies in `FILE.next` and
//! `FILE.previous` is trusted too. First the new secret goes to `FILE.next` on every peer; then, one peer after the other,
//! `FILE` becomes `FILE.previous` and `FILE.next` becomes `FILE`; last `FILE.previous` goes. The files are read again every few
//! seconds, and what is connected stays so.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use promesh_model::{PeerId, Timestamp};
use promesh_transport::{ClusterSecret, PeerKey, PkiFiles, TlsIdentity, Transport};

use crate::clock;
use crate::options::{ClusterOptions, TrustOptions};

/// How often the certificate's age and the secret's files are looked at: a machine may sleep, and clocks step.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// Ends of the names of files beside the secret's, whose secrets are trusted as well.
const ALSO_TRUSTED: [&str; 2] = [".next", ".previous"];
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
        let mut others = Vec::new();
        let secret = match &self.source {
            TrustOptions::TlsConfig(path) => return TlsIdentity::from_pki(&PkiFiles::read(path)?, self.id),
            TrustOptions::SecretFile(path) => {
                for other in beside(path).filter(|other| other.exists()) {
                    others.push(ClusterSecret::read(&other)?);
                }
                ClusterSecret::read(path)?
            }
            TrustOptions::Development => ClusterSecret::development(),
        };
        TlsIdentity::from_secrets(&secret, &others, &self.label, self.id, &self.key, now)
    }

    /// Which files of the secret there are, and since when: another answer means that one changed.
    fn mark(&self) -> Vec<(u64, i64, i64, u64)> {
        let TrustOptions::SecretFile(path) = &self.source else { return Vec::new() };
        let files = beside(path).chain([path.clone()]).map(|file| std::fs::metadata(file).ok());
        let mark = |file: &std::fs::Metadata| (file.ino(), file.mtime(), file.mtime_nsec(), file.size());
        files.map(|file| file.as_ref().map_or((0, 0, 0, 0), mark)).collect()
    }

    /// Renews the certificate in use for as long as the process runs. Connections that are open stay.
    /// `ends` shows when the one in use runs out.
    pub async fn renew(self, transport: Transport, first: TlsIdentity, ends: Arc<AtomicI64>) {
        let mut due = first.renew_at(self.id.0 as u64);
        let mut known = self.mark();
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            let now = clock::wall();
            let mark = self.mark();
            if mark != known {
                known = mark;
                tracing::info!("the files of the cluster's secret have changed");
            } else if now < due {
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

/// The files whose secrets are trusted beside that of a file.
fn beside(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    let name = |end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    ALSO_TRUSTED.into_iter().map(name)
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
    #[test]
    fn a_change_of_any_file_of_the_secret_is_seen_and_a_bad_one_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let trust = Trust {
            source: TrustOptions::SecretFile(path.clone()),
            label: "default".to_owned(),
            id: PeerId(7),
            key: PeerKey::generate().expect("a key"),
        };
        let mut marks = std::collections::BTreeSet::from([trust.mark()]);
        for (name, text) in [("secret", "a"), ("secret.next", "b"), ("secret.previous", "b"), ("secret", "c")] {
            std::fs::write(folder.path().join(name), text.repeat(40)).expect("written");
            assert!(marks.insert(trust.mark()), "{name} changed");
            trust.identity(Timestamp(1_700_000_000_000)).expect("an identity");
        }
        std::fs::write(folder.path().join("secret.next"), "short").expect("written");
        let refused = trust.identity(Timestamp(1_700_000_000_000)).expect_err("too short");
        assert!(refused.to_string().contains("32"), "{refused}");
    }
}
