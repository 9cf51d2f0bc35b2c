//! What the authority counts; names as Istio's operators know them.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::current::{Current, InForce};
use crate::caller::{RefusalCode, RefusalKind, Refusals};

/// Label of [`CaMetrics::sign_errors`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabel {
    error: &'static str,
}

/// Counters of the authority. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct CaMetrics {
    requests: Counter,
    unauthenticated: Counter,
    unauthorized: Counter,
    unreadable: Counter,
    sign_errors: Family<ErrorLabel, Counter>,
    refusals: Refusals,
    issued: Counter,
    /// `f64` in bits; the registry's only kind of gauge for such numbers.
    root_expiry: Gauge<f64, AtomicU64>,
    chain_expiry: Gauge<f64, AtomicU64>,
}

impl CaMetrics {
    /// Puts them into a registry.
    pub fn register(&self, registry: &mut Registry) {
        self.refusals.register(registry, "warren_cp_certificate_refusals");
        let server = registry.sub_registry_with_prefix("citadel_server");
        server.register("csr_count", "Certificate requests received", self.requests.clone());
        server.register(
            "authentication_failure_count",
            "Certificate requests whose caller was not believed",
            self.unauthenticated.clone(),
        );
        server.register(
            "authorization_failure_count",
            "Certificate requests whose caller may not have what it asked for",
            self.unauthorized.clone(),
        );
        server.register(
            "csr_parsing_err_count",
            "Certificate requests that could not be read or proved",
            self.unreadable.clone(),
        );
        server.register(
            "csr_sign_err_count",
            "Certificate requests that were good and not signed",
            self.sign_errors.clone(),
        );
        server.register("success_cert_issuance_count", "Certificates issued", self.issued.clone());
        server.register(
            "root_cert_expiry_timestamp",
            "When the first of the roots ends, in seconds since 1970",
            self.root_expiry.clone(),
        );
        server.register(
            "cert_chain_expiry_timestamp",
            "When the signing chain ends, in seconds since 1970",
            self.chain_expiry.clone(),
        );
    }

    /// A request came.
    pub fn request(&self) {
        self.requests.inc();
    }

    /// It was refused.
    pub fn refused(&self, code: RefusalCode) {
        self.refusals.count(code);
        match (code, code.kind()) {
            (_, RefusalKind::Unauthenticated) => {
                self.unauthenticated.inc();
            }
            (_, RefusalKind::Forbidden) => {
                self.unauthorized.inc();
            }
            (RefusalCode::RequestUnreadable | RefusalCode::RequestTooLarge, _) => {
                self.unreadable.inc();
            }
            (RefusalCode::LifetimeNotAllowed, _) => self.sign_error("TTL_ERROR"),
            (_, RefusalKind::Unavailable | RefusalKind::Unacceptable | RefusalKind::Excessive) => {}
        }
    }

    /// It was not signed.
    pub fn sign_error(&self, error: &'static str) {
        self.sign_errors.get_or_create(&ErrorLabel { error }).inc();
    }

    /// It was signed.
    pub fn issued(&self) {
        self.issued.inc();
    }

    /// Shows when what is in force ends, now and after each change, until it is dropped. Cancel
    /// safe.
    pub async fn follow(&self, current: &Current) {
        let mut watch = current.watch();
        loop {
            self.show(&watch.borrow_and_update().clone());
            if watch.changed().await.is_err() {
                return;
            }
        }
    }

    fn show(&self, in_force: &InForce) {
        let chain = in_force.authority.not_after();
        let roots = in_force.bundle.certificates().filter_map(authority::not_after);
        self.expiries(roots.min().unwrap_or(chain), chain);
    }

    /// When the first of the roots and the signing chain end: for an authority elsewhere, which
    /// nothing here follows.
    pub fn expiries(&self, root: SystemTime, chain: SystemTime) {
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
        };
        self.root_expiry.set(seconds(root));
        self.chain_expiry.set(seconds(chain));
    }
}
