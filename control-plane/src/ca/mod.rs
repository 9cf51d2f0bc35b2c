//! The certificate authority: who may have which certificate, who signs it, and which roots are
//! believed.
//!
//! [`service`] takes a request, `caller` says who it is from, [`authorize`] what they may have by
//! what runs where ([`pods`]), and a [`Sign`] signs: an own root ([`own_root`]), an operator's
//! intermediate ([`plugged`]), or a signer of the cluster ([`kubernetes_signer`]). Roots change
//! without a refused handshake ([`rotation`], [`ledger`]).

pub mod authorize;
pub mod current;
pub mod kubernetes_signer;
pub mod ledger;
pub mod metrics;
pub mod own_root;
pub mod plugged;
pub mod pods;
pub mod rotation;
pub mod secret;
pub mod service;
pub mod serving;
pub mod sign;
pub mod store;

pub use authorize::Authorizer;
pub use current::{Current, InForce};
pub use kubernetes_signer::{Approval, KubernetesSigner};
pub use ledger::Ledger;
pub use metrics::CaMetrics;
pub use own_root::{OwnRoot, Places};
pub use plugged::{Plugged, PluggedMemory, PluggedPlace};
pub use pods::{PodIndex, Pods, Selection};
pub use rotation::{CaStatus, Care, Rotate, RotationError, RotationStage};
pub use secret::KubernetesSecret;
pub use service::{CALL_TIMEOUT, CaParts, CertificateAuthority, Lifetimes};
pub use serving::{Serving, ServingCertificate};
pub use sign::{Sign, SignedChain};
pub use store::{FileStore, SecretStore};
