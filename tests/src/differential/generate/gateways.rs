//! Gateways of a case's own, on the port that all have, and which of them its VirtualServices name.

use serde_json::{Value, json};

use super::{Make, object};
use crate::differential::{
    ground::{GATEWAY, PORT},
    names::PLACEHOLDER,
};

impl Make {
    /// A Gateway for a domain, which may not be for all of it.
    pub(super) fn own_gateway(&mut self, domain: &str) -> Value {
        let host = match self.0.u8(..8) {
            0 => format!("default/{domain}"),
            1 => format!("./{domain}"),
            2 => format!("*/{domain}"),
            // Which VirtualServices of this namespace may not use.
            3 => format!("other/{domain}"),
            4 => format!("*.{}", domain.trim_start_matches("*.")),
            _ => domain.to_owned(),
        };
        let mut server = json!({
            "port": {"number": PORT, "name": self.one(&["http", "http-own"]), "protocol": "HTTP"},
            "hosts": [host],
        });
        if self.chance(20) {
            server["tls"] = json!({"httpsRedirect": true});
        }
        let labels = match self.0.u8(..6) {
            // Which this gateway does not have.
            0 => json!({"istio": "elsewhere"}),
            1 => json!({"istio": "ingressgateway", "app": "istio-ingressgateway"}),
            _ => json!({"istio": "ingressgateway"}),
        };
        object(
            "Gateway",
            "web",
            &json!({"selector": labels, "servers": [server]}),
        )
    }

    /// The Gateways of a VirtualService.
    pub(super) fn gateways(&mut self, has_own: bool) -> Value {
        let own = format!("{PLACEHOLDER}-web");
        match self.0.u8(..6) {
            _ if !has_own => json!([GATEWAY]),
            0 => json!([GATEWAY, own]),
            1 => json!([format!("default/{own}")]),
            2 => json!(["mesh", own]),
            _ => json!([own]),
        }
    }
}
