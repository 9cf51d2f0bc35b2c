use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
};
use x509_parser::extensions::GeneralName;

use super::*;
use crate::own_key::OwnKey;
use crate::root::{KeyAlgorithm, MadeRoot, make_root};

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const HOUR: Duration = Duration::from_hours(1);

fn domain() -> TrustDomain {
    TrustDomain::default()
}

fn cart() -> Names {
    Names::of(SpiffeId::parse(CART).expect("literal"))
}

fn root(algorithm: KeyAlgorithm) -> MadeRoot {
    make_root(&domain(), algorithm, SystemTime::now()).expect("made")
}

fn of_root(root: &MadeRoot) -> AuthorityPem<'_> {
    AuthorityPem {
        certificate: &root.certificate,
        key: &root.key,
        chain: "",
        roots: &root.certificate,
    }
}

fn load(pem: &AuthorityPem<'_>) -> Result<Authority, AuthorityError> {
    Authority::from_pem(&domain(), pem, SystemTime::now())
}

fn request(names: &Names) -> CertificateRequest {
    let own = OwnKey::new(names).expect("made");
    CertificateRequest::from_pem(&own.request).expect("our own request")
}

/// Something between a root and leaves.
struct Between {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
    key: String,
}

#[derive(Clone, Copy)]
struct Shape {
    is_ca: IsCaKind,
    usage: KeyUsagePurpose,
    from_days: i64,
    days: i64,
}

#[derive(Clone, Copy)]
enum IsCaKind {
    No,
    PathLength(u8),
}

const GOOD: Shape = Shape {
    is_ca: IsCaKind::PathLength(1),
    usage: KeyUsagePurpose::KeyCertSign,
    from_days: -1,
    days: 30,
};

fn between(name: &str, above: Option<&Between>, shape: Shape) -> Between {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = match shape.is_ca {
        IsCaKind::No => IsCa::ExplicitNoCa,
        IsCaKind::PathLength(length) => IsCa::Ca(BasicConstraints::Constrained(length)),
    };
    params.key_usages = vec![shape.usage];
    params.not_before = time::OffsetDateTime::now_utc() + time::Duration::days(shape.from_days);
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(shape.days);
    params.use_authority_key_identifier_extension = true;
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer),
        None => params.self_signed(&key),
    };
    let certificate = certificate.expect("signed").pem();
    let key_pem = key.serialize_pem();
    Between { issuer: Issuer::new(params, key), certificate, key: key_pem }
}

/// SPIFFE X.509-SVID, sections 3 and 4, field by field.
#[test]
fn a_leaf_follows_the_profile() {
    let made = root(KeyAlgorithm::P256);
    let authority = load(&of_root(&made)).expect("loaded");
    let now = SystemTime::now();
    let signed = authority.sign(&request(&cart()), &cart(), HOUR, now).expect("signed");
    let leaf = parse(&signed.leaf).expect("a certificate");
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().expect("once").expect("there");
    assert!(names.critical, "the subject is empty");
    assert_eq!(names.value.general_names, [GeneralName::URI(CART)]);
    let constraints = leaf.basic_constraints().expect("once").expect("there");
    assert!(!constraints.value.ca);
    let usage = leaf.key_usage().expect("once").expect("there");
    assert!(usage.critical);
    assert!(usage.value.digital_signature());
    assert!(!usage.value.key_encipherment() && !usage.value.key_cert_sign());
    assert!(!usage.value.crl_sign());
    let extended = leaf.extended_key_usage().expect("once").expect("there");
    assert!(extended.value.client_auth && extended.value.server_auth);
    let serial = leaf.raw_serial();
    assert_eq!(serial.len(), 16);
    assert_eq!(serial[0] & 0xc0, 0x40, "positive, and of one length");
    let valid = signed.validity;
    assert_eq!(at(leaf.validity().not_before), valid.not_before);
    assert_eq!(at(leaf.validity().not_after), valid.not_after);
    assert!(valid.not_before <= now - BACKDATE && valid.not_after <= now + HOUR);
    let id =
        authority.bundle().verify_chain(std::slice::from_ref(&signed.leaf), now).expect("believed");
    assert_eq!(id.as_str(), CART);
    let again = authority.sign(&request(&cart()), &cart(), HOUR, now).expect("signed");
    let again = parse(&again.leaf).expect("a certificate");
    assert_ne!(again.raw_serial(), serial);
}

#[test]
fn the_middle_of_a_short_life_is_still_to_come() {
    let made = root(KeyAlgorithm::P256);
    let authority = load(&of_root(&made)).expect("loaded");
    let start = SystemTime::now();
    // Certificates know whole seconds only: what is cut off depends on where in a second it is now.
    for after in [0, 1, 250, 500, 750, 999].map(Duration::from_millis) {
        let now = start + after;
        for seconds in [10, 60, 300, 900] {
            let ttl = Duration::from_secs(seconds);
            let signed = authority.sign(&request(&cart()), &cart(), ttl, now).expect("signed");
            let Validity { not_before, not_after } = signed.validity;
            let all = not_after.duration_since(not_before).expect("a validity");
            let until_renewal = (not_before + all / 2).duration_since(now).expect("to come");
            assert!(until_renewal >= ttl / 6, "{seconds} s: renewed after {until_renewal:?}");
            assert!(not_before < now, "{seconds} s: not for clocks that are behind");
        }
    }
}

#[test]
fn rsa_keys_may_also_encipher() {
    let made = root(KeyAlgorithm::P384);
    let authority = load(&of_root(&made)).expect("loaded");
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("key");
    let csr = CertificateParams::default().serialize_request(&rsa).expect("made");
    let request = CertificateRequest::from_pem(&csr.pem().expect("PEM")).expect("read");
    let signed = authority.sign(&request, &cart(), HOUR, SystemTime::now()).expect("signed");
    let leaf = parse(&signed.leaf).expect("a certificate");
    let usage = leaf.key_usage().expect("once").expect("there").value;
    assert!(usage.digital_signature() && usage.key_encipherment());
}

#[test]
fn a_server_has_dns_names_beside_its_identity() {
    let made = root(KeyAlgorithm::P256);
    let authority = load(&of_root(&made)).expect("loaded");
    let identity = cart().identity().clone();
    let names = Names::server(identity, &["istiod.istio-system.svc"]).expect("names");
    let own = request(&names);
    own.require(&names).expect("its own names");
    let signed = authority.sign(&own, &names, HOUR, SystemTime::now()).expect("signed");
    let leaf = parse(&signed.leaf).expect("a certificate");
    let found = leaf.subject_alternative_name().expect("once").expect("there");
    assert_eq!(
        found.value.general_names,
        [GeneralName::URI(CART), GeneralName::DNSName("istiod.istio-system.svc")]
    );
    for bad in ["", "a..b", "-a", "a b", "*.x", "UPPER", &"a".repeat(64)] {
        assert!(Names::server(cart().identity().clone(), &[bad]).is_err(), "{bad}");
    }
}

#[test]
fn nothing_is_signed_beyond_the_chain_or_for_another_domain() {
    let made = root(KeyAlgorithm::P256);
    let authority = load(&of_root(&made)).expect("loaded");
    let now = SystemTime::now();
    let long = Duration::from_hours(24 * 365 * 20);
    let signed = authority.sign(&request(&cart()), &cart(), long, now).expect("signed");
    assert_eq!(signed.validity.not_after, authority.not_after());
    let other = Names::of(SpiffeId::parse("spiffe://other/ns/a/sa/b").expect("literal"));
    let refused = authority.sign(&request(&other), &other, HOUR, now).expect_err("foreign");
    assert!(matches!(refused, SignError::TrustDomain(_)));
    let later = authority.not_after() + HOUR;
    let refused = authority.sign(&request(&cart()), &cart(), HOUR, later).expect_err("expired");
    assert!(matches!(refused, SignError::Expired));
}

#[test]
fn a_chain_is_ordered_from_leaf_to_root() {
    let top = between("top", None, Shape { is_ca: IsCaKind::PathLength(3), ..GOOD });
    let upper = between("upper", Some(&top), Shape { is_ca: IsCaKind::PathLength(2), ..GOOD });
    let lower = between("lower", Some(&upper), GOOD);
    let other = between("other", None, GOOD);
    // In any order, with the root and a stranger among them.
    let chain = format!(
        "{}{}{}{}",
        top.certificate, other.certificate, upper.certificate, lower.certificate
    );
    let roots = format!("{}{}", other.certificate, top.certificate);
    let pem = AuthorityPem {
        certificate: &lower.certificate,
        key: &lower.key,
        chain: &chain,
        roots: &roots,
    };
    let authority = load(&pem).expect("loaded");
    let signed =
        authority.sign(&request(&cart()), &cart(), HOUR, SystemTime::now()).expect("signed");
    let texts = authority.chain_pem(&signed);
    let names: Vec<_> = texts
        .iter()
        .map(|text| read("test", text).expect("PEM"))
        .map(|one| parse(&one[0]).expect("certificate").subject().to_string())
        .collect();
    assert_eq!(names, ["", "CN=lower", "CN=upper"]);
    let reread = tls::issued_chain(&[texts, vec![roots]].concat()).expect("as our agent reads it");
    authority.bundle().verify_chain(&reread.chain, SystemTime::now()).expect("believed");
}

#[test]
fn an_authority_that_peers_would_refuse_is_not_used() {
    let top = between("top", None, Shape { is_ca: IsCaKind::PathLength(1), ..GOOD });
    let good = between("good", Some(&top), Shape { is_ca: IsCaKind::PathLength(0), ..GOOD });
    let stranger = between("stranger", None, GOOD);
    let check = |below: &Between, chain: &str, roots: &str, want: &str| {
        let pem = AuthorityPem { certificate: &below.certificate, key: &below.key, chain, roots };
        let error = load(&pem).map_err(|error| model::causes(&error));
        match error {
            Ok(_) => assert_eq!(want, ""),
            Err(error) => assert!(!want.is_empty() && error.contains(want), "{error} / {want}"),
        }
    };
    let leaf = between("leaf", Some(&top), Shape { is_ca: IsCaKind::No, ..GOOD });
    let unusable =
        between("unusable", Some(&top), Shape { usage: KeyUsagePurpose::CrlSign, ..GOOD });
    let past = between("past", Some(&top), Shape { from_days: -9, days: -1, ..GOOD });
    let future = between("future", Some(&top), Shape { from_days: 1, ..GOOD });
    let deep = between("deep", Some(&good), GOOD);
    let roots = &top.certificate;
    check(&good, "", roots, "");
    check(&leaf, "", roots, "CA:true is missing");
    check(&unusable, "", roots, "may not sign");
    check(&past, "", roots, "is valid from");
    check(&future, "", roots, "is valid from");
    check(&deep, &good.certificate, roots, "peers would refuse");
    check(&deep, "", roots, "no certificate of CN=good is there");
    check(&good, "", &stranger.certificate, "no certificate of CN=top");
    check(&good, "", "", "the roots are not usable");
    check(&good, "not PEM", roots, "");
    let cut = &good.certificate[..200];
    check(&good, cut, roots, "not whole PEM");
    // The same name, another key: the signature decides.
    let double = between("top", None, GOOD);
    check(&good, "", &double.certificate, "peers would refuse");
    let mixed = Between { key: stranger.key.clone(), ..between("mixed", Some(&top), GOOD) };
    check(&mixed, "", roots, "the key is not that of the certificate");
    let no_key = Between { key: "no key".to_owned(), ..between("no key", Some(&top), GOOD) };
    check(&no_key, "", roots, "the key cannot be read");
}

#[test]
fn two_roots_of_a_domain_are_told_apart() {
    let (one, two) = (root(KeyAlgorithm::P256), root(KeyAlgorithm::P256));
    let both = format!("{}{}", two.certificate, one.certificate);
    let pem = AuthorityPem { roots: &both, ..of_root(&one) };
    let authority = load(&pem).expect("loaded");
    assert_eq!(authority.root(), Fingerprint::of(authority.certificate()));
    assert_eq!(authority.bundle().certificates().len(), 2);
    assert!(authority.intermediates().is_empty());
}
