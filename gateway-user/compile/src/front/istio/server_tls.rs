//! What a server says of TLS → how the gateway speaks it (`BuildListenerTLSContext` of istio's
//! pilot/pkg/networking/core/listener.go).

use nodegate_model::gateway::{
    ClientCertificates, ClientIdentities, DownstreamTls, ServerCertificate, TlsSource, TlsVersion,
};
use nodegate_resources::istio::{ServerTls, own_secret, secret_names, words};
use nodegate_values::diagnostic::Severity;

use super::{context::GatewayContext, server::GatewayServer};
use crate::secret;

/// The directory into which a mesh puts the gateway's own certificates
/// (`WorkloadIdentityCredentialsPath` of istio's pkg/security).
const WORKLOAD: &str = "/var/run/secrets/workload-spiffe-credentials";

/// What is said of a Secret that is not there, or in a namespace that is not read.
const NOT_THERE: &str = "is not in the gateway's namespace";

/// How TLS is spoken; none of what validation has told.
pub(super) fn compile(
    server: GatewayServer<'_>,
    mode: words::ServerTlsMode,
    context: &mut GatewayContext<'_>,
) -> Option<DownstreamTls> {
    use words::ServerTlsMode as Mode;
    let given = server.spec.tls.as_ref()?;
    let tls = DownstreamTls {
        certificates: certificates(given, mode, context),
        clients: match mode {
            Mode::Simple => ClientCertificates::Unasked,
            Mode::OptionalMutual => ClientCertificates::Optional(identities(given, mode, context)),
            Mode::Mutual | Mode::IstioMutual => {
                ClientCertificates::Required(identities(given, mode, context))
            }
            Mode::Passthrough | Mode::AutoPassthrough => return None,
        },
        oldest: version(given, 0),
        newest: version(given, 1),
        cipher_suites: given.cipher_suites.clone(),
        curves: given.ecdh_curves.clone(),
    };
    report(&tls, given, server, context);
    Some(tls)
}

fn version(given: &ServerTls, which: usize) -> TlsVersion {
    use words::TlsVersion as Word;
    match given.versions().map(|versions| versions[which]) {
        Ok(Word::V13) => TlsVersion::V13,
        Ok(Word::Auto) if which == 1 => TlsVersion::V13,
        Ok(Word::Auto | Word::V10 | Word::V11 | Word::V12) | Err(_) => TlsVersion::V12,
    }
}

/// Says that connections will be refused, since a Secret is not as it should be.
fn report(
    tls: &DownstreamTls,
    given: &ServerTls,
    server: GatewayServer<'_>,
    context: &mut GatewayContext<'_>,
) {
    let Some((name, reason)) = tls.lacks() else {
        return;
    };
    let namespace = &context.identity.namespace;
    let message = format!(
        "Secret {namespace}/{name} {reason}: connections to {} are closed",
        server.spec.hosts.join(", ")
    );
    let fix = if matches!(tls.clients, ClientCertificates::Unasked) {
        format!("kubectl create secret tls {name} -n {namespace} --cert=tls.crt --key=tls.key")
    } else {
        format!(
            "kubectl create secret generic {name} -n {namespace} --from-file=tls.crt --from-file=tls.key --from-file=ca.crt"
        )
    };
    let field = if given.credential_name.is_empty() {
        "credentialNames"
    } else {
        "credentialName"
    };
    let path = format!("spec.servers[{}].tls.{field}", server.index);
    let warning = server.gateway.report(Severity::Warning, path, message, fix);
    context.diagnostics.push(warning);
}

fn file(path: &str) -> TlsSource {
    TlsSource::File(path.into())
}

fn workload(name: &str) -> TlsSource {
    TlsSource::File([WORKLOAD, name].iter().collect())
}

fn certificates(
    given: &ServerTls,
    mode: words::ServerTlsMode,
    context: &GatewayContext<'_>,
) -> Vec<ServerCertificate> {
    if mode == words::ServerTlsMode::IstioMutual {
        return vec![ServerCertificate {
            chain: workload("cert-chain.pem"),
            key: workload("key.pem"),
            staple: None,
        }];
    }
    let in_secrets: Vec<_> = given
        .credentials()
        .map(|credential| certificate(credential, context))
        .collect();
    if !in_secrets.is_empty() {
        return in_secrets;
    }
    let pairs = given.certificate_files().into_iter();
    pairs
        .map(|(chain, key)| ServerCertificate {
            chain: file(chain),
            key: file(key),
            staple: None,
        })
        .collect()
}

/// The certificate and the key of a Secret (`ExtractCertInfo` of istio's pilot/pkg/credentials/kube).
fn certificate(credential: &str, context: &GatewayContext<'_>) -> ServerCertificate {
    let missing = |name: &str, reason| ServerCertificate {
        chain: missing(name, reason),
        key: missing(name, reason),
        staple: None,
    };
    let namespace = &context.identity.namespace;
    let Some(name) = own_secret(credential, namespace) else {
        return missing(credential, NOT_THERE);
    };
    let Some(found) = context.resources.secret(namespace, name) else {
        return missing(name, NOT_THERE);
    };
    let Some((chain, key)) = secret::identity(found) else {
        return missing(name, "has no tls.crt and tls.key");
    };
    let source = |content| TlsSource::Secret {
        name: name.to_owned(),
        content,
    };
    ServerCertificate {
        chain: source(chain),
        key: source(key),
        staple: secret::value(found, "tls.ocsp-staple"),
    }
}

fn missing(name: &str, reason: &'static str) -> TlsSource {
    TlsSource::Missing {
        name: name.to_owned(),
        reason,
    }
}

fn identities(
    given: &ServerTls,
    mode: words::ServerTlsMode,
    context: &GatewayContext<'_>,
) -> ClientIdentities {
    let (authorities, revocations) = if mode == words::ServerTlsMode::IstioMutual {
        (workload("root-cert.pem"), None)
    } else {
        authorities(given, context)
    };
    let hash = |hash: &String| hash.replace(':', "").to_ascii_lowercase();
    ClientIdentities {
        authorities,
        revocations,
        subject_alt_names: given.subject_alt_names.clone(),
        spki: given.verify_certificate_spki.clone(),
        hashes: given.verify_certificate_hash.iter().map(hash).collect(),
    }
}

/// Those who sign clients' certificates, and what they have taken back: in the Secret that is named for it, else
/// in that of the first certificate or the one beside it, else in files (`GetCaCert` of istio's
/// pilot/pkg/credentials/kube).
fn authorities(given: &ServerTls, context: &GatewayContext<'_>) -> (TlsSource, Option<TlsSource>) {
    let own = [given.ca_cert_credential_name.as_str()].into_iter();
    let own = own.filter(|name| !name.is_empty());
    let Some(credential) = own.chain(given.credentials()).next() else {
        let revocations = (!given.ca_crl.is_empty()).then(|| file(&given.ca_crl));
        return (file(&given.ca_certificates), revocations);
    };
    let namespace = &context.identity.namespace;
    let Some(name) = own_secret(credential, namespace) else {
        return (missing(credential, NOT_THERE), None);
    };
    let [name, beside] = secret_names(name);
    let candidates = [&name, &beside].map(|name| {
        let found = context.resources.secret(namespace, name)?;
        Some((name, found, secret::authorities(found)?))
    });
    let Some((name, found, content)) = candidates.into_iter().flatten().next() else {
        let reason = match context.resources.secret(namespace, &name) {
            Some(_) => "has no ca.crt",
            None => NOT_THERE,
        };
        return (missing(&name, reason), None);
    };
    let source = |content| TlsSource::Secret {
        name: name.clone(),
        content,
    };
    let revocations = secret::value(found, "ca.crl").or_else(|| secret::value(found, "crl"));
    (source(content), revocations.map(source))
}
