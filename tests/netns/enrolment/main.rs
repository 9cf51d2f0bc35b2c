//! The netns tier, enrolment: a whole agent in the mode of Kubernetes, with an API server, a container
//! runtime and a control plane around it that do what a test wants.
//!
//! What a hostile pod can do to its own hooks is in the suite `netns_capture`; the table in
//! `docs/enrolment.md` names every outcome and where it is shown.

mod api_server;
mod contradictions;
mod joining;
mod neighbours;
mod places;
mod restarts;
mod sandboxes;
mod stage;
mod switches;
