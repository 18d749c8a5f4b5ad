//! Who is who in a cluster: an authority, certificates, and kubeconfigs, made for one cluster.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use serde_json::json;

use super::plan::{CONTROL, CONTROL_V6, DOMAIN, Plan};

/// The user that may do everything.
pub(super) const ADMIN: &str = "admin";
/// What the API server is to clients.
pub(super) const SERVER: &str = "apiserver";
/// What it is to kubelets.
pub(super) const TO_KUBELETS: &str = "apiserver-kubelet-client";
/// What it is to API servers that extend it.
pub(super) const TO_EXTENSIONS: &str = "front-proxy-client";
/// Users of the API server that have a kubeconfig of their own, and the groups that Kubernetes' own
/// roles are bound to.
const USERS: [(&str, Option<&str>); 5] = [
    (ADMIN, Some(MASTERS)),
    (CONTROLLERS, None),
    (SCHEDULER, None),
    (PROXY, None),
    (DNS, None),
];
pub(super) const CONTROLLERS: &str = "system:kube-controller-manager";
pub(super) const SCHEDULER: &str = "system:kube-scheduler";
pub(super) const PROXY: &str = "system:kube-proxy";
pub(super) const DNS: &str = "system:coredns";
/// Istio's control plane, which is a server, too: the API server asks it what may be applied.
pub(super) const ISTIOD: &str = "istiod";
/// The group that is bound to `cluster-admin`.
const MASTERS: &str = "system:masters";
/// The key that tokens of service accounts are signed with, and its public half.
const TOKENS: &str = "service-accounts";

/// The directory with all of them.
#[derive(Clone, Debug)]
pub(super) struct Pki(PathBuf);

impl Pki {
    /// The one of a cluster whose state is in a directory.
    pub(super) fn of(state: &Path) -> Self {
        Self(state.join("pki"))
    }

    /// Makes all of them.
    pub(super) fn create(&self, plan: &Plan) -> anyhow::Result<()> {
        fs::create_dir_all(&self.0).with_context(|| format!("making {}", self.0.display()))?;
        let authority = authority()?;
        write(&self.authority(), &authority.pem())?;
        write(&self.authority_key(), &authority.key().serialize_pem())?;
        let tokens = KeyPair::generate()?;
        write(&self.token_key(), &tokens.serialize_pem())?;
        write(&self.token_public_key(), &tokens.public_key_pem())?;

        let issue = |name: &str, group: Option<&str>, names: Vec<String>| {
            self.issue(&authority, name, name, group, names)
        };
        issue(SERVER, None, server_names())?;
        issue(TO_KUBELETS, Some(MASTERS), Vec::new())?;
        issue(TO_EXTENSIONS, None, Vec::new())?;
        for (user, group) in USERS {
            issue(user, group, Vec::new())?;
            self.kubeconfig_of(user)?;
        }
        for node in plan.nodes() {
            let mut names = vec![node.name.clone()];
            names.extend(node.addresses().map(|address| address.to_string()));
            let user = format!("system:node:{}", node.name);
            // It is a server, too: for logs and exec.
            self.issue(&authority, &node.name, &user, Some("system:nodes"), names)?;
            self.kubeconfig_of(&node.name)?;
        }
        // What it may do is not what is tried here.
        issue(ISTIOD, Some(MASTERS), vec![CONTROL.to_string()])?;
        self.kubeconfig_of(ISTIOD)?;
        Ok(())
    }

    /// The authority's certificate.
    pub(super) fn authority(&self) -> PathBuf {
        self.0.join("ca.crt")
    }

    pub(super) fn authority_key(&self) -> PathBuf {
        self.0.join("ca.key")
    }

    pub(super) fn token_key(&self) -> PathBuf {
        self.0.join(format!("{TOKENS}.key"))
    }

    pub(super) fn token_public_key(&self) -> PathBuf {
        self.0.join(format!("{TOKENS}.pub"))
    }

    pub(super) fn certificate(&self, name: &str) -> PathBuf {
        self.file(name, "crt")
    }

    pub(super) fn key(&self, name: &str) -> PathBuf {
        self.file(name, "key")
    }

    pub(super) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.file(name, "conf")
    }

    fn file(&self, name: &str, kind: &str) -> PathBuf {
        // `system:kube-proxy` is a file's name that shells and scp read otherwise.
        let name = name.rsplit(':').next().unwrap_or(name);
        self.0.join(format!("{name}.{kind}"))
    }

    fn issue(
        &self,
        authority: &CertifiedIssuer<'static, KeyPair>,
        name: &str,
        user: &str,
        group: Option<&str>,
        names: Vec<String>,
    ) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params
                .distinguished_name
                .push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.signed_by(&key, authority)?;
        write(&self.certificate(name), &certificate.pem())?;
        write(&self.key(name), &key.serialize_pem())
    }

    /// A kubeconfig, in the JSON that is YAML.
    fn kubeconfig_of(&self, user: &str) -> anyhow::Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "cluster", "cluster": {
                "server": Plan::server(),
                "certificate-authority": self.authority(),
            }}],
            "users": [{"name": user, "user": {
                "client-certificate": self.certificate(user),
                "client-key": self.key(user),
            }}],
            "contexts": [{"name": "cluster", "context": {"cluster": "cluster", "user": user}}],
            "current-context": "cluster",
        });
        write(
            &self.kubeconfig(user),
            &serde_json::to_string_pretty(&config)?,
        )
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn authority() -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "cluster");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}

/// What clients may call the API server.
fn server_names() -> Vec<String> {
    let service = "kubernetes.default.svc";
    let mut names: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", service]
        .map(String::from)
        .into();
    names.push(format!("{service}.{DOMAIN}"));
    let addresses: [IpAddr; 4] = [
        CONTROL.into(),
        CONTROL_V6.into(),
        Plan::api_service().into(),
        Ipv4Addr::LOCALHOST.into(),
    ];
    names.extend(addresses.map(|address| address.to_string()));
    names
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn everybody_has_a_kubeconfig_with_files_that_are_there() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::of(directory.path());
        pki.create(&Plan::new(2, false).unwrap()).unwrap();
        let users = USERS.map(|(user, _)| user);
        for user in users.into_iter().chain(["node1", "node2", ISTIOD]) {
            let config = fs::read(pki.kubeconfig(user)).unwrap();
            let config: Value = serde_json::from_slice(&config).unwrap();
            let (cluster, user) = (
                &config["clusters"][0]["cluster"],
                &config["users"][0]["user"],
            );
            for file in [
                &cluster["certificate-authority"],
                &user["client-certificate"],
                &user["client-key"],
            ] {
                let text = fs::read_to_string(file.as_str().unwrap()).unwrap();
                assert!(text.starts_with("-----BEGIN "), "{file}");
            }
        }
    }
}
