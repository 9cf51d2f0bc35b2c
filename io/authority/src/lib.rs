//! Certificates, made: what a control plane and the development authority share.
