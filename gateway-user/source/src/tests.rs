use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use patience::{Lap, Stopwatch};
use tempfile::TempDir;
use tokio::{sync::watch::Receiver, time};

use crate::{
    combined::{Inputs, Sources},
    error::SourceError,
    rules::Rules,
    source::{Change, Changes, Followed, Reload, Source, Status},
    watch::Manifests,
};

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports:\n  - port: {port}\n"
    )
}

fn services(inputs: &Inputs) -> Vec<String> {
    let ports = inputs.resources.services().map(|(object, service)| {
        let port = service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port;
        format!("{} {port}", object.key.name)
    });
    ports.collect()
}

/// Waits until these Services are in force; answers how long that took.
async fn until(updates: &mut Receiver<Arc<Inputs>>, expected: &[&str]) -> Lap {
    let watch = Stopwatch::of_process();
    let reached = time::timeout(
        patience::limit(),
        updates.wait_for(|inputs| services(inputs) == expected),
    );
    let reached = reached.await.is_ok_and(|reached| reached.is_ok());
    assert!(
        reached,
        "{:?}, not {expected:?}",
        services(&updates.borrow())
    );
    watch.lap()
}

fn follow(paths: Vec<PathBuf>) -> Result<Sources, SourceError> {
    Sources::start(vec![Box::new(Manifests::new(paths))], None)
}

fn start(directory: &Path) -> Sources {
    follow(vec![directory.to_owned()]).unwrap()
}

const SOON: Duration = Duration::from_secs(1);

#[tokio::test]
async fn changes_take_effect_within_a_second() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", 80)).unwrap();
    fs::write(path("notes.txt"), service("no", 80)).unwrap();
    let watcher = start(directory.path());
    assert_eq!(services(&watcher.current()), ["a 80"]);
    let mut updates = watcher.subscribe();

    fs::write(path("a.yaml"), service("a", 81)).unwrap();
    until(&mut updates, &["a 81"]).await.below(SOON).unwrap();

    fs::write(path("b.json"), r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": {"ports": [{"port": 90}]}}"#).unwrap();
    until(&mut updates, &["a 81", "b 90"])
        .await
        .below(SOON)
        .unwrap();

    fs::create_dir(path("sub")).unwrap();
    fs::write(path("sub/c.yml"), service("c", 70)).unwrap();
    until(&mut updates, &["a 81", "b 90", "c 70"])
        .await
        .below(SOON)
        .unwrap();

    fs::write(path(".a.yaml.swp"), service("x", 1)).unwrap();
    fs::write(path(".new.yaml"), service("a", 82)).unwrap();
    fs::rename(path(".new.yaml"), path("a.yaml")).unwrap();
    until(&mut updates, &["a 82", "b 90", "c 70"])
        .await
        .below(SOON)
        .unwrap();

    fs::remove_file(path("b.json")).unwrap();
    until(&mut updates, &["a 82", "c 70"])
        .await
        .below(SOON)
        .unwrap();
}

#[tokio::test]
async fn a_mounted_config_map_changes_at_once() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("..1")).unwrap();
    fs::write(path("..1/a.yaml"), service("a", 80)).unwrap();
    fs::write(path("..1/b.yaml"), service("b", 80)).unwrap();
    symlink("..1", path("..data")).unwrap();
    symlink("..data/a.yaml", path("a.yaml")).unwrap();
    symlink("..data/b.yaml", path("b.yaml")).unwrap();
    let watcher = start(directory.path());
    assert_eq!(services(&watcher.current()), ["a 80", "b 80"]);
    assert_eq!(watcher.current().resources.diagnostics, []);
    let mut updates = watcher.subscribe();

    fs::create_dir(path("..2")).unwrap();
    fs::write(path("..2/a.yaml"), service("a", 81)).unwrap();
    fs::write(path("..2/b.yaml"), service("b", 81)).unwrap();
    symlink("..2", path("..new")).unwrap();
    fs::rename(path("..new"), path("..data")).unwrap();
    fs::remove_dir_all(path("..1")).unwrap();
    until(&mut updates, &["a 81", "b 81"])
        .await
        .below(SOON)
        .unwrap();
}

#[tokio::test]
async fn a_file_that_is_being_written_does_not_flap() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, service("a", 80)).unwrap();
    let watcher = start(directory.path());
    let mut updates = watcher.subscribe();
    updates.mark_unchanged();

    let start = Instant::now();
    fs::write(&file, "").unwrap();
    time::sleep(Duration::from_millis(120)).await;
    fs::write(&file, service("a", 81)).unwrap();
    let written = start.elapsed();
    updates.changed().await.unwrap();
    // A machine that took longer than that has shown us the empty file rightly.
    if written < Duration::from_millis(190) {
        assert_eq!(services(&updates.borrow()), ["a 81"]);
    }
    until(&mut updates, &["a 81"]).await;

    // One that stays empty is empty.
    fs::write(&file, "").unwrap();
    until(&mut updates, &[]).await.below(SOON).unwrap();
}

#[tokio::test]
async fn reload_answers_with_what_was_written_before() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("a.yaml");
    let watcher = start(directory.path());
    let updates = watcher.subscribe();
    for port in 1..=50 {
        fs::write(&file, service("a", port)).unwrap();
        let inputs = watcher.reload().await.unwrap();
        assert_eq!(services(&inputs), [format!("a {port}")]);
        assert_eq!(updates.borrow().version, inputs.version);
    }
    let before = watcher.current().version;
    assert_eq!(watcher.reload().await.unwrap().version, before);
}

#[tokio::test]
async fn single_files_are_watched_through_replacement() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("mine");
    fs::write(&file, service("a", 80)).unwrap();
    let watcher = follow(vec![file.clone()]).unwrap();
    let mut updates = watcher.subscribe();
    fs::write(directory.path().join("other.yaml"), service("o", 1)).unwrap();
    fs::write(directory.path().join("new"), service("a", 81)).unwrap();
    fs::rename(directory.path().join("new"), &file).unwrap();
    until(&mut updates, &["a 81"]).await.below(SOON).unwrap();
}

#[tokio::test]
async fn a_directory_that_vanishes_leaves_its_last_state() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("manifests");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.yaml"), service("a", 80)).unwrap();
    let watcher = start(&directory);
    fs::rename(&directory, parent.path().join("away")).unwrap();
    let inputs = watcher.reload().await.unwrap();
    assert_eq!(services(&inputs), ["a 80"]);
    let expected = format!(
        "error: cannot read {}: No such file or directory (os error 2); what was read from it stays in force",
        directory.display()
    );
    let messages: Vec<_> = inputs
        .resources
        .diagnostics
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(messages, [expected]);

    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("a.yaml"), service("a", 81)).unwrap();
    let inputs = watcher.reload().await.unwrap();
    assert_eq!(services(&inputs), ["a 81"]);
    assert_eq!(inputs.resources.diagnostics, []);
}

/// One that is read would never end, or say nothing for ever.
#[tokio::test]
async fn what_is_no_file_and_what_is_too_large_is_told_and_not_read() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", 80)).unwrap();
    symlink("/dev/zero", path("b.yaml")).unwrap();
    nix::unistd::mkfifo(&path("c.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(path("d.yaml"), "#".repeat(1 << 17)).unwrap();
    let watcher = start(directory.path());
    let inputs = watcher.current();
    assert_eq!(services(&inputs), ["a 80"]);
    let told = inputs.resources.diagnostics.iter().map(ToString::to_string);
    let told: Vec<_> = told
        .map(|text| text.rsplit('/').next().unwrap().to_owned())
        .collect();
    let none = "1: cannot read the file: it is no regular file (fix: rename it, or put a file in its place)";
    let large = "1: cannot read the file: it is larger than 65536 bytes (fix: several files)";
    assert_eq!(
        told,
        [
            format!("b.yaml:{none}"),
            format!("c.yaml:{none}"),
            format!("d.yaml:{large}")
        ]
    );
}

#[tokio::test]
async fn a_link_whose_target_is_missing_keeps_what_it_led_to() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path(".target"), service("a", 80)).unwrap();
    symlink(".target", path("a.yaml")).unwrap();
    symlink(".other", path("b.yaml")).unwrap();
    let watcher = start(directory.path());
    assert_eq!(watcher.current().resources.diagnostics.len(), 1);
    fs::rename(path(".target"), path(".away")).unwrap();
    let inputs = watcher.reload().await.unwrap();
    assert_eq!(services(&inputs), ["a 80"]);
    assert_eq!(inputs.resources.diagnostics.len(), 2);
    fs::remove_file(path("a.yaml")).unwrap();
    assert_eq!(services(&watcher.reload().await.unwrap()), [""; 0]);
}

#[test]
fn a_path_that_is_not_there_is_a_clear_error() {
    let error = follow(vec!["/no/such/manifests".into()]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read manifests from /no/such/manifests: No such file or directory (os error 2) (fix: a directory or file that is there)"
    );
}

#[tokio::test]
async fn text_that_is_no_text_keeps_what_was_there() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, service("a", 80)).unwrap();
    let watcher = start(directory.path());
    fs::write(&file, [0xff, 0xfe, 0x00]).unwrap();
    let inputs = watcher.reload().await.unwrap();
    assert_eq!(services(&inputs), ["a 80"]);
    let message = inputs.resources.diagnostics[0].to_string();
    assert!(
        message.contains("a.yaml:1: cannot read the file: invalid utf-8"),
        "{message}"
    );
}

#[tokio::test]
async fn where_the_system_tells_nothing_changes_are_found_by_looking() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, service("a", 80)).unwrap();
    let paths = vec![directory.path().to_owned()];
    let watcher = Sources::start(vec![Box::new(Manifests::unnotified(paths))], None).unwrap();
    fs::write(&file, service("a", 81)).unwrap();
    let lap = until(&mut watcher.subscribe(), &["a 81"]).await;
    lap.below(Duration::from_secs(3)).unwrap();
}

#[tokio::test]
async fn directories_are_sources_of_one_set_of_objects() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(one.path().join("a.yaml"), service("a", 80)).unwrap();
    fs::write(other.path().join("b.yaml"), service("b", 80)).unwrap();
    let source = |directory: &TempDir| -> Box<dyn Source> {
        Box::new(Manifests::new(vec![directory.path().to_owned()]))
    };
    let sources = Sources::start(vec![source(&one), source(&other)], None).unwrap();
    assert_eq!(services(&sources.current()), ["a 80", "b 80"]);
    assert_eq!(sources.status().len(), 2);

    // Defined in both: admitted together.
    fs::write(other.path().join("a.yaml"), service("a", 81)).unwrap();
    let inputs = sources.reload().await.unwrap();
    assert_eq!(services(&inputs).len(), 2);
    let told = inputs.resources.diagnostics[0].to_string();
    assert!(told.contains("is defined twice"), "{told}");

    fs::remove_file(one.path().join("a.yaml")).unwrap();
    let inputs = sources.reload().await.unwrap();
    assert_eq!(services(&inputs), ["a 81", "b 80"]);
    assert_eq!(inputs.resources.diagnostics, []);
}

/// Tells of rules once.
#[derive(Debug)]
struct Once(Arc<Rules>);

impl Source for Once {
    fn follow(self: Box<Self>, to: Box<dyn Changes>) -> Result<Box<dyn Followed>, SourceError> {
        to.tell(vec![Change::Services(Arc::clone(&self.0))]);
        Ok(self)
    }
}

impl Followed for Once {
    fn reload(&self) -> Reload<'_> {
        Box::pin(async { Ok(()) })
    }

    fn status(&self) -> Status {
        Status {
            kind: "rules",
            read: Vec::new(),
            services: Some(self.0.services.len()),
            api_server: None,
        }
    }
}

#[tokio::test]
async fn rules_and_manifests_are_there_side_by_side() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, service("a", 80)).unwrap();
    let manifests = Box::new(Manifests::new(vec![directory.path().to_owned()]));
    let rules = Arc::new(Rules::default());
    let sources =
        Sources::start(vec![Box::new(Once(Arc::clone(&rules))), manifests], None).unwrap();
    let before = sources.current();
    assert_eq!(before.rules.as_ref(), Some(&rules));
    assert_eq!(services(&before), ["a 80"]);

    fs::write(&file, service("a", 81)).unwrap();
    let after = sources.reload().await.unwrap();
    assert_eq!(services(&after), ["a 81"]);
    assert!(Arc::ptr_eq(after.rules.as_ref().unwrap(), &rules));
    assert_eq!(after.version, before.version + 1);
}

#[test]
fn what_a_mistake_left_in_force_is_known_to_the_next_process() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("a.yaml");
    let kept = directory.path().join("state/kept.yaml");
    let start = || {
        let manifests = Manifests::new(vec![file.clone()]);
        Sources::start(vec![Box::new(manifests)], Some(kept.clone())).unwrap()
    };
    let service =
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{port: 80}]}}";
    fs::write(&file, service).unwrap();
    let good = start().current();
    assert_eq!(good.resources.services().count(), 1);
    assert!(!kept.exists());
    // Without the file there is nothing that would be in force.
    fs::write(&file, service.replace("80", "70000")).unwrap();
    assert_eq!(start().current().resources.services().count(), 0);

    fs::write(&file, service).unwrap();
    let sources = start();
    fs::write(&file, service.replace("80", "70000")).unwrap();
    let refused = || sources.current().resources.diagnostics.len() == 1;
    patience::until(|| refused().then_some(())).unwrap();
    drop(sources);
    let after = start().current();
    assert_eq!(after.resources.objects, good.resources.objects);
    fs::write(&file, service.replace("80", "81")).unwrap();
    drop(start());
    assert!(!kept.exists());
}
