//! WorkloadEntries (`validateWorkloadEntry` of istio's pkg/config/validation).

use nodegate_values::port::port;

use super::Findings;
use crate::istio::Workload;

pub(super) fn check(workload: &Workload, findings: &mut Findings<'_>) {
    let spec = &workload.spec;
    // Whether a name will do is known to whoever selects it.
    if !spec.is_somewhere(true) {
        let message = match spec.address.as_str() {
            "" => "missing".to_owned(),
            address if address.starts_with("unix://") => {
                format!("`{address}`: sockets of files are not supported by this version")
            }
            address => format!("`{address}` is not an address"),
        };
        findings.error("spec.address", message, "an IP address or a name");
    }
    for (name, number) in &spec.ports {
        if let Err(error) = port(*number) {
            let path = format!("spec.ports.{name}");
            findings.error(path, error.to_string(), "1 to 65535");
        }
    }
    findings.ignored("spec.network", spec.network.is_some());
}
