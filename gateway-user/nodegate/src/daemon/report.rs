//! How this nodegate stands, for the cluster.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nodegate_admin::server::Subject as _;
use nodegate_source::kubernetes::report::Report;
use tokio::{sync::watch, time};

use super::Speaker;

/// How often there is a look at what is in force.
const OFTEN: Duration = Duration::from_millis(500);

/// How many messages are told. All of them are in `nodegate status`.
const MESSAGES: usize = 5;

/// How long a message may be: a Lease is no place for more.
const LENGTH: usize = 400;

/// Reports until nobody listens.
pub(super) async fn report(speaker: Arc<Speaker>, reports: watch::Sender<Report>) {
    let mut ticks = time::interval(OFTEN);
    loop {
        tokio::select! {
            () = reports.closed() => return,
            _ = ticks.tick() => {}
        }
        let before = reports.borrow().clone();
        let report = speaker.report(before.resource_versions);
        reports.send_if_modified(|current| {
            let is_new = *current != report;
            *current = report;
            is_new
        });
    }
}

impl Speaker {
    /// `in_force` is what was in force at the last look, which holds where something newer is not yet.
    fn report(&self, in_force: BTreeMap<String, u64>) -> Report {
        // First what the source has told, then what is made of it: what was told is part of that.
        let sources = self.sources.status();
        let inputs = self.sources.current().version;
        let published = self.published.borrow().clone();
        let generation = published
            .snapshot
            .as_ref()
            .map_or(0, |snapshot| snapshot.generation);
        let is_in_force = published.version >= inputs && self.has_applied(generation);
        let kinds = sources
            .into_iter()
            .filter_map(|status| status.api_server)
            .flat_map(|api_server| api_server.kinds);
        let known = kinds.filter_map(|kind| Some((kind.kind, kind.resource_version?)));
        let status = self.status();
        let faults: Vec<_> = status.faults().map(str::to_owned).collect();
        Report {
            node: self.node.clone(),
            role: self.role.to_string(),
            version: status.version.clone(),
            ready: status.ready,
            generation,
            fault_count: faults.len(),
            faults: faults.into_iter().take(MESSAGES).map(shortened).collect(),
            resource_versions: if is_in_force {
                known.collect()
            } else {
                in_force
            },
        }
    }

    /// Whether a generation is in force in all that runs here.
    fn has_applied(&self, generation: u64) -> bool {
        let datapath = self.datapath.as_ref();
        let redirector = datapath
            .is_none_or(|(redirector, _)| redirector.progress().borrow().applied >= generation);
        let gateway = self.gateway.as_ref();
        redirector && gateway.is_none_or(|progress| progress.borrow().applied >= generation)
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > LENGTH {
        let end = text.floor_char_boundary(LENGTH);
        text.truncate(end);
        text.push('…');
    }
    text
}
