use std::fs;

use super::*;

struct World {
    folder: tempfile::TempDir,
    files: Files,
    problems: Problems,
}

/// A policy that denies a port, in a namespace called `shop`.
fn policy(name: &str, port: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\n\
         spec: {{action: DENY, rules: [{{to: [{{operation: {{ports: [{port}]}}}}]}}]}}\n---\n"
    )
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{ports: [{{port: {port}}}]}}\n---\n"
    )
}

fn words(events: &[Event]) -> Vec<String> {
    let word = |event: &Event| match event {
        Event::Set(object) => format!("+{}", object.meta().name),
        Event::Delete(key) => format!("-{}", key.name.name),
        Event::Synced(source) => format!("{source:?}"),
    };
    events.iter().map(word).collect()
}

impl World {
    fn new(files: &[(&str, &str)]) -> (Self, Vec<String>) {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            write(folder.path(), name, text);
        }
        let problems = Problems::default();
        let opened = Folder::open(folder.path(), problems.clone()).expect("readable");
        let first = words(&opened.first);
        (Self { folder, files: opened.files, problems }, first)
    }

    fn write(&self, name: &str, text: &str) {
        write(self.folder.path(), name, text);
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect("removed");
    }

    fn look(&mut self) -> Vec<String> {
        words(&self.files.look(self.folder.path()))
    }

    /// Two looks: the first one must say nothing.
    fn changes(&mut self) -> Vec<String> {
        assert_eq!(self.look(), [""; 0], "nothing is said at the first look");
        self.look()
    }

    fn problems(&self) -> Vec<String> {
        let root = format!("{}/", self.folder.path().display());
        let list = self.problems.list().into_iter();
        list.map(|p| format!("{}: {}", p.place.replace(&root, ""), p.text)).collect()
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("in a folder")).expect("a folder");
    fs::write(path, text).expect("written");
}

#[test]
fn everything_is_said_and_then_what_changes() {
    let (mut world, first) = World::new(&[
        ("a.yaml", &(service("web", "80") + &policy("p1", "'9'"))),
        ("below/b.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}"#),
        ("below/deeper/c.yaml", &service("unseen", "80")),
        (".hidden.yaml", &service("unseen", "80")),
        ("notes.txt", "no manifest"),
    ]);
    assert_eq!(first, ["+shop", "+p1", "+web"], "in the order of kinds");
    assert_eq!(world.changes(), [""; 0]);
    world.write("a.yaml", &(service("web", "81") + &policy("p2", "'9'")));
    assert_eq!(world.changes(), ["+p2", "+web", "-p1"]);
    world.write("a.yaml", &(policy("p2", "'9'") + &service("web", "81")));
    assert_eq!(world.changes(), [""; 0], "the same objects in another order");
    world.remove("below/b.json");
    assert_eq!(world.changes(), ["-shop"]);
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn half_a_file_and_a_gap_say_nothing() {
    let (mut world, _) = World::new(&[("a.yaml", &(policy("p1", "'9'") + &service("web", "80")))]);
    world.write("a.yaml", "");
    assert_eq!(world.look(), [""; 0]);
    world.write("a.yaml", &(policy("p1", "'10'") + &service("web", "80")));
    assert_eq!(world.changes(), ["+p1"], "what was empty in between was never taken");
    world.remove("a.yaml");
    assert_eq!(world.look(), [""; 0]);
    world.write("a.yaml", &policy("p1", "'10'"));
    assert_eq!(world.changes(), ["-web"]);
}

#[test]
fn what_cannot_be_read_is_named_and_keeps_what_was_there() {
    let both = policy("p1", "'9'") + &service("web", "80");
    let (mut world, _) = World::new(&[("a.yaml", &both), ("b.yaml", &service("other", "80"))]);
    world
        .write("a.yaml", &(policy("p1", "'10'") + &service("web", "70000") + &service("new", "1")));
    assert_eq!(world.changes(), ["+p1", "+new"], "the readable part counts, web stays");
    let problems = world.problems();
    assert!(
        problems[0].starts_with(
            "a.yaml: document 2 (line 5): Service shop/web: spec.ports[0].port: invalid value"
        ),
        "{problems:?}"
    );
    assert_eq!(problems[1], "a.yaml: 1 objects that it provided before stay in force");

    world.write("a.yaml", "{{{ not yaml");
    assert_eq!(world.changes(), [""; 0], "all of it stays");
    assert_eq!(world.problems()[1], "a.yaml: 3 objects that it provided before stay in force");

    world.write("a.yaml", &service("new", "1"));
    assert_eq!(world.changes(), ["-p1", "-web"], "readable as a whole: only what it says");
    assert_eq!(world.problems(), [""; 0]);

    world.write("a.yaml", "kind: [");
    assert_eq!(world.changes(), [""; 0]);
    world.remove("a.yaml");
    assert_eq!(world.changes(), ["-new"]);
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn an_unreadable_policy_is_said_and_named() {
    let (world, first) = World::new(&[("a.yaml", &policy("p1", "'9'").replace("DENY", "REFUSE"))]);
    assert_eq!(first, ["+p1"], "so that it denies where it is bound");
    let problems = world.problems();
    let expected = "a.yaml: AuthorizationPolicy shop/p1: spec: action: unknown variant `REFUSE`";
    assert!(problems[0].starts_with(expected), "{problems:?}");
}

#[test]
fn of_two_files_the_first_by_name_counts() {
    let (mut world, first) =
        World::new(&[("b.yaml", &service("web", "1")), ("c.yaml", &service("web", "2"))]);
    assert_eq!(first, ["+web"]);
    let conflict = "Service shop/web: it is in b.yaml as well, and that one counts";
    assert_eq!(world.problems(), [format!("c.yaml: {conflict}")]);
    world.write("a.yaml", &(service("web", "3") + &service("web", "4")));
    assert_eq!(world.changes(), ["+web"]);
    let problems = world.problems();
    assert_eq!(problems.len(), 3, "{problems:?}");
    assert_eq!(problems[0], "a.yaml: Service shop/web: it is given twice; the first one counts");
    world.remove("a.yaml");
    world.remove("b.yaml");
    assert_eq!(world.changes(), ["+web"], "the next one takes its place");
    assert_eq!(world.problems(), [""; 0]);
}

#[test]
fn what_is_read_counts_before_what_a_broken_file_said() {
    let (mut world, _) = World::new(&[("a.yaml", &service("web", "1"))]);
    world.write("a.yaml", "kind: [");
    world.write("b.yaml", &service("web", "2"));
    assert_eq!(world.changes(), ["+web"]);
}

#[test]
fn bounds_and_other_files() {
    let (mut world, first) =
        World::new(&[("bytes.yaml", "\u{0}\u{1}"), ("ok.yaml", &service("web", "1"))]);
    assert_eq!(first, ["+web"]);
    assert_eq!(world.problems().len(), 1);
    fs::write(world.folder.path().join("bytes.yaml"), [0xff, 0xfe]).expect("written");
    let long = " ".repeat(cluster::manifest::BYTES_MAX + 1);
    world.write("ok.yaml", &long);
    assert_eq!(world.changes(), [""; 0]);
    let problems = world.problems().join("\n");
    assert!(problems.contains("bytes.yaml: it is not text"), "{problems}");
    assert!(problems.contains("ok.yaml: it is longer than"), "{problems}");
    assert!(problems.contains("ok.yaml: 1 objects that it provided before"), "{problems}");
}

#[test]
fn a_folder_that_vanishes_keeps_its_objects() {
    let (mut world, _) = World::new(&[("a.yaml", &service("web", "1"))]);
    fs::remove_dir_all(world.folder.path()).expect("removed");
    assert_eq!(world.changes(), [""; 0]);
    assert!(world.problems()[0].contains("what it provided stays in force"));
    assert!(Folder::open(world.folder.path(), Problems::default()).is_err());
}

#[test]
fn what_cannot_be_looked_at_is_not_gone() {
    let both = [("a.yaml", &*policy("p1", "'9'")), ("below/b.yaml", &*policy("p2", "'9'"))];
    let (mut world, first) = World::new(&both);
    assert_eq!(first, ["+p1", "+p2"]);
    let below = world.folder.path().join("below");
    // A link to itself can be listed and leads nowhere.
    for (path, name) in
        [(below.join("b.yaml"), "below/b.yaml"), (world.folder.path().join("a.yaml"), "a.yaml")]
    {
        let text = fs::read(&path).expect("readable");
        fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink(&path, &path).expect("linked");
        assert_eq!((world.look(), world.changes()), (vec![], vec![]), "{name}");
        let problems = world.problems().join("\n");
        assert!(problems.contains(&format!("{name}: Too many levels")), "{problems}");
        assert!(problems.contains("what it provided stays in force"), "{problems}");
        assert!(Folder::open(world.folder.path(), Problems::default()).is_err());
        fs::remove_file(&path).expect("removed");
        fs::write(&path, text).expect("written");
        assert_eq!((world.look(), world.changes()), (vec![], vec![]), "{name}");
        assert_eq!(world.problems(), [""; 0]);
    }
    fs::remove_dir_all(&below).expect("removed");
    // A link to nothing is nothing.
    std::os::unix::fs::symlink("nowhere", world.folder.path().join("c.yaml")).expect("linked");
    assert_eq!(world.changes(), ["-p2"]);
}

#[test]
fn more_entries_than_are_looked_at_take_nothing_away() {
    let (mut world, _) = World::new(&[("z/a.yaml", &policy("p1", "'9'"))]);
    for number in 0..scan::ENTRIES_MAX {
        fs::File::create(world.folder.path().join(format!("{number}.txt"))).expect("created");
    }
    assert_eq!(world.changes(), [""; 0]);
    let problems = world.problems();
    assert!(
        problems[0].contains("it has more than 50000 entries; what it provided"),
        "{problems:?}"
    );
}

#[tokio::test]
async fn a_change_is_out_within_a_second() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "p.yaml", &policy("p1", "'9'"));
    let opened = Folder::open(folder.path(), Problems::default()).expect("readable");
    let (events, mut changes) = super::super::channel();
    let shutdown = CancellationToken::new();
    let following = tokio::spawn(opened.follow(events, shutdown.clone()));
    let mut next = async || words(&[changes.recv().await.expect("an event")]).remove(0);
    assert_eq!(next().await, "+p1");
    assert_eq!(next().await, "Folder");
    for port in 10..13 {
        let started = std::time::Instant::now();
        write(folder.path(), "p.yaml", &policy("p1", &format!("'{port}'")));
        assert_eq!(next().await, "+p1");
        assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    }
    shutdown.cancel();
    following.await.expect("joined").expect("nobody closed it");
}
