//! The webhook's certificate: made and renewed by the controller that leads, kept in a Secret that all of them
//! read, and put into the configuration by which the API server knows whom to trust.
//!
//! It signs itself. Where it is renewed, the API server trusts the new one, and still the old one, before any
//! controller uses the new one.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::ValidatingWebhookConfiguration as Configuration,
        core::v1::Secret,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use nodegate_source::kubernetes::trouble::Trouble;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{sync::watch, time};
use tracing::{info, warn};

/// The Secret, in the controller's namespace.
pub const SECRET: &str = "nodegate-controller-certificate";

/// The ValidatingWebhookConfiguration.
pub const CONFIGURATION: &str = "nodegate";

/// The Service by which the API server reaches the webhook, in the controller's namespace.
pub const SERVICE: &str = "nodegate-controller";

/// For how long a certificate is good.
const LIFE: Duration = Duration::from_secs(90 * DAY);
/// When it is renewed: in time for somebody to see that it is not.
const RENEWAL: Duration = Duration::from_secs(60 * DAY);
const DAY: u64 = 24 * 3600;
/// By how much the API server's clock may be behind ours.
const SKEW: Duration = Duration::from_hours(1);

/// On the Secret: when the certificate is to be renewed (RFC 3339).
const RENEW_AFTER: &str = "nodegate.io/renew-after";

/// How often is looked whether something is to be done, with a certificate and without.
const PERIOD: Duration = Duration::from_secs(30);
const EAGER: Duration = Duration::from_secs(2);

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
struct Certificate {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Why there is no certificate to be had.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    #[error("{}", told(.what, .rule, .error))]
    Api {
        /// What was asked for.
        what: &'static str,
        /// The rule that its role must have.
        rule: &'static str,
        error: kube::Error,
    },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("the Secret {SECRET} has no usable certificate: {0}")]
    Unusable(String),
}

/// Who looks after the certificate.
pub(crate) struct Keeper {
    secrets: Api<Secret>,
    configurations: Api<Configuration>,
    /// The names by which the API server calls the Service.
    names: Vec<String>,
}

// === impl Keeper ===

impl Keeper {
    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configurations: Api::all(client.clone()),
            names: vec![format!("{SERVICE}.{namespace}.svc")],
        }
    }

    /// Keeps `tls` as the Secret has it, and the Secret as it should be where this process leads, for as long
    /// as somebody wants to know.
    pub(crate) async fn run(
        self,
        mut leads: watch::Receiver<bool>,
        tls: watch::Sender<Option<Arc<ServerConfig>>>,
    ) {
        let mut used = None;
        let mut told = String::new();
        loop {
            let leading = *leads.borrow_and_update();
            match self.round(leading, &mut used, &tls).await {
                Ok(()) => told.clear(),
                Err(error) => {
                    let text = error.to_string();
                    if text != told {
                        warn!("objects are not checked at admission: {text}");
                        told = text;
                    }
                }
            }
            let pause = if used.is_some() { PERIOD } else { EAGER };
            tokio::select! {
                () = tls.closed() => return,
                () = time::sleep(pause) => {}
                changed = leads.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn round(
        &self,
        leading: bool,
        used: &mut Option<Certificate>,
        tls: &watch::Sender<Option<Arc<ServerConfig>>>,
    ) -> Result<(), CertificateError> {
        let secret = self.secret().await?;
        let mut current = secret.as_ref().and_then(Certificate::of);
        if leading {
            current = Some(self.keep(secret, current).await?);
        }
        if current.is_some() && *used != current {
            let config = current.as_ref().map(Certificate::server).transpose()?;
            tls.send_replace(config.map(Arc::new));
            *used = current;
        }
        Ok(())
    }

    /// Renews the certificate if that is due, and sees that the API server trusts it.
    async fn keep(
        &self,
        secret: Option<Secret>,
        current: Option<Certificate>,
    ) -> Result<Certificate, CertificateError> {
        let due = secret.as_ref().is_none_or(is_due);
        let usable = current.as_ref().filter(|current| current.server().is_ok());
        if let Some(usable) = usable.filter(|_| !due) {
            self.trust(&usable.certificate, &[]).await?;
            return Ok(usable.clone());
        }
        let new = Certificate::make(&self.names)?;
        let old = current.map(|old| old.certificate).unwrap_or_default();
        self.trust(&new.certificate, &old).await?;
        self.write(secret, &new).await?;
        info!(
            "the webhook has a new certificate, for {} days",
            LIFE.as_secs() / DAY
        );
        Ok(new)
    }

    /// Sees that the API server trusts a certificate, and this other one for as long as somebody may use it.
    async fn trust(&self, certificate: &[u8], other: &[u8]) -> Result<(), CertificateError> {
        let failed = |error| CertificateError::Api {
            what: "ValidatingWebhookConfiguration nodegate",
            rule: "apiGroups: [admissionregistration.k8s.io], resources: [validatingwebhookconfigurations], \
                    resourceNames: [nodegate], verbs: [get, update]",
            error,
        };
        let configuration = self.configurations.get_opt(CONFIGURATION).await;
        let Some(mut configuration) = configuration.map_err(failed)? else {
            // Nobody wants objects to be checked.
            return Ok(());
        };
        let bundle = [certificate, other].concat();
        let mut changed = false;
        for webhook in configuration.webhooks.iter_mut().flatten() {
            let trusted = webhook.client_config.ca_bundle.get_or_insert_default();
            if !contains(&trusted.0, certificate) {
                trusted.0.clone_from(&bundle);
                changed = true;
            }
        }
        if !changed {
            return Ok(());
        }
        let parameters = PostParams::default();
        let replaced = self
            .configurations
            .replace(CONFIGURATION, &parameters, &configuration);
        replaced.await.map(drop).map_err(failed)
    }

    async fn secret(&self) -> Result<Option<Secret>, CertificateError> {
        let secret = self.secrets.get_opt(SECRET).await;
        secret.map_err(|error| of_secret(OWN_SECRET, error))
    }

    async fn write(
        &self,
        secret: Option<Secret>,
        certificate: &Certificate,
    ) -> Result<(), CertificateError> {
        let parameters = PostParams::default();
        let is_new = secret.is_none();
        // With the version that was read: of two that write, one does.
        let secret = certificate.secret(secret.unwrap_or_default());
        if is_new {
            let created = self.secrets.create(&parameters, &secret).await;
            created.map_err(|error| of_secret(NEW_SECRET, error))?;
        } else {
            let replaced = self.secrets.replace(SECRET, &parameters, &secret).await;
            replaced.map_err(|error| of_secret(OWN_SECRET, error))?;
        }
        Ok(())
    }
}

/// The rules that the Secret needs: none can name an object that is yet to be created.
const NEW_SECRET: &str = "apiGroups: [\"\"], resources: [secrets], verbs: [create]";
const OWN_SECRET: &str = "apiGroups: [\"\"], resources: [secrets], resourceNames: \
                          [nodegate-controller-certificate], verbs: [get, update]";

fn of_secret(rule: &'static str, error: kube::Error) -> CertificateError {
    CertificateError::Api {
        what: "Secret nodegate-controller-certificate",
        rule,
        error,
    }
}

// === impl Certificate ===

impl Certificate {
    fn make(names: &[String]) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(names)?;
        let now = SystemTime::now();
        parameters.not_before = (now - SKEW).into();
        parameters.not_after = (now + LIFE).into();
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, SERVICE);
        let certificate = parameters.self_signed(&key)?;
        Ok(Self {
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        })
    }

    /// None where the Secret lacks one of both.
    fn of(secret: &Secret) -> Option<Self> {
        let data = secret.data.as_ref()?;
        Some(Self {
            certificate: data.get("tls.crt")?.0.clone(),
            key: data.get("tls.key")?.0.clone(),
        })
    }

    /// The Secret, with this in it.
    fn secret(&self, secret: Secret) -> Secret {
        let renewal = Timestamp::try_from(SystemTime::now() + RENEWAL).unwrap_or(Timestamp::MAX);
        let mut annotations = secret.metadata.annotations.unwrap_or_default();
        annotations.insert(RENEW_AFTER.to_owned(), renewal.to_string());
        let entry = |name: &str, bytes: &[u8]| (name.to_owned(), ByteString(bytes.to_vec()));
        Secret {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                annotations: Some(annotations),
                ..secret.metadata
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(BTreeMap::from([
                entry("tls.crt", &self.certificate),
                entry("tls.key", &self.key),
            ])),
            ..Secret::default()
        }
    }

    fn server(&self) -> Result<ServerConfig, CertificateError> {
        let unusable =
            |error: &dyn std::fmt::Display| CertificateError::Unusable(error.to_string());
        let chain = CertificateDer::pem_slice_iter(&self.certificate);
        let chain = chain
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| unusable(&error))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(&error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&error))?;
        Ok(config)
    }
}

/// Whether the Secret's certificate is to be renewed, or does not say when.
fn is_due(secret: &Secret) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    let after = annotations.and_then(|annotations| annotations.get(RENEW_AFTER));
    let after = after.and_then(|text| text.parse::<Timestamp>().ok());
    after.is_none_or(|after| after <= Timestamp::now())
}

fn contains(bundle: &[u8], certificate: &[u8]) -> bool {
    bundle
        .windows(certificate.len().max(1))
        .any(|part| part == certificate)
}

fn told(what: &str, rule: &str, error: &kube::Error) -> String {
    let trouble = Trouble::of_client(error);
    let fix = match trouble {
        Trouble::Forbidden(_) => format!(" (fix: add the rule {{{rule}}} to its role)"),
        _ => String::new(),
    };
    format!("{what}: {}{fix}", trouble.told())
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    const NAME: &str = "nodegate-controller.nodegate-system.svc";

    fn client(trusted: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(trusted) {
            roots.add(certificate.unwrap()).unwrap();
        }
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    fn handshake(
        client: ClientConfig,
        server: ServerConfig,
        name: &'static str,
    ) -> Result<(), rustls::Error> {
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        for _ in 0..10 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &bytes[..]).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            server.write_tls(&mut bytes).unwrap();
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets()?;
            if !client.is_handshaking() && !server.is_handshaking() {
                return Ok(());
            }
        }
        panic!("the handshake does not end")
    }

    #[test]
    fn who_trusts_it_connects_by_the_services_name_alone() {
        let own = Certificate::make(&[NAME.to_owned()]).unwrap();
        let other = Certificate::make(&[NAME.to_owned()]).unwrap();
        let both = [&*other.certificate, &own.certificate].concat();
        let server = || own.server().unwrap();
        handshake(client(&own.certificate), server(), NAME).unwrap();
        handshake(client(&both), server(), NAME).unwrap();
        handshake(client(&other.certificate), server(), NAME).unwrap_err();
        handshake(client(&own.certificate), server(), "another.example").unwrap_err();
    }

    #[test]
    fn a_secret_holds_it_until_it_is_due() {
        let made = Certificate::make(&[NAME.to_owned()]).unwrap();
        let secret = made.secret(Secret::default());
        assert!(Certificate::of(&secret).unwrap() == made);
        assert!(!is_due(&secret));
        let with = |text: &str| {
            let annotations = BTreeMap::from([(RENEW_AFTER.to_owned(), text.to_owned())]);
            let mut secret = secret.clone();
            secret.metadata.annotations = Some(annotations);
            secret
        };
        assert!(is_due(&with("2026-01-01T00:00:00Z")));
        assert!(is_due(&with("soon")));
        assert!(is_due(&Secret::default()));
    }

    #[test]
    fn a_key_of_another_certificate_is_unusable() {
        let (one, other) = (
            Certificate::make(&[NAME.to_owned()]).unwrap(),
            Certificate::make(&[NAME.to_owned()]).unwrap(),
        );
        let mixed = Certificate {
            key: other.key,
            ..one
        };
        let error = mixed.server().unwrap_err().to_string();
        assert!(error.contains(SECRET), "{error}");
    }

    #[test]
    fn a_bundle_has_a_certificate_or_has_it_not() {
        assert!(contains(b"old new", b"new"));
        assert!(!contains(b"old", b"new"));
        assert!(!contains(b"", b"new"));
    }
}
