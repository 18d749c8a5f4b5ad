//! `nodegate trace`

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, ValueEnum};
use http::Method;
use http_body_util::BodyExt as _;

use super::Admin;
use crate::admin::client;

/// How long the daemon may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// Show every decision as it is made: one line per new connection.
///
/// On a node: where the kernel sends it, in kube-proxy's chain names. In a gateway pod: which virtual
/// host, route and endpoint a request got. Tracing costs nothing while nobody does it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate trace                       until Ctrl-C
  nodegate trace --count 1             the next decision
  nodegate trace --for 10s -o json     JSON lines, for ten seconds

Columns on a node: hook, client (address, or process), what it asked for, Service, chains of
kube-proxy's rules that lead to the same end, backend; or the verdict and its reason.")]
pub struct Trace {
    #[command(flatten)]
    admin: Admin,
    /// End after this many lines
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// End after this time: 500ms, 10s, 2m
    #[arg(long = "for", value_name = "TIME", value_parser = super::duration)]
    time: Option<Duration>,
    /// How to print
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Output {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object per line
    Json,
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

    async fn print(&self) -> anyhow::Result<()> {
        let path = match self.output {
            Output::Text => "/trace",
            Output::Json => "/trace?output=json",
        };
        let response = client::request(&self.admin.admin, Method::GET, path, PATIENCE).await?;
        // On standard error, so that scripts can wait for it and terminals show that it is on.
        if std::io::stdout().is_terminal() {
            eprintln!("tracing; Ctrl-C ends it");
        } else {
            eprintln!("tracing");
        }
        let mut body = response.into_body();
        let mut left = self.count;
        let mut out = std::io::stdout().lock();
        while left != Some(0) {
            let Some(frame) = body.frame().await else {
                anyhow::bail!("nodegate ended");
            };
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            for line in data.split_inclusive(|byte| *byte == b'\n') {
                out.write_all(line)?;
                left = left.map(|left| left.saturating_sub(1));
                if left == Some(0) {
                    break;
                }
            }
            out.flush()?;
        }
        Ok(())
    }
}
