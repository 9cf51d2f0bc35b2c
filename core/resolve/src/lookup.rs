//! The last step of a route: what is known but the address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use model::{Code, DialledService, IpFamilies, SpiffeId, Workload};

use crate::ejection::Choice;
use crate::endpoints::offers;
use crate::random::{Draw, drawn, scaled};
use crate::route::{HBONE_PORT, MESH_PORTS, Route};

/// A route to a host name. Look the name up, then go on with [`Self::resolved`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    hostname: Arc<str>,
    families: IpFamilies,
    /// Of the family that is preferred.
    dialled: IpAddr,
    random: u64,
    next: Next,
    origin: Origin,
}

/// A route without the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Plain TCP to a workload.
    Plain { workload: Arc<Workload>, port: u16 },
    /// A tunnel to a workload.
    Direct { workload: Arc<Workload>, port: u16, expected: Vec<SpiffeId> },
    /// A tunnel to a waypoint.
    Waypoint { waypoint: Arc<Workload>, port: u16, authority: SocketAddr, expected: Vec<SpiffeId> },
    /// A tunnel to a gateway, and one in it.
    Gateway {
        workload: Arc<Workload>,
        gateway: Arc<Workload>,
        port: u16,
        authority: (Arc<str>, u16),
        outer_expected: Vec<SpiffeId>,
        inner_expected: Vec<SpiffeId>,
    },
}

/// What the client dialled, and the choice that was made for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) service: Option<DialledService>,
    pub(crate) choice: Option<Choice>,
}

impl Next {
    /// The host that is dialled.
    fn host(&self) -> &Arc<Workload> {
        match self {
            Self::Plain { workload, .. } | Self::Direct { workload, .. } => workload,
            Self::Waypoint { waypoint: host, .. } | Self::Gateway { gateway: host, .. } => host,
        }
    }

    /// The route with that address.
    pub(crate) fn at(self, ip: IpAddr, origin: Origin) -> Route {
        let Origin { service, choice } = origin;
        match self {
            Self::Plain { workload, port } if ip.is_loopback() && MESH_PORTS.contains(&port) => {
                self_call(SocketAddr::new(ip, port), service, Some(workload))
            }
            Self::Plain { workload, port } => Route::Passthrough {
                address: SocketAddr::new(ip, port),
                workload: Some(workload),
                service,
                choice,
            },
            Self::Direct { workload, port, expected } => Route::Hbone {
                workload,
                tunnel: SocketAddr::new(ip, HBONE_PORT),
                authority: SocketAddr::new(ip, port),
                expected,
                service,
                choice,
            },
            Self::Waypoint { waypoint, port, authority, expected } => Route::Hbone {
                workload: waypoint,
                tunnel: SocketAddr::new(ip, port),
                authority,
                expected,
                service,
                choice,
            },
            Self::Gateway {
                workload,
                gateway,
                port,
                authority,
                outer_expected,
                inner_expected,
            } => Route::DoubleHbone {
                workload,
                gateway,
                tunnel: SocketAddr::new(ip, port),
                authority,
                outer_expected,
                inner_expected,
                service,
                choice,
            },
        }
    }
}

impl Lookup {
    pub(crate) fn new(
        hostname: Arc<str>,
        (families, dialled): (IpFamilies, IpAddr),
        random: u64,
        next: Next,
        origin: Origin,
    ) -> Self {
        Self { hostname, families, dialled, random, next, origin }
    }

    /// The name to look up.
    #[must_use]
    pub fn hostname(&self) -> &Arc<str> {
        &self.hostname
    }

    /// Whether addresses of a family are of use.
    #[must_use]
    pub fn accepts(&self, ip: IpAddr) -> bool {
        offers(self.families, ip)
    }

    /// The service that was dialled.
    #[must_use]
    pub fn service(&self) -> Option<&DialledService> {
        self.origin.service.as_ref()
    }

    /// The workload that has the name.
    #[must_use]
    pub fn workload(&self) -> &Arc<Workload> {
        self.next.host()
    }

    /// The choice among endpoints that this is: a name that cannot be looked up is a failure of
    /// that endpoint.
    #[must_use]
    pub fn choice(&self) -> Option<&Choice> {
        self.origin.choice.as_ref()
    }

    /// Goes on with the addresses that the name has: to one of them, of the family that the
    /// application dialled if there is one. With none, the route is refused.
    #[must_use]
    pub fn resolved(self, addresses: &[IpAddr]) -> Route {
        let same = |ip: &IpAddr| ip.is_ipv4() == self.dialled.is_ipv4();
        let mut usable: Vec<_> = addresses.iter().map(IpAddr::to_canonical).collect();
        usable.retain(|ip| self.accepts(*ip));
        if usable.iter().any(same) {
            usable.retain(same);
        }
        let count = u64::try_from(usable.len()).unwrap_or(u64::MAX);
        let index = scaled(drawn(self.random, Draw::Address), count);
        match usize::try_from(index).ok().and_then(|index| usable.get(index)) {
            Some(ip) => self.next.at(*ip, self.origin),
            None => self.unresolved("it has no address of the service's families"),
        }
    }

    /// Gives up, for a reason.
    #[must_use]
    pub fn unresolved(self, reason: &str) -> Route {
        let workload = self.next.host();
        Route::Refused {
            code: Code::HostnameUnresolved,
            detail: format!("host name {} of {}: {reason}", self.hostname, workload.uid),
            service: self.origin.service,
            workload: Some(workload.clone()),
        }
    }
}

pub(crate) fn self_call(
    address: SocketAddr,
    service: Option<DialledService>,
    workload: Option<Arc<Workload>>,
) -> Route {
    let ip = address.ip();
    let host = if ip.is_loopback() { "the pod".to_owned() } else { ip.to_string() };
    Route::Refused {
        code: Code::SelfCall,
        detail: format!("port {} of {host} belongs to the mesh", address.port()),
        service,
        workload,
    }
}
