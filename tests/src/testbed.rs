//! The testbed as a whole: up, apply, delete, exec, down.

use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use nodegate_programs::Program;

use crate::{
    admission::{self, Outcome, Store},
    cgroup,
    config::{self, Config, Node},
    environment,
    names::{Host, Kind, Names},
    network, nodegate,
    object::{self, ObjectKey},
    process,
    ps::Ps,
    state::{self, Binaries, Lock, State},
};

mod converge;
mod intake;

/// What [`Testbed::up`] is to build.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells testbeds apart that stand at the same time.
    pub name: String,
    /// Manifest files, or directories of them.
    pub manifests: Vec<PathBuf>,
    /// The namespace of objects that name none; `default` when absent.
    pub namespace: Option<String>,
    /// How many nodes; as many as `testbed.yaml` has, or one, when absent.
    pub nodes: Option<usize>,
    /// What runs on nodes and in pods.
    pub binaries: Binaries,
    /// Whether to leave everything as it is when `up` fails, to look at it.
    pub keep_failed: bool,
}

impl Options {
    /// A testbed with these manifests and nothing special.
    pub fn new(name: &str, binaries: Binaries, manifests: Vec<PathBuf>) -> Self {
        Self {
            name: name.into(),
            manifests,
            namespace: None,
            nodes: None,
            binaries,
            keep_failed: false,
        }
    }
}

/// What a command did with the objects that it was given.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What became of each object.
    pub outcomes: Vec<(ObjectKey, Outcome)>,
    /// Documents that are no objects, and errors of `nodegate check`: each is left out.
    pub errors: Vec<String>,
    /// What `nodegate check` warns of.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether something was left out.
    pub fn has_errors(&self) -> bool {
        let rejected = |outcome: &Outcome| matches!(outcome, Outcome::Rejected(_));
        !self.errors.is_empty() || self.outcomes.iter().any(|(_, outcome)| rejected(outcome))
    }
}

/// A cluster in network namespaces.
///
/// One that [`up`](Self::up) made goes [`down`](Self::down) when it is dropped, unless it is
/// [kept](Self::keep).
#[derive(Debug)]
pub struct Testbed {
    names: Names,
    report: Report,
    down_on_drop: bool,
}

impl Testbed {
    /// Builds a testbed, and returns when all of it is ready.
    pub fn up(options: &Options) -> anyhow::Result<Self> {
        environment::check()?;
        let names = Names::new(Kind::Testbed, &options.name)?;
        let lock = Lock::take(&names)?;
        Self::check_free(&options.name)?;
        // What a `down` that was killed, too, has left.
        destroy(&names)?;
        match build(&names, options) {
            Ok(report) => Ok(Self {
                names,
                report,
                down_on_drop: true,
            }),
            Err(error) if options.keep_failed => Err(error),
            Err(error) => {
                if let Err(second) = destroy(&names).and_then(|()| lock.remove()) {
                    return Err(error.context(format!("(and cleaning up failed: {second:#})")));
                }
                Err(error)
            }
        }
    }

    /// An error that says what to do when there is a testbed of that name.
    pub fn check_free(name: &str) -> anyhow::Result<()> {
        ensure!(
            !Names::new(Kind::Testbed, name)?.state().exists(),
            "testbed `{name}` exists already: cargo xtask testbed down --name {name}"
        );
        Ok(())
    }

    /// A testbed that is up already; dropping it leaves it so.
    pub fn open(name: &str) -> anyhow::Result<Self> {
        let names = Names::new(Kind::Testbed, name)?;
        State::load(&names)?;
        Ok(Self {
            names,
            report: Report::default(),
            down_on_drop: false,
        })
    }

    /// Takes a testbed down, whatever is there of it; nothing of it being there is fine.
    pub fn down_named(name: &str) -> anyhow::Result<()> {
        environment::root()?;
        let names = Names::new(Kind::Testbed, name)?;
        let lock = Lock::take(&names)?;
        destroy(&names)?;
        lock.remove()
    }

    /// Leaves it up when it is dropped.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.down_on_drop = false;
        self
    }

    /// Takes everything away: processes, cgroups, pins, namespaces, files.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.down_on_drop = false;
        Self::down_named(self.names.testbed())
    }

    /// What `up` did with its manifests.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Names and places.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The directory that nodegate watches.
    pub fn manifests(&self) -> PathBuf {
        self.names.manifests()
    }

    /// Where a node's maps are pinned.
    pub fn pin_dir(&self, node: &str) -> PathBuf {
        self.names.pin_dir(node)
    }

    /// The admin socket of the nodegate of a host.
    pub fn admin_socket(&self, host: &str) -> anyhow::Result<PathBuf> {
        Ok(self.names.admin_socket(&self.host(host)?))
    }

    /// A host's log.
    pub fn log(&self, host: &Host) -> PathBuf {
        self.names.log(host)
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> anyhow::Result<Vec<Node>> {
        Ok(State::load(&self.names)?.layout.nodes)
    }

    /// The client's address.
    pub fn client(&self) -> anyhow::Result<Ipv4Addr> {
        Ok(State::load(&self.names)?.layout.client)
    }

    /// The client's IPv6 address.
    pub fn client_v6(&self) -> anyhow::Result<Ipv6Addr> {
        Ok(State::load(&self.names)?.layout.client_v6)
    }

    /// What is there.
    pub fn ps(&self) -> anyhow::Result<Ps> {
        Ok(Ps::new(
            &State::load(&self.names)?,
            &state::load_store(&self.names)?,
        ))
    }

    /// Applies files and directories; returns when every nodegate has applied them.
    pub fn apply(&self, paths: &[PathBuf], namespace: Option<&str>) -> anyhow::Result<Report> {
        self.change(|state, store| {
            let intake = intake::read(
                paths,
                namespace,
                &state.binaries.nodegate,
                Some(&self.names.manifests()),
            )?;
            let created = state.next_created()?;
            Ok(intake.admit(store, &created))
        })
    }

    /// Applies a stream of YAML documents.
    pub fn apply_text(&self, yaml: &str) -> anyhow::Result<Report> {
        let file = self
            .names
            .state()
            .join(format!("text-{}.yaml", std::process::id()));
        fs::write(&file, yaml).with_context(|| format!("writing {}", file.display()))?;
        let report = self.apply(std::slice::from_ref(&file), None);
        // The report names lines of it, but its author knows them.
        let _ = fs::remove_file(&file);
        report
    }

    /// Deletes the objects that the files name; with a Namespace goes all that is in it.
    pub fn delete(&self, paths: &[PathBuf], namespace: Option<&str>) -> anyhow::Result<Report> {
        self.change(|_, store| {
            let mut report = Report::default();
            for document in object::documents(paths)? {
                match object::read(&document, namespace.unwrap_or("default")) {
                    Ok(objects) => {
                        for object in objects {
                            report.outcomes.extend(delete(store, object.key));
                        }
                    }
                    Err(error) => report.errors.push(document.complaint(&error)),
                }
            }
            Ok(report)
        })
    }

    /// Deletes one object.
    pub fn delete_object(&self, kind: &str, namespace: &str, name: &str) -> anyhow::Result<()> {
        let report = self.change(|_, store| {
            let key = store
                .keys()
                .find(|key| key.kind == kind && key.namespace == namespace && key.name == name)
                .cloned()
                .with_context(|| format!("{kind} {namespace}/{name} is not there"))?;
            Ok(Report {
                outcomes: delete(store, key),
                ..Report::default()
            })
        });
        report.map(drop)
    }

    /// The host that a user means: pods may be named by a unique beginning.
    pub fn host(&self, text: &str) -> anyhow::Result<Host> {
        let host: Host = text.parse()?;
        let state = State::load(&self.names)?;
        let Host::Pod { namespace, name } = &host else {
            return Ok(host);
        };
        let same = |pod: &&crate::workload::Pod| pod.namespace == *namespace;
        if state.pods.iter().filter(same).any(|pod| pod.name == *name) {
            return Ok(host);
        }
        let fits: Vec<Host> = state
            .pods
            .iter()
            .filter(same)
            .filter(|pod| pod.name.starts_with(name.as_str()))
            .map(crate::workload::Pod::host)
            .collect();
        match &fits[..] {
            [] => bail!("no host `{host}`: `cargo xtask testbed ps` lists them"),
            [one] => Ok(one.clone()),
            several => {
                let names: Vec<String> = several.iter().map(Host::to_string).collect();
                bail!("`{host}` may be any of {}: name one", names.join(", "))
            }
        }
    }

    /// Moves a command to a host, to its network namespace and cgroup and with its environment, for the
    /// caller to complete and start.
    pub fn enter(&self, host: &str, command: Command) -> anyhow::Result<Command> {
        let host = self.host(host)?;
        nodegate::enter(&self.names, &State::load(&self.names)?, &host, command)
    }

    /// A command on a host that the caller completes and starts.
    pub fn command(&self, host: &str, program: Program) -> anyhow::Result<Command> {
        self.enter(host, program.by_name())
    }

    /// The processes that run on all hosts now.
    pub fn processes(&self) -> Vec<u32> {
        let processes = cgroup::all_processes(&self.names.cgroup());
        let numbers = processes
            .into_iter()
            .map(|pid| pid.as_raw().cast_unsigned());
        numbers.collect()
    }

    /// Runs a program on a host to its end and takes what it says; ends it when it hangs.
    pub fn exec<S: AsRef<OsStr>>(
        &self,
        host: &str,
        program: Program,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Output> {
        let mut command = program.by_name();
        command.args(arguments);
        self.output(host, command)
    }

    /// Runs a command on a host to its end, in the same way.
    pub fn output(&self, host: &str, command: Command) -> anyhow::Result<Output> {
        process::output(self.enter(host, command)?)
    }

    /// Starts a program on a host, with pipes to its standard streams.
    pub fn spawn<S: AsRef<OsStr>>(
        &self,
        host: &str,
        program: Program,
        arguments: impl IntoIterator<Item = S>,
    ) -> anyhow::Result<Child> {
        let mut command = self.command(host, program)?;
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", command.get_program().display()))
    }

    /// Sends a signal to the nodegate of a node or a gateway pod. After SIGKILL, SIGTERM and SIGINT
    /// it waits for the end, and later changes do not wait for this nodegate, until
    /// [`restart`](Self::restart). Does not wait for a change that is under way.
    pub fn kill(&self, host: &str, signal: Signal) -> anyhow::Result<()> {
        let host = self.host(host)?;
        nodegate::signal(&self.names, &State::load(&self.names)?, &host, signal)
    }

    /// Kills the nodegate of a node or a gateway pod (SIGKILL), if it runs, and starts it again;
    /// returns when it has applied everything.
    pub fn restart(&self, host: &str) -> anyhow::Result<()> {
        environment::check()?;
        let host = self.host(host)?;
        let _lock = Lock::take(&self.names)?;
        nodegate::restart(&self.names, &State::load_complete(&self.names)?, &host)
    }

    /// Changes the stored objects, and then the cluster.
    fn change(
        &self,
        work: impl FnOnce(&mut State, &mut Store) -> anyhow::Result<Report>,
    ) -> anyhow::Result<Report> {
        environment::check()?;
        let _lock = Lock::take(&self.names)?;
        let mut state = State::load_complete(&self.names)?;
        let mut store = state::load_store(&self.names)?;
        let report = work(&mut state, &mut store)?;
        converge::converge(&self.names, &mut state, &store)?;
        Ok(report)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if self.down_on_drop
            && let Err(error) = Self::down_named(self.names.testbed())
        {
            eprintln!("testbed {}: down failed: {error:#}", self.names.testbed());
        }
    }
}

/// Everything but the lock: on error the caller cleans up.
fn build(names: &Names, options: &Options) -> anyhow::Result<Report> {
    for binary in [&options.binaries.nodegate, &options.binaries.pod] {
        ensure!(
            binary.is_file(),
            "{} is not there: build it first",
            binary.display()
        );
    }
    let config = match config::find(&options.manifests)? {
        Some(file) => Config::read(&file)?,
        None => Config::default(),
    };
    let intake = intake::read(
        &options.manifests,
        options.namespace.as_deref(),
        &options.binaries.nodegate,
        None,
    )?;
    let layout = config.layout(options.nodes, &intake.outside_ips())?;
    state::create(names)?;
    let mut state = State {
        binaries: options.binaries.clone(),
        layout,
        complete: false,
        pods: Vec::new(),
        outside_ips: network::OutsideIps::new(),
        last_created: 0,
    };
    state.save(names)?;

    let mut store = Store::new();
    let created = state.next_created()?;
    let report = intake.admit(&mut store, &created);
    prepare(names, &state)?;
    converge::first(names, &mut state, &store)?;
    state.complete = true;
    state.save(names)?;
    Ok(report)
}

/// What every pod and node stands on.
fn prepare(names: &Names, state: &State) -> anyhow::Result<()> {
    let binary = fs::canonicalize(&state.binaries.nodegate)?;
    std::os::unix::fs::symlink(binary, names.state().join("bin/nodegate"))?;
    cgroup::make_directories(&names.pins())
        .with_context(|| format!("making {}", names.pins().display()))?;
    cgroup::create(&names.helpers_cgroup())?;
    cgroup::create(&names.process_cgroup(&Host::Client, ""))?;
    for node in &state.layout.nodes {
        cgroup::create(&names.process_cgroup(&Host::Node(node.name.clone()), &node.name))?;
    }
    network::create(names, &state.layout)
}

fn delete(store: &mut Store, key: ObjectKey) -> Vec<(ObjectKey, Outcome)> {
    let mut gone = Vec::new();
    if key.kind == "Namespace" && key.group.is_empty() {
        let inside = store.keys().filter(|other| other.namespace == key.name);
        gone.extend(inside.cloned().collect::<Vec<_>>());
    }
    gone.push(key);
    gone.into_iter()
        .map(|key| match store.remove(&key) {
            Some(_) => (key, Outcome::Deleted),
            None => (key, Outcome::Rejected("not found".into())),
        })
        .collect()
}

/// Takes away all that a testbed may have left, in any state. Goes on past errors, and returns the
/// first.
fn destroy(names: &Names) -> anyhow::Result<()> {
    let mut first: anyhow::Result<()> = Ok(());
    let mut note = |result: anyhow::Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    note(cgroup::destroy(&names.cgroup()));
    note(remove_tree(&names.pins()));
    for namespace in network::namespaces(names) {
        note(network::remove_netns(&namespace));
    }
    // Last: it says whose the namespaces are.
    if first.is_ok() {
        first = remove_tree(&names.state());
    }
    for parent in [names.cgroup(), names.pins()] {
        // Only when this was the last testbed; the bpffs directory may be a real nodegate's, too.
        let _ = parent.parent().map(fs::remove_dir);
    }
    first
}

fn remove_tree(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl object::Document {
    /// An error about the document, with its place.
    fn complaint(&self, error: &anyhow::Error) -> String {
        format!("{}:{}: {error:#}", self.file.display(), self.lines.0)
    }
}

impl intake::Intake {
    fn outside_ips(&self) -> std::collections::BTreeSet<IpAddr> {
        admission::outside_ips(&self.objects).into_keys().collect()
    }
}
