//! Which objects of a kind are known, so that those that vanished unseen are found.

use std::collections::HashMap;
use std::mem;

use cluster::ObjectName;

/// The objects of one kind that were said to be there.
#[derive(Debug, Default)]
pub(super) struct Known {
    objects: HashMap<ObjectName, Mark>,
    /// Counts lists. An object that the last whole list did not name is gone.
    list: u64,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// The list that named it last.
    list: u64,
    /// Whether a version of it was understood, and so is in force.
    is_in_force: bool,
}

impl Known {
    /// A list begins; one that did not end counts for nothing.
    pub(super) fn begin(&mut self) {
        self.list += 1;
    }

    /// An object is there and was understood.
    pub(super) fn set(&mut self, name: ObjectName) {
        self.objects.insert(name, Mark { list: self.list, is_in_force: true });
    }

    /// An object is there and was not understood. Tells whether an older version is in force.
    pub(super) fn keep(&mut self, name: ObjectName) -> bool {
        let mark = self.objects.entry(name).or_insert(Mark { list: 0, is_in_force: false });
        mark.list = self.list;
        mark.is_in_force
    }

    /// An object is gone. Tells whether a version of it was in force.
    pub(super) fn remove(&mut self, name: &ObjectName) -> bool {
        self.objects.remove(name).is_some_and(|mark| mark.is_in_force)
    }

    /// A list is whole: what it did not name is gone, with whether a version of it was in force.
    pub(super) fn end(&mut self) -> Vec<(ObjectName, bool)> {
        let list = self.list;
        let gone = self.objects.extract_if(|_, mark| mark.list != list);
        gone.map(|(name, mark)| (name, mark.is_in_force)).collect()
    }

    /// The kind is gone, with all its objects.
    pub(super) fn clear(&mut self) -> Vec<(ObjectName, bool)> {
        let objects = mem::take(&mut self.objects);
        objects.into_iter().map(|(name, mark)| (name, mark.is_in_force)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Begin,
        Set(&'static str),
        Broken(&'static str, bool),
        Remove(&'static str, bool),
        End(&'static [&'static str]),
        Clear(&'static [&'static str]),
    }
    use Step::{Begin, Broken, Clear, End, Remove, Set};

    fn names(mut gone: Vec<(ObjectName, bool)>) -> Vec<String> {
        gone.sort();
        gone.retain(|(_, is_in_force)| *is_in_force);
        gone.iter().map(|(name, _)| name.to_string()).collect()
    }

    fn check(what: &str, steps: &[Step]) {
        let mut known = Known::default();
        let name = |name: &str| ObjectName::new("ns", name);
        let prefixed = |all: &[&str]| all.iter().map(|n| format!("ns/{n}")).collect::<Vec<_>>();
        for step in steps {
            match step {
                Begin => known.begin(),
                Set(object) => known.set(name(object)),
                Broken(object, expected) => {
                    assert_eq!(known.keep(name(object)), *expected, "{what}");
                }
                Remove(object, expected) => {
                    assert_eq!(known.remove(&name(object)), *expected, "{what}");
                }
                End(gone) => assert_eq!(names(known.end()), prefixed(gone), "{what}"),
                Clear(gone) => assert_eq!(names(known.clear()), prefixed(gone), "{what}"),
            }
        }
    }

    #[test]
    fn what_a_list_does_not_name_is_gone() {
        check("first list", &[Begin, Set("a"), Set("b"), End(&[])]);
        check(
            "one vanished between lists, one came by a watch",
            &[Begin, Set("a"), Set("b"), End(&[]), Set("c"), Begin, Set("a"), End(&["b", "c"])],
        );
        check(
            "a list that broke off counts for nothing",
            &[Begin, Set("a"), End(&[]), Begin, Set("b"), Begin, Set("a"), End(&["b"])],
        );
        check(
            "gone by a watch is not gone again",
            &[Begin, Set("a"), End(&[]), Remove("a", true), Begin, End(&[]), Remove("a", false)],
        );
        check(
            "the kind goes",
            &[Begin, Set("a"), Set("b"), End(&[]), Clear(&["a", "b"]), Clear(&[])],
        );
    }

    #[test]
    fn a_broken_version_keeps_the_one_before() {
        check(
            "in the next list",
            &[Begin, Set("a"), End(&[]), Begin, Broken("a", true), End(&[]), Remove("a", true)],
        );
        check(
            "never understood",
            &[Begin, Broken("a", false), End(&[]), Broken("a", false), Remove("a", false)],
        );
        check(
            "broken, then gone from the list",
            &[Begin, Set("a"), End(&[]), Broken("a", true), Begin, End(&["a"])],
        );
    }
}
