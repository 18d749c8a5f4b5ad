//! `nodegate crds`

use std::process::ExitCode;

use clap::Args;
use nodegate_resources::definition;

/// Print the custom resource definitions of Istio's kinds, for clusters without Istio.
///
/// Gateways, VirtualServices, DestinationRules, ServiceEntries and
/// WorkloadEntries, with Istio's short names and columns, and with the fields
/// that this version reads.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nodegate crds | kubectl apply -f -
  kubectl get gw,vs,dr,se -A

Where Istio is installed, its own definitions are there already: leave them.

Exit status: 0 always.")]
pub struct Crds {}

impl Crds {
    /// Prints them.
    pub fn run(self) -> ExitCode {
        print!("{}", definition::all());
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use nodegate_resources::definition;

    /// When it fails: `nodegate crds > deploy/crds/istio.yaml`.
    #[test]
    fn the_definitions_of_deploy_are_those_of_this_version() {
        let file = include_str!("../../../../deploy/crds/istio.yaml");
        assert_eq!(file, definition::all());
    }
}
