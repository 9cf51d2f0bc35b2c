//! Several independent choices out of one random number.

/// What is chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Draw {
    /// Again, an endpoint: the first one is ejected.
    Other,
    /// One of several waypoints by weight.
    Waypoint,
    /// An endpoint of the gateway to another network.
    Gateway,
    /// One of the addresses of a host name.
    Address,
}

/// Another uniform number for another choice. The endpoint itself is chosen by the number as given.
pub(crate) fn drawn(random: u64, draw: Draw) -> u64 {
    let step: u64 = match draw {
        Draw::Other => 1,
        Draw::Waypoint => 2,
        Draw::Gateway => 3,
        Draw::Address => 4,
    };
    // SplitMix64 (Steele, Lea and Flood 2014): bijective, so uniform stays uniform.
    let mut mixed = random.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// `random` scaled to `0..total`.
pub(crate) fn scaled(random: u64, total: u64) -> u64 {
    let product = u128::from(random).saturating_mul(u128::from(total));
    u64::try_from(product >> 64).unwrap_or(0)
}
