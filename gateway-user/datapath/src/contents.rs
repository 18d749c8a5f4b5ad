//! What the pinned maps hold, in words that people know: names of Services, addresses as text.
//!
//! Nothing is written, and no daemon is asked: the pins are enough.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use gateway_common::{
    Address,
    conntrack::{state, ticks},
    decide::Reason,
    is_v4,
    maps::{
        Affinity, AffinityKey, Backend, Bucket, Heartbeat, Record, SCHEMA, Service, ServiceKey,
        ServiceName, Settings, SocketKey, SocketPeer,
    },
};
use serde::Serialize;

mod implemented;
mod shares;

pub use shares::ShareRow;

use nodegate_programming::{
    address::from_map,
    identity::{PortKey, decode},
};

use super::{error::Error, heartbeat};

/// The pinned maps of a node.
#[derive(Debug)]
pub struct Pins {
    directory: PathBuf,
    names: BTreeMap<u32, PortKey>,
    backends: BTreeMap<u32, Backend>,
}

/// An element of `services`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServiceRow {
    /// The Service port, as kube-proxy writes it; empty for the guard of a cluster IP.
    pub service: String,
    /// `cluster IP`, `node port`, `external IP`, `load balancer IP` or `guard`.
    pub kind: &'static str,
    /// Where it is reached: an address and a port, or a node port.
    pub frontend: String,
    /// `tcp`, `udp` or `sctp`; empty for a guard.
    pub protocol: String,
    /// How many backends there are for policy Cluster.
    pub cluster: u32,
    /// How many there are for policy Local.
    pub local: u32,
    /// Which of the two counts.
    pub policy: &'static str,
    /// For how many seconds clients stay; 0: they do not.
    pub affinity: u32,
    /// Whether only some clients are let in.
    pub source_ranges: bool,
    /// The Service port's id.
    pub id: u32,
    /// Which generation of slots is live.
    pub generation: u32,
}

/// An element of `backends`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BackendRow {
    /// The Service port that it belongs to.
    pub service: String,
    /// Address and port.
    pub address: SocketAddr,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Whether the pod is on this node.
    pub on_this_node: bool,
    /// Whether it takes traffic with policy Cluster.
    pub cluster: bool,
    /// Whether it takes traffic with policy Local.
    pub local: bool,
    /// Its id.
    pub id: u32,
}

/// A record in `conntrack`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FlowRow {
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// The client that opened the flow.
    pub client: SocketAddr,
    /// Where the client sends.
    pub frontend: SocketAddr,
    /// Where that goes.
    pub backend: SocketAddr,
    /// The client's port as the backend sees it, before netfilter masquerades.
    pub source_port: u16,
    /// The Service port that made it.
    pub service: String,
    /// Seconds since the last packet of either side that fitted.
    pub idle: u64,
    /// Where it stands, with the names of `conntrack -L`.
    pub state: &'static str,
}

/// An element of `affinity`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct AffinityRow {
    /// The Service port.
    pub service: String,
    /// The client's address, or `netns` and the cookie of its network namespace.
    pub client: String,
    /// The backend that it stays with; none if that is gone.
    pub backend: Option<SocketAddr>,
    /// Seconds since the client last connected.
    pub idle: u64,
}

/// An element of `sockets`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SocketRow {
    /// The socket's cookie.
    pub socket: u64,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// What the application talks to.
    pub frontend: SocketAddr,
    /// What the socket talks to.
    pub backend: SocketAddr,
    /// `original` (found by the frontend) or `reply` (found by the backend).
    pub direction: &'static str,
    /// The Service port.
    pub service: String,
}

/// The daemon that writes the maps, and how long ago it last did: `heartbeat` and `settings`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DaemonRow {
    /// Its process id.
    pub pid: u32,
    /// Seconds since it was last alive; a running one says so every two seconds.
    pub idle: u64,
    /// For how many seconds it had been running then.
    pub ran: u64,
    /// Generation of the Snapshot that the maps hold.
    pub generation: u64,
    /// Version of the maps' layout.
    pub schema: u32,
}

/// An element of `counters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterRow {
    /// Name of the reason.
    pub reason: &'static str,
    /// How many decisions there were, over all CPUs.
    pub count: u64,
    /// The reason in words.
    pub text: &'static str,
}

// === impl Pins ===

impl Pins {
    /// Opens the maps that are pinned in a directory.
    ///
    /// # Errors
    /// Fails if nothing is pinned there, or if it has another layout than this nodegate knows.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let mut pins = Self {
            directory: directory.to_owned(),
            names: BTreeMap::new(),
            backends: BTreeMap::new(),
        };
        let settings: Array<MapData, Settings> = pins.map("settings")?;
        let schema = settings.get(&0, 0).map_err(wrap("settings"))?.schema;
        // 0: made, but its daemon died before it wrote anything.
        if schema != 0 && schema != SCHEMA {
            return Err(Error::Schema {
                path: directory.to_owned(),
                found: schema,
            });
        }
        let names: HashMap<MapData, u32, ServiceName> = pins.map("service_names")?;
        pins.names = elements(&names)
            .map(|(id, name)| (id, decode(&name)))
            .collect();
        let backends: HashMap<MapData, u32, Backend> = pins.map("backends")?;
        pins.backends = elements(&backends).collect();
        Ok(pins)
    }

    /// The daemon that writes the maps; none if no daemon ever did.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn daemon(&self) -> Result<Option<DaemonRow>, Error> {
        let settings: Array<MapData, Settings> = self.map("settings")?;
        let settings = settings.get(&0, 0).map_err(wrap("settings"))?;
        let map: Array<MapData, Heartbeat> = self.map("heartbeat")?;
        let beat = map.get(&0, 0).map_err(wrap("heartbeat"))?;
        Ok(heartbeat::age(&beat)?.map(|age| DaemonRow {
            pid: beat.pid,
            idle: age.as_secs(),
            ran: heartbeat::ran(&beat).as_secs(),
            generation: settings.generation,
            schema: settings.schema,
        }))
    }

    /// The frontends, by Service port.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn services(&self) -> Result<Vec<ServiceRow>, Error> {
        let map: HashMap<MapData, ServiceKey, Service> = self.map("services")?;
        Ok(sorted(elements(&map).map(|(key, service)| {
            service_row(&key, &service, &self.name(service.id))
        })))
    }

    /// The backends, by Service port.
    pub fn backends(&self) -> Vec<BackendRow> {
        let rows = self.backends.iter();
        sorted(rows.map(|(id, backend)| backend_row(*id, backend, &self.name(backend.service))))
    }

    /// The flows that are translated packet by packet.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn conntrack(&self, now: u64) -> Result<Vec<FlowRow>, Error> {
        let map: Array<MapData, Bucket> = self.map("conntrack")?;
        let mut rows = Vec::new();
        for bucket in map.iter() {
            let bucket = bucket.map_err(wrap("conntrack"))?;
            // One that is over counts as none in the kernel, too.
            let flows = bucket.flows().filter(|flow| !flow.is_over(ticks(now)));
            rows.extend(flows.map(|flow| flow_row(flow, &self.name(flow.service), now)));
        }
        rows.sort();
        Ok(rows)
    }

    /// The clients that stay with a backend.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn affinity(&self, now: u64) -> Result<Vec<AffinityRow>, Error> {
        let map: HashMap<MapData, AffinityKey, Affinity> = self.map("affinity")?;
        Ok(sorted(elements(&map).map(|(key, affinity)| {
            let backend = self.backends.get(&affinity.backend);
            AffinityRow {
                service: self.name(key.service),
                client: client(&key.client),
                backend: backend.map(|backend| socket(backend.address, backend.port)),
                idle: seconds(affinity.last_seen, now),
            }
        })))
    }

    /// The sockets that are connected to a backend, or send to one.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn sockets(&self) -> Result<Vec<SocketRow>, Error> {
        let map: HashMap<MapData, SocketKey, SocketPeer> = self.map("sockets")?;
        Ok(sorted(elements(&map).map(|(key, peer)| {
            socket_row(&key, &peer, &self.name(peer.service))
        })))
    }

    /// The decisions, in the order of the reasons' numbers.
    ///
    /// # Errors
    /// Fails if a map is not pinned or cannot be read.
    pub fn counters(&self) -> Result<Vec<CounterRow>, Error> {
        let map: PerCpuArray<MapData, u64> = self.map("counters")?;
        let row = |reason: Reason| {
            let counts = map.get(&(reason as u32), 0).map_err(wrap("counters"))?;
            Ok(CounterRow {
                reason: reason.name(),
                count: counts.iter().sum(),
                text: reason.text(),
            })
        };
        Reason::ALL.into_iter().map(row).collect()
    }

    fn map<M>(&self, name: &'static str) -> Result<M, Error>
    where
        M: TryFrom<Map, Error = MapError>,
    {
        let pin = self.directory.join(name);
        if !pin.exists() {
            return Err(Error::NotPinned { pin });
        }
        let data = MapData::from_pin(&pin).map_err(|source| match &source {
            MapError::SyscallError(call)
                if call.io_error.kind() == io::ErrorKind::PermissionDenied =>
            {
                Error::NotAllowed { pin: pin.clone() }
            }
            _ => Error::Map { name, source },
        })?;
        let map = Map::from_map_data(data).map_err(wrap(name))?;
        map.try_into().map_err(wrap(name))
    }

    fn name(&self, id: u32) -> String {
        match self.names.get(&id) {
            Some((name, ..)) => name.to_string(),
            None if id == 0 => String::new(),
            None => format!("#{id}"),
        }
    }
}

fn wrap(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { name, source }
}

/// The kernel and the daemon change the maps meanwhile: what goes during the walk is left out.
fn elements<K: aya::Pod, V: aya::Pod>(
    map: &HashMap<MapData, K, V>,
) -> impl Iterator<Item = (K, V)> {
    map.iter().filter_map(Result::ok)
}

fn sorted<R: Ord>(rows: impl Iterator<Item = R>) -> Vec<R> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort();
    rows
}

fn service_row(key: &ServiceKey, service: &Service, name: &str) -> ServiceRow {
    let flag = |flag| service.flags & flag != 0;
    let address = from_map(key.address);
    let (kind, frontend) = if flag(Service::FLAG_GUARD) {
        ("guard", format!("{address}, any port"))
    } else if key.scope == ServiceKey::NODE_PORT {
        let family = if is_v4(&key.address) { 4 } else { 6 };
        ("node port", format!("{} (IPv{family})", key.port))
    } else {
        let kind = if flag(Service::FLAG_LOAD_BALANCER) {
            "load balancer IP"
        } else if flag(Service::FLAG_EXTERNAL) {
            "external IP"
        } else {
            "cluster IP"
        };
        (kind, SocketAddr::new(address, key.port).to_string())
    };
    ServiceRow {
        service: name.to_owned(),
        kind,
        frontend,
        protocol: protocol(key.protocol),
        cluster: service.cluster,
        local: service.local,
        policy: if flag(Service::FLAG_LOCAL) {
            "Local"
        } else {
            "Cluster"
        },
        affinity: service.affinity,
        source_ranges: flag(Service::FLAG_SOURCE_RANGES),
        id: service.id,
        generation: service.generation,
    }
}

fn backend_row(id: u32, backend: &Backend, name: &str) -> BackendRow {
    let flag = |flag| backend.flags & flag != 0;
    BackendRow {
        service: name.to_owned(),
        address: socket(backend.address, backend.port),
        protocol: protocol(backend.protocol),
        on_this_node: flag(Backend::FLAG_LOCAL),
        cluster: flag(Backend::FLAG_IN_CLUSTER_SET),
        local: flag(Backend::FLAG_IN_LOCAL_SET),
        id,
    }
}

fn flow_row(flow: &Record, name: &str, now: u64) -> FlowRow {
    FlowRow {
        protocol: protocol(flow.protocol),
        client: socket(flow.client, flow.client_port),
        frontend: socket(flow.frontend, flow.frontend_port),
        backend: socket(flow.backend, flow.backend_port),
        source_port: flow.source_port,
        service: name.to_owned(),
        idle: u64::from(flow.silent(ticks(now)) / state::seconds(1)),
        state: flow.state().name(flow.protocol),
    }
}

fn socket_row(key: &SocketKey, peer: &SocketPeer, name: &str) -> SocketRow {
    let (own, other) = (
        socket(key.address, key.port),
        socket(peer.address, peer.port),
    );
    let (frontend, backend) = if key.direction == SocketKey::ORIGINAL {
        (own, other)
    } else {
        (other, own)
    };
    SocketRow {
        socket: key.cookie,
        protocol: protocol(key.protocol),
        frontend,
        backend,
        direction: direction(key.direction),
        service: name.to_owned(),
    }
}

fn direction(direction: u8) -> &'static str {
    if direction == SocketKey::ORIGINAL {
        "original"
    } else {
        "reply"
    }
}

/// A socket is known by its network namespace's cookie, in the first 8 bytes of what else is an
/// address; the others are 0.
fn client(client: &Address) -> String {
    let (first, rest) = client.split_at(8);
    let mut cookie = [0; 8];
    cookie.copy_from_slice(first);
    if rest == [0; 8] && first != [0; 8] {
        format!("netns {}", u64::from_ne_bytes(cookie))
    } else {
        from_map(*client).to_string()
    }
}

fn protocol(number: u8) -> String {
    match number {
        0 => String::new(),
        gateway_common::TCP => "tcp".to_owned(),
        gateway_common::UDP => "udp".to_owned(),
        gateway_common::SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

fn socket(address: Address, port: u16) -> SocketAddr {
    let address: IpAddr = from_map(address);
    SocketAddr::new(address, port)
}

fn seconds(last_seen: u64, now: u64) -> u64 {
    now.saturating_sub(last_seen) / 1_000_000_000
}

#[cfg(test)]
mod tests {
    use gateway_common::{TCP, UDP, UNSPECIFIED, conntrack::Side, mapped};

    use super::*;

    const GATEWAY: &str = "istio-system/istio-ingressgateway:http2";

    fn service(flags: u32) -> Service {
        Service {
            id: 7,
            generation: 2,
            cluster: 3,
            local: 1,
            affinity: 0,
            flags,
        }
    }

    #[test]
    fn frontends_are_told_apart() {
        let cluster_ip = mapped([10, 96, 190, 18]);
        let at = |address| ServiceKey::address(address, 80, TCP);
        let external = Service::FLAG_EXTERNAL;
        for (key, flags, kind, frontend) in [
            (at(cluster_ip), 0, "cluster IP", "10.96.190.18:80"),
            (at(cluster_ip), external, "external IP", "10.96.190.18:80"),
            (
                at(cluster_ip),
                external | Service::FLAG_LOAD_BALANCER,
                "load balancer IP",
                "10.96.190.18:80",
            ),
            (
                ServiceKey::node_port(&cluster_ip, 31373, TCP),
                external | Service::FLAG_NODE_PORT,
                "node port",
                "31373 (IPv4)",
            ),
            (
                ServiceKey::node_port(&UNSPECIFIED, 31373, TCP),
                external | Service::FLAG_NODE_PORT,
                "node port",
                "31373 (IPv6)",
            ),
            (
                ServiceKey::guard(cluster_ip),
                Service::FLAG_GUARD,
                "guard",
                "10.96.190.18, any port",
            ),
        ] {
            let row = service_row(&key, &service(flags), GATEWAY);
            assert_eq!((row.kind, row.frontend.as_str()), (kind, frontend));
            assert_eq!(row.policy, "Cluster");
        }
        let row = service_row(&at(cluster_ip), &service(Service::FLAG_LOCAL), GATEWAY);
        assert_eq!((row.policy, row.local), ("Local", 1));
    }

    #[test]
    fn flows_say_what_is_written() {
        let flow = Record {
            client: mapped([192, 168, 170, 1]),
            frontend: mapped([192, 168, 170, 137]),
            backend: mapped([10, 10, 1, 4]),
            client_port: 50_000,
            frontend_port: 31373,
            backend_port: 8080,
            source_port: 33_616,
            protocol: TCP,
            client_state: Record::SPOKE,
            backend_state: Record::SPOKE | Record::CLOSED,
            service: 7,
            backend_id: 1,
            ahead: Side {
                seen: ticks(1_000_000_000),
                ..Side::SILENT
            },
            back: Side {
                end: 5,
                seen: ticks(1_200_000_000),
                ..Side::SILENT
            },
            ..Record::EMPTY
        };
        let row = flow_row(&flow, GATEWAY, 3_500_000_000);
        assert_eq!(row.client.to_string(), "192.168.170.1:50000");
        assert_eq!(row.frontend.to_string(), "192.168.170.137:31373");
        assert_eq!(row.backend.to_string(), "10.10.1.4:8080");
        assert_eq!(
            (row.source_port, row.idle, row.state),
            (33_616, 2, "FIN_WAIT")
        );
        // The kernel's stamp may be newer than the clock that was read.
        assert_eq!(flow_row(&flow, GATEWAY, 0).idle, 0);
    }

    #[test]
    fn sockets_by_either_end() {
        let (frontend, backend) = (mapped([10, 96, 0, 10]), mapped([10, 10, 1, 9]));
        let row = |direction, address, peer| {
            let key = SocketKey {
                cookie: 5,
                address,
                port: 53,
                protocol: UDP,
                direction,
                reserved: 0,
            };
            let peer = SocketPeer {
                address: peer,
                port: 53,
                reserved: 0,
                service: 1,
                backend: 1,
            };
            socket_row(&key, &peer, "kube-system/kube-dns:dns")
        };
        let original = row(SocketKey::ORIGINAL, frontend, backend);
        let reply = row(SocketKey::REPLY, backend, frontend);
        assert_eq!(original.frontend.to_string(), "10.96.0.10:53");
        assert_eq!(original.backend.to_string(), "10.10.1.9:53");
        assert_eq!(
            (reply.frontend, reply.backend),
            (original.frontend, original.backend)
        );
        assert_eq!((original.direction, reply.direction), ("original", "reply"));
    }

    #[test]
    fn clients_are_addresses_or_namespaces() {
        assert_eq!(client(&mapped([192, 0, 2, 1])), "192.0.2.1");
        let mut netns = UNSPECIFIED;
        netns[..8].copy_from_slice(&4711_u64.to_ne_bytes());
        assert_eq!(client(&netns), "netns 4711");
        let mut v6 = [0; 16];
        v6[..2].copy_from_slice(&[0xfd, 0]);
        v6[15] = 1;
        assert_eq!(client(&v6), "fd00::1");
    }

    #[test]
    fn what_is_not_pinned() {
        let directory = tempfile::tempdir().unwrap();
        let error = Pins::open(directory.path()).unwrap_err();
        assert!(error.to_string().contains("settings"), "{error}");
        assert!(error.to_string().contains("--pin-dir"), "{error}");
    }
}
