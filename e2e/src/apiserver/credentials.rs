//! Keys and certificates of one API server.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};

/// The authority, and the administrator's certificate.
pub(super) struct Credentials {
    authority: String,
    admin: (String, String),
}

// === impl Credentials ===

impl Credentials {
    /// Makes them; what the server reads is put into the folder.
    pub(super) fn create(folder: &Path) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        authority
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        let certificate = authority.self_signed(&key).unwrap();
        let issuer = Issuer::new(authority, key);

        let mut server = CertificateParams::default();
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.subject_alt_names = vec![
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            SanType::DnsName("localhost".try_into().unwrap()),
        ];
        let server = signed(server, &issuer);
        let mut admin = CertificateParams::default();
        admin.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        // In this group, RBAC allows everything.
        admin
            .distinguished_name
            .push(DnType::OrganizationName, "system:masters");
        admin.distinguished_name.push(DnType::CommonName, "admin");
        let admin = signed(admin, &issuer);

        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        write("ca.crt", &certificate.pem());
        write("server.crt", &server.0);
        write("server.key", &server.1);
        let accounts = KeyPair::generate().unwrap();
        write("accounts.key", &accounts.serialize_pem());
        write("accounts.pub", &accounts.public_key_pem());
        Credentials {
            authority: certificate.pem(),
            admin,
        }
    }

    /// The administrator, as a kubeconfig's user.
    pub(super) fn admin(&self) -> Value {
        json!({
            "client-certificate-data": base64(&self.admin.0),
            "client-key-data": base64(&self.admin.1),
        })
    }

    pub(super) fn kubeconfig(&self, server: SocketAddr, user: Value) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{server}"),
                "certificate-authority-data": base64(&self.authority),
            }}],
            "users": [{"name": "test", "user": user}],
        })
    }

    /// JSON is YAML.
    pub(super) fn write_kubeconfig(&self, path: &Path, server: SocketAddr, user: Value) {
        fs::write(path, self.kubeconfig(server, user).to_string()).unwrap();
    }
}

fn signed(params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn base64(text: &str) -> String {
    k8s_openapi::serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec()))
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}
