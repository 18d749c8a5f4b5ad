//! A node's live rules: kube-proxy's Services without the API server.
//!
//! | part | what it does |
//! |---|---|
//! | [`save`] | which `iptables-save` has kube-proxy's rules, and what it prints |
//! | [`reader`] | texts → Services; the last good ones stay where rules make no sense |
//! | [`events`] | nf_tables tells of changes |
//! | [`follow`] | the rules as a source: a thread that reads again when something has changed |
//!
//! nf_tables says when a table changes. The older x_tables say nothing, so their rules are read over and
//! over; how often goes by how long it takes.

mod events;
mod follow;
mod reader;
mod save;
#[cfg(test)]
mod tests;

pub use follow::KubeProxyRules;

use crate::error::SourceError;

/// What the programs that have kube-proxy's rules print now, each with its name.
///
/// # Errors
/// Fails if there are no such rules, or nothing can read them.
pub fn dumps() -> Result<Vec<(&'static str, String)>, SourceError> {
    let choice = save::choose()?;
    let reading = save::read(&choice).map_err(|told| SourceError::Save { told })?;
    let texts = reading.texts.into_iter();
    Ok(texts
        .map(|saved| (saved.program.name, saved.text))
        .collect())
}
