//! Responses of a control plane, one after the other: the client neither panics nor forgets.
#![no_main]

use std::time::Instant;

use prost::Message;
use proto::discovery::DeltaDiscoveryResponse;
use xds::{Client, ClientSettings, Kind, Mode};

libfuzzer_sys::fuzz_target!(|input: (bool, Vec<&[u8]>)| {
    let (on_demand, responses) = input;
    let mode = if on_demand { Mode::OnDemand } else { Mode::Wildcard };
    let mut client = Client::new(ClientSettings { mode, ..ClientSettings::default() });
    let now = Instant::now();
    client.opened();
    for (number, bytes) in responses.into_iter().enumerate() {
        let Ok(mut response) = DeltaDiscoveryResponse::decode(bytes) else { continue };
        // Most inputs would fail at these two.
        if response.type_url.len() < 2 {
            let kind = Kind::ALL[response.type_url.len()];
            response.type_url = kind.url().to_owned();
            for any in response.resources.iter_mut().filter_map(|r| r.resource.as_mut()) {
                if any.type_url.is_empty() {
                    any.type_url = kind.url().to_owned();
                }
            }
        }
        if response.nonce.is_empty() {
            response.nonce = number.to_string();
        }
        let before = (client.snapshot().workloads().len(), client.policies().len());
        match client.receive(response, now) {
            Err(_) => {
                client.closed(0);
                client.opened();
            }
            Ok(received) => {
                assert!(!received.requests.is_empty());
                if received.refusal.is_some() || !received.published {
                    let after = (client.snapshot().workloads().len(), client.policies().len());
                    assert_eq!(before, after);
                }
            }
        }
    }
    // Names are told for all that is held.
    let requests = client.opened();
    let addresses = client.snapshot().workloads().len() + client.snapshot().services().len();
    assert_eq!(requests[0].initial_resource_versions.len(), addresses);
    assert_eq!(requests[1].initial_resource_versions.len(), client.policies().len());
});
