use proptest::prelude::*;

use super::*;

fn host(number: u32) -> Text {
    format!("shop/host-{number}").into()
}

/// Hosts of few homes, so that they meet.
fn crowd() -> Vec<Text> {
    let near = |host: &Text| home(host) < 400;
    (0..20_000).map(host).filter(near).collect()
}

#[test]
fn slots_are_addresses_of_both_families() {
    for slot in [1, 255, 256, 0xfffe] {
        for address in addresses(slot) {
            assert_eq!(slot_of(address), Some(slot), "{address}");
        }
    }
    for outside in ["240.240.0.0", "240.240.255.255", "240.241.0.1", "2001:3::1", "2001:2::1:0"] {
        assert_eq!(slot_of(outside.parse().expect("an address")), None, "{outside}");
    }
    let mut vips = Vips::default();
    vips.give(&host(1));
    let [v4, v6] = vips.get(&host(1)).expect("given");
    assert!(v4.to_string().starts_with("240.240.") && v6.to_string().starts_with("2001:2::"));
}

#[test]
fn what_a_status_names_stays_and_others_give_way() {
    let mut vips = Vips::default();
    vips.give(&host(1));
    let wanted = vips.get(&host(1)).expect("given");
    // Another's status names it.
    vips.pin(&host(2), &wanted);
    let instead = vips.get(&host(1)).expect("given");
    assert_ne!(instead, wanted);
    assert!(vips.take_changes().contains(&host(1)));
    vips.pin(&host(2), &[]);
    assert_eq!(vips.get(&host(1)), Some(wanted));
    // Its own status: the slot is kept free, and is not given to it a second time.
    vips.pin(&host(1), &wanted);
    vips.take(&host(1));
    assert_eq!(vips.get(&host(1)), None);
    assert_eq!(vips.slots.len(), 0);
}

#[test]
fn who_finds_no_slot_gets_the_next_that_is_free() {
    let mut vips = Vips::default();
    let max = u32::try_from(AUTO_VIPS_MAX).expect("fits");
    for number in 0..max {
        vips.give(&host(number));
    }
    assert_eq!(vips.slots.len(), AUTO_VIPS_MAX);
    let (late, early): (Text, Text) = ("zoo/late".into(), "a/early".into());
    vips.give(&late);
    assert_eq!(vips.get(&late), None);
    vips.take(&host(7));
    assert!(vips.get(&late).is_some());
    // The greatest name gives way.
    vips.give(&early);
    assert!(vips.get(&early).is_some() && vips.get(&late).is_none());
    assert_eq!(vips.slots.len(), AUTO_VIPS_MAX);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn slots_depend_on_the_hosts_and_not_on_their_order(
        steps in prop::collection::vec((0..120_usize, 0..4_u8), 1..400)
    ) {
        let crowd = crowd();
        prop_assert!(crowd.len() >= 60, "{}", crowd.len());
        let mut vips = Vips::default();
        let mut present = BTreeSet::new();
        let mut pinned: BTreeMap<Text, Vec<IpAddr>> = BTreeMap::new();
        for (index, what) in steps {
            let host = &crowd[index % crowd.len()];
            match what {
                0 => {
                    vips.take(host);
                    present.remove(host);
                }
                1 => {
                    let slot = home(&crowd[(index * 7) % crowd.len()]);
                    vips.pin(host, &addresses(slot));
                    pinned.insert(host.clone(), addresses(slot).to_vec());
                }
                2 => {
                    vips.pin(host, &[]);
                    pinned.remove(host);
                }
                _ => {
                    vips.give(host);
                    present.insert(host.clone());
                }
            }
            // A host whose own slot was pinned is given one anew, as the translator does.
            for host in &present {
                vips.give(host);
            }
        }
        let mut fresh = Vips::default();
        for (host, addresses) in &pinned {
            fresh.pin(host, addresses);
        }
        for host in present.iter().rev() {
            fresh.give(host);
        }
        prop_assert_eq!(vips.slots, fresh.slots);
        prop_assert_eq!(vips.given, fresh.given);
    }
}
