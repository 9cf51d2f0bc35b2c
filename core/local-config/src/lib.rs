//! The mesh as a file: the YAML shape that Istio's ztunnel reads from `LOCAL_XDS_PATH`.
//!
//! Every key of that shape is known, and any other is an error. Nothing is dropped or guessed: a
//! policy that lost a condition would admit too much. All
//! mistakes of a file are reported together, each with its line, column and field path.
//! `docs/local-config.md` is the reference.

pub mod conformance;
mod consistency;
mod endpoint;
mod error;
mod gateway;
mod node;
mod policy;
mod read;
mod service;
mod workload;

use authz::{Policy, Stored};
use model::{Service, ServiceName, TrustDomain, Workload};

use crate::consistency::Placed;
use crate::endpoint::Endpoint;
use crate::error::Collector;
use crate::node::Node;
use crate::read::{Object, Path, list};

pub use error::{ConfigError, ConfigErrors};

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalConfig {
    /// Workloads.
    pub workloads: Vec<Workload>,
    /// Services.
    pub services: Vec<Service>,
    /// Policies; all of them were understood.
    pub policies: Vec<Stored>,
}

/// What a workload has that names none; an agent's own settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// SPIFFE trust domain.
    pub trust_domain: TrustDomain,
    /// Cluster.
    pub cluster: String,
}

impl Default for Defaults {
    /// Istio's.
    fn default() -> Self {
        Self { trust_domain: TrustDomain::default(), cluster: "Kubernetes".to_owned() }
    }
}

/// Parses a configuration. `file_name` appears in the errors and is not opened.
pub fn parse(
    file_name: &str,
    text: &str,
    defaults: &Defaults,
) -> Result<LocalConfig, ConfigErrors> {
    let mut errors = Collector::new(file_name);
    let config = match node::parse(text) {
        Ok(root) => read_config(&mut errors, &root, defaults),
        Err(error) => {
            errors.push(error.position, "", None, error.cause);
            None
        }
    };
    errors.finish(config.unwrap_or_default())
}

fn read_config(
    errors: &mut Collector<'_>,
    root: &Node,
    defaults: &Defaults,
) -> Option<LocalConfig> {
    let mut object = Object::open(errors, root, &Path::Root)?;
    let workload = |errors: &mut Collector<'_>, node: &Node, path: &Path<'_>| {
        workload::workload(errors, node, path, defaults)
    };
    let workloads = object.optional(errors, "workloads", list(placed(workload)));
    let policies = object.optional(errors, "policies", list(placed(policy::policy)));
    let services = object.optional(errors, "services", list(placed(service::service)));
    object.finish(errors);
    let mut workloads: Vec<Placed<Workload>> = workloads.unwrap_or_default();
    let policies: Vec<Placed<Policy>> = policies.unwrap_or_default();
    let (services, endpoints) = apart(services.unwrap_or_default());
    endpoint::attach(errors, &mut workloads, endpoints);
    consistency::check(errors, &workloads, &services, &policies);
    Some(LocalConfig {
        workloads: values(workloads).collect(),
        services: values(services).collect(),
        policies: values(policies).map(Stored::Policy).collect(),
    })
}

/// Keeps the place of what `read` reads.
fn placed<T>(
    read: impl Fn(&mut Collector<'_>, &Node, &Path<'_>) -> Option<T>,
) -> impl FnMut(&mut Collector<'_>, &Node, &Path<'_>) -> Option<Placed<T>> {
    move |errors, node, path| {
        let index = match path {
            Path::Index(_, index) => *index,
            Path::Root | Path::Key(..) => 0,
        };
        let value = read(errors, node, path)?;
        Some(Placed { index, position: node.position, value })
    }
}

/// Services, and the endpoints that they name.
fn apart(
    services: Vec<Placed<(Service, Vec<Endpoint>)>>,
) -> (Vec<Placed<Service>>, Vec<(ServiceName, Endpoint)>) {
    let mut all = Vec::new();
    let services = services.into_iter().map(|placed| {
        let Placed { index, position, value: (service, endpoints) } = placed;
        all.extend(endpoints.into_iter().map(|endpoint| (service.name.clone(), endpoint)));
        Placed { index, position, value: service }
    });
    (services.collect(), all)
}

fn values<T>(placed: Vec<Placed<T>>) -> impl Iterator<Item = T> {
    placed.into_iter().map(|placed| placed.value)
}

#[cfg(test)]
mod tests;
