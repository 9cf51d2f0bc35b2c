//! The cryptography: one function, so that another provider (FIPS, say) is one change.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};

/// Which key exchanges are allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compliance {
    /// The hybrid group first, classical ones for peers without it.
    #[default]
    Default,
    /// `pqc`: X25519MLKEM768 and nothing else. A peer without it is refused.
    Pqc,
}

static DEFAULT: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    // The hybrid group first: a recording of today's traffic must not be readable later.
    // The others are for peers without it.
    with_groups(vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ])
});

static PQC: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| with_groups(vec![aws_lc_rs::kx_group::X25519MLKEM768]));

fn with_groups(kx_groups: Vec<&'static dyn SupportedKxGroup>) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups,
        ..aws_lc_rs::default_provider()
    })
}

/// The provider of every TLS session.
pub(crate) fn provider(compliance: Compliance) -> Arc<CryptoProvider> {
    match compliance {
        Compliance::Default => DEFAULT.clone(),
        Compliance::Pqc => PQC.clone(),
    }
}
