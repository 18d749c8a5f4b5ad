//! Making what runs what the objects say: the scheduler, kubelet and controllers of the testbed.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::Context as _;
use nix::{sys::signal::Signal, unistd::Pid};

use nodegate_programs::own;

use crate::{
    admission::{self, Store},
    cgroup, endpoints,
    names::{Host, Names},
    network, nodegate,
    pod::PodSpec,
    process,
    state::{self, State},
    workload::{self, Change, Pod},
};

/// Between a pod's last endpoint and its end: packets that are on their way arrive. That needs no process
/// to run, and what has arrived is served.
const GRACE: Duration = Duration::from_millis(300);
/// How long a pod may take to end by itself: what `terminationGracePeriodSeconds` is by default.
const TERMINATION: Duration = Duration::from_secs(30);

/// Brings the running cluster to what is in the store.
pub(super) fn converge(names: &Names, state: &mut State, store: &Store) -> anyhow::Result<()> {
    run(names, state, store, false)
}

/// The same for a cluster in which nothing runs yet, not even the redirectors.
pub(super) fn first(names: &Names, state: &mut State, store: &Store) -> anyhow::Result<()> {
    run(names, state, store, true)
}

fn run(names: &Names, state: &mut State, store: &Store, first: bool) -> anyhow::Result<()> {
    let created = state.next_created()?;
    let Change { keep, remove, add } = workload::plan(store, &state.layout, &state.pods, &created)?;
    state::save_store(names, store)?;
    let mut outside_ips = admission::outside_ips(store.values());
    for unowned in &state.layout.unowned_external_ips {
        outside_ips
            .entry(*unowned)
            .and_modify(|owned| *owned = false);
    }
    network::set_outside_ips(names, &state.layout, &state.outside_ips, &outside_ips)?;
    state.outside_ips = outside_ips;
    state.save(names)?;

    // An address or a name can be given away again only when its holder has gone.
    let blocks = |old: &Pod| {
        add.iter()
            .any(|new| same_address(new, old) || new.host() == old.host())
    };
    let (blocking, remove): (Vec<Pod>, Vec<Pod>) = remove.into_iter().partition(blocks);
    let mut staying = keep.clone();
    staying.extend(remove.iter().cloned());
    if !blocking.is_empty() {
        publish(names, state, store, &staying, |_| true)?;
        state.pods.clone_from(&staying);
        nodegate::sync(names, state, &nodegate::hosts(names, state))?;
        retire(names, state, &blocking)?;
        state.save(names)?;
    }

    state.pods = staying.iter().chain(&add).cloned().collect();
    if let Err(error) = start(names, state, store, &add, first) {
        // They are tried again with the next change.
        for pod in &add {
            discard(names, state, pod);
        }
        state.pods = staying;
        state.save(names)?;
        return Err(error);
    }

    state.pods = keep.into_iter().chain(add).collect();
    publish(names, state, store, &state.pods, |_| true)?;
    state.save(names)?;
    nodegate::sync(names, state, &nodegate::hosts(names, state))?;
    retire(names, state, &remove)
}

/// Whether pods share an address.
fn same_address(a: &Pod, b: &Pod) -> bool {
    a.address == b.address || a.address_v6 == b.address_v6
}

/// Starts pods (and with the first ones the redirectors) and waits until they are ready.
fn start(
    names: &Names,
    state: &State,
    store: &Store,
    add: &[Pod],
    first: bool,
) -> anyhow::Result<()> {
    for pod in add {
        network::add_pod(names, &state.layout, pod).with_context(|| pod.host().to_string())?;
        cgroup::create(&names.process_cgroup(&pod.host(), &pod.node))?;
    }
    let mut waiting: Vec<(Host, Pid, PathBuf)> = Vec::new();
    for pod in add.iter().filter(|pod| !pod.gateway) {
        waiting.push((
            pod.host(),
            start_server(names, state, pod)?,
            ready_file(names, pod),
        ));
    }
    // A Pod object is there before its containers run.
    let gateways: Vec<&Pod> = add.iter().filter(|pod| pod.gateway).collect();
    let pending = |pod: &Pod| !gateways.iter().any(|gateway| gateway.host() == pod.host());
    if first || !gateways.is_empty() {
        let shown: Vec<Pod> = state
            .pods
            .iter()
            .filter(|pod| pod.gateway || !add.contains(pod))
            .cloned()
            .collect();
        publish(names, state, store, &shown, pending)?;
    }
    let mut asked = Vec::new();
    if first {
        let nodes = state.layout.nodes.iter();
        let nodes = nodes.filter(|node| node.nodegate.is_some());
        asked.extend(nodes.map(|node| Host::Node(node.name.clone())));
    }
    asked.extend(gateways.into_iter().map(Pod::host));
    for host in &asked {
        let pid = nodegate::start(names, state, host)?;
        waiting.push((host.clone(), pid, names.admin_socket(host)));
    }
    for (host, pid, file) in waiting {
        process::await_file(&file, pid, &names.log(&host))
            .with_context(|| format!("{host} is not ready"))?;
    }
    nodegate::sync(names, state, &asked)
}

fn start_server(names: &Names, state: &State, pod: &Pod) -> anyhow::Result<Pid> {
    let host = pod.host();
    let spec = spec_file(names, pod);
    fs::write(&spec, serde_json::to_vec(&PodSpec::new(pod))?)
        .with_context(|| format!("writing {}", spec.display()))?;
    let mut command = nodegate::enter(names, state, &host, own(&state.binaries.pod))?;
    command.arg(&spec).arg(ready_file(names, pod));
    process::detach(command, &names.log(&host))
}

fn spec_file(names: &Names, pod: &Pod) -> PathBuf {
    names.state().join("pods").join(pod.host().slug() + ".json")
}

fn ready_file(names: &Names, pod: &Pod) -> PathBuf {
    names
        .state()
        .join("pods")
        .join(pod.host().slug() + ".ready")
}

/// Writes the manifest directory.
fn publish(
    names: &Names,
    state: &State,
    store: &Store,
    pods: &[Pod],
    ready: impl Fn(&Pod) -> bool,
) -> anyhow::Result<()> {
    let files = endpoints::manifests(store, &state.layout, pods, ready)?;
    state::mirror(names, &names.manifests(), files)
}

/// Ends pods that get no new traffic any more.
fn retire(names: &Names, state: &State, pods: &[Pod]) -> anyhow::Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    thread::sleep(GRACE);
    let group = |pod: &Pod| names.process_cgroup(&pod.host(), &pod.node);
    for pod in pods {
        cgroup::signal(&group(pod), Signal::SIGTERM);
    }
    for pod in pods {
        cgroup::wait_empty(&group(pod), TERMINATION);
        cgroup::destroy(&group(pod))?;
        network::remove_pod(names, &state.layout, pod)?;
        forget(names, pod);
    }
    Ok(())
}

/// Takes away what there is of a pod that may be half started.
fn discard(names: &Names, state: &State, pod: &Pod) {
    // Each step does what it can: the error that brought us here is the one to tell.
    let _ = cgroup::destroy(&names.process_cgroup(&pod.host(), &pod.node));
    let _ = network::remove_pod(names, &state.layout, pod);
    let _ = network::remove_netns(&names.netns(&pod.host()));
    forget(names, pod);
}

/// Removes a pod's files, so that one of the same name does not seem ready at once. Its log stays.
fn forget(names: &Names, pod: &Pod) {
    nodegate::forget(names, &pod.host());
    for file in [ready_file(names, pod), spec_file(names, pod)] {
        // A gateway has neither.
        let _ = fs::remove_file(file);
    }
}
