//! What a pod is part of: the name that people know it by.

use cluster::{Pod, Text};
use proto::workload::WorkloadType;

use crate::names;

/// Digits that a CronJob puts behind the names of its Jobs: minutes or seconds since 1970.
const JOB_DIGITS: std::ops::RangeInclusive<usize> = 8..=10;

/// Name and type of what a pod is part of. What is none of the types that are known is a pod.
pub(super) fn owner(pod: &Pod) -> (Text, WorkloadType) {
    let itself = (pod.metadata.name.clone(), WorkloadType::Pod);
    let Some(owner) = pod.metadata.controller() else { return itself };
    match &*owner.kind {
        "Deployment" => (owner.name.clone(), WorkloadType::Deployment),
        "ReplicaSet" => {
            let hash = pod.metadata.label(names::POD_TEMPLATE_HASH).unwrap_or_default();
            let deployment = owner.name.strip_suffix(hash).and_then(|name| name.strip_suffix('-'));
            match deployment.filter(|name| !hash.is_empty() && !name.is_empty()) {
                Some(name) => (name.into(), WorkloadType::Deployment),
                None => itself,
            }
        }
        "Job" => match cron_job(&owner.name) {
            Some(name) => (name.into(), WorkloadType::Cronjob),
            None => (owner.name.clone(), WorkloadType::Job),
        },
        "CronJob" => (owner.name.clone(), WorkloadType::Cronjob),
        _ => itself,
    }
}

/// The CronJob that made a Job.
fn cron_job(job: &str) -> Option<&str> {
    let (name, digits) = job.rsplit_once('-')?;
    let is_time = JOB_DIGITS.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}
