//! An authority's answer, its elements separated by a zero byte: bounded, and nothing panics from the
//! PEM to the check with a peer's eyes. It is never usable, because the key is not in the input.
#![no_main]

use model::TrustDomain;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tls::{CHAIN_MAX, ROOTS_MAX, Svid, Trust, TrustBundle, TrustView, issued_chain};

/// No key: what comes last is refused too.
const KEY: &[u8] = &[0];

libfuzzer_sys::fuzz_target!(|text: &str| {
    let elements: Vec<_> = text.split('\0').collect();
    let Ok(answer) = issued_chain(&elements) else { return };
    assert!((1..=CHAIN_MAX).contains(&answer.chain.len()));
    assert!((1..=ROOTS_MAX).contains(&answer.roots.len()));
    let Ok(bundle) = TrustBundle::new(TrustDomain::default(), answer.roots) else { return };
    let trust = TrustView::fixed(Trust::of(bundle.clone()));
    let key = PrivatePkcs8KeyDer::from(KEY).into();
    assert!(Svid::new(answer.chain, key, bundle, &trust).is_err());
});
