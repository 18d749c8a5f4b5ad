//! `cargo xtask demo`: what the product does, shown on one node with two web servers.

use std::{
    io::{BufRead as _, BufReader, IsTerminal as _},
    process::{Child, ExitCode},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::Args;
use nodegate_programs::Program;
use nodegate_testbed::{Options, Testbed};
use serde_json::Value;

use crate::{binaries, setup, testbed};

/// How long a decision may take to be told.
const PATIENCE: Duration = Duration::from_secs(5);

const HOST: &str = "simple.baihl.io";
const NODE_PORT: &str = "192.168.170.137:31373";
const CLUSTER_IP: &str = "10.96.190.18";

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// End after the show, instead of waiting for Enter
    #[arg(long)]
    once: bool,
}

/// Brings the cluster up, shows, and takes it down.
pub(crate) fn run(demo: &Demo) -> anyhow::Result<ExitCode> {
    let ahead = binaries::ahead()?;
    setup::toolchain()?;
    setup::tools(&setup::TESTBED)?;
    setup::machine()?;
    drop(ahead);
    let binaries = binaries::build()?;
    let name = "demo";
    if Testbed::check_free(name).is_err() {
        // Of a demo that was killed.
        Testbed::down_named(name)?;
    }
    let manifests = binaries::workspace().join("tests/manifests/s1");
    let testbed = Testbed::up(&Options::new(name, binaries, vec![manifests]))?;
    let shown = Show::new(&testbed).and_then(|mut show| show.all());
    if shown.is_ok() && !demo.once {
        println!("The cluster stays until you press Enter. In another terminal:\n");
        for line in [
            "cargo xtask testbed exec --name demo node1 -- nodegate trace",
            "cargo xtask testbed exec --name demo node1 -- nodegate status",
            "cargo xtask testbed exec --name demo client -- curl -s -H 'Host: simple.baihl.io' http://192.168.170.137:31373/simple/nginx",
            "bpftool map dump pinned /sys/fs/bpf/nodegate/demo/node1/services",
        ] {
            println!("  {line}");
        }
        let mut line = String::new();
        std::io::stdin().read_line(&mut line)?;
    }
    testbed.down()?;
    shown.map(|()| ExitCode::SUCCESS)
}

/// A request to show.
struct Request {
    /// `client` or `node1`
    from: &'static str,
    address: &'static str,
    path: &'static str,
}

struct Show<'t> {
    testbed: &'t Testbed,
    kernel: Follower,
    proxy: Follower,
    style: Style,
}

impl<'t> Show<'t> {
    fn new(testbed: &'t Testbed) -> anyhow::Result<Self> {
        Ok(Self {
            testbed,
            kernel: Follower::start(testbed, "node1")?,
            proxy: Follower::start(testbed, "pod/istio-system/istio-ingressgateway")?,
            style: Style::of_terminal(),
        })
    }

    fn all(&mut self) -> anyhow::Result<()> {
        println!(
            "A Kubernetes node in network namespaces: an ingress gateway pod and two web servers behind\n\
             it, and a client outside. There is no kube-proxy, no istiod and no Envoy: nodegate does\n\
             their work. It has read a Gateway, a VirtualService and three Services.\n"
        );
        testbed::show(self.testbed, &self.testbed.ps()?);
        println!();

        self.heading("From outside, through the node port");
        for path in ["/simple/nginx", "/simple/httpserver"] {
            self.request(&Request {
                from: "client",
                address: NODE_PORT,
                path,
            })?;
        }
        self.heading("On the node, through the cluster IP: another frontend, the same chain");
        for path in ["/simple/nginx", "/simple/httpserver"] {
            self.request(&Request {
                from: "node1",
                address: CLUSTER_IP,
                path,
            })?;
        }
        self.heading("What matches no route is a 404 that says why");
        self.request(&Request {
            from: "client",
            address: NODE_PORT,
            path: "/simple/other",
        })?;
        self.heading("The cluster IP is the cluster's own: outside there is no way to it");
        self.refused(&Request {
            from: "client",
            address: CLUSTER_IP,
            path: "/simple/nginx",
        })?;
        self.no_chains()
    }

    fn heading(&self, text: &str) {
        println!("{}\n", self.style.bold(text));
    }

    fn request(&mut self, request: &Request) -> anyhow::Result<()> {
        let answer = self.curl(request)?;
        println!("  answer  {answer}");
        let connection = self.kernel.next()?;
        self.show_connection(&connection);
        let record = self.proxy.next()?;
        show_request(&record);
        println!();
        Ok(())
    }

    fn refused(&self, request: &Request) -> anyhow::Result<()> {
        println!("  answer  {}\n", self.curl(request)?);
        Ok(())
    }

    /// Prints the command, runs it, gives status and what the page says.
    fn curl(&self, request: &Request) -> anyhow::Result<String> {
        let Request {
            from,
            address,
            path,
        } = request;
        let command = format!("curl -H 'Host: {HOST}' http://{address}{path}");
        println!(
            "  {} {}",
            self.style.dim(&format!("{from} $")),
            self.style.bold(&command)
        );
        let output = self.testbed.exec(
            from,
            Program::Curl,
            [
                "-sS",
                "--max-time",
                "5",
                "-w",
                "\n%{http_code}",
                "-H",
                &format!("Host: {HOST}"),
                &format!("http://{address}{path}"),
            ],
        )?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, status) = text.rsplit_once('\n').context("curl printed no status")?;
        if status == "000" {
            return Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let says = body.lines().map(strip_tags).find(|line| !line.is_empty());
        Ok(format!("{status} {}", says.unwrap_or_default())
            .trim_end()
            .to_owned())
    }

    fn show_connection(&self, line: &Value) {
        let client = match line["process"]["command"].as_str() {
            Some(command) => format!("a process on the node ({command})"),
            None => text(&line["client"]).to_owned(),
        };
        println!(
            "  kernel  {} at {}: {client} -> {}",
            text(&line["service"]),
            text(&line["hook"]),
            text(&line["destination"])
        );
        let chains: Vec<_> = line["chains"]
            .as_array()
            .into_iter()
            .flatten()
            .map(text)
            .collect();
        println!("          {}", self.style.bold(&chains.join(" > ")));
        let masquerade = match text(&line["masquerade"]) {
            "elided" => "; it sees the client, there is no need to masquerade",
            "yes" => "; it sees the node",
            _ => "",
        };
        println!(
            "          DNAT to {}, the gateway pod{masquerade}",
            text(&line["backend"])
        );
    }

    /// The chains are explanations: there are none in the kernel.
    fn no_chains(&self) -> anyhow::Result<()> {
        let output = self
            .testbed
            .exec("node1", Program::Iptables, ["-t", "nat", "-S"])?;
        let rules = String::from_utf8_lossy(&output.stdout);
        let chains = rules
            .lines()
            .filter(|line| line.starts_with("-N KUBE-"))
            .count();
        let maps = self
            .testbed
            .exec("node1", Program::Nodegate, ["status", "-o", "json"])?;
        let status: Value = serde_json::from_slice(&maps.stdout)?;
        println!(
            "{}\n\n  KUBE-* chains in iptables: {chains}. In their place, BPF maps with {} entries for frontends and {} for backends,\n  \
             pinned in {}: one lookup instead of a walk.\n",
            self.style.bold("The chain names are for you"),
            status["datapath"]["elements"]["services"],
            status["datapath"]["elements"]["backends"],
            self.testbed.pin_dir("node1").display()
        );
        Ok(())
    }
}

fn show_request(line: &Value) {
    let origin = &line["origin"];
    if line["cluster"].is_null() {
        println!(
            "  proxy   listener :{}, virtual host {}: {} {}",
            line["listener"],
            line["virtual_host"].as_str().unwrap_or("none"),
            text(&line["flag"]),
            text(&line["details"])
        );
        return;
    }
    println!(
        "  proxy   listener :{} > virtual host {} > VirtualService {}/{}, http[{}]",
        line["listener"],
        text(&line["virtual_host"]),
        text(&origin["namespace"]),
        text(&origin["name"]),
        origin["index"]
    );
    let rewritten = match line["rewritten_path"].as_str() {
        Some(path) => format!(" (path rewritten to {path})"),
        None => String::new(),
    };
    println!(
        "          {} > {}{rewritten}",
        text(&line["cluster"]),
        text(&line["endpoint"])
    );
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// The text of a line of HTML.
fn strip_tags(line: &str) -> String {
    let mut inside = false;
    let kept = line.chars().filter(|c| {
        match c {
            '<' => inside = true,
            '>' => {
                inside = false;
                return false;
            }
            _ => {}
        }
        !inside
    });
    kept.collect::<String>().trim().to_owned()
}

/// `nodegate trace` on a host, line by line.
struct Follower {
    process: Child,
    lines: Receiver<Value>,
}

impl Follower {
    fn start(testbed: &Testbed, host: &str) -> anyhow::Result<Self> {
        let mut process = testbed.spawn(
            host,
            Program::Nodegate,
            ["trace", "-o", "json", "--for", "10m"],
        )?;
        let output = process.stdout.take().context("piped")?;
        let mut told = BufReader::new(process.stderr.take().context("piped")?);
        // It says that it is on before anything can be missed.
        let mut line = String::new();
        told.read_line(&mut line)?;
        if !line.starts_with("tracing") {
            bail!("nodegate trace on {host}: {}", line.trim());
        }
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line)
                    && sender.send(value).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self { process, lines })
    }

    fn next(&mut self) -> anyhow::Result<Value> {
        let start = Instant::now();
        let line = self.lines.recv_timeout(PATIENCE);
        line.with_context(|| format!("no decision was traced within {:?}", start.elapsed()))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Bold and dim on a terminal, plain elsewhere.
#[derive(Clone, Copy)]
struct Style {
    on: bool,
}

impl Style {
    fn of_terminal() -> Self {
        let on = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { on }
    }

    fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_stripped() {
        assert_eq!(
            strip_tags("<h1>Welcome to nginx!</h1>"),
            "Welcome to nginx!"
        );
        assert_eq!(strip_tags("<!DOCTYPE html>"), "");
        assert_eq!(strip_tags("hello"), "hello");
    }
}
