//! The loop, against folders that others write to.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{InstallReport, InstallState, NodeInstaller};
use crate::node::tests::{Folders, PRIMARY};

/// What the issue promises.
const REPAIRED_WITHIN: Duration = Duration::from_secs(2);

struct Running {
    report: watch::Receiver<InstallReport>,
    stop: oneshot::Sender<()>,
    run: JoinHandle<NodeInstaller>,
}

impl Running {
    fn start(folders: &Folders) -> Self {
        let mut installer = NodeInstaller::new(folders.settings());
        let report = installer.report();
        let (stop, stopped) = oneshot::channel();
        let run = tokio::spawn(async move {
            installer
                .run(async {
                    let _ = stopped.await;
                })
                .await;
            installer
        });
        Self { report, stop, run }
    }

    async fn until(&mut self, is: impl FnMut(&InstallReport) -> bool) -> InstallReport {
        let found = timeout(Duration::from_secs(15), self.report.wait_for(is)).await;
        found.expect("in time").expect("it runs").clone()
    }

    async fn installed(&mut self) -> InstallReport {
        self.until(|report| matches!(report.state, InstallState::Installed { .. })).await
    }

    async fn stop(self) -> NodeInstaller {
        self.stop.send(()).expect("it runs");
        timeout(Duration::from_secs(5), self.run).await.expect("in time").expect("no panic")
    }
}

async fn until_repaired(repaired: impl Fn() -> bool) {
    let start = Instant::now();
    while !repaired() {
        assert!(start.elapsed() < REPAIRED_WITHIN, "not repaired in time");
        sleep(Duration::from_millis(10)).await;
    }
}

fn holds(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|found| found.contains(text))
}

#[tokio::test]
async fn waits_for_the_primary_then_installs_and_repairs_within_two_seconds() {
    let folders = Folders::new();
    let mut running = Running::start(&folders);
    running.until(|report| report.state == InstallState::WaitingForPrimary).await;
    let chain = folders.conf("00-warren.conflist");

    folders.primary();
    until_repaired(|| holds(&chain, "warren-cni")).await;
    let report = running.installed().await;
    let (conflist, primary) = ("00-warren.conflist".into(), "10-bridge.conflist".into());
    let state = InstallState::Installed { conflist, primary };
    assert_eq!(report, InstallReport { state, repairs: 0 });

    fs::write(&chain, PRIMARY).expect("overwritten");
    until_repaired(|| holds(&chain, "warren-cni")).await;
    fs::remove_file(&chain).expect("removed");
    until_repaired(|| holds(&chain, "warren-cni")).await;
    fs::write(folders.bin("warren-cni"), "another program").expect("replaced");
    until_repaired(|| holds(&folders.bin("warren-cni"), "version 1")).await;
    let changed = PRIMARY.replace("bridge", "ptp");
    fs::write(folders.conf("10-bridge.conflist"), changed).expect("written");
    until_repaired(|| holds(&chain, "ptp")).await;
    assert_eq!(running.until(|report| report.repairs == 3).await.repairs, 3);

    // An agent that merely restarts leaves all in place.
    let mut installer = running.stop().await;
    assert!(holds(&chain, "warren-cni") && folders.bin("warren-cni").exists());
    installer.remove().await.expect("removed");
    assert!(!chain.exists() && !folders.bin("warren-cni").exists());
    assert!(folders.conf("10-bridge.conflist").exists());
}

#[tokio::test]
async fn a_failure_is_told_and_tried_until_it_passes() {
    let folders = Folders::new();
    fs::remove_dir(folders.conf("")).expect("removed");
    let mut running = Running::start(&folders);
    let report = running.until(|report| matches!(report.state, InstallState::Failed { .. })).await;
    let InstallState::Failed { code, message } = report.state else { panic!("failed") };
    assert_eq!(code, "CNI_FOLDER_UNREADABLE");
    assert!(message.contains("net.d") && message.contains("No such file"), "{message}");
    sleep(Duration::from_millis(700)).await;
    fs::create_dir(folders.conf("")).expect("made");
    folders.primary();
    running.installed().await;
    // Another folder under the same name is watched as well.
    fs::rename(folders.conf(""), folders.root.path().join("old")).expect("moved");
    fs::create_dir(folders.conf("")).expect("made");
    folders.primary();
    let chain = folders.conf("00-warren.conflist");
    until_repaired(|| holds(&chain, "warren-cni")).await;
    running.stop().await;
}

#[tokio::test]
async fn a_fight_is_called_one_and_goes_on() {
    let folders = Folders::new();
    folders.primary();
    let mut running = Running::start(&folders);
    running.installed().await;
    let chain = folders.conf("00-warren.conflist");
    for _ in 0..5 {
        fs::rename(&chain, folders.conf("00-warren.conflist.cilium_bak")).expect("moved");
        until_repaired(|| holds(&chain, "warren-cni")).await;
    }
    let contested = |report: &InstallReport| match &report.state {
        InstallState::Failed { code, message } => {
            *code == "CNI_CONTESTED" && message.contains("cni.exclusive=false")
        }
        InstallState::Starting
        | InstallState::Installed { .. }
        | InstallState::WaitingForPrimary => false,
    };
    assert_eq!(running.until(contested).await.repairs, 5);
    fs::remove_file(&chain).expect("removed");
    until_repaired(|| holds(&chain, "warren-cni")).await;
    running.stop().await;
}
