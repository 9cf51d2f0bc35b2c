use model::SpiffeId;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    SanType, SignatureAlgorithm,
};

use super::*;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const ORGANIZATION: DnType = DnType::OrganizationName;

fn cart() -> Names {
    Names::of(SpiffeId::parse(CART).expect("literal"))
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().expect("ASCII"))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("ASCII"))
}

fn params(names: Vec<SanType>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params
}

fn request(params: &CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).expect("made").pem().expect("PEM")
}

fn p256() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key")
}

fn of_names(names: Vec<SanType>) -> CertificateRequest {
    CertificateRequest::from_pem(&request(&params(names), &p256())).expect("a good request")
}

#[test]
fn keys_that_are_strong_are_taken_and_others_refused() {
    let made = |algorithm: &'static SignatureAlgorithm| {
        KeyPair::generate_for(algorithm).expect("a key of that kind")
    };
    for key in [made(&PKCS_ECDSA_P256_SHA256), made(&PKCS_ECDSA_P384_SHA384), made(&PKCS_ED25519)] {
        let read = CertificateRequest::from_pem(&request(&params(vec![uri(CART)]), &key));
        read.expect("a strong key").require(&cart()).expect("its own name");
    }
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("RSA key");
    CertificateRequest::from_pem(&request(&params(vec![]), &rsa)).expect("RSA 2048");
    let other = request(&params(vec![]), &made(&PKCS_ECDSA_P521_SHA512));
    let refused = CertificateRequest::from_pem(&other).expect_err("P-521");
    assert!(matches!(refused, RequestError::KeyKind(_)), "{refused}");
}

/// 1024 bits; made with OpenSSL, because rcgen makes none.
const WEAK: &str = include_str!("tests/rsa1024.pem");
/// RSA 2048 signed with SHA-1.
const SHA1: &str = include_str!("tests/sha1.pem");

#[test]
fn weak_requests_are_refused() {
    let refused = |pem: &str| CertificateRequest::from_pem(pem).expect_err("weak");
    assert_eq!(refused(WEAK), RequestError::RsaBits(1024));
    assert!(matches!(refused(SHA1), RequestError::SignatureKind(_)), "{}", refused(SHA1));
}

#[test]
fn a_request_that_was_changed_or_is_not_signed_by_its_key_is_refused() {
    let pem = request(&params(vec![uri(CART)]), &p256());
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    let changed: Vec<u8> = {
        let at = der.windows(4).position(|four| four == b"cart").expect("the account");
        let mut bytes = der.to_vec();
        bytes[at..at + 4].copy_from_slice(b"bank");
        bytes
    };
    let refused = CertificateRequest::from_der(&changed).expect_err("another name");
    assert_eq!(refused, RequestError::Signature);
    let mut last = der.to_vec();
    *last.last_mut().expect("not empty") ^= 1;
    let refused = CertificateRequest::from_der(&last).expect_err("another signature");
    assert_eq!(refused, RequestError::Signature);
}

#[test]
fn only_the_names_that_are_granted_may_be_asked_for() {
    of_names(vec![]).require(&cart()).expect("none asks for what it gets");
    of_names(vec![uri(CART)]).require(&cart()).expect("its own");
    let other = "spiffe://cluster.local/ns/shop/sa/bank";
    for foreign in [
        vec![uri(other)],
        vec![uri(CART), uri(other)],
        vec![uri(CART), dns("istiod.istio-system.svc")],
        vec![dns("cart.shop.svc")],
        vec![SanType::IpAddress("10.0.0.1".parse().expect("address"))],
        vec![uri("spiffe://other/ns/shop/sa/cart")],
    ] {
        let refused = of_names(foreign.clone()).require(&cart()).expect_err("foreign");
        assert!(matches!(refused, RequestError::Names { .. }), "{foreign:?}: {refused}");
    }
    of_names(vec![]).require_exactly(&cart()).expect_err("an authority elsewhere gives none");
    let server = Names::server(cart().identity().clone(), &["b.example", "a.example"]);
    let server = server.expect("names");
    of_names(vec![dns("a.example"), dns("b.example"), uri(CART)])
        .require_exactly(&server)
        .expect("in any order");
}

/// An authority elsewhere may copy all of a request, and we approve it.
#[test]
fn an_authority_elsewhere_is_asked_for_a_leaf_and_no_more() {
    type Case = (&'static str, fn(&mut CertificateParams), bool);
    let cases: [Case; 10] = [
        ("as it is", |_| {}, true),
        ("an empty organisation", |p| p.distinguished_name.push(ORGANIZATION, ""), true),
        (
            "a leaf's usages",
            |p| {
                p.is_ca = IsCa::ExplicitNoCa;
                p.key_usages =
                    vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
                p.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
            },
            true,
        ),
        ("a group", |p| p.distinguished_name.push(ORGANIZATION, "system:masters"), false),
        ("a user", |p| p.distinguished_name.push(DnType::CommonName, "system:admin"), false),
        ("code", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning], false),
        ("anything", |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any], false),
        (
            "something",
            |p| {
                p.extended_key_usages =
                    vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 2, 3, 4])];
            },
            false,
        ),
        ("contracts", |p| p.key_usages = vec![KeyUsagePurpose::ContentCommitment], false),
        (
            "an extension",
            |p| {
                let extension =
                    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9], vec![5, 0]);
                p.custom_extensions = vec![extension];
            },
            false,
        ),
    ];
    for (what, change, is_taken) in cases {
        let mut params = params(vec![uri(CART)]);
        change(&mut params);
        let read = CertificateRequest::from_pem(&request(&params, &p256())).expect(what);
        read.require(&cart()).expect("our own authority looks at names only");
        let answer = read.require_exactly(&cart());
        match answer {
            Ok(()) => assert!(is_taken, "{what}"),
            Err(error) => {
                assert!(!is_taken && matches!(error, RequestError::Beyond(_)), "{what}: {error}");
            }
        }
    }
}

#[test]
fn a_request_to_be_an_authority_is_refused() {
    let mut authority = params(vec![uri(CART)]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut signing = params(vec![uri(CART)]);
    signing.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    for params in [authority, signing] {
        let refused = CertificateRequest::from_pem(&request(&params, &p256()));
        assert_eq!(refused.expect_err("an authority"), RequestError::Authority);
    }
}

#[test]
fn only_one_small_pem_block_is_read() {
    let good = request(&params(vec![uri(CART)]), &p256());
    let twice = format!("{good}{good}");
    let certificate = good.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    let cut = &good[..good.len() / 2];
    for bad in ["", "hello", &twice, &certificate, cut] {
        let refused = CertificateRequest::from_pem(bad).expect_err(bad);
        assert!(matches!(refused, RequestError::Pem(_)), "{refused}");
    }
    let large = "a".repeat(REQUEST_BYTES_MAX + 1);
    let refused = CertificateRequest::from_pem(&large).expect_err("large");
    assert_eq!(refused, RequestError::TooLarge(large.len()));
}

#[test]
fn what_is_logged_of_a_name_is_bounded() {
    let long = format!("spiffe://cluster.local/{}", "a".repeat(4000));
    let refused = of_names(vec![uri(&long)]).require(&cart()).expect_err("foreign");
    assert!(refused.to_string().len() < 1000);
}

proptest! {
    /// Whatever is sent is answered, and garbage is never taken.
    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(CertificateRequest::from_der(&bytes).is_err());
        prop_assert!(CertificateRequest::from_pem(&String::from_utf8_lossy(&bytes)).is_err());
    }

    /// A request in which bytes were changed does not verify, and never panics. What the signature does not
    /// cover is how its own algorithm is written, and a parser may be lenient there: then the request is
    /// the same one.
    #[test]
    fn damaged_requests_are_refused(changes in proptest::collection::vec((any::<u16>(), 1_u8..), 1..6)) {
        let pem = include_str!("tests/good.pem");
        let good = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let mut bytes = good.to_vec();
        for (at, change) in changes {
            let at = usize::from(at) % bytes.len();
            bytes[at] ^= change;
        }
        prop_assume!(bytes != *good);
        if let Ok(read) = CertificateRequest::from_der(&bytes) {
            let good = CertificateRequest::from_der(&good).expect("a request");
            prop_assert_eq!((read.key_der, read.asked), (good.key_der, good.asked));
        }
    }
}
