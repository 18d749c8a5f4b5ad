//! The programs in the kernel and the maps they read, in step with Snapshots.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use aya::programs::sock_ops::SockOpsLink;
use gateway_common::{
    UDP, UNSPECIFIED,
    conntrack::WAYS,
    decide::Reason,
    maps::{Backend, Heartbeat, SCHEMA, Settings},
};
use nodegate_model::{Snapshot, service::IpFamily};
use nodegate_programming::{
    address::to_map,
    capacity::Capacity,
    filter::{self, Filter},
    identity::PortKey,
    mirror::Mirror,
    node::NodeFacts,
    plan::Plan,
    reconcile::Reconciler,
    step::{Group, Step},
};

use super::{
    attach,
    error::{Error, Failure},
    events::Ring,
    flow_table::{self, Flows, Pressure},
    heartbeat,
    listeners::{self, NodePorts},
    load, localnet,
    maps::{self, Maps},
    netfilter, node,
    options::Options,
    sockets,
    upgrade::Upgrade,
    upkeep::Upkeep,
    uplinks,
};

/// The programs in the kernel and the maps they read.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Datapath {
    ebpf: aya::Ebpf,
    maps: Maps,
    options: Options,
    settings: Settings,
    /// Devices that the packet programs are attached to; `None` before the first time.
    devices: Option<attach::Devices>,
    pressure: Pressure,
    /// Looks after what is pinned, once it is.
    upkeep: Option<Upkeep>,
    /// Maps of an older layout, on which the programs in the kernel work until the new ones are filled.
    upgrade: Option<Upgrade>,
    reconciler: Reconciler,
    /// Whether all steps of the last plan have been carried out, but for the garbage.
    complete: bool,
    /// What is not used any more, and has not been removed yet.
    garbage: Option<Group>,
    /// Whether datagram sockets may be connected to backends that are gone. At first they may: an earlier
    /// daemon may not have come to it.
    stale: bool,
    /// The names in the maps, for those who read the kernel's reports.
    names: Arc<BTreeMap<u32, PortKey>>,
    /// The last sign of life.
    heartbeat: Heartbeat,
    /// The program that reports from where sockets connect; attached while there is a trace.
    connected: Option<SockOpsLink>,
    /// The node ports of the Snapshot up to which processes that listen on them have been told of.
    node_ports: NodePorts,
    listened: Option<Arc<Snapshot>>,
    /// The cards that have been told of as left out.
    left_out: Vec<String>,
    /// The keepers of netfilter's rules, until [`Self::take_netfilter`].
    netfilter: Vec<netfilter::Keeper>,
}

impl Datapath {
    /// Loads the programs, or takes over what an earlier daemon left, and attaches them.
    ///
    /// The maps' content is left as it is until [`Self::apply`]. Where they have an older layout, what
    /// is attached is left as it is, too, until the new ones have been filled by that.
    ///
    /// # Errors
    /// Fails without touching anything when the kernel or the system refuses, and when the maps
    /// were written by a nodegate with a newer layout.
    pub fn open(options: &Options) -> Result<Self, Error> {
        attach::check(options)?;
        let (mut ebpf, maps, upgrade) =
            load::load_or_upgrade(&options.pin_dir, flow_table::buckets(options.flow_table))?;
        if let Err(error) = attach::load(&mut ebpf, options) {
            if let Some(upgrade) = upgrade {
                upgrade.abandon();
            }
            return Err(error);
        }
        let earlier = maps.settings()?;
        let settings = Settings {
            schema: SCHEMA,
            trace: 0,
            flags: options.flags(),
            buckets: maps.buckets(),
            host_netns: node::netns_cookie()?,
            generation: earlier.generation,
            node_v4: UNSPECIFIED,
            node_v6: UNSPECIFIED,
            // Flows are found by it, so that it stays.
            seed: match earlier.seed {
                0 => seed()?,
                seed => seed,
            },
        };
        let wanted = options
            .flow_table
            .map(|flows| flow_table::buckets(Some(flows)));
        if wanted.is_some_and(|wanted| wanted != maps.buckets()) {
            tracing::warn!(
                flows = u64::from(maps.buckets()) * WAYS as u64,
                "the flow table keeps the size that it was made with (fix: `nodegate cleanup` first)"
            );
        }
        let names = Arc::new(maps.mirror().names.clone());
        let mut datapath = Self {
            ebpf,
            maps,
            options: options.clone(),
            settings,
            devices: None,
            pressure: Pressure::default(),
            upkeep: None,
            upgrade,
            reconciler: Reconciler::new(options.policy.clone(), Capacity::MAPS),
            complete: false,
            garbage: None,
            stale: true,
            names,
            heartbeat: Heartbeat::default(),
            connected: None,
            node_ports: NodePorts::default(),
            listened: None,
            left_out: Vec::new(),
            netfilter: Vec::new(),
        };
        datapath.maps.set_settings(&settings)?;
        datapath.beat()?;
        datapath.refresh_devices()?;
        datapath.netfilter = [netfilter::V4, netfilter::V6]
            .map(netfilter::Keeper::install)
            .into();
        datapath.route_localhost(earlier.flags)?;
        Ok(datapath)
    }

    /// Lets sockets that are bound to 127.0.0.1 reach node ports there, now that netfilter's rules keep other
    /// machines out.
    fn route_localhost(&mut self, earlier: u32) -> Result<(), Error> {
        let set = Settings::FLAG_SET_ROUTE_LOCALNET;
        self.settings.flags |= earlier & set;
        let safe = self.netfilter.iter().all(netfilter::Keeper::is_fine);
        if !self.options.localhost_node_ports || !safe {
            return Ok(());
        }
        match localnet::allow() {
            Ok(true) => self.settings.flags |= set,
            Ok(false) => {}
            Err(error) => tracing::warn!(
                %error,
                "sockets that are bound to 127.0.0.1 do not reach node ports \
                 (fix: sysctl -w net.ipv4.conf.all.route_localnet=1)"
            ),
        }
        self.maps.set_settings(&self.settings)
    }

    /// How full the table of flows is: a look at all of it, some ten milliseconds.
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    pub fn flows(&self) -> Result<Flows, Error> {
        flow_table::read(&self.options.pin_dir, self.maps.buckets())
    }

    /// Tells when flows have found no room since the last time.
    pub(crate) fn tell_pressure(&mut self) {
        if let Ok(counters) = self.maps.counters() {
            let full = counters.get(Reason::TableFull.name());
            self.pressure.note(full.copied().unwrap_or_default());
        }
    }

    /// How many events the kernel programs have had no room for. 0 where that cannot be read.
    pub(crate) fn lost_events(&self) -> u64 {
        self.maps.lost_events()
    }

    /// Writes a sign of life into the maps, for those who look at them while no daemon runs.
    ///
    /// # Errors
    /// Fails if the map cannot be written.
    pub fn beat(&mut self) -> Result<(), Error> {
        let started = self.heartbeat.started;
        self.heartbeat = heartbeat::beat(started)?;
        self.maps.set_heartbeat(&self.heartbeat)
    }

    /// The age of the last sign of life; none if there never was one.
    ///
    /// # Errors
    /// Fails if the map or the clock cannot be read.
    pub fn heartbeat_age(&self) -> Result<Option<Duration>, Error> {
        heartbeat::age(&self.maps.heartbeat()?)
    }

    /// Attaches the programs to the devices that are there now: pods come and go, uplinks may too.
    ///
    /// # Errors
    /// Fails if an uplink is missing the first time. A device that goes later is no error: it takes its
    /// programs with it, and gets them again when it comes back.
    pub fn refresh_devices(&mut self) -> Result<(), Error> {
        if self.upgrade.is_some() {
            // The new programs have nothing to go by yet.
            return Ok(());
        }
        self.find_uplinks()?;
        let devices = attach::Devices::find(&self.options, self.devices.as_ref())?;
        let pins = self.options.pin_dir.clone();
        let Some(last) = &self.devices else {
            attach::attach(&mut self.ebpf, &self.options, &devices, &pins)?;
            self.devices = Some(devices);
            return self.tell_left_out();
        };
        if *last == devices {
            return self.tell_left_out();
        }
        for uplink in last.uplinks_without(&devices) {
            tracing::warn!(
                uplink,
                "the device is gone: packets from there are not redirected"
            );
        }
        for uplink in devices.uplinks_without(last) {
            tracing::info!(
                uplink,
                "the device is there: packets from there are redirected"
            );
        }
        attach::attach(&mut self.ebpf, &self.options, &devices, &pins)?;
        self.devices = Some(devices);
        self.tell_left_out()
    }

    fn tell_left_out(&mut self) -> Result<(), Error> {
        let left_out = self.left_out()?;
        for card in left_out.iter().filter(|card| !self.left_out.contains(card)) {
            tracing::warn!(
                card,
                "node ports have an address there, but packets that come by it are not redirected \
                 (fix: --uplink for this one, too, or for none)"
            );
        }
        self.left_out = left_out;
        Ok(())
    }

    /// Adds interfaces that have become uplinks. One that was stays, also without its address or route:
    /// it may have lost them for a moment.
    fn find_uplinks(&mut self) -> Result<(), Error> {
        if !self.options.finds_uplinks {
            return Ok(());
        }
        for found in uplinks::find(&self.options.policy.node_port_networks)? {
            let known = self.options.uplinks.contains(&found);
            let renamed = || self.devices.as_ref().is_some_and(|last| last.has(&found));
            if !known && !renamed() {
                self.options.uplinks.push(found);
            }
        }
        Ok(())
    }

    /// Interfaces on which packets from outside arrive.
    pub fn uplinks(&self) -> &[String] {
        &self.options.uplinks
    }

    /// Cards on which the node has an address that node ports have, and which nobody has named among the
    /// uplinks: packets that come by them are not redirected.
    ///
    /// # Errors
    /// Fails if the system does not list its addresses.
    pub fn left_out(&self) -> Result<Vec<String>, Error> {
        let mut cards = uplinks::cards(&self.options.policy.node_port_networks)?;
        let serves = |card: &String| self.devices.as_ref().is_some_and(|all| all.has(card));
        cards.retain(|card| !serves(card));
        Ok(cards.into_iter().collect())
    }

    /// Looks after what is pinned: what somebody else has removed or changed is put back, and told. Says
    /// whether the Snapshot has to be applied again for that.
    ///
    /// # Errors
    /// Fails if maps or links cannot be read, or links not be attached again.
    pub(crate) fn look_after(&mut self) -> Result<bool, Error> {
        let Some(devices) = self.devices.clone().filter(|_| self.upgrade.is_none()) else {
            return Ok(false);
        };
        let upkeep = self
            .upkeep
            .get_or_insert_with(|| Upkeep::new(&self.options.pin_dir));
        if !upkeep.is_due() {
            return Ok(false);
        }
        let begun = Instant::now();
        upkeep.mend_pins();
        let missing = attach::missing(&self.options, &devices)?;
        if !missing.is_empty() {
            for pin in &missing {
                tracing::warn!(
                    pin = %pin.display(),
                    "somebody else has removed the link or detached it: it is attached again"
                );
            }
            let pins = self.options.pin_dir.clone();
            attach::attach(&mut self.ebpf, &self.options, &devices, &pins)?;
        }
        let differences = self.maps.read_again()?;
        let settings = self.maps.settings()?;
        let unset = settings != self.settings;
        if unset {
            self.maps.set_settings(&self.settings)?;
        }
        if differences > 0 || unset {
            tracing::warn!(
                elements = differences + usize::from(unset),
                "somebody else has changed the maps: they are written again"
            );
        }
        if differences > 0 {
            // It would look at what has changed in the Snapshot only.
            self.reconciler = Reconciler::new(self.options.policy.clone(), Capacity::MAPS);
        }
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.looked(begun);
        }
        Ok(differences > 0)
    }

    /// Gives the links the new programs, now that their maps are filled, and their pins the old ones'
    /// places.
    fn switch(&mut self, upgrade: &Upgrade) -> Result<(), Error> {
        let devices = attach::Devices::find(&self.options, None)?;
        let mut flows = upgrade.copy_flows(&mut self.maps)?;
        attach::attach(&mut self.ebpf, &self.options, &devices, upgrade.directory())?;
        flows += upgrade.copy_flows(&mut self.maps)?;
        tracing::info!(flows, "flows of the older layout are taken over");
        self.devices = Some(devices);
        upgrade.finish()
    }

    /// Makes the maps say what the Snapshot says. What cannot be written leaves the Service port
    /// concerned as it was, and is reported; the next call tries again.
    ///
    /// # Errors
    /// Fails if the settings cannot be written, or, after an upgrade, the programs not be exchanged.
    pub fn apply(
        &mut self,
        snapshot: &Arc<Snapshot>,
        node: &NodeFacts,
    ) -> Result<Vec<Failure>, Error> {
        let programmed = self.program(snapshot, node);
        let garbage = self.settle(snapshot);
        let mut failures = programmed?;
        failures.extend(garbage);
        Ok(failures)
    }

    /// As [`Self::apply`], but for [`Self::settle`]: when this returns, packets go by the Snapshot.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub(crate) fn program(
        &mut self,
        snapshot: &Arc<Snapshot>,
        node: &NodeFacts,
    ) -> Result<Vec<Failure>, Error> {
        self.complete = false;
        let mut plan = self.reconciler.plan(self.maps.mirror(), snapshot, node);
        self.stale |= loses_datagram_backends(self.maps.mirror(), &plan);
        let renames = plan.steps().any(Step::is_of_names);
        self.garbage = plan.take_garbage();
        let failures = self.maps.execute(plan);
        self.note_names(renames);
        self.set_settings(snapshot, node)?;
        self.finish_upgrade()?;
        self.complete = failures.is_empty();
        Ok(failures)
    }

    /// Does what no packet waits for, after the Snapshot has been programmed: what is not used any more goes
    /// from the maps, which takes until all programs that run now have ended.
    pub(crate) fn settle(&mut self, snapshot: &Arc<Snapshot>) -> Option<Failure> {
        let garbage = self.garbage.take();
        let renames = garbage.iter().flat_map(|garbage| &garbage.steps);
        let renames = renames.into_iter().any(Step::is_of_names);
        let failure = garbage.and_then(|garbage| self.maps.execute_group(garbage));
        self.note_names(renames);
        if self.complete && failure.is_none() {
            self.reconciler.carried_out();
        }
        if std::mem::take(&mut self.stale) {
            self.end_stale_sockets();
        }
        self.tell_of_listeners(snapshot);
        failure
    }

    /// Whether datagram sockets may be connected to backends that the last plan has taken away.
    pub(crate) fn has_stale_sockets(&self) -> bool {
        self.stale
    }

    fn note_names(&mut self, have_changed: bool) {
        if have_changed {
            self.names = Arc::new(self.maps.mirror().names.clone());
        }
    }

    fn set_settings(&mut self, snapshot: &Snapshot, node: &NodeFacts) -> Result<(), Error> {
        let primary = |family| {
            let own = |address: &IpAddr| IpFamily::of(*address) == family;
            let any = || node.addresses.iter().copied().find(own);
            node::source(family)
                .filter(|source| node.addresses.contains(source))
                .or_else(any)
                .map_or(UNSPECIFIED, to_map)
        };
        let (node_v4, node_v6) = (primary(IpFamily::V4), primary(IpFamily::V6));
        let mirror = self.maps.mirror();
        let kept = self.settings.flags & Settings::FLAG_SET_ROUTE_LOCALNET;
        let mut flags = self.options.flags() | kept;
        let (v4, only_v4) = (
            Settings::FLAG_NODE_PORTS_V4,
            Settings::FLAG_ONLY_NODE_PORTS_V4,
        );
        let (v6, only_v6) = (
            Settings::FLAG_NODE_PORTS_V6,
            Settings::FLAG_ONLY_NODE_PORTS_V6,
        );
        for (address, serves, serves_only) in [(node_v4, v4, only_v4), (node_v6, v6, only_v6)] {
            if mirror.node_addresses.contains(&address) {
                flags |= serves;
                if !mirror.is_frontend(&address) {
                    flags |= serves_only;
                }
            }
        }
        let settings = Settings {
            generation: snapshot.generation,
            flags,
            node_v4,
            node_v6,
            ..self.settings
        };
        if self.settings != settings {
            self.settings = settings;
            self.maps.set_settings(&settings)?;
        }
        Ok(())
    }

    fn finish_upgrade(&mut self) -> Result<(), Error> {
        let Some(upgrade) = self.upgrade.take() else {
            return Ok(());
        };
        let switched = self.switch(&upgrade);
        if switched.is_err() {
            // It is tried again with the next Snapshot, or in a moment.
            self.upgrade = Some(upgrade);
        }
        switched
    }

    /// Tells of processes that were on a node port before it was one.
    fn tell_of_listeners(&mut self, snapshot: &Arc<Snapshot>) {
        let before = self.listened.replace(Arc::clone(snapshot));
        let new = self.node_ports.follow(before.as_deref(), snapshot);
        for port in listeners::taken(&new) {
            tracing::warn!(
                %port,
                "a process listens on what is a node port now, and gets nothing from there any more: \
                 it should listen on another port, or the Service have another nodePort"
            );
        }
    }

    /// Connected datagram sockets stay with their peer, whatever becomes of it.
    fn end_stale_sockets(&self) {
        let stale = self.maps.stale_sockets();
        match sockets::end(&stale) {
            Ok(ended) => {
                if !ended.sockets.is_empty() {
                    tracing::info!(
                        sockets = ended.sockets.len(),
                        "ended datagram sockets that were connected to endpoints that are gone"
                    );
                }
                if let (count, Some(error)) = ended.closed {
                    tracing::warn!(
                        namespaces = count,
                        error,
                        "datagram sockets there stay connected to endpoints that are gone (needs \
                         CAP_SYS_ADMIN and CAP_SYS_PTRACE)"
                    );
                }
            }
            Err(error) => tracing::warn!(
                %error,
                "datagram sockets stay connected to endpoints that are gone (needs a kernel with \
                 CONFIG_INET_DIAG_DESTROY and CONFIG_INET_UDP_DIAG)"
            ),
        }
    }

    /// Makes the kernel programs report all decisions that pass one of the filters, and maybe more; none if
    /// there is no filter.
    ///
    /// # Errors
    /// Fails if the kernel cannot be told.
    pub fn set_tracing<'f>(
        &mut self,
        filters: impl Iterator<Item = &'f Filter>,
    ) -> Result<(), Error> {
        let names = &self.maps.mirror().names;
        let cover = filter::cover(filters, self.settings.host_netns, names);
        match (&cover, &self.connected) {
            (None, Some(_)) => self.connected = None,
            (Some(_), None) => self.connected = self.watch_connections(),
            _ => {}
        }
        if let Some((filter, services)) = &cover {
            self.maps.set_trace_filter(filter, services)?;
        }
        self.settings.trace = u32::from(cover.is_some());
        self.maps.set_settings(&self.settings)
    }

    /// Attaches the program that reports from where sockets connect. Without it, requests are not
    /// joined to decisions about sockets, and all else works.
    fn watch_connections(&mut self) -> Option<SockOpsLink> {
        attach::connected(&mut self.ebpf, &self.options)
            .inspect_err(|error| {
                tracing::warn!(%error, "which request came over which socket is not known");
            })
            .ok()
    }

    /// Cookie of the node's own network namespace.
    pub fn host_netns(&self) -> u64 {
        self.settings.host_netns
    }

    /// The ring from which the kernel's reports are read. Gives it once.
    ///
    /// # Errors
    /// Fails if it has been taken already.
    pub fn take_events(&mut self) -> Result<Ring, Error> {
        self.maps.take_events().map(Ring::new)
    }

    /// The keepers of netfilter's rules; gives them once.
    pub fn take_netfilter(&mut self) -> Vec<netfilter::Keeper> {
        std::mem::take(&mut self.netfilter)
    }

    /// What the kernel programs log. Gives it once.
    pub fn take_logger(&mut self) -> Option<maps::Logger> {
        self.maps.take_logger()
    }

    /// What the kernel programs decide by: with the decision core, an explanation of any flow.
    pub fn tables(&self) -> (&Settings, &Mirror) {
        (&self.settings, self.maps.mirror())
    }

    /// Names of the Service ports by id, as events carry them.
    pub fn names(&self) -> Arc<BTreeMap<u32, PortKey>> {
        Arc::clone(&self.names)
    }

    /// How many decisions of each kind there were since the maps were made, over all CPUs, by
    /// [`Reason`].
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    pub fn counters(&self) -> Result<BTreeMap<&'static str, u64>, Error> {
        self.maps.counters()
    }

    /// How many connections each destination of a TCP route got that the kernel follows: by the Service port and
    /// the destination's name, over both families.
    ///
    /// # Errors
    /// Fails if the map cannot be read.
    pub fn shares(&self) -> Result<BTreeMap<(String, String), u64>, Error> {
        let mut counts = BTreeMap::new();
        for (service, destination, connections) in self.maps.shares()? {
            let Some((name, ..)) = self.names.get(&service) else {
                continue;
            };
            *counts.entry((name.to_string(), destination)).or_default() += connections;
        }
        Ok(counts)
    }

    /// How full the maps are.
    pub fn usage(&self) -> BTreeMap<&'static str, usize> {
        let mirror = self.maps.mirror();
        BTreeMap::from([
            ("services", mirror.services.len()),
            ("slots", mirror.slots.len()),
            ("backends", mirror.backends.len()),
            ("shares", mirror.shares.len()),
        ])
    }
}

/// Whether connected datagram sockets may lose their backend by a plan.
fn loses_datagram_backends(mirror: &Mirror, plan: &Plan) -> bool {
    let unmarked = |backend: &Backend| Backend {
        flags: 0,
        ..*backend
    };
    plan.steps().any(|step| {
        let (id, new) = match step {
            Step::PutBackend(id, new) => (id, Some(unmarked(new))),
            Step::DeleteBackend(id) => (id, None),
            _ => return false,
        };
        let old = mirror.backends.get(id).map(unmarked);
        old.is_some_and(|old| old.protocol == UDP && Some(old) != new)
    })
}

/// The seed of the hash that says which bucket of `conntrack` a flow is in. It is random, so that clients
/// cannot choose flows that all fall into one bucket.
fn seed() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    // SAFETY: the kernel writes at most so many bytes.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got != 8 {
        return Err(Error::Node {
            what: "random numbers",
            source: std::io::Error::last_os_error(),
        });
    }
    // 0 stands for none.
    Ok(u64::from_ne_bytes(bytes).max(1))
}
