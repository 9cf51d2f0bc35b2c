//! A pod's and an agent's life, seen from outside: joining and leaving the mesh with connections
//! open, agents that are killed, stopped and started again, records and pins that do not fit, pods
//! that change or vanish, requests that are refused, and a mesh file that changes under load.

mod adoption;
mod changes;
mod common;
mod crash;
mod cycles;
mod degraded;
mod leaving;
mod privileged;
mod redirected;
mod refusals;
mod reload;
mod rescue;
mod root;
mod socket;
mod startup;
mod stopping;
mod succession;
mod taken;
