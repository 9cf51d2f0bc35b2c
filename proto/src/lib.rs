//! Messages of the public interfaces that Warren speaks; generated from the files beside this one.
