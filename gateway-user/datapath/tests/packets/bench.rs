//! Programs and maps of one test, and packets to put through them.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, PerCpuArray, RingBuf},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use etherparse::{
    Icmpv4Type, Icmpv6Type, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv4Options, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, LaxSlicedPacket, NetSlice,
    PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TransportSlice,
};
use gateway_common::{
    conntrack::{BUCKETS, Bucket, Record, state::seconds},
    event::Event,
    maps::Settings,
};
use libtest_mimic::Failed;
use nodegate_datapath::{features::Features, load, maps::Maps};
use nodegate_model::{
    selection::NodeTopology,
    service::{Endpoint, Protocol, ServicePort, ServicePortName},
};
use nodegate_programming::{
    capacity::Capacity,
    desired::{Desired, Policy},
    filter::{self, Filter},
    node::NodeFacts,
    plan,
};

use crate::refusals;

/// `TC_ACT_UNSPEC`: on to the next program, and to the stack.
pub(crate) const NEXT: u32 = u32::MAX;
/// Source and destination of all frames. That one is the loopback device's, on which the kernel runs tests.
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [0; 6]);

/// `TC_ACT_SHOT`
pub(crate) const DROP: u32 = 2;

/// Why there can be no test; none if there can.
pub(crate) fn obstacle() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("not root (run them with sudo)");
    }
    let magic = nix::sys::statfs::statfs("/sys/fs/bpf").map(|stat| stat.filesystem_type());
    if magic != Ok(nix::sys::statfs::BPF_FS_MAGIC) {
        return Some("no BPF file system (mount -t bpf bpf /sys/fs/bpf)");
    }
    refusals::cgroup2()
        .is_none()
        .then_some("no cgroup2 file system (mount -t cgroup2 none /sys/fs/cgroup/unified)")
}

/// The gateway's Service: port 80, node port 31373, target port 8080.
pub(crate) fn service(
    protocol: Protocol,
    cluster_ip: IpAddr,
    backends: &[(IpAddr, bool)],
) -> ServicePort {
    let name = ServicePortName {
        namespace: "istio-system".into(),
        name: "istio-ingressgateway".into(),
        port: "http2".into(),
    };
    ServicePort {
        node_port: Some(31373),
        cluster_ips: vec![cluster_ip],
        endpoints: backends
            .iter()
            .map(|(address, local)| Endpoint::ready(*address, 8080, *local))
            .collect(),
        ..ServicePort::new(name, protocol, 80)
    }
}

/// Programs and maps of one test.
pub(crate) struct Bench {
    pub(crate) ebpf: Ebpf,
    maps: Maps,
    events: RingBuf<MapData>,
    pins: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.pins)
            .into_iter()
            .flatten()
            .flatten()
        {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = std::fs::remove_dir(&self.pins);
    }
}

impl Bench {
    pub(crate) fn new() -> Result<Self, Failed> {
        Self::for_kernel(Features::probe())
    }

    /// As if the kernel could do this and no more.
    pub(crate) fn for_kernel(features: Features) -> Result<Self, Failed> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pins = format!("/sys/fs/bpf/nodegate-test-{}-{number}", std::process::id());
        let pins = PathBuf::from(pins);
        let (ebpf, mut maps) = load::load_for(features, &pins)?;
        let settings = Settings {
            flags: Settings::FLAG_KNOWS_PODS,
            ..maps.settings()?
        };
        maps.set_settings(&settings)?;
        let events = maps.take_events()?;
        Ok(Self {
            ebpf,
            maps,
            events,
            pins,
        })
    }

    /// Makes these Services the only ones.
    pub(crate) fn serve(&mut self, services: &[ServicePort], node: IpAddr) {
        let node = NodeFacts {
            addresses: BTreeSet::from([node]),
        };
        let topology = NodeTopology::default();
        let desired = Desired::new(services, &topology, &node, &Policy::default());
        let failures = self
            .maps
            .execute(plan::plan(self.maps.mirror(), &desired, Capacity::MAPS));
        assert_eq!(failures, []);
    }

    pub(crate) fn run(&mut self, program: &str, packet: &[u8]) -> Result<Ran, Failed> {
        let mut out = vec![0; packet.len() + 64];
        // `struct __sk_buff`: len, pkt_type, mark, … (include/uapi/linux/bpf.h)
        let mut context = [0; 192];
        let classifier = classifier(&mut self.ebpf, program);
        if classifier.fd().is_err() {
            classifier.load()?;
        }
        let result = classifier.test_run(TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_out: Some(&mut context),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        let [.., a, b, c, d] = context[..12] else {
            unreachable!("12 bytes")
        };
        Ok(Ran {
            action: result.return_value,
            mark: u32::from_ne_bytes([a, b, c, d]),
            packet: out,
        })
    }

    /// Runs a program that has run before, for what it leaves in the maps.
    pub(crate) fn pass(&mut self, program: &str, packet: &[u8]) -> Result<(), Failed> {
        classifier(&mut self.ebpf, program).test_run(TestRunOptions {
            data_in: Some(packet),
            ..TestRunOptions::default()
        })?;
        Ok(())
    }

    pub(crate) fn ingress(&mut self, segment: &Segment) -> Result<Ran, Failed> {
        self.run("ingress", &segment.bytes())
    }

    pub(crate) fn egress(&mut self, segment: &Segment) -> Result<Ran, Failed> {
        self.run("egress", &segment.of_backend().bytes())
    }

    /// A connection with its handshake; gives the client's port as the backend sees it.
    pub(crate) fn connect(
        &mut self,
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        backend: IpAddr,
    ) -> Result<u16, Failed> {
        let backend = (backend, 8080);
        let ran = self.ingress(&Segment::tcp(from, to, "S"))?;
        let (seen, chosen) = ran.ends();
        assert_eq!((seen.0, chosen), (from.0, backend));
        let answered = self.egress(&Segment::tcp(backend, seen, "SA"))?;
        assert_eq!(answered.ends(), (to, from));
        let ran = self.ingress(&Segment::tcp(from, to, "A").with_payload(0))?;
        assert_eq!(ran.ends(), (seen, backend));
        Ok(seen.1)
    }

    /// The end of a connection on which nothing was said, whose client's port the backend sees as it is.
    pub(crate) fn close(
        &mut self,
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        backend: IpAddr,
    ) -> Result<(), Failed> {
        let (sent, heard) = (CLIENT + 1, BACKEND + 1);
        self.ingress(&Segment::tcp(from, to, "FA"))?;
        let answer = Segment::tcp((backend, 8080), from, "FA");
        self.egress(&answer.with_numbers(heard, sent + 1))?;
        let last = Segment::tcp(from, to, "A").with_payload(0);
        self.ingress(&last.with_numbers(sent + 1, heard + 1))?;
        Ok(())
    }

    /// What a backend sends, which must leave as it came.
    pub(crate) fn egress_untouched(&mut self, segment: &Segment) -> Result<(), Failed> {
        let ran = self.egress(segment)?;
        let expected = (NEXT, segment.of_backend().bytes());
        assert_eq!((ran.action, ran.packet), expected);
        Ok(())
    }

    /// The flows that are recorded.
    pub(crate) fn flows(&self) -> Result<Vec<Record>, Failed> {
        let mut flows = Vec::new();
        self.change_buckets(|bucket| {
            flows.extend(bucket.flows());
            false
        })?;
        Ok(flows)
    }

    /// As if some seconds had passed since the last packet.
    pub(crate) fn wait(&self, passed: u64) -> Result<(), Failed> {
        let passed = seconds(passed);
        self.change_buckets(|bucket| {
            for record in &mut bucket.records {
                let times = [
                    &mut record.asked,
                    &mut record.ahead.seen,
                    &mut record.back.seen,
                ];
                for time in times.into_iter().filter(|time| **time != 0) {
                    *time = time.wrapping_sub(passed);
                }
            }
            true
        })
    }

    /// These trace, and nobody else.
    pub(crate) fn trace(&mut self, filters: &[Filter]) -> Result<(), Failed> {
        let cover = filter::cover(filters.iter(), 1, &self.maps.mirror().names);
        if let Some((filter, services)) = &cover {
            self.maps.set_trace_filter(filter, services)?;
        }
        let settings = Settings {
            trace: u32::from(cover.is_some()),
            ..self.maps.settings()?
        };
        Ok(self.maps.set_settings(&settings)?)
    }

    /// What the programs have told since the last time.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(item) = self.events.next() {
            assert_eq!(item.len(), size_of::<Event>());
            // SAFETY: the kernel wrote an `Event`, which any bytes are.
            events.push(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
        }
        events
    }

    /// How many found no room.
    pub(crate) fn lost_events(&self) -> Result<u64, Failed> {
        let pinned = Map::PerCpuArray(MapData::from_pin(self.pins.join("events_lost"))?);
        let lost: PerCpuArray<MapData, u64> = pinned.try_into()?;
        Ok(lost.get(&0, 0)?.iter().sum())
    }

    /// As if a CPU had been stopped in the middle of its change of each bucket that holds a flow; or as
    /// if it went on.
    pub(crate) fn change_owner_of_buckets(&self) -> Result<(), Failed> {
        self.change_buckets(|bucket| {
            bucket.version += 1;
            true
        })
    }

    /// Changes each bucket that holds a flow, if the function says so.
    fn change_buckets(&self, mut change: impl FnMut(&mut Bucket) -> bool) -> Result<(), Failed> {
        let pinned = Map::Array(MapData::from_pin(self.pins.join("conntrack"))?);
        let mut buckets: Array<MapData, Bucket> = pinned.try_into()?;
        for number in 0..BUCKETS {
            let mut bucket = buckets.get(&number, 0)?;
            if bucket.flows().next().is_some() && change(&mut bucket) {
                buckets.set(number, bucket, 0)?;
            }
        }
        Ok(())
    }

    /// What each destination of the only Service port got, by name.
    pub(crate) fn shares(&self) -> Vec<(String, u64)> {
        let shares = self.maps.shares().expect("shares can be read");
        shares
            .into_iter()
            .map(|(_, name, count)| (name, count))
            .collect()
    }

    pub(crate) fn count(&self, reason: &str) -> u64 {
        self.maps.counters().expect("counters can be read")[reason]
    }
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut SchedClassifier {
    let program = ebpf.program_mut(name).expect("the object has the program");
    program.try_into().expect("it is a classifier")
}

/// Source and destination.
pub(crate) type Ends = ((IpAddr, u16), (IpAddr, u16));

/// What came out.
pub(crate) struct Ran {
    pub(crate) action: u32,
    pub(crate) mark: u32,
    pub(crate) packet: Vec<u8>,
}

impl Ran {
    /// The ends of the packet that came out, whose checksums must be right.
    pub(crate) fn ends(&self) -> Ends {
        let sliced = SlicedPacket::from_ethernet(&self.packet).expect("a packet comes out");
        let (source, destination) = addresses(sliced.net.as_ref().expect("an IP packet"));
        let (ports, checksum, expected) = match sliced.transport.expect("a transport header") {
            TransportSlice::Tcp(tcp) => {
                let header = tcp.to_header();
                let expected = match (source, destination) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        header.calc_checksum_ipv4_raw(s.octets(), d.octets(), tcp.payload())
                    }
                    (IpAddr::V6(s), IpAddr::V6(d)) => {
                        header.calc_checksum_ipv6_raw(s.octets(), d.octets(), tcp.payload())
                    }
                    _ => unreachable!("one family"),
                };
                let ports = (tcp.source_port(), tcp.destination_port());
                (ports, tcp.checksum(), expected)
            }
            TransportSlice::Udp(udp) => {
                let header = udp.to_header();
                let expected = match (source, destination) {
                    (IpAddr::V4(s), IpAddr::V4(d)) => {
                        header.calc_checksum_ipv4_raw(s.octets(), d.octets(), udp.payload())
                    }
                    (IpAddr::V6(s), IpAddr::V6(d)) => {
                        header.calc_checksum_ipv6_raw(s.octets(), d.octets(), udp.payload())
                    }
                    _ => unreachable!("one family"),
                };
                let ports = (udp.source_port(), udp.destination_port());
                (ports, udp.checksum(), expected)
            }
            other => panic!("neither TCP nor UDP: {other:?}"),
        };
        assert_eq!(
            checksum,
            expected.expect("a short segment"),
            "transport checksum"
        );
        ((source, ports.0), (destination, ports.1))
    }

    /// Source and destination of an ICMP error, and the ends of the packet that it quotes. The
    /// checksums of the error and of the quoted IP header must be right; nobody looks at that of
    /// the quoted transport header, most of which is missing as a rule.
    pub(crate) fn icmp_error(&self) -> (IpAddr, IpAddr, Ends) {
        let sliced = SlicedPacket::from_ethernet(&self.packet).expect("a packet comes out");
        let (source, destination) = addresses(sliced.net.as_ref().expect("an IP packet"));
        let quoted = match sliced.transport.expect("an ICMP header") {
            TransportSlice::Icmpv4(icmp) => {
                let expected = icmp.icmp_type().calc_checksum(icmp.payload());
                assert_eq!(icmp.checksum(), expected, "ICMP checksum");
                icmp.payload().to_vec()
            }
            TransportSlice::Icmpv6(icmp) => {
                let (IpAddr::V6(s), IpAddr::V6(d)) = (source, destination) else {
                    panic!("ICMPv6 over IPv4")
                };
                assert!(
                    icmp.is_checksum_valid(s.octets(), d.octets()),
                    "ICMP checksum"
                );
                icmp.payload().to_vec()
            }
            other => panic!("no ICMP: {other:?}"),
        };
        let inner = LaxSlicedPacket::from_ip(&quoted).expect("a quoted packet");
        let net = inner.net.expect("its IP header");
        let transport = match &net {
            etherparse::LaxNetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(
                    header.calc_header_checksum(),
                    header.header_checksum,
                    "quoted IP"
                );
                let (s, d) = (ip.header().source_addr(), ip.header().destination_addr());
                (IpAddr::V4(s), IpAddr::V4(d), ip.payload().payload)
            }
            etherparse::LaxNetSlice::Ipv6(ip) => {
                let (s, d) = (ip.header().source_addr(), ip.header().destination_addr());
                (IpAddr::V6(s), IpAddr::V6(d), ip.payload().payload)
            }
            other @ etherparse::LaxNetSlice::Arp(_) => panic!("no IP packet: {other:?}"),
        };
        let port = |at: usize| u16::from_be_bytes([transport.2[at], transport.2[at + 1]]);
        (
            source,
            destination,
            ((transport.0, port(0)), (transport.1, port(2))),
        )
    }
}

fn addresses(net: &NetSlice<'_>) -> (IpAddr, IpAddr) {
    match net {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(
                header.calc_header_checksum(),
                header.header_checksum,
                "IP checksum"
            );
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            (
                header.source_addr().into(),
                header.destination_addr().into(),
            )
        }
        other @ NetSlice::Arp(_) => panic!("no IP packet: {other:?}"),
    }
}

/// A transport header.
#[derive(Clone, Copy)]
enum Transport {
    /// Flags: S, A, F, R.
    Tcp(&'static str),
    Udp,
    /// Type of the first chunk, which holds the payload.
    Sctp(u8),
}

/// A packet to send.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    transport: Transport,
    payload: usize,
    /// Sequence and acknowledgement numbers, where they are others than a first exchange's.
    numbers: Option<(u32, u32)>,
}

/// The client's and the backend's initial sequence numbers.
pub(crate) const CLIENT: u32 = 1_000_000_000;
pub(crate) const BACKEND: u32 = 3_000_000_000;

impl Segment {
    pub(crate) fn tcp(from: (IpAddr, u16), to: (IpAddr, u16), flags: &'static str) -> Self {
        let payload = if flags == "A" { 5 } else { 0 };
        let transport = Transport::Tcp(flags);
        Self {
            from,
            to,
            transport,
            payload,
            numbers: None,
        }
    }

    pub(crate) fn udp(from: (IpAddr, u16), to: (IpAddr, u16)) -> Self {
        let transport = Transport::Udp;
        Self {
            from,
            to,
            transport,
            payload: 4,
            numbers: None,
        }
    }

    pub(crate) fn sctp(from: (IpAddr, u16), to: (IpAddr, u16), chunk: u8) -> Self {
        let transport = Transport::Sctp(chunk);
        Self {
            from,
            to,
            transport,
            payload: 0,
            numbers: None,
        }
    }

    pub(crate) fn with_payload(self, payload: usize) -> Self {
        Self { payload, ..self }
    }

    pub(crate) fn with_numbers(self, sequence: u32, acknowledged: u32) -> Self {
        Self {
            numbers: Some((sequence, acknowledged)),
            ..self
        }
    }

    /// As the backend sends it, whose numbers are others.
    pub(crate) fn of_backend(self) -> Self {
        if !matches!(self.transport, Transport::Tcp(_)) {
            return self;
        }
        let numbers = match self.transport {
            Transport::Tcp("SA") => (BACKEND, CLIENT + 1),
            _ => (BACKEND + 1, CLIENT + 1),
        };
        Self {
            numbers: self.numbers.or(Some(numbers)),
            ..self
        }
    }

    /// The same to somebody else.
    pub(crate) fn to(self, to: (IpAddr, u16)) -> Self {
        Self { to, ..self }
    }

    /// A packet the other way.
    pub(crate) fn reply(self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            ..self
        }
    }

    fn body(self) -> Vec<u8> {
        (0..self.payload).map(|i| (i % 251) as u8).collect()
    }

    fn headers(self, next: IpNumber) -> IpHeaders {
        match (self.from.0, self.to.0) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut header = Ipv4Header::new(0, 64, next, from.octets(), to.octets())
                    .expect("an empty packet");
                header.dont_fragment = false;
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let header = Ipv6Header {
                    next_header: next,
                    hop_limit: 64,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Ipv6Extensions::default())
            }
            _ => unreachable!("one family"),
        }
    }

    fn protocol(self) -> IpNumber {
        match self.transport {
            Transport::Tcp(_) => IpNumber::TCP,
            Transport::Udp => IpNumber::UDP,
            Transport::Sctp(_) => IpNumber::SCTP,
        }
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        self.write(self.headers(self.protocol()))
    }

    /// A TCP segment with options, as they stand in the header.
    pub(crate) fn bytes_with_tcp_options(self, options: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let headers = self.headers(IpNumber::TCP);
        let ip = PacketBuilder::ethernet2(MACS.0, MACS.1).ip(headers);
        let tcp = self.tcp_header(ip).options_raw(options);
        let tcp = tcp.expect("short options in whole words");
        tcp.write(&mut bytes, &self.body())
            .expect("writing to memory");
        bytes
    }

    /// With so many words of options: 1 is "no operation" (RFC 791 §3.1).
    pub(crate) fn bytes_with_options(self, words: u8) -> Vec<u8> {
        let IpHeaders::Ipv4(mut header, extensions) = self.headers(IpNumber::TCP) else {
            panic!("options are IPv4's")
        };
        let options = vec![1u8; usize::from(words) * 4];
        header.options = Ipv4Options::try_from(&options[..]).expect("whole words");
        self.write(IpHeaders::Ipv4(header, extensions))
    }

    fn tcp_header(self, ip: PacketBuilderStep<IpHeaders>) -> PacketBuilderStep<TcpHeader> {
        let Transport::Tcp(flags) = self.transport else {
            panic!("of another protocol")
        };
        let (sequence, acknowledged) = self.numbers.unwrap_or(match flags {
            "S" => (CLIENT, 0),
            _ => (CLIENT + 1, BACKEND + 1),
        });
        let mut tcp = ip.tcp(self.from.1, self.to.1, sequence, 65_535);
        for flag in flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'A' => tcp.ack(acknowledged),
                'F' => tcp.fin(),
                'R' => tcp.rst(),
                other => panic!("no TCP flag {other}"),
            };
        }
        tcp
    }

    fn write(self, headers: IpHeaders) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2(MACS.0, MACS.1).ip(headers);
        let payload = self.body();
        let mut bytes = Vec::new();
        let written = match self.transport {
            Transport::Udp => ip.udp(self.from.1, self.to.1).write(&mut bytes, &payload),
            Transport::Tcp(_) => self.tcp_header(ip).write(&mut bytes, &payload),
            Transport::Sctp(chunk) => {
                // RFC 9260 §3: ports, verification tag, CRC, chunk.
                let mut packet = Vec::new();
                packet.extend(self.from.1.to_be_bytes());
                packet.extend(self.to.1.to_be_bytes());
                packet.extend([1, 2, 3, 4, 0, 0, 0, 0, chunk, 0]);
                packet.extend((4 + payload.len() as u16).to_be_bytes());
                packet.extend(&payload);
                if let Some((tag, initiate)) = self.numbers {
                    packet[4..8].copy_from_slice(&tag.to_be_bytes());
                    packet[16..20].copy_from_slice(&initiate.to_be_bytes());
                }
                let crc = crc32c(&packet).to_le_bytes();
                packet[8..12].copy_from_slice(&crc);
                ip.write(&mut bytes, IpNumber::SCTP, &packet)
            }
        };
        written.expect("writing to memory");
        bytes
    }

    /// The packet in fragments of at most so many bytes of payload.
    pub(crate) fn fragments(self, size: usize, identification: u16) -> Vec<Vec<u8>> {
        let whole = payload_of(&self.bytes());
        let protocol = self.protocol();
        let chunks: Vec<_> = whole.chunks(size / 8 * 8).collect();
        let last = chunks.len() - 1;
        chunks
            .iter()
            .enumerate()
            .map(|(index, chunk)| {
                let offset = (index * (size / 8 * 8) / 8) as u16;
                let offset = IpFragOffset::try_new(offset).expect("13 bits");
                let headers = match self.headers(protocol) {
                    IpHeaders::Ipv4(mut header, extensions) => {
                        header.identification = identification;
                        header.fragment_offset = offset;
                        header.more_fragments = index != last;
                        IpHeaders::Ipv4(header, extensions)
                    }
                    IpHeaders::Ipv6(mut header, mut extensions) => {
                        header.next_header = IpNumber::IPV6_FRAGMENTATION_HEADER;
                        extensions.fragment = Some(Ipv6FragmentHeader::new(
                            protocol,
                            offset,
                            index != last,
                            identification.into(),
                        ));
                        IpHeaders::Ipv6(header, extensions)
                    }
                };
                let mut bytes = Vec::new();
                PacketBuilder::ethernet2(MACS.0, MACS.1)
                    .ip(headers)
                    .write(&mut bytes, protocol, chunk)
                    .expect("writing to memory");
                bytes
            })
            .collect()
    }

    /// "This packet is too big", from a router to somebody.
    pub(crate) fn too_big(self, router: IpAddr, to: IpAddr, mtu: u16) -> Vec<u8> {
        let packet = self.bytes();
        let mut bytes = Vec::new();
        let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
        let written = match (router, to) {
            (IpAddr::V4(router), IpAddr::V4(to)) => {
                use etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded;
                let kind = FragmentationNeeded { next_hop_mtu: mtu };
                // The IP header and 8 bytes (RFC 792).
                ethernet
                    .ipv4(router.octets(), to.octets(), 64)
                    .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
                    .write(&mut bytes, &packet[14..14 + 28])
            }
            (IpAddr::V6(router), IpAddr::V6(to)) => {
                let kind = Icmpv6Type::PacketTooBig { mtu: mtu.into() };
                // As much as fits (RFC 4443 §3.2).
                let quoted = &packet[14..packet.len().min(14 + 1232)];
                ethernet
                    .ipv6(router.octets(), to.octets(), 64)
                    .icmpv6(kind)
                    .write(&mut bytes, quoted)
            }
            _ => unreachable!("one family"),
        };
        written.expect("writing to memory");
        bytes
    }
}

/// RFC 9260, appendix A.
fn crc32c(message: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in message {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            crc ^= 0x82f6_3b78 * carry;
        }
    }
    !crc
}

/// What comes after the IP headers.
pub(crate) fn payload_of(packet: &[u8]) -> Vec<u8> {
    let sliced = SlicedPacket::from_ethernet(packet).expect("a packet");
    let net = sliced.net.expect("an IP packet");
    net.ip_payload_ref().expect("a payload").payload.to_vec()
}

/// The payload of a packet that came in fragments, in order.
pub(crate) fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    fragments
        .iter()
        .flat_map(|fragment| payload_of(fragment))
        .collect()
}
