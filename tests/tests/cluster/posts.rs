//! What five posts tell their readers to do, on a real cluster: the posts' own manifests and commands.
//!
//! Their images can't be had here. nginx is Debian's and tcp-echo Istio's; in place of the others answers
//! agnhost, under their names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use nodegate_programs::Program;
use nodegate_testbed::{
    cluster::{Cluster, parts::Parts},
    image::{self, Process},
    product,
    rootfs::{self, Rootfs},
};

use crate::{
    deploy::{install, output, rolled_out},
    services::options,
};

/// The address that is the gateway's outside, and a node's.
const EXTERNAL: &str = "192.168.96.50";

/// A cluster in which somebody follows a post.
struct Reader<'c> {
    cluster: &'c Cluster,
    /// Where the post's files are.
    files: PathBuf,
    /// The host and the port that lead to the gateway.
    gateway: String,
}

pub(crate) fn work(name: &str, parts: &Parts) -> anyhow::Result<()> {
    let cluster = Cluster::up(&options(name, parts))?;
    let work = tempfile::tempdir()?;
    cluster.load(&product::image(
        &crate::nodegate()?,
        &work.path().join("nodegate.tar"),
    )?)?;
    images(&cluster, parts, work.path())?;
    install(&cluster)?;
    let mut reader = Reader {
        cluster: &cluster,
        files: Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"),
        gateway: String::new(),
    };
    reader.gateway = reader.finds_the_gateway()?;
    reader.fft().context("the post on an FFT service")?;
    reader.two_paths().context("the post on two paths")?;
    reader.workshop().context("the workshop")?;
    reader.tcp_echo().context("the post on TCP")?;
    cluster.down()
}

/// What the posts' pods run.
fn images(cluster: &Cluster, parts: &Parts, work: &Path) -> anyhow::Result<()> {
    let agnhost = parts.file("agnhost");
    for (index, (name, port)) in AGNHOST.into_iter().enumerate() {
        let port = format!("--http-port={port}");
        let archive = image::once(&work.join(format!("{index}.tar")), name, |root| {
            root.copy(&agnhost, "/agnhost")?;
            root.program(&Program::Sleep.find().context("sleep")?)?;
            root.program(&Program::Sh.find().context("sh")?)?;
            Ok(Process::new(&["/agnhost"], &["netexec", &port]))
        })?;
        cluster.load(&archive)?;
        fs::remove_file(archive)?;
    }
    let echo = image::once(
        &work.join("echo.tar"),
        "docker.io/istio/tcp-echo-server:1.2",
        |root| {
            // As Istio's own image (samples/tcp-echo/src/Dockerfile).
            root.copy(&parts.file("tcp-echo-server"), "/usr/bin/tcp-echo-server")?;
            Ok(Process::new(
                &["/bin/tcp-echo-server"],
                &["9000,9001", "hello"],
            ))
        },
    )?;
    cluster.load(&echo)?;
    let nginx = image::once(
        &work.join("nginx.tar"),
        "docker.io/library/nginx:latest",
        |root| nginx(root, &parts.file("nginx")),
    )?;
    cluster.load(&nginx).map(drop)
}

/// Images of the posts that agnhost stands in for, and the port that their servers have.
const AGNHOST: [(&str, u16); 7] = [
    (
        "registry.cn-hangzhou.aliyuncs.com/wtysos11/wty-fft:0.0.1",
        8080,
    ),
    ("docker.io/library/httpserver:latest", 80),
    ("docker.io/library/whoami:v1", 80),
    ("docker.io/library/whoami:v2", 80),
    ("docker.io/grafana/grafana:6.7.4", 3000),
    ("docker.io/prom/prometheus:v2.19.2", 9090),
    ("docker.io/jaegertracing/all-in-one:1.18", 16686),
];

/// Debian's nginx with what its package sets up.
fn nginx(root: &Rootfs, unpacked: &Path) -> anyhow::Result<Process> {
    let program = unpacked.join("usr/sbin/nginx");
    for library in rootfs::libraries(&program)? {
        root.file(&library)?;
    }
    root.copy(&program, "/usr/sbin/nginx")?;
    for file in ["nginx.conf", "mime.types"] {
        let name = format!("/etc/nginx/{file}");
        root.copy(&unpacked.join(&name[1..]), &name)?;
    }
    let site = unpacked.join("etc/nginx/sites-available/default");
    root.copy(&site, "/etc/nginx/sites-enabled/default")?;
    let page = unpacked.join("usr/share/nginx/html/index.html");
    root.copy(&page, "/var/www/html/index.nginx-debian.html")?;
    for directory in ["var/log/nginx", "var/lib/nginx", "run", "dev", "tmp"] {
        fs::create_dir_all(root.path().join(directory))?;
    }
    let users = "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\n";
    fs::write(root.path().join("etc/passwd"), users)?;
    fs::write(root.path().join("etc/group"), "root:x:0:\nwww-data:x:33:\n")?;
    let arguments = ["-g", "daemon off;"];
    Ok(Process::new(&["/usr/sbin/nginx"], &arguments))
}

impl Reader<'_> {
    /// Runs a line of a post's on the machine that has kubectl.
    fn shell(&self, line: &str) -> anyhow::Result<String> {
        let mut shell = Program::Sh.by_name();
        shell.args(["-c", line]).current_dir(&self.files);
        let shell = self.cluster.enter("control-plane", shell)?;
        output(shell).with_context(|| line.to_owned())
    }

    /// Status and body of what curl gets on a host, as soon as the status is the expected one.
    fn curl(&self, host: &str, expected: u16, words: &[&str]) -> anyhow::Result<String> {
        let limit = patience::limit().as_secs().to_string();
        let mut last = String::new();
        let answer = patience::try_until(|| -> anyhow::Result<_> {
            let always = ["-sS", "-m", &limit, "-w", "\n%{http_code}"];
            let words = [&always[..], words].concat();
            let output = self.cluster.exec(host, Program::Curl, words)?;
            last = String::from_utf8_lossy(&output.stdout).into_owned();
            last.push_str(&String::from_utf8_lossy(&output.stderr));
            let body = last.strip_suffix(&format!("\n{expected}"));
            Ok(body.map(ToOwned::to_owned))
        });
        answer.with_context(|| format!("curl {words:?} on {host}, not {expected}: {last}"))
    }

    /// What the gateway answers the client outside for a path.
    fn outside(&self, expected: u16, host: &str, path: &str) -> anyhow::Result<String> {
        let (host, url) = (
            format!("Host: {host}"),
            format!("http://{}{path}", self.gateway),
        );
        self.curl("client", expected, &["-H", &host, &url])
    }

    /// The image is on the nodes, and nowhere to be pulled from.
    fn never_pulled(
        &self,
        namespace: &str,
        deployment: &str,
        container: &str,
    ) -> anyhow::Result<()> {
        let patch = format!(
            r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"{container}","imagePullPolicy":"Never"}}]}}}}}}}}"#
        );
        let of = ["patch", "deployment", deployment, "-n", namespace];
        self.cluster.ask(&[&of[..], &["-p", &patch]].concat())?;
        self.deployed(namespace, deployment)
    }

    fn deployed(&self, namespace: &str, deployment: &str) -> anyhow::Result<()> {
        rolled_out(self.cluster, namespace, &format!("deployment/{deployment}"))
    }

    /// The commands of the post on an FFT service: the address of a gateway's node and the node port.
    fn finds_the_gateway(&self) -> anyhow::Result<String> {
        self.shell(concat!(
            "export INGRESS_HOST=$(kubectl get po -l istio=ingressgateway -n istio-system ",
            "-o jsonpath='{.items[0].status.hostIP}')\n",
            "export INGRESS_PORT=$(kubectl -n istio-system get service istio-ingressgateway ",
            "-o jsonpath='{.spec.ports[?(@.name==\"http2\")].nodePort}')\n",
            "printf %s $INGRESS_HOST:$INGRESS_PORT",
        ))
    }

    fn fft(&self) -> anyhow::Result<()> {
        self.shell("kubectl apply -f s0/app.yaml")?;
        self.deployed("wty-istio", "wtyfft-deploy")?;
        for path in ["/fft", "/fftX", "/fft/1", "/metrics", "/metrics?x=1"] {
            self.outside(200, "any.example", path)?;
        }
        for path in ["/metrics/", "/", "/FFT"] {
            let body = self.outside(404, "any.example", path)?;
            ensure!(body.is_empty(), "{path}: {body}");
        }
        self.shell("kubectl delete -f s0/app.yaml --wait=false")
            .map(drop)
    }

    fn two_paths(&self) -> anyhow::Result<()> {
        const HOST: &str = "simple.baihl.io";
        self.shell("kubectl create ns simple")?;
        for file in ["simple.yaml", "nginx.yaml", "istio-specs.yaml"] {
            self.shell(&format!("kubectl apply -f s1/{file}"))?;
        }
        self.never_pulled("simple", "simple", "httpserver")?;
        self.never_pulled("simple", "nginx-deployment", "nginx")?;
        let shown = self
            .shell("kubectl get pod,svc,deployment,endpoints,VirtualService,Gateway -n simple")?;
        for object in [
            "pod/simple-",
            "pod/nginx-deployment-",
            "service/simple",
            "deployment.apps/nginx-deployment",
            "endpoints/nginx",
            "virtualservice.networking.istio.io/simple",
            "gateway.networking.istio.io/simple-gateway",
        ] {
            ensure!(shown.contains(object), "no {object}:\n{shown}");
        }

        let page = self.outside(200, HOST, "/simple/nginx")?;
        ensure!(page.contains("Welcome to nginx!"), "{page}");
        self.outside(200, HOST, "/simple/httpserver")?;
        // What is left of the path follows the one that replaces its beginning.
        let page = self.outside(404, HOST, "/simple/nginx/x")?;
        ensure!(page.contains("<center>nginx"), "{page}");
        let port = self.gateway.rsplit(':').next().unwrap_or_default();
        self.outside(200, &format!("{HOST}:{port}"), "/simple/nginx")?;
        self.outside(404, "other.example", "/simple/nginx")?;

        let address = self.shell(
            "kubectl get svc istio-ingressgateway -n istio-system -o jsonpath='{.spec.clusterIP}'",
        )?;
        let header = format!("Host: {HOST}");
        let url = format!("http://{address}/simple/nginx");
        let page = self.curl("node1", 200, &["-H", &header, &url])?;
        ensure!(page.contains("Welcome to nginx!"), "{page}");
        self.shell("kubectl delete ns simple --wait=false")
            .map(drop)
    }

    fn workshop(&mut self) -> anyhow::Result<()> {
        const BROWSER: &str =
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_10; rv:33.0) Gecko/20100101 Firefox/33.0";
        const WHOAMI: &str = "whoami.127.0.0.1.nip.io";
        self.shell(concat!(
            "kubectl patch svc istio-ingressgateway --patch ",
            "'{\"spec\":{\"ports\":[{\"port\": 80, \"nodePort\":30080}]}}' -n istio-system",
        ))?;
        let before = self.gateway.clone();
        let host = before.split(':').next().unwrap_or_default();
        self.gateway = format!("{host}:30080");
        for file in ["addons.yaml", "addon-gateway.yaml", "whoami.yaml"] {
            self.shell(&format!("kubectl apply -f s3/{file}"))?;
        }
        for deployment in ["grafana", "prometheus", "jaeger"] {
            self.deployed("istio-system", deployment)?;
        }
        for version in ["whoami-v1", "whoami-v2"] {
            self.deployed("default", version)?;
        }
        self.outside(200, "GRAFANA.127.0.0.1.NIP.IO:30080", "/hostname")?;
        self.outside(200, "jaeger.127.0.0.1.nip.io", "/jaeger")?;
        self.outside(404, "jaeger.127.0.0.1.nip.io", "/")?;
        self.outside(404, "prometheus.127.0.0.1.nip.io", "/")?;
        let url = format!("http://{}/", self.gateway);
        let host = ["-H", "Host: prometheus.127.0.0.1.nip.io"];
        self.curl("client", 200, &[&host[..], &["-A", BROWSER, &url]].concat())?;
        // The port before leads nowhere any more.
        let refused = self
            .cluster
            .exec("client", Program::Curl, ["-sS", &before])?;
        ensure!(!refused.status.success(), "{before}: {refused:?}");

        let shown = self.shell("kubectl get gw,vs && kubectl get pod,svc,vs,dr")?;
        for words in ["GATEWAYS", "HOSTS", "addon-gateway", "service/whoami"] {
            ensure!(shown.contains(words), "no {words}:\n{shown}");
        }
        let mut second = 0;
        for _ in 0..REQUESTS {
            let pod = self.outside(200, WHOAMI, "/hostname")?;
            ensure!(pod.starts_with("whoami-v"), "{pod}");
            second += usize::from(pod.starts_with("whoami-v2-"));
        }
        // A tenth: as chance has it, one run in 10,000 would be outside.
        ensure!((5..=45).contains(&second), "{second} of {REQUESTS}");
        let body = self.outside(504, WHOAMI, "/shell?cmd=sleep%203")?;
        ensure!(body == "upstream request timeout", "{body}");
        for file in ["addons.yaml", "addon-gateway.yaml", "whoami.yaml"] {
            self.shell(&format!("kubectl delete --wait=false -f s3/{file}"))?;
        }
        Ok(())
    }

    fn tcp_echo(&self) -> anyhow::Result<()> {
        let namespace = "istio-io-tcp-traffic-shifting";
        self.gets_an_external_address()?;
        for line in [
            "kubectl create namespace istio-io-tcp-traffic-shifting",
            "kubectl label namespace istio-io-tcp-traffic-shifting istio-injection=enabled",
            "kubectl apply -f s4/tcp-echo-services.yaml -n istio-io-tcp-traffic-shifting",
            "kubectl apply -f s4/tcp-echo-all-v1.yaml -n istio-io-tcp-traffic-shifting",
        ] {
            self.shell(line)?;
        }
        for deployment in ["tcp-echo-v1", "tcp-echo-v2"] {
            self.deployed(namespace, deployment)?;
        }
        patience::try_until(|| -> anyhow::Result<_> {
            Ok(self.echo()?.starts_with("one ").then_some(()))
        })
        .context("the first echo")?;
        for _ in 0..10 {
            let line = self.echo()?;
            ensure!(line.starts_with("one "), "{line:?}");
        }
        self.shell(
            "kubectl apply -f s4-80-20/tcp-echo-20-v2.yaml -n istio-io-tcp-traffic-shifting",
        )?;
        patience::try_until(|| -> anyhow::Result<_> {
            Ok(self.echo()?.starts_with("two ").then_some(()))
        })
        .context("the first echo of the second version")?;
        let lines = (0..50).map(|_| self.echo());
        let lines = lines.collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(
            lines.iter().all(|line| !line.is_empty()),
            "an echo is missing: {lines:?}"
        );
        let second = lines.iter().filter(|line| line.starts_with("two "));
        let second = second.count();
        // A fifth: as chance has it, one run in 10,000 would be outside.
        ensure!((1..=22).contains(&second), "{second} of 50");
        self.shell("kubectl delete --wait=false namespace istio-io-tcp-traffic-shifting")
            .map(drop)
    }

    /// Gives the gateway's Service an external address, a node the address, and the client a way there.
    fn gets_an_external_address(&self) -> anyhow::Result<()> {
        let patch = format!(r#"{{"spec":{{"externalIPs":["{EXTERNAL}"]}}}}"#);
        let service = ["patch", "svc", "istio-ingressgateway", "-n", "istio-system"];
        self.cluster
            .ask(&[&service[..], &["-p", &patch]].concat())?;
        let hosts = self.cluster.hosts();
        let node = hosts.iter().find(|(name, _)| name == "node1");
        let node = node.context("node1")?.1[0].to_string();
        for (host, words) in [
            ("node1", &["address", "add", EXTERNAL, "dev", "lo"][..]),
            ("client", &["route", "add", EXTERNAL, "via", &node]),
        ] {
            let output = self.cluster.exec(host, Program::Ip, words)?;
            ensure!(output.status.success(), "{host}: {output:?}");
        }
        Ok(())
    }

    /// The post's loop's body. With `-N` nc ends its side with its input, as the post's does unasked.
    fn echo(&self) -> anyhow::Result<String> {
        let limit = patience::limit().as_secs();
        let line = format!("(date; sleep .1) | nc -N -w {limit} {EXTERNAL} 31400");
        let output = self.cluster.exec("client", Program::Sh, ["-c", &line])?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Of which a tenth go to the second version.
const REQUESTS: usize = 200;
