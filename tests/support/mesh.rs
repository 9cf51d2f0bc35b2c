//! Writes the mesh file (`LOCAL_XDS_PATH`) from the pods of a world.

use std::fmt::{self, Write};
use std::net::IpAddr;

use crate::pod::Pod;

/// A service.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) ports: Vec<(u16, u16)>,
    endpoints: Vec<String>,
    identities: Vec<String>,
    further: Vec<String>,
    hostname: Option<String>,
}

impl ServiceSpec {
    /// `<name>.<namespace>.svc.cluster.local` without address, port or endpoint.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            vips: Vec::new(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            identities: Vec::new(),
            further: Vec::new(),
            hostname: None,
        }
    }

    /// With a host name of its own, as a ServiceEntry has.
    #[must_use]
    pub fn host(self, hostname: &str) -> Self {
        Self { hostname: Some(hostname.to_owned()), ..self }
    }

    /// Adds an address.
    #[must_use]
    pub fn vip(mut self, address: IpAddr) -> Self {
        self.vips.push(address);
        self
    }

    /// Adds a port and the port of the pods behind it.
    #[must_use]
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push((port, target));
        self
    }

    /// Adds a pod.
    #[must_use]
    pub fn endpoint(mut self, pod: &Pod) -> Self {
        self.endpoints.push(pod.uid().to_owned());
        self
    }

    /// Adds an identity that its endpoints may have besides their own.
    #[must_use]
    pub fn subject_alt_name(mut self, identity: &str) -> Self {
        self.identities.push(identity.to_owned());
        self
    }

    /// Adds a key that this builder does not know, as `key: value` in flow style.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.further.push(line.to_owned());
        self
    }

    /// Its host name.
    #[must_use]
    pub fn hostname(&self) -> String {
        let usual = || format!("{}.{}.svc.cluster.local", self.name, self.namespace);
        self.hostname.clone().unwrap_or_else(usual)
    }
}

/// A mesh. Its text, through [`fmt::Display`], is the file.
#[derive(Clone, Debug, Default)]
pub struct Mesh {
    pods: Vec<Pod>,
    services: Vec<ServiceSpec>,
    policies: Vec<String>,
    /// Networks of pods that are not in the default one.
    networks: Vec<(String, String)>,
    further: Vec<(String, String)>,
}

impl Mesh {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pod's workload.
    #[must_use]
    pub fn workload(mut self, pod: &Pod) -> Self {
        self.pods.push(pod.clone());
        self
    }

    /// Adds workloads.
    #[must_use]
    pub fn workloads<'a>(mut self, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        self.pods.extend(pods.into_iter().cloned());
        self
    }

    /// Puts a pod into another network.
    #[must_use]
    pub fn network(mut self, pod: &Pod, network: &str) -> Self {
        self.networks.push((pod.uid().to_owned(), network.to_owned()));
        self
    }

    /// Adds a key to a pod's workload that this builder does not know, as `key: value` in flow
    /// style.
    #[must_use]
    pub fn with(mut self, pod: &Pod, line: &str) -> Self {
        self.further.push((pod.uid().to_owned(), line.to_owned()));
        self
    }

    /// Adds a service.
    #[must_use]
    pub fn service(mut self, service: ServiceSpec) -> Self {
        self.services.push(service);
        self
    }

    /// Adds a policy: one YAML mapping, at any indentation.
    #[must_use]
    pub fn policy(mut self, yaml: &str) -> Self {
        self.policies.push(yaml.to_owned());
        self
    }

    /// Adds an ALLOW for a whole namespace: only these identities, on any port.
    #[must_use]
    pub fn allow(self, namespace: &str, name: &str, identities: &[&str]) -> Self {
        let principals: Vec<_> =
            identities.iter().map(|identity| format!("!Exact {identity}")).collect();
        let principals = principals.join(", ");
        self.policy(&format!(
            "name: {name}\nnamespace: {namespace}\nscope: Namespace\naction: Allow\nrules:\n\
             - - - principals: [{principals}]\n"
        ))
    }

    fn write_workload(&self, out: &mut impl Write, pod: &Pod) -> fmt::Result {
        let (namespace, name) = (pod.namespace(), pod.name());
        let protocol = if pod.is_hbone() { "HBONE" } else { "TCP" };
        writeln!(out, "- uid: cluster1//v1/Pod/{namespace}/{name}")?;
        writeln!(out, "  name: {name}\n  namespace: {namespace}")?;
        writeln!(out, "  serviceAccount: {}", pod.account())?;
        writeln!(out, "  workloadIps: [\"{}\", \"{}\"]", pod.ipv4(), pod.ipv6())?;
        let network = self.networks.iter().find(|(uid, _)| uid == pod.uid());
        let network = network.map_or("", |(_, network)| network);
        writeln!(
            out,
            "  protocol: {protocol}\n  node: node-{}\n  network: {network:?}",
            pod.node()
        )?;
        for (_, line) in self.further.iter().filter(|(uid, _)| uid == pod.uid()) {
            writeln!(out, "  {line}")?;
        }
        writeln!(out, "  workloadName: {name}\n  workloadType: pod\n  canonicalName: {name}")?;
        let mut services =
            self.services.iter().filter(|s| s.endpoints.iter().any(|e| e == pod.uid())).peekable();
        if services.peek().is_some() {
            writeln!(out, "  services:")?;
        }
        for service in services {
            writeln!(out, "    \"{}/{}\":", service.namespace, service.hostname())?;
            for (port, target) in &service.ports {
                writeln!(out, "      {port}: {target}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "workloads:{}", if self.pods.is_empty() { " []" } else { "" })?;
        for pod in &self.pods {
            self.write_workload(f, pod)?;
        }
        writeln!(f, "services:{}", if self.services.is_empty() { " []" } else { "" })?;
        for service in &self.services {
            write_service(f, service)?;
        }
        writeln!(f, "policies:{}", if self.policies.is_empty() { " []" } else { "" })?;
        for policy in &self.policies {
            write_item(f, policy)?;
        }
        Ok(())
    }
}

fn write_service(out: &mut impl Write, service: &ServiceSpec) -> fmt::Result {
    writeln!(out, "- name: {}\n  namespace: {}", service.name, service.namespace)?;
    writeln!(out, "  hostname: \"{}\"", service.hostname())?;
    let vips: Vec<_> = service.vips.iter().map(|vip| format!("\"/{vip}\"")).collect();
    writeln!(out, "  vips: [{}]", vips.join(", "))?;
    let ports: Vec<_> = service.ports.iter().map(|(p, t)| format!("{p}: {t}")).collect();
    writeln!(out, "  ports: {{{}}}", ports.join(", "))?;
    if !service.identities.is_empty() {
        writeln!(out, "  subjectAltNames: [\"{}\"]", service.identities.join("\", \""))?;
    }
    for line in &service.further {
        writeln!(out, "  {line}")?;
    }
    writeln!(out, "  canonical: true")
}

/// A mapping as an item of a list: without the indentation it came with.
fn write_item(out: &mut impl Write, yaml: &str) -> fmt::Result {
    let lines: Vec<_> = yaml.lines().filter(|line| !line.trim().is_empty()).collect();
    let indent = |line: &&str| line.len() - line.trim_start().len();
    let common = lines.iter().map(indent).min().unwrap_or(0);
    for (number, line) in lines.iter().enumerate() {
        writeln!(out, "{}{}", if number == 0 { "- " } else { "  " }, &line[common..])?;
    }
    Ok(())
}
