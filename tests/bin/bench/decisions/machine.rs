//! What this machine needs for the two things that decisions are made of, to read the other
//! figures by: a look-up, and a read of memory that no cache holds.

use std::collections::HashMap;

use super::{Figure, Unit, nanoseconds_each};

const NAMES: usize = 10_000;
/// 64 MiB, more than the caches of a core.
const CELLS: usize = 8 * 1024 * 1024;
/// Odd, and so coprime to the number of cells: a walk in such steps visits every one of them.
const STEP: usize = 5_000_011;

pub(crate) fn figures(rounds: u32) -> anyhow::Result<Vec<Figure>> {
    let names: Vec<String> = (0..NAMES).map(|n| format!("cluster.local/ns/n{n}/sa/a")).collect();
    let map: HashMap<&str, usize> = names.iter().map(String::as_str).zip(0..).collect();
    let look_up = |number: usize| map.get(&*names[number % NAMES]).copied();
    // Each cell holds the number of the next.
    let cells: Vec<usize> = (0..CELLS).map(|cell| (cell + STEP) % CELLS).collect();
    let mut cell = 0;
    let (mut look_ups, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        look_ups.push(nanoseconds_each(look_up)?);
        reads.push(nanoseconds_each(|_| {
            cell = cells[cell];
            cell
        })?);
    }
    let figure = |name: &str, rounds| Figure {
        name: format!("this machine: {name}"),
        unit: Unit::Nanoseconds,
        rounds,
        bound: None,
    };
    Ok(vec![
        figure("look-up in a hash map of 10,000 names", look_ups),
        figure("read of memory that no cache holds", reads),
    ])
}
