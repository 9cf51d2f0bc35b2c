use model::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use super::*;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

fn cart() -> Names {
    Names::of(SpiffeId::parse(CART).expect("literal"))
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("ASCII"))
}

/// What a signer elsewhere answers: a leaf with a change, for a key of ours.
fn answer(change: fn(&mut CertificateParams)) -> Result<ExternallySigned, ExternalError> {
    let root_key = KeyPair::generate().expect("key");
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "elsewhere");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_pem = root.self_signed(&root_key).expect("signed").pem();
    let bundle = TrustBundle::from_pem(TrustDomain::default(), root_pem.as_bytes());

    let key = KeyPair::generate().expect("key");
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names = vec![uri(CART)];
    let request = leaf.serialize_request(&key).expect("made").pem().expect("PEM");
    let request = CertificateRequest::from_pem(&request).expect("a good request");
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    change(&mut leaf);
    let signed = leaf.signed_by(&key, &Issuer::new(root, root_key)).expect("signed").pem();
    let (bundle, now) = (bundle.expect("a root"), SystemTime::now());
    read_external(&signed, &request, &cart(), &bundle, now)
}

#[test]
fn a_leaf_as_it_was_asked_for_is_handed_on() {
    let signed = answer(|_| {}).expect("good");
    assert_eq!(signed.chain.len(), 1);
    answer(|leaf| leaf.distinguished_name.push(DnType::OrganizationName, ""))
        .expect("says nothing");
}

#[test]
fn a_certificate_that_is_more_or_less_is_not() {
    type Case = (&'static str, fn(&mut CertificateParams));
    let cases: [Case; 9] = [
        ("names", |leaf| leaf.subject_alt_names = vec![uri("spiffe://cluster.local/ns/a/sa/b")]),
        ("names", |leaf| leaf.subject_alt_names.push(uri("spiffe://cluster.local/ns/a/sa/b"))),
        ("subject", |leaf| leaf.distinguished_name.push(DnType::CommonName, "admin")),
        ("authority", |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("key usage", |leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        ("key usage", |leaf| leaf.key_usages.push(KeyUsagePurpose::CrlSign)),
        ("extended", |leaf| leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::CodeSigning)),
        ("extended", |leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ("extended", |leaf| leaf.extended_key_usages = vec![]),
    ];
    for (what, change) in cases {
        let refused = answer(change).expect_err(what).to_string();
        assert!(refused.contains(what), "{refused} / {what}");
    }
}
