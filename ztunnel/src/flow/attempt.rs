//! One try to reach the endpoint that was chosen for a connection: how it went decides whether the
//! next connections are given the same one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use model::Code;
use resolve::{Choice, Failed, blames_endpoint};

use super::worker::Worker;

/// A try that has not ended yet.
pub(super) struct Attempt {
    worker: Rc<Worker>,
    choice: Option<Choice>,
    stood: Cell<bool>,
}

impl Attempt {
    pub(super) fn new(worker: &Rc<Worker>, choice: Option<Choice>) -> Self {
        Self { worker: worker.clone(), choice, stood: Cell::new(false) }
    }

    /// The connection stands: the endpoint is well.
    pub(super) fn stands(&self) {
        self.stood.set(true);
        if let Some(choice) = &self.choice
            && self.worker.ejections.borrow_mut().succeeded(choice)
        {
            self.worker.telemetry.recovered(choice);
        }
    }

    /// The connection ended for this reason. If it never stood, that may be the endpoint's doing.
    pub(super) fn ended(self, code: Code) {
        let Some(choice) = self.choice.filter(|_| !self.stood.get() && blames_endpoint(code))
        else {
            return;
        };
        let mesh = self.worker.mesh.borrow_mut().current().clone();
        let endpoints = mesh.snapshot.endpoint_count(&choice.service, choice.port);
        let failed = self.worker.ejections.borrow_mut().failed(&choice, endpoints, Instant::now());
        match failed {
            Failed::Ejected(until) => self.worker.telemetry.ejected(&choice, code, until),
            Failed::Out(_) | Failed::Kept => {}
        }
    }
}
