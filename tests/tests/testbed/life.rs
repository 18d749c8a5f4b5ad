//! How a testbed comes, changes and goes.

use std::{fs, path::Path, process::ExitCode, thread, time::Duration};

use nodegate_programs::{Program, itself};
use nodegate_testbed::{Outcome, Testbed, environment};
use serde_json::Value;

use crate::{
    VICTIM,
    scene::{Scene, WEB, address, limit, text, up},
    stand_in::FAILING,
};

pub(crate) fn changes(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let names = |prefix: &str| -> anyhow::Result<Vec<String>> {
        let ps = testbed.ps()?;
        Ok(ps
            .pods_named("default", prefix)
            .map(|pod| pod.name.clone())
            .collect())
    };
    let slice = || -> anyhow::Result<String> {
        let mut files = fs::read_dir(testbed.manifests())?
            .flatten()
            .map(|entry| entry.path());
        let file = files.find(|file| file.to_string_lossy().contains("endpointslice"));
        Ok(fs::read_to_string(file.expect("a slice"))?)
    };
    let before = names("web-")?;

    let report = testbed.apply_text(&WEB.replace("replicas: 2", "replicas: 3"))?;
    assert!(
        report
            .outcomes
            .iter()
            .any(|(key, outcome)| key.kind == "Deployment"
                && key.name == "web"
                && *outcome == Outcome::Configured)
    );
    let after = names("web-")?;
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|pod| after.contains(pod)));
    let slices = slice()?;
    assert!(after.iter().all(|pod| slices.contains(pod)), "{slices}");

    // A new template with a written address, twice: the second takes the address over.
    for image in ["httpserver", "nginx"] {
        let pinned = format!(
            "kind: Deployment\napiVersion: apps/v1\nmetadata: {{name: web}}\nspec: {{template: {{metadata: \
             {{labels: {{app: web}}, annotations: {{testbed.nodegate.io/address: 10.10.1.99}}}}, spec: \
             {{containers: [{{image: {image}}}]}}}}}}\n"
        );
        testbed.apply_text(&pinned)?;
        assert_eq!(names("web-")?.len(), 1);
        let answer = testbed.exec(
            "node2",
            Program::Curl,
            ["-sSm", &limit(), "http://10.10.1.99/hello"],
        )?;
        let nginx = text(&answer).contains("Welcome to nginx!");
        assert_eq!(nginx, image == "nginx", "{answer:?}");
    }

    let report = testbed.apply_text("kind: Service\nmetadata: {name: [}\n---\nkind: Deployment\napiVersion: apps/v1\nmetadata: {name: web}\nspec: {replicas: 0, template: {}}\n")?;
    assert_eq!(report.errors.len(), 1);
    assert!(names("web-")?.is_empty());
    assert!(!slice()?.contains("10.10.1.99"));
    let left = testbed.exec("node2", Program::Ip, ["route", "show", "10.10.1.99"])?;
    assert_eq!(text(&left), "");
    testbed.down()
}

pub(crate) fn requests_under_way(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let ps = testbed.ps()?;
    let pod = ps.pods_named("default", "web-").next().expect("a pod");
    let url = format!("http://{}/?wait=1200ms", pod.address);
    let curl = testbed.spawn("node1", Program::Curl, ["-sSm", &limit(), &url])?;
    let host = format!("pod/{}/{}", pod.namespace, pod.name);
    patience::try_until(|| {
        let sockets = text(&testbed.exec(&host, Program::Cat, ["/proc/net/tcp6"])?);
        // In the state ESTABLISHED (proc_pid_net(5)).
        anyhow::Ok(sockets.contains(" 01 ").then_some(()))
    })?;
    testbed.delete_object("Deployment", "default", "web")?;
    let answer = curl.wait_with_output()?;
    let said: Value = serde_json::from_slice(&answer.stdout)?;
    assert_eq!(said["pod"], pod.name.as_str());
    assert!(testbed.ps()?.pods_named("default", "web-").next().is_none());
    testbed.down()
}

pub(crate) fn side_by_side(name: &str) -> anyhow::Result<()> {
    let other = format!("{name}-b");
    let (_first_scene, first) = up(name)?;
    let (_second_scene, second) = up(&other)?;
    assert_eq!(first.ps()?, second.ps()?);
    for testbed in [&first, &second] {
        let url = format!("http://{}/", address(testbed, "web-", "node2")?);
        assert!(
            testbed
                .exec("node1", Program::Curl, ["-sSfm", &limit(), &url])?
                .status
                .success()
        );
    }
    // The name of one is the other's beginning: it must not take the other's things away.
    first.down()?;
    let url = format!("http://{}/", address(&second, "web-", "node2")?);
    assert!(
        second
            .exec("node1", Program::Curl, ["-sSfm", &limit(), &url])?
            .status
            .success()
    );
    drop(second);
    nothing_left(&other)
}

pub(crate) fn existing_name(name: &str) -> anyhow::Result<()> {
    let (scene, testbed) = up(name)?;
    let error = Testbed::up(&scene.options(name))
        .expect_err("two of a name")
        .to_string();
    assert!(error.contains("down --name"), "{error}");
    let works = testbed.exec("node1", Program::Ip, ["-V"])?;
    assert!(works.status.success());
    testbed.down()?;
    // It may be gone already.
    Testbed::down_named(name)
}

pub(crate) fn failing_nodegate(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(FAILING)?;
    let error = Testbed::up(&scene.options(name)).expect_err("no nodegate");
    let error = format!("{error:#}");
    assert!(
        error.contains("is not ready") && error.contains("no such map"),
        "{error}"
    );
    Ok(())
}

/// Builds the testbed and waits for its end.
pub(crate) fn victim(name: &str) -> ExitCode {
    let Ok((_scene, _testbed)) = up(name) else {
        return ExitCode::FAILURE;
    };
    thread::sleep(Duration::from_mins(1));
    ExitCode::SUCCESS
}

pub(crate) fn killed_up(name: &str) -> anyhow::Result<()> {
    for milliseconds in [3, 10, 30, 60, 120, 200, 300, 600] {
        let mut child = itself()?.env(VICTIM, name).spawn()?;
        thread::sleep(Duration::from_millis(milliseconds));
        child.kill()?;
        child.wait()?;
        Testbed::down_named(name)?;
        nothing_left(name)?;
    }
    Ok(())
}

/// An error that says what is left of a testbed.
pub(crate) fn nothing_left(name: &str) -> anyhow::Result<()> {
    let mut left = Vec::new();
    let prefix = format!("ngt-{name}-");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let namespace = entry.file_name().to_string_lossy().into_owned();
        let longer = namespace.starts_with(&format!("ngt-{name}-b-"));
        if namespace.starts_with(&prefix) && !longer {
            left.push(namespace);
        }
    }
    let cgroup2 = environment::cgroup2()?;
    for path in [
        Path::new("/run/nodegate-testbed").join(name),
        Path::new("/run/nodegate-testbed").join(format!("{name}.lock")),
        cgroup2.join("nodegate-testbed").join(name),
        Path::new(environment::BPFFS).join("nodegate").join(name),
    ] {
        if path.exists() {
            left.push(path.display().to_string());
        }
    }
    let state = format!("/run/nodegate-testbed/{name}/");
    for entry in fs::read_dir("/proc")?.flatten() {
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&state) {
            left.push(command);
        }
    }
    let links = Program::Ip.command().args(["-br", "link"]).output()?;
    for link in text(&links)
        .lines()
        .filter(|link| link.contains("veth") || link.starts_with("br0"))
    {
        left.push(link.into());
    }
    anyhow::ensure!(
        left.is_empty(),
        "left of testbed {name}: {}",
        left.join(", ")
    );
    Ok(())
}
