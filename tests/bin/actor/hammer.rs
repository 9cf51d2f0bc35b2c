//! Many short connections, counted by how they end.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tests::length;
use tests::protocol::{Failure, Hammer, Hammered, Response};

use crate::sockets;

/// Bound of one exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Threads of one load; each connection in flight needs one.
const WORKERS_MAX: u64 = 256;

pub(crate) fn run(load: &Hammer) -> Result<Response, Failure> {
    if load.connections == 0 && load.duration_ms == 0 {
        return Err(Failure::other("hammer", "neither connections nor a duration bound it"));
    }
    let start = Instant::now();
    let begun = AtomicU64::new(0);
    let outcome = Mutex::new(Hammered::default());
    thread::scope(|scope| {
        for _ in 0..load.workers.clamp(1, WORKERS_MAX) {
            scope.spawn(|| {
                while let Some(due) = next(load, &begun) {
                    thread::sleep(due.saturating_sub(start.elapsed()));
                    if load.duration_ms > 0
                        && start.elapsed() >= Duration::from_millis(load.duration_ms)
                    {
                        break;
                    }
                    let result = exchange(load);
                    let mut outcome = outcome.lock();
                    outcome.attempts += 1;
                    match result {
                        Ok(()) => outcome.succeeded += 1,
                        Err(failure) => {
                            let Failure { operation, message, .. } = failure;
                            let name = format!("{operation} {message}");
                            *outcome.failures.entry(name).or_default() += 1;
                        }
                    }
                }
            });
        }
    });
    Ok(Response::Hammered(outcome.into_inner()))
}

/// When the next connection is due, counted from the start; `None` after the last.
fn next(load: &Hammer, begun: &AtomicU64) -> Option<Duration> {
    let number = begun.fetch_add(1, Ordering::Relaxed);
    if load.connections > 0 && number >= load.connections {
        return None;
    }
    let due_us = (number * 1_000_000).checked_div(load.per_second).unwrap_or(0);
    Some(Duration::from_micros(due_us))
}

fn exchange(load: &Hammer) -> Result<(), Failure> {
    let mut stream = sockets::connect(load.target, &load.options)?;
    let message = load.message.as_bytes();
    if message.is_empty() {
        return Ok(());
    }
    let set = stream
        .set_read_timeout(Some(EXCHANGE_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(EXCHANGE_TIMEOUT)));
    set.map_err(|error| Failure::io("timeout", &error))?;
    stream.write_all(message).map_err(|error| Failure::io("send", &error))?;
    let mut answer = vec![0; message.len()];
    let mut read = 0;
    while read < answer.len() {
        match stream.read(&mut answer[read..]) {
            Ok(0) => {
                let got = length(read);
                return Err(Failure::other("receive", format!("EOF after {got} bytes")));
            }
            Ok(more) => read += more,
            Err(error) => return Err(Failure::io("receive", &error)),
        }
    }
    if answer == message { Ok(()) } else { Err(Failure::other("receive", "other bytes")) }
}
