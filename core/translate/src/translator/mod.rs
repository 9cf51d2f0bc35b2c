//! The translation as a machine: objects go in, what changed comes out.
//!
//! [`Translator::apply`] notes an object and what may depend on it; [`Translator::settle`] looks at
//! that, stage by stage, each stage once: gateways, networks, hosts, virtual addresses, services, slices,
//! policies, workloads. What an object means is always computed from the objects as they are, so
//! the order in which they came has no effect.

mod apply;
mod dirty;
mod networks;
mod overlaps;
mod settle;

use cluster::{ObjectKey, ObjectName, Text};

use crate::attachment::Attachments;
use crate::bind::Policies;
use crate::changes::{Assignment, Changes};
use crate::condition::Condition;
use crate::hosts::Hosts;
use crate::ledger::{Lists, Published};
use crate::networks::Networks;
use crate::problem::{Problem, Problems};
use crate::settings::Settings;
use crate::store::Store;
use crate::vips::Vips;
use crate::waypoint::Waypoints;
use crate::world::World;

use dirty::Dirty;
use overlaps::Overlaps;

/// From the objects of a cluster to workloads, services and policies.
#[derive(Debug)]
pub struct Translator {
    world: World,
    policies: Policies,
    attachments: Attachments,
    overlaps: Overlaps,
    out: Out,
    dirty: Dirty,
}

/// What was said, and what is to be said.
#[derive(Debug, Default)]
struct Out {
    published: Published,
    /// Resources of objects that have any number of them.
    resources: std::collections::HashMap<ObjectKey, Vec<Text>>,
    /// Resources of gateways to other networks, by network.
    network_gateways: std::collections::HashMap<Text, Vec<Text>>,
    conditions: Lists<Condition>,
    assignments: Lists<Assignment>,
    problems: Problems,
}

impl Translator {
    /// A cluster without objects.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let policies = Policies::new(&settings);
        let network = settings.network.clone();
        let world = World {
            settings,
            store: Store::default(),
            waypoints: Waypoints::default(),
            networks: Networks::default(),
            hosts: Hosts::default(),
            vips: Vips::default(),
            network,
        };
        let (overlaps, out, dirty) = (Overlaps::default(), Out::default(), Dirty::default());
        let attachments = Attachments::default();
        Self { world, policies, attachments, overlaps, out, dirty }
    }

    /// Everything that changed since the last call.
    pub fn settle(&mut self) -> Changes {
        let (policies, policy_conditions) = self.run();
        let mut conditions = self.out.conditions.take_changes();
        conditions.extend(policy_conditions);
        conditions.sort_by(|(a, _), (b, _)| a.cmp(b));
        Changes {
            addresses: self.out.published.take_changes(),
            policies,
            conditions,
            assignments: self.out.assignments.take_changes(),
            problems: self.out.problems.take_changes(),
        }
    }

    /// Conditions of an object, as of the last [`Translator::settle`].
    #[must_use]
    pub fn status(&self, key: &ObjectKey) -> Option<&[Condition]> {
        let of_policy = || self.policies.conditions().find(|(of, _)| *of == key).map(|(_, c)| c);
        self.out.conditions.get(key).or_else(of_policy)
    }

    /// The waypoints that enforce a policy, sorted: none if nodes do, or nobody.
    #[must_use]
    pub fn enforcers(&self, policy: &ObjectKey) -> Vec<ObjectName> {
        self.attachments.enforcers(&self.world, policy)
    }

    /// Every object with conditions, as of the last [`Translator::settle`].
    pub fn statuses(&self) -> impl Iterator<Item = (&ObjectKey, &[Condition])> {
        self.out.conditions.iter().chain(self.policies.conditions())
    }

    /// Addresses that wait to be written into a status.
    pub fn assignments(&self) -> impl Iterator<Item = (&ObjectKey, &[Assignment])> {
        self.out.assignments.iter()
    }

    /// What is wrong, at most [`crate::PROBLEMS_MAX`] parts of objects.
    pub fn problems(&self) -> impl Iterator<Item = (&ObjectKey, &Problem)> {
        self.out.problems.all()
    }

    /// How often something was wrong and was not kept, because of that bound.
    #[must_use]
    pub fn problems_omitted(&self) -> usize {
        self.out.problems.omitted()
    }
}
