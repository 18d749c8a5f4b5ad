//! The `security.istio.io` API, as far as it says for whom a policy is. None of it is enforced.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Custom, Opaque};

/// Who may send which requests.
pub type AuthorizationPolicy = Custom<AuthorizationPolicySpec>;
/// Whose tokens are believed.
pub type RequestAuthentication = Custom<RequestAuthenticationSpec>;

/// `AuthorizationPolicy.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationPolicySpec {
    /// The pods; none: all.
    pub selector: Option<PolicySelector>,
    /// Gateways of the Gateway API, and waypoints.
    pub target_ref: Option<Opaque>,
    /// Several of those.
    pub target_refs: Option<Vec<Opaque>>,
    /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`.
    pub action: String,
    /// Which requests it is about.
    pub rules: Option<Vec<Opaque>>,
    /// Who decides, of `CUSTOM`.
    pub provider: Option<Opaque>,
}

/// `RequestAuthentication.spec`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RequestAuthenticationSpec {
    /// The pods; none: all.
    pub selector: Option<PolicySelector>,
    /// Gateways of the Gateway API, and waypoints.
    pub target_ref: Option<Opaque>,
    /// Several of those.
    pub target_refs: Option<Vec<Opaque>>,
    /// Issuers, and where the tokens are.
    pub jwt_rules: Option<Vec<Opaque>>,
}

/// `WorkloadSelector` of `istio.type.v1beta1`
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicySelector {
    /// Labels of the pods.
    pub match_labels: BTreeMap<String, String>,
}
