//! From a packet to a captured connection: eBPF hooks, listeners in the pod, enrolment.
