//! What a name means to a client: a service, or a pod of a headless one.

use model::{Service, Visibility};
use resolve::Snapshot;

use crate::Client;
use crate::host::ClusterDomain;

/// Names of more labels are nobody's abbreviation.
const ABBREVIATED_LABELS_MAX: usize = 4;

/// Whom a name belongs to.
#[derive(Clone, Debug)]
pub(crate) enum Owner<'s> {
    /// A service, by its host name or a wildcard.
    Service(&'s Service),
    /// A pod of a service. It need not exist.
    Pod {
        /// Its service.
        service: &'s Service,
        /// Its name.
        pod: String,
    },
}

impl<'s> Owner<'s> {
    pub(crate) fn service(&self) -> &'s Service {
        match self {
            Self::Service(service) | Self::Pod { service, .. } => service,
        }
    }
}

/// Whom `host` belongs to; see the crate's documentation for the order.
pub(crate) fn owner<'s>(
    snapshot: &'s Snapshot,
    client: &Client<'_>,
    domain: &ClusterDomain,
    host: &str,
) -> Option<Owner<'s>> {
    exactly(snapshot, client, domain, host)
        .or_else(|| wildcard(snapshot, client, host))
        .or_else(|| abbreviated(snapshot, client, domain, host))
}

fn exactly<'s>(
    snapshot: &'s Snapshot,
    client: &Client<'_>,
    domain: &ClusterDomain,
    host: &str,
) -> Option<Owner<'s>> {
    if let Some(service) = service(snapshot, client, host) {
        return Some(Owner::Service(service));
    }
    let (pod, host) = host.split_once('.')?;
    if !domain.holds(host) || !is_stateful(pod) {
        return None;
    }
    let service = service(snapshot, client, host)?;
    Some(Owner::Pod { service, pod: pod.to_owned() })
}

/// The service with that host name that counts for the client.
fn service<'s>(snapshot: &'s Snapshot, client: &Client<'_>, host: &str) -> Option<&'s Service> {
    let own = |service: &Service| *service.name.namespace == *client.namespace;
    let all = snapshot.services_by_hostname(host).iter().map(|service| &**service);
    let visible = all.filter(|service| match service.visibility {
        Visibility::Public => true,
        Visibility::Namespace => own(service),
    });
    let rank = |service: &Service| (own(service), service.canonical);
    // The first of equals stays.
    visible.reduce(|best, next| if rank(next) > rank(best) { next } else { best })
}

/// The service with the longest wildcard host around `host`. `*.x` is not about `x` itself.
fn wildcard<'s>(snapshot: &'s Snapshot, client: &Client<'_>, host: &str) -> Option<Owner<'s>> {
    let mut rest = host;
    while let Some((_, parent)) = rest.split_once('.') {
        if let Some(service) = service(snapshot, client, &format!("*.{parent}")) {
            return Some(Owner::Service(service));
        }
        rest = parent;
    }
    None
}

/// What the default search list of a pod makes of a short name.
fn abbreviated<'s>(
    snapshot: &'s Snapshot,
    client: &Client<'_>,
    domain: &ClusterDomain,
    host: &str,
) -> Option<Owner<'s>> {
    if host.split('.').count() > ABBREVIATED_LABELS_MAX {
        return None;
    }
    let (namespace, domain_name) = (client.namespace, domain.as_str());
    let suffixes = [
        format!("{namespace}.svc.{domain_name}"),
        format!("svc.{domain_name}"),
        domain_name.to_owned(),
    ];
    suffixes.iter().find_map(|suffix| {
        let whole = format!("{host}.{suffix}");
        // The last suffix makes more than services of a name.
        if domain.holds(&whole) { exactly(snapshot, client, domain, &whole) } else { None }
    })
}

/// Whether a pod's name ends with an ordinal, as those of StatefulSets do. Kubernetes names no others
/// below their service, unless their author says so, and that is not told to the mesh.
fn is_stateful(pod: &str) -> bool {
    pod.rsplit_once('-').is_some_and(|(set, ordinal)| {
        !set.is_empty() && !ordinal.is_empty() && ordinal.bytes().all(|b| b.is_ascii_digit())
    })
}
