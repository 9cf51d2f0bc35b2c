//! All short sequences of what a control plane may do, against a model of a few facts.

use std::collections::BTreeMap;
use std::time::Instant;

use proto::discovery::Resource;
use proto::security::Scope;

use super::wire::{
    address, address_of, client, nack, policy, raw, response, start, told, uids, workload,
};
use crate::client::{Client, Mode, Sync, Violation};
use crate::kind::Kind;

#[derive(Clone, Copy, Debug)]
enum Input {
    Open,
    Close,
    Good,
    Bad,
    Gone,
    Replay,
    Unknown,
    Policy,
    BadPolicy,
    NoPolicy,
}

use Input::{Bad, BadPolicy, Close, Gone, Good, NoPolicy, Open, Policy, Replay, Unknown};

const INPUTS: [Input; 10] =
    [Open, Close, Good, Bad, Gone, Replay, Unknown, Policy, BadPolicy, NoPolicy];
const LENGTH: u32 = 4;

#[derive(Default)]
struct Model {
    open: bool,
    /// Version as it is told, of the one workload.
    workload: Option<&'static str>,
    policy: bool,
    /// Types of which there was a response.
    applied: [bool; 2],
    live: bool,
    nonce: u32,
    /// The last nonce of an address response in this stream.
    last: Option<String>,
}

const UID: &str = "k//Pod/shop/w1";

fn bad() -> Resource {
    let mut wire = workload(1);
    wire.status = 9;
    address_of(wire, "v2")
}

impl Model {
    fn step(&mut self, client: &mut Client, input: Input, now: Instant) {
        let (kind, sent, removed): (_, _, &[&str]) = match input {
            Open => {
                let requests = client.opened();
                let held: Vec<_> = self.workload.iter().map(|version| (UID, *version)).collect();
                assert_eq!(told(&requests[0]), held);
                assert_eq!(told(&requests[1]).len(), usize::from(self.policy));
                (self.open, self.last) = (true, None);
                return;
            }
            Close => {
                client.closed(0);
                (self.open, self.last) = (false, None);
                return;
            }
            Good => (Kind::Address, vec![address(1, "v1")], &[]),
            Bad => (Kind::Address, vec![bad()], &[]),
            Gone | Replay | Unknown => (Kind::Address, vec![], &[UID]),
            Policy => (Kind::Authorization, vec![policy("p", Scope::Namespace)], &[]),
            BadPolicy => {
                (Kind::Authorization, vec![raw(Kind::Authorization, "shop/p", "", vec![0xff])], &[])
            }
            NoPolicy => (Kind::Authorization, vec![], &["shop/p"]),
        };
        self.nonce += 1;
        let mut nonce = self.nonce.to_string();
        // The first has nothing to repeat.
        let replays = matches!(input, Replay) && self.last.is_some();
        if let (true, Some(last)) = (replays, &self.last) {
            nonce.clone_from(last);
        }
        let mut response = response(kind, &nonce, sent, removed);
        if matches!(input, Unknown) {
            response.type_url = "unknown".into();
        }
        let received = client.receive(response, now);
        if !self.open {
            assert_eq!(received.err(), Some(Violation::NotOpen));
            return;
        }
        let received = received.expect("within the protocol");
        let refused = replays || matches!(input, Unknown);
        assert_eq!(received.refusal.is_some(), refused);
        let is_accepted = !refused && !matches!(input, Bad | BadPolicy);
        assert_eq!(nack(&received).is_none(), is_accepted);
        assert_eq!(received.requests.len(), 1);
        if refused {
            return;
        }
        match (input, &mut self.workload) {
            (Good, held) => *held = Some("v1"),
            (Bad, Some(version)) => *version = "",
            (Gone | Replay, held) => *held = None,
            (Policy | BadPolicy, _) => self.policy = true,
            (NoPolicy, _) => self.policy = false,
            (Bad | Open | Close | Unknown, _) => {}
        }
        match kind {
            Kind::Address => {
                self.last = Some(nonce);
                self.applied[0] = true;
            }
            Kind::Authorization => self.applied[1] = true,
        }
        self.live |= self.applied == [true, true];
    }

    fn check(&self, client: &Client, sequence: &[Input]) {
        assert_eq!(uids(client).len(), usize::from(self.workload.is_some()), "{sequence:?}");
        assert_eq!(client.policies().len(), usize::from(self.policy), "{sequence:?}");
        let sync = if self.live { Sync::Live } else { Sync::Waiting };
        assert_eq!(client.sync(), sync, "{sequence:?}");
    }
}

#[test]
fn no_sequence_loses_the_state() {
    let now = start();
    let count = INPUTS.len();
    let mut seen = BTreeMap::new();
    for number in 0..count.pow(LENGTH) {
        let mut rest = number;
        // A stream is open from the start: most of what matters happens in one.
        let mut sequence = vec![Open];
        for _ in 0..LENGTH {
            sequence.push(INPUTS[rest % count]);
            rest /= count;
        }
        let (mut client, mut model) = (client(Mode::Wildcard), Model::default());
        for (at, input) in sequence.iter().enumerate() {
            model.step(&mut client, *input, now);
            model.check(&client, &sequence[..=at]);
        }
        *seen.entry((client.sync(), model.workload, model.policy)).or_insert(0_u32) += 1;
    }
    // Every combination was reached: with a workload and a policy the state is complete.
    assert_eq!(seen.len(), 2 * 3 * 2 - 2, "{seen:?}");
}
