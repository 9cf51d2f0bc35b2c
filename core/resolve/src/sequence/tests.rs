//! Against a plain sorted list.

use std::cmp::Ordering;
use std::sync::Arc;

use model::{Locality, Workload, WorkloadUid};
use proptest::prelude::*;

use super::{Position, Sequence};
use crate::site::Site;
use crate::tests::workload;

fn member(id: u16, capacity: u32) -> (Arc<Site>, Arc<Workload>) {
    let zone = format!("zone{}", id % 3);
    let workload = Workload {
        uid: WorkloadUid(format!("uid{id:05}").into()),
        locality: Locality { zone: zone.into(), ..Locality::default() },
        capacity,
        ..workload("shop/x1", &[])
    };
    (Arc::new(Site::of(&workload)), Arc::new(workload))
}

fn zone(site: &Site) -> String {
    site.value(model::Scope::Zone).map(ToString::to_string).unwrap_or_default()
}

fn by_zone((site, one): (&Site, &Workload), (other_site, other): (&Site, &Workload)) -> Ordering {
    zone(site).cmp(&zone(other_site)).then_with(|| one.uid.cmp(&other.uid))
}

/// Everything a sequence can be asked, from the list.
fn check(sequence: &Sequence<Arc<Workload>>, list: &[(Arc<Site>, Arc<Workload>)]) {
    let held: Vec<_> = sequence.iter().map(|(_, workload)| &workload.uid).collect();
    assert_eq!(held, list.iter().map(|(_, workload)| &workload.uid).collect::<Vec<_>>());
    assert_eq!((sequence.len(), sequence.is_empty()), (list.len(), list.is_empty()));
    let total: u64 = list.iter().map(|(_, workload)| u64::from(workload.capacity)).sum();
    assert_eq!(sequence.capacity_before(sequence.end()), total);
    assert_eq!(sequence.capacity_before(Position::START), 0);
    assert_eq!(sequence.at(total).map(|workload| &workload.uid), None);
    let mut before = 0;
    for (index, (site, workload)) in list.iter().enumerate() {
        let position = sequence.find((site, workload), by_zone).expect("it is there");
        assert_eq!(sequence.capacity_before(position), before, "{index}");
        let around = sequence.around(position).map(|site| site.map(zone));
        let expected = [index.checked_sub(1), Some(index)]
            .map(|index| index.and_then(|index| list.get(index)).map(|(site, _)| zone(site)));
        assert_eq!(around, expected, "{index}");
        let capacity = u64::from(workload.capacity);
        for point in [before, before + capacity / 2, (before + capacity).saturating_sub(1)] {
            let holds = capacity > 0 && (before..before + capacity).contains(&point);
            let found = sequence.at(point).is_some_and(|found| found.uid == workload.uid);
            assert_eq!(found, holds, "{index} {point}");
        }
        before += capacity;
    }
    for wanted in ["", "zone0", "zone1", "zone2", "zone3"] {
        let position = sequence.partition_point(|site| *zone(site) < *wanted);
        let before = list.iter().filter(|(site, _)| *zone(site) < *wanted);
        let capacity: u64 = before.map(|(_, workload)| u64::from(workload.capacity)).sum();
        assert_eq!(sequence.capacity_before(position), capacity, "{wanted}");
    }
}

fn insert(list: &mut Vec<(Arc<Site>, Arc<Workload>)>, new: (Arc<Site>, Arc<Workload>)) {
    list.retain(|(_, workload)| workload.uid != new.1.uid);
    list.push(new);
    list.sort_by(|(site, one), (other_site, other)| by_zone((site, one), (other_site, other)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(64)
    })]

    #[test]
    fn is_a_sorted_list(
        start in 0..700_u16,
        changes in prop::collection::vec((0..800_u16, prop::option::of(0..3_u32)), 0..40),
    ) {
        let mut list = Vec::new();
        for id in 0..start {
            list.push(member(id, u32::from(id % 4)));
        }
        list.sort_by(|(site, one), (other_site, other)| by_zone((site, one), (other_site, other)));
        let mut sequence = Sequence::from_sorted(&list);
        let (first, first_list) = (sequence.clone(), list.clone());
        for (id, capacity) in changes {
            let (site, workload) = member(id, capacity.unwrap_or(0));
            if capacity.is_some() {
                sequence.insert(&site, workload.clone(), by_zone);
                insert(&mut list, (site, workload));
            } else {
                sequence.remove((&site, &workload), by_zone);
                list.retain(|(_, other)| other.uid != workload.uid);
            }
        }
        check(&sequence, &list);
        // The copy that was taken before is what it was.
        check(&first, &first_list);
    }
}

#[test]
fn grows_from_nothing_and_shrinks_to_nothing() {
    let mut sequence = Sequence::default();
    let mut list = Vec::new();
    // In steps that come to every place.
    let ids: Vec<u16> =
        (0..1000_u32).filter_map(|step| (step * 389 % 1000).try_into().ok()).collect();
    for (step, id) in ids.iter().enumerate() {
        let (site, workload) = member(*id, 1);
        sequence.insert(&site, workload.clone(), by_zone);
        insert(&mut list, (site, workload));
        if step % 97 == 0 {
            check(&sequence, &list);
        }
    }
    check(&sequence, &list);
    for (step, id) in ids.iter().enumerate() {
        let (site, workload) = member(*id, 1);
        sequence.remove((&site, &workload), by_zone);
        list.retain(|(_, other)| other.uid != workload.uid);
        if step % 97 == 0 {
            check(&sequence, &list);
        }
        let runs = sequence.runs.len();
        assert!(runs <= 1 + list.len() / 32, "{runs} runs for {}", list.len());
    }
    check(&sequence, &list);
}
