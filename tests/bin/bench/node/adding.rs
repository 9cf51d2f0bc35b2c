//! How much longer a pod's sandbox takes because the plugin asks the agent.

use std::time::Duration;

use tests::{AgentOptions, EnrollingNode, PodSpec};

use super::time;
use crate::decisions::Figure;

/// Sandboxes of each kind, one after the other.
const ROUNDS: usize = 40;
const WARM: Duration = Duration::from_millis(50);
const COLD: Duration = Duration::from_millis(150);
/// An account whose certificate is there already.
const KNOWN: &str = "known";

/// Calls of the plugin's ADD, from its start to its end; without it there is no such call.
pub(crate) fn figures() -> anyhow::Result<Vec<Figure>> {
    println!("{ROUNDS} sandboxes each with a warm and a cold certificate, and outside the mesh …");
    let node = EnrollingNode::new(AgentOptions::default())?;
    node.namespace("plain", None)?;
    node.label("shop", Some("ambient"))?;
    // Keeps the certificate in use.
    let _keeper = node.house(PodSpec::new(1, "keeper").account(KNOWN))?;
    let (mut warm, mut cold, mut outside) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let name = |kind| format!("{kind}-{round}");
        for (kind, took) in [("warm", &mut warm), ("cold", &mut cold), ("plain", &mut outside)] {
            let spec = PodSpec::new(1, &name(kind));
            let spec = match kind {
                "warm" => spec.account(KNOWN),
                "plain" => spec.namespace("plain"),
                _ => spec,
            };
            let pod = node.bind(spec)?;
            // Each stays: while the kernel takes a network namespace down, nobody changes another.
            took.push(node.add(&pod)?.ok()?.took);
        }
    }
    Ok(vec![
        time("CNI ADD, the certificate is there", &warm, Some(WARM)),
        time("CNI ADD, with a new certificate", &cold, Some(COLD)),
        time("CNI ADD of a pod outside the mesh", &outside, None),
    ])
}
