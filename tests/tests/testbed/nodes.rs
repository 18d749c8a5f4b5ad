//! What runs on nodes: nodegate, and the processes of pods.

use std::fs;

use nodegate_programs::Program;
use nodegate_testbed::{Signal, Testbed};

use crate::{
    scene::{Scene, WEB, address, environment, limit, pod_on, text, up},
    stand_in::STAND_IN,
};

pub(crate) fn restarts(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let gateway = pod_on(&testbed, "istio-ingressgateway", "node2")?;
    let processes = |host: &str| -> anyhow::Result<String> {
        let groups = match host {
            "node1" => testbed.names().node_cgroup("node1").join("node"),
            pod => {
                let pod = pod["pod/".len()..].replace('/', ".");
                let group = testbed.names().node_cgroup("node2");
                group.join(format!("pod-{pod}"))
            }
        };
        Ok(fs::read_to_string(groups.join("cgroup.procs"))?)
    };
    for host in ["node1", &gateway] {
        let first = processes(host)?;
        testbed.kill(host, Signal::SIGCONT)?;
        assert_eq!(processes(host)?, first);
        testbed.kill(host, Signal::SIGKILL)?;
        assert_eq!(processes(host)?, "", "{host}");
        // Changes do not wait for it.
        testbed.apply_text("kind: Namespace\napiVersion: v1\nmetadata: {name: x}\n")?;
        let error = testbed.kill(host, Signal::SIGKILL).expect_err("it is gone");
        assert!(error.to_string().contains("does not run"), "{error}");
        testbed.restart(host)?;
        let second = processes(host)?;
        assert!(!second.is_empty() && second != first, "{second}");
        // Also when it runs.
        testbed.restart(host)?;
        let third = processes(host)?;
        assert!(third.lines().count() == 1 && third != second, "{third}");
    }
    for host in ["client", &pod_on(&testbed, "web-", "node1")?, "node9"] {
        assert!(testbed.restart(host).is_err(), "{host}");
    }
    testbed.down()
}

pub(crate) fn node_options(name: &str) -> anyhow::Result<()> {
    let scene = Scene::new(STAND_IN)?;
    scene.write(
        "manifests/testbed.yaml",
        "nodes:
- {name: node1, nodegate: {args: [--services, gateway, --attach=clsact], env: {NODEGATE_X: y}}}
- {name: node2, nodegate: false}
",
    )?;
    let testbed = Testbed::up(&scene.options(name))?;
    let log = fs::read_to_string(testbed.log(&testbed.host("node1")?))?;
    assert!(
        log.contains("arguments: run --role redirector --services gateway --attach=clsact\n"),
        "{log}"
    );
    let environment = environment(&testbed, "node1")?;
    assert!(environment.contains("NODEGATE_X=y\n"), "{environment}");
    let group = testbed.names().node_cgroup("node2").join("node");
    assert_eq!(fs::read_to_string(group.join("cgroup.procs"))?, "");
    // The rest of the node is as it always is, and changes get by without it.
    testbed.apply_text(&WEB.replace("replicas: 2", "replicas: 4"))?;
    let url = format!("http://{}/", address(&testbed, "web-", "node2")?);
    let answer = testbed.exec("node1", Program::Curl, ["-sSfm", &limit(), &url])?;
    assert!(answer.status.success(), "{answer:?}");
    let error = testbed.restart("node2").expect_err("there is none");
    assert!(error.to_string().contains("nodegate: false"), "{error}");
    testbed.down()
}

pub(crate) fn cgroups(name: &str) -> anyhow::Result<()> {
    let (_scene, testbed) = up(name)?;
    let pod = pod_on(&testbed, "web-", "node2")?;
    for (host, part) in [
        ("client", "/client".to_string()),
        ("node1", "/node1/node".into()),
        (
            &pod,
            format!("/node2/pod-{}", pod["pod/".len()..].replace('/', ".")),
        ),
    ] {
        let groups = text(&testbed.exec(host, Program::Cat, ["/proc/self/cgroup"])?);
        let line = format!("0::/nodegate-testbed/{name}{part}");
        assert!(
            groups.lines().any(|group| group == line),
            "{host}: {groups}"
        );
    }
    // nodegate itself is among its node's processes.
    let processes = fs::read_to_string(
        testbed
            .names()
            .node_cgroup("node1")
            .join("node/cgroup.procs"),
    )?;
    assert_eq!(processes.lines().count(), 1);
    let environment = environment(&testbed, "node2")?;
    for variable in [
        "NODE_NAME=node2".to_string(),
        format!("NODEGATE_PIN_DIR={}", testbed.pin_dir("node2").display()),
        format!(
            "NODEGATE_CGROUP={}",
            testbed.names().node_cgroup("node2").display()
        ),
    ] {
        assert!(
            environment.lines().any(|line| line == variable),
            "{variable}"
        );
    }
    testbed.down()
}
