//! `nodegate trace`

use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use gateway_common::{decide::Verdict, event::Hook};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use nodegate_admin::{
    client,
    server::TRACES_KERNEL,
    trace::Line,
    wanted::{self, Format, Wanted},
};
use nodegate_model::service::Protocol;
use nodegate_observe::{RecordFilter, StatusFilter};
use nodegate_programming::filter::{Filter, ServicePattern, Source, Target};
use tokio::sync::mpsc;

use super::{Admin, Output, layout::WidthArgs};

mod join;

use join::Joiner;

/// How long the daemon may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// Show every decision as it is made: a line for each new connection and request.
///
/// On a node: where the kernel sends it, in kube-proxy's chain names. In a gateway pod: which virtual
/// host, route and endpoint a request got. With both, a request has the number of the decision that
/// its connection came by. Tracing costs nothing while nobody does it, and what is filtered out is
/// filtered in the kernel.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate trace                       until Ctrl-C
  nodegate trace --count 1             the next decision
  nodegate trace --for 10s -o json     JSON lines, for ten seconds
  nodegate trace --verdict reject,drop            who is turned away, and why
  nodegate trace --service default/web --from 10.10.0.0/16
  nodegate trace --to :31373 --gateway-admin /run/nodegate/gateway.sock
                                       a node port, with the gateway's requests
  nodegate trace --status 404,5xx      in a gateway pod: failed requests

Columns on a node: number, hook, client (address, or process), what it asked
for, Service, chains of kube-proxy's rules that lead to the same end, backend;
or the verdict and its reason.

A request whose connection is older than the trace, or masqueraded, has - for a
number; with filters for decisions it is left out.

Exit status: 0 success, 2 nobody answers.")]
pub struct Trace {
    #[command(flatten)]
    admin: Admin,
    /// Admin socket of a gateway on this node, if that is another process: its requests are shown with
    /// the decisions that they came by
    #[arg(long, env = "NODEGATE_GATEWAY_ADMIN", value_name = "SOCKET")]
    gateway_admin: Option<PathBuf>,
    /// End after this many lines
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// End after this time: 500ms, 10s, 2m
    #[arg(long = "for", value_name = "TIME", value_parser = super::duration)]
    time: Option<Duration>,
    /// How to print: lines, or one JSON object per line
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    width: WidthArgs,
    #[command(flatten)]
    filters: Filters,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Filters")]
struct Filters {
    /// Only what this client asks for: an address, a network, or `node`, the node's own processes
    #[arg(long, value_name = "CLIENT")]
    from: Option<Source>,
    /// Only what is asked of, or sent to: an address, a network, ADDRESS:PORT, or :PORT
    #[arg(long, value_name = "TARGET")]
    to: Option<Target>,
    /// Only this Service: NAMESPACE/NAME, or NAMESPACE/NAME:PORTNAME
    #[arg(long, value_name = "SERVICE")]
    service: Option<ServicePattern>,
    /// Only these outcomes: forward, reject, drop, pass
    #[arg(long, value_name = "VERDICT", value_delimiter = ',', value_parser = wanted::verdict)]
    verdict: Vec<Verdict>,
    /// Only decisions made there: ingress, pod, egress, connect4, connect6, sendmsg4, sendmsg6
    #[arg(long, value_name = "HOOK", value_delimiter = ',', value_parser = wanted::hook)]
    hook: Vec<Hook>,
    /// Only tcp, udp or sctp
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Only requests for this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// Only requests that ended so: 404, or 4xx
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<StatusFilter>,
}

impl Trace {
    /// Prints until told to stop.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        super::block_on(async {
            match self.time {
                // Time up is the expected end.
                Some(time) => tokio::time::timeout(time, self.print())
                    .await
                    .unwrap_or(Ok(())),
                None => self.print().await,
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn wanted(&self) -> Wanted {
        let Filters {
            from,
            to,
            service,
            verdict,
            hook,
            protocol,
            host,
            status,
        } = &self.filters;
        Wanted {
            format: match self.output {
                Output::Text => Format::Text,
                Output::Json => Format::Json,
            },
            joinable: true,
            kernel: Filter {
                from: from.clone(),
                to: to.clone(),
                service: service.clone(),
                verdicts: verdict.clone(),
                hooks: hook.clone(),
                protocol: *protocol,
            },
            records: RecordFilter {
                host: host.clone(),
                statuses: status.clone(),
                ..RecordFilter::default()
            },
        }
    }

    async fn print(&self) -> anyhow::Result<()> {
        let wanted = self.wanted();
        let (sender, mut lines) = mpsc::channel(1024);
        let has_kernel = follow(&self.admin.admin, &wanted, sender.clone()).await?;
        if let Some(socket) = &self.gateway_admin {
            // Which connections is the kernel's to say.
            let requests = Wanted {
                kernel: Filter::default(),
                ..wanted.clone()
            };
            follow(socket, &requests, sender.clone()).await?;
        }
        drop(sender);
        // On standard error, so that scripts can wait for it and terminals show that it is on.
        if std::io::stdout().is_terminal() {
            eprintln!("tracing; Ctrl-C ends it");
        } else {
            eprintln!("tracing");
        }
        let mut joiner = has_kernel.then(|| {
            let alone = !wanted.asks_the_kernel();
            Joiner::new(wanted.format, alone)
        });
        let layout = match self.output {
            Output::Text => Some(self.width.for_lines(&std::io::stdout())),
            Output::Json => None,
        };
        let mut left = self.count;
        while left != Some(0) {
            let shown = match &mut joiner {
                Some(joiner) => next(joiner, &mut lines).await?,
                None => vec![received(lines.recv().await)?.line],
            };
            let mut out = std::io::stdout().lock();
            for line in shown {
                if left == Some(0) {
                    break;
                }
                match layout {
                    Some(layout) => writeln!(out, "{}", layout.fit(&line, 0))?,
                    None => writeln!(out, "{line}")?,
                }
                left = left.map(|left| left.saturating_sub(1));
            }
            out.flush()?;
        }
        Ok(())
    }
}

/// What there is to show next.
async fn next(
    joiner: &mut Joiner,
    lines: &mut mpsc::Receiver<anyhow::Result<Line>>,
) -> anyhow::Result<Vec<String>> {
    let line = match joiner.due() {
        None => lines.recv().await,
        Some(due) => match tokio::time::timeout_at(due.into(), lines.recv()).await {
            Ok(line) => line,
            Err(_) => return Ok(joiner.give_up(Instant::now())),
        },
    };
    Ok(joiner.take(received(line)?, Instant::now()))
}

fn received(line: Option<anyhow::Result<Line>>) -> anyhow::Result<Line> {
    line.unwrap_or_else(|| Err(anyhow::anyhow!("nodegate ended")))
}

/// Follows what one nodegate tells. Gives whether decisions of the kernel are among it.
async fn follow(
    socket: &Path,
    wanted: &Wanted,
    lines: mpsc::Sender<anyhow::Result<Line>>,
) -> anyhow::Result<bool> {
    let path = format!("/trace?{}", wanted.query());
    let response = client::request(socket, Method::GET, &path, "", PATIENCE).await?;
    let has_kernel = response.headers().contains_key(TRACES_KERNEL);
    tokio::spawn(async move {
        let error = match read(response.into_body(), &lines).await {
            Ok(()) => anyhow::anyhow!("nodegate ended"),
            Err(error) => error,
        };
        // Whoever prints has ended already, if nobody takes it.
        let _ = lines.send(Err(error)).await;
    });
    Ok(has_kernel)
}

/// Reads lines until the body or the reader ends.
async fn read(
    mut body: Incoming,
    lines: &mpsc::Sender<anyhow::Result<Line>>,
) -> anyhow::Result<()> {
    let mut buffer = Vec::new();
    // A nodegate that has gone leaves off anywhere.
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else {
            continue;
        };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = serde_json::from_slice(&buffer[..end])?;
            buffer.drain(..=end);
            if lines.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
