//! Which addresses does a name have for a workload? DNS questions answered from a snapshot.
