//! TLS settings → how to speak to the endpoints.

use nodegate_model::gateway::{TlsCredentials, TlsMode, TlsSecret, UpstreamTls};
use nodegate_resources::{
    Resources,
    istio::{
        Tls, TrafficPolicy, secret_names,
        words::{self, Word as _},
    },
};
use nodegate_values::diagnostic::{Diagnostic, Severity};

use crate::secret;

/// Settings whose Secret lacks something, and what.
pub(super) type Lacking<'r> = (&'r Tls, &'static str);

/// What the settings are for.
pub(super) struct TlsSubject<'a> {
    pub(super) resources: &'a Resources,
    /// The gateway's, in which Secrets are looked for.
    pub(super) namespace: &'a str,
    /// Name of the cluster.
    pub(super) cluster: &'a str,
    /// What a ServiceEntry says about the endpoints' certificates.
    pub(super) entry_names: &'a [String],
}

/// None: in the clear.
// Istio: buildUpstreamClusterTLSContext, constructUpstreamTLS and setAutoSniAndAutoSanValidation of
// pilot/pkg/networking/core/cluster_tls.go.
pub(super) fn of(tls: &Tls, subject: &TlsSubject<'_>) -> Option<UpstreamTls> {
    let mode = match words::TlsMode::read(&tls.mode) {
        Ok(words::TlsMode::Simple) => TlsMode::Simple,
        Ok(words::TlsMode::Mutual) => TlsMode::Mutual,
        Ok(words::TlsMode::IstioMutual) => TlsMode::IstioMutual,
        // Validation has refused what is none of the words.
        Ok(words::TlsMode::Disable) | Err(_) => return None,
    };
    let insecure = tls.insecure_skip_verify.unwrap_or_default();
    let sni = some(&tls.sni);
    if mode == TlsMode::IstioMutual {
        return Some(UpstreamTls {
            mode,
            sni: sni.or_else(|| Some(subject.mesh_sni())),
            verify_host: false,
            subject_alt_names: tls.subject_alt_names.clone(),
            credentials: TlsCredentials::of_workload(),
            insecure_skip_verify: false,
        });
    }
    let names = if tls.subject_alt_names.is_empty() {
        subject.entry_names
    } else {
        &tls.subject_alt_names
    };
    Some(UpstreamTls {
        mode,
        verify_host: sni.is_none() && tls.subject_alt_names.is_empty() && !insecure,
        sni,
        subject_alt_names: names.to_vec(),
        credentials: credentials(tls, mode, subject),
        insecure_skip_verify: insecure,
    })
}

/// Says of DestinationRules that their Secrets are not as they should be in the gateway's namespace.
pub(super) fn report(
    lacking: &[Lacking<'_>],
    resources: &Resources,
    namespace: &str,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (object, rule) in resources.destination_rules() {
        let mut policies = Vec::new();
        let whole = rule.spec.traffic_policy.iter();
        policies.extend(whole.map(|policy| ("spec.trafficPolicy".to_owned(), policy)));
        for (index, subset) in rule.spec.subsets.iter().enumerate() {
            let of_subset = subset.traffic_policy.iter();
            policies.extend(
                of_subset.map(|policy| (format!("spec.subsets[{index}].trafficPolicy"), policy)),
            );
        }
        for (path, tls) in policies.iter().flat_map(|(path, policy)| all(policy, path)) {
            let it = lacking.iter().find(|(given, _)| std::ptr::eq(*given, tls));
            let Some((_, lack)) = it else {
                continue;
            };
            let [name, _] = secret_names(&tls.credential_name);
            let message = format!(
                "Secret {namespace}/{name} {lack}: there will be no connections to {}",
                rule.spec.host
            );
            let fix = format!(
                "kubectl create secret generic {name} -n {namespace} {}",
                keys(tls)
            );
            let path = format!("{path}.credentialName");
            diagnostics.push(object.report(Severity::Warning, path, message, fix));
        }
    }
}

/// All TLS settings of a policy, and where they are.
fn all<'p>(policy: &'p TrafficPolicy, path: &str) -> Vec<(String, &'p Tls)> {
    let whole = policy.tls.iter().map(|tls| (format!("{path}.tls"), tls));
    let ports = policy.port_level_settings.iter().enumerate();
    let ports = ports.filter_map(|(index, settings)| {
        let path = format!("{path}.portLevelSettings[{index}].tls");
        Some((path, settings.tls.as_ref()?))
    });
    whole.chain(ports).collect()
}

/// What the Secret should hold, as options of kubectl.
fn keys(tls: &Tls) -> &'static str {
    if tls.mode == "MUTUAL" {
        "--from-file=tls.crt --from-file=tls.key --from-file=ca.crt"
    } else {
        "--from-file=ca.crt"
    }
}

fn credentials(tls: &Tls, mode: TlsMode, subject: &TlsSubject<'_>) -> TlsCredentials {
    if let Some(name) = some(&tls.credential_name) {
        let content = content(subject, &name, mode);
        return TlsCredentials::Secret { name, content };
    }
    TlsCredentials::Files {
        // Validation has seen to it that both are given.
        identity: (mode == TlsMode::Mutual).then(|| {
            (
                tls.client_certificate.as_str().into(),
                tls.private_key.as_str().into(),
            )
        }),
        authorities: some(&tls.ca_certificates).map(Into::into),
    }
}

/// What the Secret `name` holds, and the one beside it that may hold the authorities.
// Istio: `extractCertInfo` and `GetCaCert` of pilot/pkg/credentials/kube.
fn content(subject: &TlsSubject<'_>, name: &str, mode: TlsMode) -> Option<TlsSecret> {
    let [name, beside] = secret_names(name);
    let find = |name: &str| subject.resources.secret(subject.namespace, name);
    let found = find(&name)?;
    let beside = find(&beside);
    Some(TlsSecret {
        identity: (mode == TlsMode::Mutual)
            .then(|| secret::identity(found))
            .flatten(),
        authorities: secret::authorities(found).or_else(|| secret::authorities(beside?)),
    })
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

// === impl TlsSubject ===

impl TlsSubject<'_> {
    /// The name that gateways and sidecars of a mesh go by (`BuildDNSSrvSubsetKey` of istio's
    /// pilot/pkg/model).
    fn mesh_sni(&self) -> String {
        self.cluster
            .replacen("outbound|", "outbound_.", 1)
            .replace('|', "_.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(mode: &str) -> Tls {
        Tls {
            mode: mode.into(),
            ..Tls::default()
        }
    }

    fn compiled(tls: &Tls, entry_names: &[String]) -> Option<UpstreamTls> {
        let subject = TlsSubject {
            resources: &Resources::default(),
            namespace: "istio-system",
            cluster: "outbound|443|v1|web.example",
            entry_names,
        };
        of(tls, &subject)
    }

    #[test]
    fn the_host_is_verified_only_where_nothing_else_is_said() {
        assert_eq!(compiled(&tls("DISABLE"), &[]), None);
        assert!(compiled(&tls("SIMPLE"), &[]).unwrap().verify_host);
        for given in [
            Tls {
                sni: "a.example".into(),
                ..tls("SIMPLE")
            },
            Tls {
                subject_alt_names: vec!["a.example".into()],
                ..tls("SIMPLE")
            },
            Tls {
                insecure_skip_verify: Some(true),
                ..tls("SIMPLE")
            },
        ] {
            assert!(!compiled(&given, &[]).unwrap().verify_host, "{given:?}");
        }
    }

    #[test]
    fn names_of_the_entry_count_where_the_rule_has_none() {
        let entry = ["entry.example".to_owned()];
        assert_eq!(
            compiled(&tls("SIMPLE"), &entry).unwrap().subject_alt_names,
            entry
        );
        let own = Tls {
            subject_alt_names: vec!["own.example".into()],
            ..tls("SIMPLE")
        };
        assert_eq!(
            compiled(&own, &entry).unwrap().subject_alt_names,
            ["own.example"]
        );
    }

    #[test]
    fn the_mesh_s_own_name() {
        let found = compiled(&tls("ISTIO_MUTUAL"), &[]).unwrap();
        assert_eq!(found.sni.as_deref(), Some("outbound_.443_.v1_.web.example"));
        assert_eq!(found.credentials, TlsCredentials::of_workload());
    }
}
