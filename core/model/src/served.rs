//! The services that a workload is an endpoint of.

use crate::{PortMapping, ServiceName};

/// Services and the ports a workload serves for each, sorted by name.
///
/// A compact list rather than a map: nearly every workload serves one to three services, and a
/// B-tree of one entry takes ten times the memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedServices(Box<[(ServiceName, Box<[PortMapping]>)]>);

impl ServedServices {
    /// The ports served for that service.
    #[must_use]
    pub fn get(&self, service: &ServiceName) -> Option<&[PortMapping]> {
        let found = self.0.binary_search_by(|(name, _)| name.cmp(service)).ok()?;
        self.0.get(found).map(|(_, ports)| &**ports)
    }

    /// The services, sorted.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &ServiceName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// The services and their ports, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &[PortMapping])> {
        self.0.iter().map(|(name, ports)| (name, &**ports))
    }

    /// Adds a service, or replaces its ports.
    pub fn insert(&mut self, service: ServiceName, ports: Vec<PortMapping>) {
        let ports = ports.into_boxed_slice();
        match self.0.binary_search_by(|(name, _)| name.cmp(&service)) {
            Ok(found) => {
                if let Some(entry) = self.0.get_mut(found) {
                    entry.1 = ports;
                }
            }
            Err(place) => {
                let mut entries = std::mem::take(&mut self.0).into_vec();
                entries.insert(place, (service, ports));
                self.0 = entries.into_boxed_slice();
            }
        }
    }

    /// Puts another value in place of each name, such as an equal one that shares its memory. A
    /// value that is not equal is dropped: the list stays sorted.
    pub fn share_names(&mut self, mut shared: impl FnMut(&ServiceName) -> ServiceName) {
        for (name, _) in &mut self.0 {
            let other = shared(name);
            if other == *name {
                *name = other;
            }
        }
    }
}

/// Of two entries with one name, the last counts.
impl FromIterator<(ServiceName, Vec<PortMapping>)> for ServedServices {
    fn from_iter<I: IntoIterator<Item = (ServiceName, Vec<PortMapping>)>>(entries: I) -> Self {
        let mut entries: Vec<_> =
            entries.into_iter().map(|(name, ports)| (name, ports.into_boxed_slice())).collect();
        // Stable, so that the last of equal names is still the last; reversed, it is kept.
        entries.reverse();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|(later, _), (earlier, _)| later == earlier);
        Self(entries.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn entry(name: &str, port: u16) -> (ServiceName, Vec<PortMapping>) {
        let mapping =
            PortMapping { service_port: NonZeroU16::MIN, target_port: NonZeroU16::new(port) };
        (ServiceName::parse(name).expect("literal"), vec![mapping])
    }

    #[test]
    fn the_last_of_one_name_counts_whichever_way_it_came() {
        let (a, b) = (entry("n/a", 1), entry("n/b", 2));
        let collected: ServedServices =
            [b.clone(), entry("n/a", 9), a.clone()].into_iter().collect();
        let mut inserted = ServedServices::default();
        for (name, ports) in [entry("n/b", 7), a.clone(), b.clone()] {
            inserted.insert(name, ports);
        }
        assert_eq!(collected, inserted);
        assert_eq!(collected.get(&a.0), Some(&*a.1));
        assert_eq!(collected.get(&entry("n/c", 0).0), None);
        assert!(collected.keys().eq([&a.0, &b.0]));
        assert_eq!(collected.iter().len(), 2);
    }
}
