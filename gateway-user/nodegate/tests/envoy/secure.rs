//! Clients that speak TLS: both let the same ones in, show them the same certificates, and tell endpoints the
//! same of them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use libtest_mimic::Failed;
use rustls::{
    ClientConfig, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::{
    certificates::hash,
    client::{self, Answer},
    compare::compare,
    pair::{Answers, Pair},
    told,
};

/// What a client is like.
#[derive(Clone, Copy, Debug)]
struct Client {
    /// The name that it asks for; none: only an address.
    name: Option<&'static str>,
    /// The files with its certificate and key; none: it has none.
    certificate: Option<&'static str>,
    version: &'static SupportedProtocolVersion,
    protocols: &'static [&'static str],
}

/// What a client has learnt of the other side.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    protocol: Option<String>,
    version: Option<String>,
    /// The cipher, where the server leaves no choice: otherwise this proxy takes what the client likes best, and
    /// Envoy what it likes best itself.
    cipher: Option<String>,
    /// Its fingerprint.
    certificate: Option<String>,
}

const NAMES: [Option<&str>; 14] = [
    Some("simple.test"),
    Some("SIMPLE.test"),
    Some("a.wild.test"),
    Some("a.b.wild.test"),
    Some("wild.test"),
    Some("old.wild.test"),
    Some("mutual.test"),
    Some("optional.test"),
    Some("named.test"),
    Some("hashed.test"),
    Some("revoked.test"),
    Some("passed.test"),
    Some("other.test"),
    None,
];

/// The server with one cipher.
const NO_CHOICE: &str = "old.wild.test";

const CERTIFICATES: [Option<&str>; 6] = [
    None,
    Some("client"),
    Some("second"),
    Some("strange"),
    Some("expired"),
    Some("revoked"),
];

/// Every client at every server.
pub(crate) fn clients(pair: &Pair) -> Result<(), Failed> {
    let mut complaints = Vec::new();
    let mut served = 0;
    for name in NAMES {
        for certificate in CERTIFICATES {
            for version in [&TLS12, &TLS13] {
                let client = Client {
                    name,
                    certificate,
                    version,
                    protocols: &["http/1.1"],
                };
                let host = name.unwrap_or("simple.test");
                let (answers, found) = ask(pair, client, host, "/variables?a=1")?;
                served += usize::from(answers.envoy.status == 200);
                complaints.extend(found);
            }
        }
    }
    // Those that are let in show that it is not all refused.
    if served < 40 {
        complaints.push(format!("only {served} clients were served"));
    }
    finish(&complaints)
}

/// What is agreed upon for the protocol inside, also where there is nothing to agree upon.
pub(crate) fn protocols(pair: &Pair) -> Result<(), Failed> {
    let mut complaints = Vec::new();
    for protocols in [&[][..], &["http/1.1"], &["http/1.1", "h2"], &["spdy/3"]] {
        let client = Client {
            name: Some("simple.test"),
            certificate: None,
            version: &TLS13,
            protocols,
        };
        // Whatever is agreed upon, HTTP/1.1 is spoken; where it is HTTP/2, nothing.
        let path = if protocols.contains(&"h2") { "" } else { "/x" };
        complaints.extend(ask(pair, client, "simple.test", path)?.1);
    }
    finish(&complaints)
}

/// Schemes of headers, conditions and redirections.
pub(crate) fn schemes(pair: &Pair) -> Result<(), Failed> {
    let client = Client {
        name: Some("optional.test"),
        certificate: Some("client"),
        version: &TLS13,
        protocols: &[],
    };
    let mut complaints = Vec::new();
    for path in ["/redirect", "/x", "/variables"] {
        for host in ["optional.test", "optional.test:443", "optional.test:8443"] {
            complaints.extend(ask(pair, client, host, path)?.1);
        }
    }
    finish(&complaints)
}

/// A host of another server: Envoy finds no route, this proxy says that it wants a connection of its own.
pub(crate) fn misdirected(pair: &Pair) -> Result<(), Failed> {
    let client = Client {
        name: Some("simple.test"),
        certificate: None,
        version: &TLS13,
        protocols: &[],
    };
    let addresses = pair.all_addresses("https-port")?;
    for (host, expected) in [
        ("simple.test", [200, 200, 200]),
        ("optional.test", [404, 421, 404]),
        ("nowhere.test", [404, 404, 404]),
    ] {
        let mut found = Vec::new();
        for address in addresses {
            found.push(through(pair, client, address, host, "/x")?.0.status);
        }
        if found != expected {
            return Err(format!("{host}: {found:?}, and not {expected:?}").into());
        }
    }
    Ok(())
}

/// What is no TLS at all, and what is inside TLS and no HTTP.
pub(crate) fn others(pair: &Pair) -> Result<(), Failed> {
    for address in pair.addresses("https-port")? {
        let answer = client::ask(address, b"GET / HTTP/1.1\r\nHost: simple.test\r\n\r\n");
        // It ends without a word, with a reset or not.
        if answer.is_ok_and(|answer| answer.status != 0) {
            return Err(format!("{address} has answered plain text").into());
        }
    }
    let client = Client {
        name: Some("inside.test"),
        certificate: None,
        version: &TLS13,
        protocols: &[],
    };
    finish(&ask(pair, client, "echo.example", "/x")?.1)
}

fn finish(complaints: &[String]) -> Result<(), Failed> {
    if complaints.is_empty() {
        return Ok(());
    }
    Err(complaints.join("\n\n").into())
}

/// Asks both the same; an empty path: nothing.
fn ask(
    pair: &Pair,
    client: Client,
    host: &str,
    path: &str,
) -> Result<(Answers, Vec<String>), Failed> {
    let [envoy, nodegate] = pair.addresses("https-port")?;
    let (envoy, envoy_facts) = through(pair, client, envoy, host, path)?;
    let (nodegate, nodegate_facts) = through(pair, client, nodegate, host, path)?;
    let answers = Answers { envoy, nodegate };
    let mut found: Vec<_> = compare(&answers).iter().map(told).collect();
    if envoy_facts != nodegate_facts {
        found.push(format!("{envoy_facts:?}\n  {nodegate_facts:?}"));
    }
    let complaints = (!found.is_empty()).then(|| {
        let found = found.join("\n  ");
        format!("{client:?} asks {host} for {path:?}:\n  {found}")
    });
    Ok((answers, complaints.into_iter().collect()))
}

/// Asks one, through a listener that speaks TLS to it. Without an answer there are no facts: whether a handshake
/// that is refused fails in itself, or the first read after it, is TLS's version's business.
fn through(
    pair: &Pair,
    client: Client,
    to: SocketAddr,
    host: &str,
    path: &str,
) -> Result<(Answer, Facts), Failed> {
    let config = Arc::new(client.config(pair)?);
    let name = match client.name {
        Some(name) => ServerName::try_from(name).map_err(|error| error.to_string())?,
        None => ServerName::from(to.ip()),
    };
    let runtime = pair.runtime()?;
    let (address, facts) = runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let facts = runtime.spawn(tunnel(listener, to, config, name));
        Ok::<_, std::io::Error>((address, facts))
    })?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nx-forwarded-client-cert: Hash=1\r\nx-forwarded-proto: http\r\nConnection: close\r\n\r\n"
    );
    let answer = if path.is_empty() {
        // Long enough for a handshake, which is then the end.
        let waiting = std::net::TcpStream::connect(address)?;
        waiting.shutdown(std::net::Shutdown::Write)?;
        Answer::default()
    } else {
        client::ask(address, request.as_bytes()).unwrap_or_default()
    };
    let facts = runtime.block_on(facts).map_err(|error| error.to_string())?;
    let is_heard = answer.status != 0 || path.is_empty();
    Ok((answer, if is_heard { facts } else { Facts::default() }))
}

/// Passes one connection on in TLS.
async fn tunnel(
    listener: TcpListener,
    to: SocketAddr,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Facts {
    let no_choice = name.to_str() == NO_CHOICE;
    let connect = async {
        let (mut inner, _) = listener.accept().await?;
        let outer = TcpStream::connect(to).await?;
        let mut outer = TlsConnector::from(config).connect(name, outer).await?;
        let (_, session) = outer.get_ref();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let cipher = session.negotiated_cipher_suite().filter(|_| no_choice);
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let facts = Facts {
            protocol: session.alpn_protocol().map(text),
            version: session
                .protocol_version()
                .map(|version| format!("{version:?}")),
            cipher: cipher.map(|cipher| format!("{:?}", cipher.suite())),
            certificate: shown.map(|shown| hash(shown)),
        };
        // The facts are known whatever becomes of the rest.
        let copying = tokio::io::copy_bidirectional(&mut inner, &mut outer);
        let limit = patience::limit() + Duration::from_secs(1);
        let _ = tokio::time::timeout(limit, copying).await;
        Ok::<_, std::io::Error>(facts)
    };
    connect.await.unwrap_or_default()
}

impl Client {
    fn config(self, pair: &Pair) -> Result<ClientConfig, Failed> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[self.version])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Whoever(provider)));
        let directory = pair.places().certificates();
        let mut config = match self.certificate {
            None => builder.with_no_client_auth(),
            Some(file) => {
                let chain = CertificateDer::from_pem_file(directory.join(format!("{file}.pem")))?;
                let key = PrivateKeyDer::from_pem_file(directory.join(format!("{file}.key")))?;
                builder.with_client_auth_cert(vec![chain], key)?
            }
        };
        let protocols = self.protocols.iter().map(|name| name.as_bytes().to_vec());
        config.alpn_protocols = protocols.collect();
        Ok(config)
    }
}

/// Takes any certificate: which one is shown is compared.
#[derive(Debug)]
struct Whoever(Arc<CryptoProvider>);

impl ServerCertVerifier for Whoever {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
