//! The kernel programs, packet by packet: bytes in, bytes and verdict out, through the real verifier
//! and `BPF_PROG_TEST_RUN`. Nothing is attached to anything.
//!
//! Needs root and a BPF file system; without, every test is reported as ignored.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::{
    Ebpf,
    programs::{CgroupSockAddr, SchedClassifier, TestRun as _, TestRunOptions},
};
use etherparse::{
    IpFragOffset, Ipv4Header, Ipv4Options, PacketBuilder, SlicedPacket, TransportSlice,
};
use libtest_mimic::{Arguments, Failed, Trial};
use nodegate::{
    datapath::{
        desired::{Desired, ExternalIps},
        maps::{self, Maps},
        node::NodeFacts,
        plan,
    },
    model::service::{Endpoint, Protocol, ServicePort, ServicePortName},
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 1);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 170, 137);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 190, 18);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 4);
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 5);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 10, 2, 4);

/// `TC_ACT_UNSPEC`: on to the next program, and to the stack.
const NEXT: u32 = u32::MAX;
/// `TC_ACT_SHOT`
const DROP: u32 = 2;

type Test = fn(&mut Bench) -> Result<(), Failed>;

const TESTS: &[(&str, Test)] = &[
    (
        "a_syn_to_a_node_port_goes_to_the_backend",
        a_syn_to_a_node_port_goes_to_the_backend,
    ),
    (
        "a_syn_to_a_cluster_ip_goes_to_the_backend",
        a_syn_to_a_cluster_ip_goes_to_the_backend,
    ),
    (
        "the_reply_gets_the_node_ports_address_back",
        the_reply_gets_the_node_ports_address_back,
    ),
    (
        "later_packets_stay_on_their_backend",
        later_packets_stay_on_their_backend,
    ),
    (
        "a_packet_of_no_known_flow_is_left_alone",
        a_packet_of_no_known_flow_is_left_alone,
    ),
    (
        "what_is_no_service_is_left_alone",
        what_is_no_service_is_left_alone,
    ),
    (
        "without_endpoints_the_stack_refuses",
        without_endpoints_the_stack_refuses,
    ),
    ("ip_options_do_not_confuse", ip_options_do_not_confuse),
    (
        "fragments_are_counted_and_left_alone",
        fragments_are_counted_and_left_alone,
    ),
    (
        "only_remote_backends_are_masqueraded",
        only_remote_backends_are_masqueraded,
    ),
    (
        "a_port_used_again_is_a_new_connection",
        a_port_used_again_is_a_new_connection,
    ),
    (
        "a_syn_to_a_backend_that_is_gone_is_decided_anew",
        a_syn_to_a_backend_that_is_gone_is_decided_anew,
    ),
    (
        "two_flows_with_one_reply_cannot_be_told_apart",
        two_flows_with_one_reply_cannot_be_told_apart,
    ),
    (
        "damaged_packets_are_left_alone",
        damaged_packets_are_left_alone,
    ),
    (
        "the_verifier_takes_the_socket_programs",
        the_verifier_takes_the_socket_programs,
    ),
];

fn main() {
    let arguments = Arguments::from_args();
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        eprintln!("skipping the packet tests: {obstacle}");
    }
    let trials = TESTS
        .iter()
        .map(|(name, test)| {
            Trial::test(*name, move || test(&mut Bench::new()?))
                .with_ignored_flag(obstacle.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn obstacle() -> Option<&'static str> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("not root (run them with sudo)");
    }
    let magic = nix::sys::statfs::statfs("/sys/fs/bpf").map(|stat| stat.filesystem_type());
    (magic != Ok(nix::sys::statfs::BPF_FS_MAGIC))
        .then_some("no BPF file system (mount -t bpf bpf /sys/fs/bpf)")
}

/// Programs and maps of one test.
struct Bench {
    ebpf: Ebpf,
    maps: Maps,
    pins: PathBuf,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = nodegate::datapath::cleanup(&self.pins);
    }
}

impl Bench {
    fn new() -> Result<Self, Failed> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pins = PathBuf::from(format!(
            "/sys/fs/bpf/nodegate-test-{}-{number}",
            std::process::id()
        ));
        let (mut ebpf, maps) = maps::load(&pins)?;
        for name in ["ingress", "egress"] {
            classifier(&mut ebpf, name).load()?;
        }
        Ok(Self { ebpf, maps, pins })
    }

    /// Makes the gateway's Service the only one, with these backends and whether they are local.
    fn serve(&mut self, backends: &[(Ipv4Addr, bool)]) {
        let name = ServicePortName {
            namespace: "istio-system".into(),
            name: "istio-ingressgateway".into(),
            port: "http2".into(),
        };
        let service = ServicePort {
            node_port: Some(31373),
            cluster_ips: vec![CLUSTER_IP.into()],
            endpoints: backends
                .iter()
                .map(|(address, local)| Endpoint::ready((*address).into(), 8080, *local))
                .collect(),
            ..ServicePort::new(name, Protocol::Tcp, 80)
        };
        let node = NodeFacts {
            addresses: BTreeSet::from([NODE.into()]),
        };
        let desired = Desired::new(&[service], &node, ExternalIps::Owned);
        let failures = self.maps.execute(plan::plan(self.maps.mirror(), &desired));
        assert_eq!(failures, []);
    }

    fn run(&mut self, program: &str, packet: &[u8]) -> Result<Ran, Failed> {
        let mut out = vec![0; packet.len() + 64];
        // `struct __sk_buff`: len, pkt_type, mark, … (include/uapi/linux/bpf.h)
        let mut context = [0; 192];
        let result = classifier(&mut self.ebpf, program).test_run(TestRunOptions {
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

    fn ingress(&mut self, segment: &Segment) -> Result<Ran, Failed> {
        self.run("ingress", &segment.bytes())
    }

    fn egress(&mut self, segment: &Segment) -> Result<Ran, Failed> {
        self.run("egress", &segment.bytes())
    }

    fn count(&self, reason: &str) -> u64 {
        self.maps.counters().expect("counters can be read")[reason]
    }
}

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &str) -> &'e mut SchedClassifier {
    let program = ebpf.program_mut(name).expect("the object has the program");
    program.try_into().expect("it is a classifier")
}

/// What came out.
struct Ran {
    action: u32,
    mark: u32,
    packet: Vec<u8>,
}

impl Ran {
    /// The addresses and ports of the packet that came out, whose checksums must be right.
    fn ends(&self) -> (Ipv4Addr, u16, Ipv4Addr, u16) {
        let sliced = SlicedPacket::from_ethernet(&self.packet).expect("a packet comes out");
        let ip = sliced
            .net
            .as_ref()
            .and_then(|net| net.ipv4_ref())
            .expect("an IPv4 packet");
        let header = ip.header();
        let ip_header = header.to_header();
        assert_eq!(
            ip_header.calc_header_checksum(),
            ip_header.header_checksum,
            "IP checksum"
        );
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
            panic!("no TCP segment")
        };
        let expected = tcp
            .to_header()
            .calc_checksum_ipv4_raw(ip_header.source, ip_header.destination, tcp.payload())
            .expect("a short segment");
        assert_eq!(tcp.checksum(), expected, "TCP checksum");
        (
            header.source_addr(),
            tcp.source_port(),
            header.destination_addr(),
            tcp.destination_port(),
        )
    }
}

/// A TCP segment to send.
#[derive(Clone, Copy)]
struct Segment {
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    flags: &'static str,
}

impl Segment {
    const fn new(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), flags: &'static str) -> Self {
        Self { from, to, flags }
    }

    fn bytes(self) -> Vec<u8> {
        self.build(
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ipv4(
                self.from.0.octets(),
                self.to.0.octets(),
                64,
            ),
        )
    }

    fn bytes_with(self, header: Ipv4Header) -> Vec<u8> {
        let ip = etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
        self.build(PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ip(ip))
    }

    fn header(self) -> Ipv4Header {
        Ipv4Header {
            source: self.from.0.octets(),
            destination: self.to.0.octets(),
            time_to_live: 64,
            ..Ipv4Header::default()
        }
    }

    fn build(self, ip: etherparse::PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8> {
        let mut tcp = ip.tcp(self.from.1, self.to.1, 1000, 65_535);
        for flag in self.flags.chars() {
            tcp = match flag {
                'S' => tcp.syn(),
                'A' => tcp.ack(2000),
                'F' => tcp.fin(),
                'R' => tcp.rst(),
                other => panic!("no TCP flag {other}"),
            };
        }
        let payload: &[u8] = if self.flags == "A" { b"hello" } else { b"" };
        let mut bytes = Vec::with_capacity(tcp.size(payload.len()));
        tcp.write(&mut bytes, payload).expect("writing to memory");
        bytes
    }
}

const FROM: (Ipv4Addr, u16) = (CLIENT, 50_000);
const NODE_PORT: (Ipv4Addr, u16) = (NODE, 31373);
const SYN: Segment = Segment::new(FROM, NODE_PORT, "S");

fn a_syn_to_a_node_port_goes_to_the_backend(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    let ran = bench.ingress(&SYN)?;
    assert_eq!(ran.action, NEXT);
    assert_eq!(ran.ends(), (CLIENT, 50_000, GATEWAY, 8080));
    assert_eq!(bench.count("chosen"), 1);
    Ok(())
}

fn a_syn_to_a_cluster_ip_goes_to_the_backend(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    let ran = bench.ingress(&Segment::new(FROM, (CLUSTER_IP, 80), "S"))?;
    assert_eq!(ran.ends(), (CLIENT, 50_000, GATEWAY, 8080));
    Ok(())
}

fn the_reply_gets_the_node_ports_address_back(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    bench.ingress(&SYN)?;
    let ran = bench.egress(&Segment::new((GATEWAY, 8080), FROM, "SA"))?;
    assert_eq!(ran.action, NEXT);
    assert_eq!(ran.ends(), (NODE, 31373, CLIENT, 50_000));
    // Of another client's connection: none of ours.
    let other = Segment::new((GATEWAY, 8080), (CLIENT, 50_001), "SA");
    assert_eq!(bench.egress(&other)?.packet, other.bytes());
    Ok(())
}

fn later_packets_stay_on_their_backend(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true), (SECOND, true)]);
    let chosen = bench.ingress(&SYN)?.ends().2;
    for flags in ["S", "A", "A", "FA"] {
        let ran = bench.ingress(&Segment::new(FROM, NODE_PORT, flags))?;
        assert_eq!(ran.ends(), (CLIENT, 50_000, chosen, 8080), "{flags}");
    }
    // Even when the Service changes under it: the connection is the pod's until it ends.
    bench.serve(&[(REMOTE, false)]);
    let ran = bench.ingress(&Segment::new(FROM, NODE_PORT, "A"))?;
    assert_eq!(ran.ends(), (CLIENT, 50_000, chosen, 8080));
    Ok(())
}

fn a_packet_of_no_known_flow_is_left_alone(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    for flags in ["A", "SA", "FA", "R"] {
        let segment = Segment::new(FROM, NODE_PORT, flags);
        let ran = bench.ingress(&segment)?;
        assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{flags}");
    }
    Ok(())
}

fn what_is_no_service_is_left_alone(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    for to in [
        (NODE, 22),
        (NODE, 31374),
        (CLUSTER_IP, 31373),
        (GATEWAY, 8080),
        (CLIENT, 31373),
    ] {
        let segment = Segment::new(FROM, to, "S");
        let ran = bench.ingress(&segment)?;
        assert_eq!((ran.action, ran.packet), (NEXT, segment.bytes()), "{to:?}");
    }
    Ok(())
}

fn without_endpoints_the_stack_refuses(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[]);
    let ran = bench.ingress(&SYN)?;
    assert_eq!((ran.action, ran.packet), (NEXT, SYN.bytes()));
    assert_eq!(bench.count("no-endpoints"), 1);
    Ok(())
}

fn ip_options_do_not_confuse(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    for words in 1..=10u8 {
        let from = (CLIENT, 50_000 + u16::from(words));
        let segment = Segment::new(from, NODE_PORT, "S");
        // Option 1 is "no operation" (RFC 791 §3.1).
        let options = vec![1u8; usize::from(words) * 4];
        let header = Ipv4Header {
            options: Ipv4Options::try_from(&options[..]).expect("whole words"),
            ..segment.header()
        };
        let ran = bench.run("ingress", &segment.bytes_with(header))?;
        assert_eq!(ran.ends(), (CLIENT, from.1, GATEWAY, 8080), "{words} words");
    }
    Ok(())
}

fn fragments_are_counted_and_left_alone(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    for (more_fragments, offset) in [(true, 0), (false, 100)] {
        let header = Ipv4Header {
            more_fragments,
            fragment_offset: IpFragOffset::try_new(offset).expect("13 bits"),
            ..SYN.header()
        };
        let packet = SYN.bytes_with(header);
        let ran = bench.run("ingress", &packet)?;
        assert_eq!((ran.action, ran.packet), (NEXT, packet));
    }
    assert_eq!(bench.count("unparsed"), 2);
    Ok(())
}

fn only_remote_backends_are_masqueraded(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    assert_eq!(bench.ingress(&SYN)?.mark, 0);
    bench.serve(&[(REMOTE, false)]);
    let ran = bench.ingress(&Segment::new((CLIENT, 50_001), NODE_PORT, "S"))?;
    assert_eq!(ran.ends(), (CLIENT, 50_001, REMOTE, 8080));
    assert_eq!(ran.mark, 0x4000);
    Ok(())
}

fn a_port_used_again_is_a_new_connection(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    bench.ingress(&SYN)?;
    bench.serve(&[(SECOND, true), (GATEWAY, true)]);
    bench.serve(&[(SECOND, true)]);
    bench.ingress(&Segment::new(FROM, NODE_PORT, "FA"))?;
    let ran = bench.ingress(&SYN)?;
    assert_eq!(ran.ends(), (CLIENT, 50_000, SECOND, 8080));
    let reply = bench.egress(&Segment::new((SECOND, 8080), FROM, "SA"))?;
    assert_eq!(reply.ends(), (NODE, 31373, CLIENT, 50_000));
    Ok(())
}

fn a_syn_to_a_backend_that_is_gone_is_decided_anew(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    bench.ingress(&SYN)?;
    bench.serve(&[(SECOND, true)]);
    let ran = bench.ingress(&SYN)?;
    assert_eq!(ran.ends(), (CLIENT, 50_000, SECOND, 8080));
    Ok(())
}

fn two_flows_with_one_reply_cannot_be_told_apart(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    bench.ingress(&SYN)?;
    // The same port of the client, through the cluster IP to the same backend.
    let clash = Segment::new(FROM, (CLUSTER_IP, 80), "S");
    assert_eq!(bench.ingress(&clash)?.action, DROP);
    assert_eq!(bench.count("clash"), 1);
    let reply = Segment::new((GATEWAY, 8080), FROM, "A");
    assert_eq!(bench.egress(&reply)?.ends(), (NODE, 31373, CLIENT, 50_000));
    // Once the first connection has ended on both sides, there is room.
    bench.ingress(&Segment::new(FROM, NODE_PORT, "FA"))?;
    bench.egress(&Segment::new((GATEWAY, 8080), FROM, "FA"))?;
    assert_eq!(
        bench.ingress(&clash)?.ends(),
        (CLIENT, 50_000, GATEWAY, 8080)
    );
    assert_eq!(
        bench.egress(&reply)?.ends(),
        (CLUSTER_IP, 80, CLIENT, 50_000)
    );
    Ok(())
}

fn damaged_packets_are_left_alone(bench: &mut Bench) -> Result<(), Failed> {
    bench.serve(&[(GATEWAY, true)]);
    let good = SYN.bytes();
    // The kernel refuses to run on less than an Ethernet and an IP header.
    for length in 34..good.len() {
        let packet = &good[..length];
        let ran = bench.run("ingress", packet)?;
        // The part of the TCP header that is looked at ends before its last two bytes.
        if length < good.len() - 2 {
            assert_eq!(
                (ran.action, ran.packet),
                (NEXT, packet.to_vec()),
                "{length} bytes"
            );
        }
    }
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..2_000 {
        let mut packet = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(14..packet.len());
            packet[at] = random.u8(..);
        }
        for program in ["ingress", "egress"] {
            let ran = bench.run(program, &packet)?;
            assert_eq!(ran.packet.len(), packet.len());
            assert!([NEXT, DROP].contains(&ran.action), "{}", ran.action);
        }
    }
    Ok(())
}

fn the_verifier_takes_the_socket_programs(bench: &mut Bench) -> Result<(), Failed> {
    for name in ["connect4", "getpeername4"] {
        let program = bench
            .ebpf
            .program_mut(name)
            .expect("the object has the program");
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load()?;
    }
    Ok(())
}
