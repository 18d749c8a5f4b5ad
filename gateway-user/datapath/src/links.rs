//! The names of the links' pins.

use std::path::Path;

/// Pins of links begin with this, pins of maps don't.
pub(crate) const LINK: &str = "link_";
/// Pins that are to replace others end with this.
pub(crate) const FRESH: &str = "_new";

/// Whether a pin is a link's.
pub(crate) fn is_link(pin: &Path) -> bool {
    pin.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(LINK.as_bytes()))
}

/// Whether a pin is that of a link to a cgroup.
pub(crate) fn is_socket_link(pin: &Path) -> bool {
    is_link(pin)
        && pin
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains("_cgroup_"))
}

/// Whether a pin is that of a link whose program takes packets to backends.
pub(crate) fn is_forward_link(pin: &Path) -> bool {
    is_link(pin)
        && pin
            .file_name()
            .is_some_and(|name| name.to_string_lossy().contains("ingress_"))
}
