//! Which authority signs, and what is served with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use authority::{KeyAlgorithm, Names};
use model::SpiffeId;
use tls::{ServerIdentity, ServerTls, Trust, TrustBundle, TrustView};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{AppError, spawn};
use crate::ca::serving::{SERVING_TTL, Serving, ServingCertificate};
use crate::ca::{
    Approval, CaMetrics, CaStatus, Current, FileStore, KubernetesSecret, KubernetesSigner, Ledger,
    OwnRoot, Places, Plugged, PluggedMemory, PluggedPlace, Rotate, SecretStore, Sign,
};
use crate::config::{Config, ServeArguments};
use crate::watch::Problems;

/// Secret of an authority that is made where none is named.
const SECRET: &str = "warren-ca";
/// Files in the state folder; Secrets have the same ends.
const KEYS: &str = "authority";
const LEDGER: &str = "ledger";
const RETAINED: &str = "retained-roots";
/// Its name among the problems.
const OWN_CERTIFICATE: &str = "our own certificate";
/// Longest file of roots read, in bytes.
const ROOTS_MAX: u64 = 1 << 20;

/// The authority that was chosen. Cheap to clone.
#[derive(Clone)]
pub(super) enum Chosen {
    Own(Arc<OwnRoot>),
    Plugged(Arc<Plugged>),
    Kubernetes(Arc<External>),
}

/// A signer elsewhere, whose roots do not change while we run.
pub(super) struct External {
    signer: Arc<KubernetesSigner>,
    name: String,
    bundle: TrustBundle,
    pem: watch::Sender<Arc<str>>,
}

/// Opens the authority that the settings name.
pub(super) async fn choose(
    config: &Config,
    client: Option<&kube::Client>,
    ledger: Arc<Ledger>,
) -> Result<Chosen, AppError> {
    let arguments = &config.arguments;
    let store = |name: &str| -> Result<Arc<dyn SecretStore>, AppError> {
        Ok(match client {
            Some(client) => {
                let secret = arguments.ca_secret.as_deref().unwrap_or(SECRET);
                let name =
                    if name == KEYS { secret.to_owned() } else { format!("{secret}-{name}") };
                Arc::new(KubernetesSecret::new(client.clone(), &arguments.namespace, &name))
            }
            None => Arc::new(FileStore::open(&arguments.state_dir, name)?),
        })
    };
    let domain = config.settings.trust_domain.clone();
    if let (Some(name), Some(client)) = (&arguments.ca_signer, client) {
        return external(arguments, name, client, &domain).map(Chosen::Kubernetes);
    }
    let place = if let Some(folder) = &arguments.ca_dir {
        Some(PluggedPlace::Folder(folder.clone()))
    } else {
        // A Secret that somebody else filled, or our own.
        let keys = store(KEYS)?;
        let texts = keys.get().await?.map(|stored| stored.texts).unwrap_or_default();
        let is_plugged = texts.contains_key("root-cert.pem") || texts.contains_key("tls.crt");
        is_plugged.then_some(PluggedPlace::Store(keys))
    };
    if let Some(place) = place {
        let memory = PluggedMemory { roots: store(RETAINED)?, ledger: store(LEDGER)? };
        let plugged = Plugged::open(place, memory, domain, ledger).await?;
        return Ok(Chosen::Plugged(Arc::new(plugged)));
    }
    let places = Places { keys: store(KEYS)?, ledger: store(LEDGER)? };
    let own = OwnRoot::open(places, domain, KeyAlgorithm::P256, ledger).await?;
    Ok(Chosen::Own(Arc::new(own)))
}

fn external(
    arguments: &ServeArguments,
    name: &str,
    client: &kube::Client,
    domain: &model::TrustDomain,
) -> Result<Arc<External>, AppError> {
    // The flags require one another.
    let path = arguments.ca_signer_roots.clone().unwrap_or_default();
    let wrong = |source: Box<dyn std::error::Error + Send + Sync>| AppError::SignerRoots {
        path: path.clone(),
        source,
    };
    let pem = read_bounded(&path).map_err(|error| wrong(error.into()))?;
    let bundle = TrustBundle::from_pem(domain.clone(), pem.as_bytes());
    let bundle = bundle.map_err(|error| wrong(error.into()))?;
    let signer =
        KubernetesSigner::new(client.clone(), name.to_owned(), Approval::Ours, bundle.clone());
    let (signer, pem) = (Arc::new(signer), watch::Sender::new(pem.into()));
    Ok(Arc::new(External { signer, name: name.to_owned(), bundle, pem }))
}

/// A longer file is an error: a part of it could be read as fewer roots.
fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(ROOTS_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > ROOTS_MAX) {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

impl Chosen {
    /// Who signs.
    pub(super) fn signer(&self) -> Arc<dyn Sign> {
        match self {
            Self::Own(own) => Arc::new(own.current().clone()),
            Self::Plugged(plugged) => Arc::new(plugged.current().clone()),
            Self::Kubernetes(external) => external.signer.clone(),
        }
    }

    /// Every root that is told, PEM, now and later.
    pub(super) fn bundle_pem(&self) -> watch::Receiver<Arc<str>> {
        match self.current() {
            Ok(current) => current.bundle_pem(),
            Err(external) => external.pem.subscribe(),
        }
    }

    /// The same as roots to verify clients with.
    fn bundle(&self) -> TrustBundle {
        match self.current() {
            Ok(current) => current.get().bundle.clone(),
            Err(external) => external.bundle.clone(),
        }
    }

    /// The revocation list of its certificates, PEM, now and later; empty if there is none yet. `None`:
    /// this kind has none.
    pub(super) fn crl(&self) -> Option<watch::Receiver<Arc<str>>> {
        match self {
            Self::Own(_) | Self::Kubernetes(_) => None,
            Self::Plugged(plugged) => Some(plugged.crl()),
        }
    }

    /// Whom a client has to be certified by, and what of it is revoked.
    fn trust(&self) -> Trust {
        let trust = Trust::of(self.bundle());
        let lists = match self {
            Self::Own(_) | Self::Kubernetes(_) => None,
            Self::Plugged(plugged) => plugged.revocations(),
        };
        match lists {
            Some(lists) => trust.revoking(&lists),
            None => trust,
        }
    }

    /// Changes when what is signed does: roots that are told, and certificates below them.
    fn issuing(&self) -> watch::Receiver<Arc<str>> {
        match self.current() {
            Ok(current) => current.issuing_pem(),
            Err(external) => external.pem.subscribe(),
        }
    }

    fn current(&self) -> Result<&Current, &External> {
        match self {
            Self::Own(own) => Ok(own.current()),
            Self::Plugged(plugged) => Ok(plugged.current()),
            Self::Kubernetes(external) => Err(external),
        }
    }

    /// What can be rotated; an external signer's root is not ours to change.
    pub(super) fn rotate(&self) -> Option<&dyn Rotate> {
        match self {
            Self::Own(own) => Some(&**own),
            Self::Plugged(plugged) => Some(&**plugged),
            Self::Kubernetes(_) => None,
        }
    }

    /// How it is, for people; `Err`: it is elsewhere, under this name.
    pub(super) fn status(&self) -> Result<CaStatus, String> {
        match self {
            Self::Own(own) => Ok(own.status()),
            Self::Plugged(plugged) => Ok(plugged.status()),
            Self::Kubernetes(external) => Err(format!("Kubernetes signer {}", external.name)),
        }
    }

    /// Shows when what is in force ends.
    pub(super) fn show(
        &self,
        metrics: CaMetrics,
        parts: &mut JoinSet<&'static str>,
        stop: &CancellationToken,
    ) {
        // Of a signer elsewhere it is not known.
        let Ok(current) = self.current().cloned() else { return };
        spawn(parts, stop, "the authority's gauges", async move { metrics.follow(&current).await });
    }

    /// Follows what it is made of.
    pub(super) fn keep(&self, parts: &mut JoinSet<&'static str>, stop: &CancellationToken) {
        match self.clone() {
            Self::Own(own) => spawn(parts, stop, "the authority", async move { own.watch().await }),
            Self::Plugged(plugged) => {
                spawn(parts, stop, "the authority", async move { plugged.watch().await });
            }
            Self::Kubernetes(_) => {}
        }
    }
}

/// Gets our own certificate and keeps it fresh, together with whom we believe.
pub(super) async fn serving(
    config: &Config,
    chosen: &Chosen,
    problems: Problems,
    parts: &mut JoinSet<&'static str>,
    stop: &CancellationToken,
) -> Result<(watch::Receiver<Arc<ServingCertificate>>, ServerTls), AppError> {
    let arguments = &config.arguments;
    let identity =
        SpiffeId::new(&config.settings.trust_domain, &arguments.namespace, "control-plane");
    let identity = identity.map_err(|error| AppError::Names(error.to_string()))?;
    let names = Names::server(identity, &arguments.serving_names);
    let names = names.map_err(|error| AppError::Names(error.to_string()))?;
    let serving = Serving::start(chosen.signer(), names, SERVING_TTL).await?;
    let mut certificates = serving.watch();
    let first = certificates.borrow_and_update().clone();
    let (sender, receiver) = watch::channel(Arc::new(identity_of(&first, chosen)?));
    let mut bundle = chosen.bundle_pem();
    let mut crl = chosen.crl();
    let renewed = chosen.issuing();
    spawn(parts, stop, "our own certificate", async move { serving.renew(Some(renewed)).await });
    let (chosen, told) = (chosen.clone(), certificates.clone());
    spawn(parts, stop, "our own identity", async move {
        loop {
            tokio::select! {
                // Both are cancel safe; an error is the end of what is followed, at a stop.
                Ok(()) = certificates.changed() => {}
                Ok(()) = bundle.changed() => {}
                () = changed(crl.as_mut()) => {}
                else => std::future::pending().await,
            }
            let certificate = certificates.borrow_and_update().clone();
            match identity_of(&certificate, &chosen) {
                Ok(identity) => {
                    sender.send_replace(Arc::new(identity));
                    problems.clear(OWN_CERTIFICATE);
                }
                Err(error) => {
                    let error = model::causes(&error);
                    tracing::error!(error, "our own certificate cannot be used");
                    problems.state(OWN_CERTIFICATE, vec![format!("not renewed: {error}")]);
                }
            }
        }
    });
    Ok((told, ServerTls::new(receiver)))
}

fn identity_of(
    certificate: &ServingCertificate,
    chosen: &Chosen,
) -> Result<ServerIdentity, AppError> {
    let trust = TrustView::fixed(chosen.trust());
    let (chain, key) = (certificate.chain.clone(), certificate.key.clone_key());
    Ok(ServerIdentity::new(chain, key, &trust)?)
}

/// Waits for a change of what there may be none of, or none any more: then for ever. Cancel safe.
async fn changed(followed: Option<&mut watch::Receiver<Arc<str>>>) {
    if let Some(followed) = followed
        && followed.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// The roots as a file, for agents that are not told of them by a cluster.
pub(super) struct TrustFile {
    path: PathBuf,
}

impl TrustFile {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self { path: folder.join("root-cert.pem") }
    }

    /// Writes it now, and whenever the roots change.
    pub(super) fn follow(
        self,
        mut certificates: watch::Receiver<Arc<ServingCertificate>>,
        parts: &mut JoinSet<&'static str>,
        stop: &CancellationToken,
    ) -> Result<(), AppError> {
        let first = certificates.borrow_and_update().roots.clone();
        if let Err(source) = self.write(&first) {
            return Err(AppError::TrustFile { path: self.path, source });
        }
        spawn(parts, stop, "the file of roots", async move {
            while certificates.changed().await.is_ok() {
                let roots = certificates.borrow_and_update().roots.clone();
                if let Err(error) = self.write(&roots) {
                    tracing::error!(path = %self.path.display(), %error, "roots not written");
                }
            }
            std::future::pending::<()>().await;
        });
        Ok(())
    }

    /// In one step: an agent reads it at any time.
    fn write(&self, roots: &str) -> std::io::Result<()> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let draft = self.path.with_extension("next");
        std::fs::write(&draft, roots)?;
        std::fs::rename(&draft, &self.path)
    }
}
