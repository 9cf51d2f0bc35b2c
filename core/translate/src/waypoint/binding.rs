//! Which waypoint an object is behind.

use cluster::{Meta, ObjectName};
use proto::workload as wire;

use super::gateway::{TrafficType, Waypoint};
use crate::condition::Condition;
use crate::names;
use crate::world::World;

/// Value of a label that opts out of the namespace's waypoint.
const NONE: &str = "none";
/// Weights of a waypoint and its canary together.
const WEIGHT_MAX: u32 = 100;
/// Condition of a service, an entry or a workload entry.
const CONDITION: &str = "istio.io/WaypointBound";

/// What is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// Connections to a service.
    Service,
    /// Connections to a workload's own address.
    Workload,
    /// Connections to a service that only its own namespace may see.
    PrivateService,
}

/// The waypoint of an object.
#[derive(Debug)]
pub(crate) enum Binding<'w> {
    /// None was asked for.
    None,
    /// This one.
    Bound {
        waypoint: &'w Waypoint,
        /// A second one and its share.
        canary: Option<(&'w Waypoint, u32)>,
        /// Why there is no second one, though one was asked for.
        fault: Option<Fault>,
    },
    /// One was asked for and cannot be had: connections go to the object itself.
    Failed {
        fault: Fault,
        /// The waypoint, if all that it lacks is an address: nobody else may connect meanwhile.
        awaited: Option<&'w ObjectName>,
    },
}

/// Why a waypoint is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    reason: &'static str,
    message: String,
}

impl Fault {
    /// For people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

/// Whose label it was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Object,
    Namespace,
}

impl Binding<'_> {
    /// Where connections have to go.
    pub(crate) fn destination(&self) -> Option<wire::GatewayAddress> {
        match self {
            Self::Bound { waypoint, .. } => waypoint.destination.clone(),
            Self::None | Self::Failed { .. } => None,
        }
    }

    /// The shares of two waypoints.
    pub(crate) fn weighted(&self) -> Vec<wire::WeightedWaypoint> {
        let Self::Bound { waypoint, canary: Some((canary, weight)), .. } = self else {
            return Vec::new();
        };
        let share = |waypoint: &Waypoint, weight| wire::WeightedWaypoint {
            destination: waypoint.destination.clone(),
            weight,
        };
        vec![share(waypoint, WEIGHT_MAX - weight), share(canary, *weight)]
    }

    /// Waypoints that connections may come from.
    pub(crate) fn waypoints(&self) -> impl Iterator<Item = &ObjectName> {
        let both = match self {
            Self::Bound { waypoint, canary, .. } => {
                [Some(&waypoint.name), canary.map(|(canary, _)| &canary.name)]
            }
            Self::Failed { awaited, .. } => [*awaited, None],
            Self::None => [None, None],
        };
        both.into_iter().flatten()
    }
}

/// The label of the object counts, else its namespace's. A waypoint that the object names and that
/// cannot be had is not replaced by the namespace's.
pub(crate) fn bind<'w>(world: &'w World, meta: &Meta, traffic: Traffic) -> Binding<'w> {
    if world.waypoints.is_waypoint(meta) {
        return Binding::None;
    }
    let namespace = world.store.namespace(&meta.namespace);
    let (from, of) = match (meta.label(names::USE_WAYPOINT), namespace) {
        (Some(_), _) => (meta, Of::Object),
        (None, Some(namespace)) => (namespace, Of::Namespace),
        (None, None) => return Binding::None,
    };
    let named = named(from, &meta.namespace, names::USE_WAYPOINT, names::USE_WAYPOINT_NAMESPACE);
    let Some(primary) = named else { return Binding::None };
    let waypoint = match admitted(world, meta, &primary, traffic) {
        Ok(waypoint) => waypoint,
        Err(fault) => {
            let awaited = awaited(world, meta, &primary, traffic);
            return Binding::Failed { fault, awaited };
        }
    };
    if let Err(fault) = takes(waypoint, traffic) {
        // A namespace may well have both: its waypoint is not meant for this one.
        return match (of, traffic) {
            (Of::Namespace, Traffic::Workload) => Binding::None,
            _ => Binding::Failed { fault, awaited: None },
        };
    }
    match canary(world, meta, from, &primary, traffic) {
        Ok(canary) => Binding::Bound { waypoint, canary, fault: None },
        Err(fault) => Binding::Bound { waypoint, canary: None, fault: Some(fault) },
    }
}

/// What a pair of labels names.
fn named(meta: &Meta, namespace: &str, name: &str, beside: &str) -> Option<ObjectName> {
    let name = meta.label(name).filter(|name| *name != NONE && !name.is_empty())?;
    Some(ObjectName::new(meta.label(beside).unwrap_or(namespace), name))
}

/// Gateways that labels name, ready or not, and the one that the object was made for.
pub(crate) fn users_of(meta: &Meta, namespace: &str) -> Vec<ObjectName> {
    let made_for = meta.label(names::GATEWAY_NAME).map(|name| ObjectName::new(namespace, name));
    let pairs = [
        (names::USE_WAYPOINT, names::USE_WAYPOINT_NAMESPACE),
        (names::CANARY, names::CANARY_NAMESPACE),
    ];
    let used = pairs.into_iter().filter_map(|(name, beside)| named(meta, namespace, name, beside));
    used.chain(made_for).collect()
}

/// A waypoint that is there and lets the object be behind it.
fn admitted<'w>(
    world: &'w World,
    meta: &Meta,
    name: &ObjectName,
    traffic: Traffic,
) -> Result<&'w Waypoint, Fault> {
    let Some(waypoint) = world.waypoints.ready(name) else {
        let message = match world.waypoints.gateway(name) {
            None => format!("there is no waypoint {name}"),
            Some(_) => format!("the waypoint {name} has no address yet"),
        };
        return Err(Fault { reason: "WaypointIsNotReady", message });
    };
    lets(world, waypoint, meta, traffic)?;
    Ok(waypoint)
}

/// The waypoint that the object would be behind, if it had an address.
fn awaited<'w>(
    world: &'w World,
    meta: &Meta,
    name: &ObjectName,
    traffic: Traffic,
) -> Option<&'w ObjectName> {
    let waypoint = &world.waypoints.gateway(name)?.waypoint;
    let would = lets(world, waypoint, meta, traffic).and_then(|()| takes(waypoint, traffic));
    (waypoint.destination.is_none() && would.is_ok()).then_some(&waypoint.name)
}

/// Whether a waypoint lets the object be behind it.
fn lets(world: &World, waypoint: &Waypoint, meta: &Meta, traffic: Traffic) -> Result<(), Fault> {
    let name = &waypoint.name;
    let namespace = &meta.namespace;
    if traffic == Traffic::PrivateService && name.namespace != *namespace {
        let reason = "CrossNamespaceWaypointForbidden";
        let message =
            format!("only {namespace} may see this, so the waypoint {name} may not serve it");
        return Err(Fault { reason, message });
    }
    if !waypoint.admits(namespace, &world.store.namespace_labels(namespace)) {
        let message = format!("the waypoint {name} does not admit the namespace {namespace}");
        return Err(Fault { reason: "AttachmentDenied", message });
    }
    Ok(())
}

/// Whether a waypoint takes such traffic.
fn takes(waypoint: &Waypoint, traffic: Traffic) -> Result<(), Fault> {
    let (takes, what) = match traffic {
        Traffic::Service | Traffic::PrivateService => {
            (matches!(waypoint.traffic, TrafficType::Service | TrafficType::All), "services")
        }
        Traffic::Workload => {
            (matches!(waypoint.traffic, TrafficType::Workload | TrafficType::All), "workloads")
        }
    };
    if takes {
        return Ok(());
    }
    let name = &waypoint.name;
    let message = format!("the waypoint {name} does not take the traffic of {what}");
    Err(Fault { reason: "UnsupportedTrafficType", message })
}

/// A second waypoint, named by the same object as the first. Weights are for services: a workload
/// has one waypoint.
fn canary<'w>(
    world: &'w World,
    meta: &Meta,
    from: &Meta,
    primary: &ObjectName,
    traffic: Traffic,
) -> Result<Option<(&'w Waypoint, u32)>, Fault> {
    let Some(name) = named(from, &meta.namespace, names::CANARY, names::CANARY_NAMESPACE) else {
        return Ok(None);
    };
    if traffic == Traffic::Workload {
        return Ok(None);
    }
    if name == *primary {
        let message = format!("{name} is the waypoint already, so there is no canary");
        return Err(Fault { reason: "CanarySameAsPrimary", message });
    }
    let text = from.annotation(names::CANARY_WEIGHT).unwrap_or("0");
    let Some(weight) = text.parse::<u32>().ok().filter(|weight| *weight <= WEIGHT_MAX) else {
        let shown: String = text.chars().take(16).collect();
        let message =
            format!("{shown:?} is not a weight from 0 to {WEIGHT_MAX}; {primary} has all");
        return Err(Fault { reason: "CanaryInvalidWeight", message });
    };
    let fall_back =
        |fault: Fault| Fault { message: format!("{}; {primary} has all", fault.message), ..fault };
    let waypoint = admitted(world, meta, &name, traffic).map_err(fall_back)?;
    takes(waypoint, traffic).map_err(fall_back)?;
    Ok(Some((waypoint, weight)))
}

/// What an object's status says of its waypoint; nothing where none was asked for.
pub(crate) fn condition(binding: &Binding<'_>, serves_ingress: bool) -> Option<Condition> {
    let (status, reason, message) = match binding {
        Binding::None => return None,
        Binding::Failed { fault, .. } | Binding::Bound { fault: Some(fault), .. } => {
            (false, fault.reason, fault.message.clone())
        }
        Binding::Bound { waypoint, canary, fault: None } => {
            let mut message = format!("bound to the waypoint {}", waypoint.name);
            if let Some((canary, weight)) = canary {
                message = format!("{message}, {weight} % to {}", canary.name);
            }
            if serves_ingress {
                message += "; traffic from ingress gateways goes through it too";
            }
            (true, "WaypointAccepted", message)
        }
    };
    Some(Condition { kind: CONDITION, status, reason, message: message.into() })
}
