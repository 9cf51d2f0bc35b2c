//! Automatic addresses of service entries.
//!
//! Each host has a slot, which stands for one address of each family. The slot is found by a hash
//! of its name and, if it is taken, by looking on from there, where the smaller name displaces the
//! greater: so the slots depend on which hosts there are, and not on the order they came in.
//! A host that leaves moves only those it had displaced. What is written in a status is kept, whoever
//! would have the slot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cluster::Text;

/// Hosts that are given an address at a time: half of the slots, so that looking for one is short.
/// Those with the greatest names beyond it get none and have a problem that says so. A host whose
/// address is in a status does not count any more.
pub const AUTO_VIPS_MAX: usize = 0x7fff;
/// One for each address of 240.240.0.0/16 but the first and the last.
const SLOTS: u16 = 0xfffe;
/// 240.240.0.0/16.
const V4: u32 = 0xf0f0_0000;
/// 2001:2::/48.
const V6: u128 = 0x2001_0002_0000_0000_0000_0000_0000_0000;
/// Its prefix length.
const V6_BITS: u32 = 48;

/// From 1 to [`SLOTS`].
type Slot = u16;

/// Who has which slot.
#[derive(Debug, Default)]
pub(crate) struct Vips {
    /// Whose each slot is; empty before the first is given.
    given: Vec<Option<Text>>,
    slots: BTreeMap<Text, Slot>,
    /// Slots that a status names, and whose.
    pinned: BTreeMap<Slot, BTreeSet<Text>>,
    pins: HashMap<Text, Vec<Slot>>,
    /// Hosts that found no slot.
    without: BTreeSet<Text>,
    changed: BTreeSet<Text>,
}

impl Vips {
    /// Gives a host a slot, if it has none.
    pub(crate) fn give(&mut self, host: &Text) {
        if self.slots.contains_key(host) || self.without.contains(host) {
            return;
        }
        self.changed.insert(host.clone());
        if self.slots.len() < AUTO_VIPS_MAX {
            self.place(host.clone());
            return;
        }
        // The greatest name gives way.
        match self.slots.last_key_value() {
            Some((last, _)) if host < last => {
                let last = last.clone();
                self.without.insert(last.clone());
                self.release(&last);
                self.place(host.clone());
            }
            Some(_) | None => {
                self.without.insert(host.clone());
            }
        }
    }

    /// Takes a host's slot back.
    pub(crate) fn take(&mut self, host: &str) {
        if self.without.remove(host) {
            self.changed.insert(host.into());
        } else if self.slots.contains_key(host) {
            self.release(host);
            self.serve();
        }
    }

    /// Keeps free what a host's status names, for it.
    pub(crate) fn pin(&mut self, host: &Text, addresses: &[IpAddr]) {
        let new: Vec<Slot> = addresses.iter().filter_map(|address| slot_of(*address)).collect();
        let old = self.pins.get(host).cloned().unwrap_or_default();
        if old == new {
            return;
        }
        for slot in &old {
            self.unpin(*slot, host);
        }
        for slot in &new {
            self.pinned.entry(*slot).or_default().insert(host.clone());
            if let Some(displaced) = self.holder_mut(*slot).take() {
                self.slots.remove(&displaced);
                self.changed.insert(displaced.clone());
                // Usually it is the host's own, now written into its status.
                if displaced != *host {
                    self.place(displaced);
                }
            }
        }
        if new.is_empty() {
            self.pins.remove(host);
        } else {
            self.pins.insert(host.clone(), new);
        }
    }

    /// A host's addresses.
    pub(crate) fn get(&self, host: &str) -> Option<[IpAddr; 2]> {
        self.slots.get(host).map(|slot| addresses(*slot))
    }

    /// Hosts whose slot is another one since the last call.
    pub(crate) fn take_changes(&mut self) -> BTreeSet<Text> {
        std::mem::take(&mut self.changed)
    }

    fn unpin(&mut self, slot: Slot, host: &str) {
        let Some(hosts) = self.pinned.get_mut(&slot) else { return };
        hosts.remove(host);
        if hosts.is_empty() {
            self.pinned.remove(&slot);
            self.fill(slot);
            self.serve();
        }
    }

    fn holder(&self, slot: Slot) -> Option<&Text> {
        self.given.get(usize::from(slot))?.as_ref()
    }

    fn holder_mut(&mut self, slot: Slot) -> &mut Option<Text> {
        if self.given.is_empty() {
            self.given.resize(usize::from(SLOTS) + 1, None);
        }
        &mut self.given[usize::from(slot)]
    }

    /// Frees a host's slot for those who came by it.
    fn release(&mut self, host: &str) {
        if let Some((host, slot)) = self.slots.remove_entry(host) {
            self.changed.insert(host);
            *self.holder_mut(slot) = None;
            self.fill(slot);
        }
    }

    /// Finds a slot for a host without one; whom it displaces goes on looking.
    fn place(&mut self, host: Text) {
        let mut host = host;
        let mut slot = home(&host);
        for _ in 0..SLOTS {
            match self.holder(slot) {
                None if !self.pinned.contains_key(&slot) => {
                    self.slots.insert(host.clone(), slot);
                    *self.holder_mut(slot) = Some(host);
                    return;
                }
                Some(holder) if host < *holder => {
                    let holder = holder.clone();
                    self.slots.remove(&holder);
                    self.changed.insert(holder);
                    self.slots.insert(host.clone(), slot);
                    if let Some(displaced) = self.holder_mut(slot).replace(host) {
                        host = displaced;
                    } else {
                        return;
                    }
                }
                None | Some(_) => {}
            }
            slot = after(slot);
        }
        // Statuses name all that is left.
        self.changed.insert(host.clone());
        self.without.insert(host);
    }

    /// Gives a free slot to the first of those who came by it and went on, and theirs likewise.
    fn fill(&mut self, free: Slot) {
        let mut free = free;
        while let Some((slot, host)) = self.first_beyond(free) {
            self.changed.insert(host.clone());
            self.slots.insert(host.clone(), free);
            *self.holder_mut(slot) = None;
            *self.holder_mut(free) = Some(host);
            free = slot;
        }
    }

    /// Places those that found no slot, as long as there is one.
    fn serve(&mut self) {
        while self.slots.len() < AUTO_VIPS_MAX
            && let Some(host) = self.without.pop_first()
        {
            self.changed.insert(host.clone());
            self.place(host.clone());
            if self.without.contains(&host) {
                break;
            }
        }
    }

    /// The first by name of those who came by a free slot.
    fn first_beyond(&self, free: Slot) -> Option<(Slot, Text)> {
        let mut first: Option<(Slot, Text)> = None;
        let mut slot = after(free);
        while slot != free {
            if !self.pinned.contains_key(&slot) {
                // Nobody went past a slot that nobody has.
                let Some(host) = self.holder(slot) else { break };
                let came_by = distance(home(host), free) < distance(home(host), slot);
                if came_by && first.as_ref().is_none_or(|(_, smallest)| host < smallest) {
                    first = Some((slot, host.clone()));
                }
            }
            slot = after(slot);
        }
        first
    }
}

/// Where a host looks first.
fn home(host: &str) -> Slot {
    let mut hasher = DefaultHasher::new();
    hasher.write(host.as_bytes());
    Slot::try_from(hasher.finish() % u64::from(SLOTS)).map_or(1, |index| index + 1)
}

fn after(slot: Slot) -> Slot {
    if slot >= SLOTS { 1 } else { slot + 1 }
}

/// Steps from one slot on to another.
fn distance(from: Slot, to: Slot) -> u32 {
    (u32::from(to) + u32::from(SLOTS) - u32::from(from)) % u32::from(SLOTS)
}

fn addresses(slot: Slot) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::from_bits(V4 | u32::from(slot));
    let v6 = Ipv6Addr::from_bits(V6 | u128::from(slot));
    [v4.into(), v6.into()]
}

/// The slot of an automatic address.
fn slot_of(address: IpAddr) -> Option<Slot> {
    let slot = match address {
        IpAddr::V4(v4) if v4.to_bits() & 0xffff_0000 == V4 => v4.to_bits() & 0xffff,
        IpAddr::V6(v6) if v6.to_bits() >> (128 - V6_BITS) == V6 >> (128 - V6_BITS) => {
            u32::try_from(v6.to_bits() & !(u128::MAX << (128 - V6_BITS))).ok()?
        }
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Slot::try_from(slot).ok().filter(|slot| (1..=SLOTS).contains(slot))
}

#[cfg(test)]
mod tests;
