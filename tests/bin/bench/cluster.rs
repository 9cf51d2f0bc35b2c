//! `cargo xtask bench control-plane`: what a cluster of 10,000 services, 100,000 pods and 5,000
//! policies costs the control plane.
//!
//! Objects come through its own API client, from a server within this process that writes what a
//! real one writes; proxies connect over TLS on loopback. The clients' work shares the two cores
//! with the server's, so times are upper bounds. Exit code 1 if a figure misses its bound.

mod api;
mod clients;
mod generated;
mod plane;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use prost::Message;
use tokio::task::JoinSet;

use self::clients::{Client, versions};
use self::plane::Plane;
use crate::decisions::{Figure, Unit, publish};

/// Changes of one pod whose way is timed.
const TIMED: u32 = 50;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(100);
/// Changes a second that are held for a while.
const RATE: u32 = 1000;
/// Pods changed before a client comes again: 1 % of all.
const CHURN: u32 = generated::PODS / 100;

const MEMORY_MIB: f64 = 1024.0;
const TRANSLATION: f64 = 10e9;
const LATENCY: f64 = 10e6;
const SIGNATURE: f64 = 1e6;

/// Measures everything, prints the table and writes `control-plane.json`.
pub(crate) fn run(seconds: u32, proxies: usize) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(seconds, proxies))?;
    runtime.shutdown_background();
    publish("control-plane", &figures)
}

async fn measure(seconds: u32, proxies: usize) -> anyhow::Result<Vec<Figure>> {
    let before = resident_mib()?;
    let mut figures = Vec::new();
    println!("reading and translating {} pods …", generated::PODS);
    let start = Instant::now();
    let plane = Plane::start().await?;
    plane.synced().await?;
    let counts = plane.knowledge.counts();
    println!("read in {:.1} s", start.elapsed().as_secs_f64());
    figures.push(figure(
        "full translation, on one core",
        Unit::Nanoseconds,
        vec![nanoseconds(counts.busy)],
        Some(TRANSLATION),
    ));
    let memory = resident_mib()? - before;
    let name = "resident memory of that, objects, resources and client";
    figures.push(figure(name, Unit::Mebibytes, vec![memory], Some(MEMORY_MIB)));

    println!("connecting {proxies} proxies …");
    let start = Instant::now();
    let clients = connect(&plane, proxies).await?;
    println!("each has everything after {:.1} s", start.elapsed().as_secs_f64());
    let followers = follow(clients);
    figures.push(latency(&plane, &followers, proxies).await?);
    figures.extend(storm(&plane, &followers, seconds).await?);
    drop(followers);
    figures.extend(resume(&plane).await?);
    figures.push(signing()?);
    Ok(figures)
}

fn figure(name: &str, unit: Unit, rounds: Vec<f64>, bound: Option<f64>) -> Figure {
    Figure { name: name.to_owned(), unit, rounds, bound }
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

async fn connect(plane: &Plane, proxies: usize) -> anyhow::Result<Vec<Client>> {
    let mut opening = JoinSet::new();
    let start = Instant::now();
    for number in 0..proxies {
        let target = plane.target();
        opening.spawn(async move {
            let late = || format!("proxy {number}, after {:.1} s", start.elapsed().as_secs_f64());
            let mut client = Client::open(&target, number, []).await.with_context(late)?;
            let first = client.first().await.with_context(late)?;
            let expected = generated::PODS + generated::SERVICES;
            let found = u32::try_from(first.resources.len())?;
            ensure!(found == expected, "{found} resources came, not {expected}");
            anyhow::Ok(client)
        });
    }
    let mut clients = Vec::new();
    while let Some(client) = opening.join_next().await {
        clients.push(client??);
        if clients.len().is_multiple_of(10) {
            println!("  {} after {:.1} s", clients.len(), start.elapsed().as_secs_f64());
        }
    }
    Ok(clients)
}

/// What the clients saw: the name of a pod's version, and when.
struct Followers {
    arrivals: tokio::sync::mpsc::UnboundedReceiver<(usize, Instant)>,
    _tasks: JoinSet<()>,
}

/// Each response is told as the number of its resources, and when it came.
fn follow(clients: Vec<Client>) -> tokio::sync::Mutex<Followers> {
    // As many as there are responses: the benchmark is bounded.
    let (sender, arrivals) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let sender = sender.clone();
        tasks.spawn(async move {
            while let Ok((response, at)) = client.next().await {
                let count = response.resources.len();
                if sender.send((count, at)).is_err() {
                    return;
                }
            }
        });
    }
    tokio::sync::Mutex::new(Followers { arrivals, _tasks: tasks })
}

/// From the line of the watch to each client, one change at a time.
async fn latency(
    plane: &Plane,
    followers: &tokio::sync::Mutex<Followers>,
    count: usize,
) -> anyhow::Result<Figure> {
    let mut followers = followers.lock().await;
    let mut rounds = Vec::new();
    for number in 0..TIMED {
        let start = Instant::now();
        plane.changes.pod(number * 7, u64::from(number) + 2, false).await?;
        let mut each = Vec::with_capacity(count);
        for _ in 0..count {
            let arrived = tokio::time::timeout(Duration::from_secs(5), followers.arrivals.recv());
            let (_, at) = arrived.await.context("a change did not arrive")?.context("clients")?;
            each.push(nanoseconds(at.duration_since(start)));
        }
        each.sort_by(f64::total_cmp);
        rounds.push(each[count / 2]);
        tokio::time::sleep(PAUSE).await;
    }
    let name = format!("one pod's change, until the median of {count} proxies has it");
    Ok(figure(&name, Unit::Nanoseconds, rounds, Some(LATENCY)))
}

/// A thousand changes a second: what memory grows by, and how late the last one is.
async fn storm(
    plane: &Plane,
    followers: &tokio::sync::Mutex<Followers>,
    seconds: u32,
) -> anyhow::Result<Vec<Figure>> {
    println!("{RATE} changes a second for {seconds} s …");
    let mut followers = followers.lock().await;
    let before = resident_mib()?;
    let mut most = before;
    let start = Instant::now();
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    let each = RATE / 100;
    let mut number = 0_u32;
    for _ in 0..seconds * 100 {
        interval.tick().await;
        for _ in 0..each {
            let pod = number % generated::PODS;
            plane.changes.pod(pod, 1000 + u64::from(number), number.is_multiple_of(2)).await?;
            number += 1;
        }
        if number.is_multiple_of(RATE) {
            most = most.max(resident_mib()?);
        }
    }
    let took = start.elapsed();
    ensure!(
        took < Duration::from_secs(u64::from(seconds) + 5),
        "the changes were taken too slowly: {took:?}"
    );
    // Until nothing comes any more.
    let ended = Instant::now();
    let mut last = ended;
    while let Ok(Some((_, at))) =
        tokio::time::timeout(Duration::from_secs(1), followers.arrivals.recv()).await
    {
        last = last.max(at);
    }
    let late = nanoseconds(last.duration_since(ended));
    Ok(vec![
        figure(
            "1,000 changes a second: how late the last one is",
            Unit::Nanoseconds,
            vec![late],
            Some(1e9),
        ),
        figure(
            "the same: most memory beyond before",
            Unit::Mebibytes,
            vec![most - before],
            Some(256.0),
        ),
    ])
}

/// Who comes again after 1 % has changed is sent that.
async fn resume(plane: &Plane) -> anyhow::Result<Vec<Figure>> {
    let target = plane.target();
    let mut client = Client::open(&target, 0, []).await?;
    let first = client.first().await?;
    let known = versions(&first)?;
    drop(client);
    for number in 0..CHURN {
        plane.changes.pod(number * 100 + 1, 1 << 40, number.is_multiple_of(2)).await?;
    }
    plane.settled().await;
    let mut client = Client::open(&target, 0, known).await?;
    let again = client.first().await?;
    let (all, part) = (first.encoded_len(), again.encoded_len());
    let changed = again.resources.len();
    println!(
        "after changes of 1 % of the pods, of which {changed} differ: {part} bytes instead of {all}"
    );
    ensure!(changed > 0, "nothing was sent again");
    let share = f64::from(u32::try_from(part)?) / f64::from(u32::try_from(all)?);
    Ok(vec![figure(
        "bytes of a resume after 1 % churn, of all",
        Unit::Ratio,
        vec![share],
        Some(0.012),
    )])
}

fn signing() -> anyhow::Result<Figure> {
    let (authority, request, names) = plane::signing_material()?;
    let ttl = Duration::from_hours(24);
    let mut rounds = Vec::new();
    for _ in 0..7 {
        rounds.push(crate::decisions::nanoseconds_each(|_| {
            let request = authority::CertificateRequest::from_pem(&request)?;
            let signed = authority.sign(&request, &names, ttl, std::time::SystemTime::now())?;
            anyhow::Ok(authority.chain_pem(&signed).len())
        })?);
    }
    let name = "a certificate: request read and proved, signed, as PEM";
    Ok(figure(name, Unit::Nanoseconds, rounds, Some(SIGNATURE)))
}

/// Resident memory of this process.
fn resident_mib() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("read memory")?;
    let pages: u32 = text.split(' ').nth(1).context("statm")?.parse().context("statm")?;
    Ok(f64::from(pages) * 4096.0 / 1_048_576.0)
}
