//! Certificates, made: what a control plane and the development authority share.
//!
//! [`CertificateRequest`] is what a caller asks with, checked and proved to be its key's.
//! [`Authority`] signs: a root of our own ([`make_root`]) or an operator's intermediate, checked
//! before it is used with the eyes of a peer. What it makes follows SPIFFE's profile for
//! X.509-SVIDs. No clock is read here but where an authority is loaded, and nobody is authorised:
//! who may have which name is decided by the caller.

mod authority;
mod chain;
mod digest;
mod external;
mod leaf;
mod names;
mod own_key;
mod pem;
mod request;
mod root;

pub use authority::{
    Authority, AuthorityError, AuthorityPem, BACKDATE, SignError, Signed, not_after,
};
pub use chain::{ChainError, INTERMEDIATES_MAX};
pub use digest::{Fingerprint, RandomError, equal, random, sha256};
pub use external::{ExternalError, ExternallySigned, read_external};
pub use leaf::{LeafTemplate, Validity};
pub use names::{DNS_NAMES_MAX, Names, NamesError};
pub use own_key::{OwnKey, OwnKeyError};
pub use pem::{certificate_pem, certificates_pem, pem};
pub use request::{CertificateRequest, REQUEST_BYTES_MAX, RSA_BITS_MAX, RequestError};
pub use root::{KeyAlgorithm, MadeRoot, ROOT_LIFE, RootError, make_root};
/// The types of certificates and keys in this crate's interface.
pub use rustls_pki_types::{CertificateDer, PrivateKeyDer};
