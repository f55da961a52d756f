//! Servers that do not let everybody in.

use std::path::Path;

use redis::{Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult, TlsCertificates};
use tokio_rustls::rustls::crypto::aws_lc_rs;

use super::pki;
use crate::redis::Login;

/// The password of everybody but the gateway.
const PASSWORD: &str = "of-the-tests";

/// What a server asks of those who come, other servers and the test among them. Nothing by default.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// It speaks TLS and nothing else, shows a certificate for `localhost` and 127.0.0.1 that [`pki`]`("ca.pem")` signed, and asks for
    /// one of that authority.
    pub tls: bool,
    /// A login. This is the gateway's user and its rights, as `ACL SETUSER` takes them; others have users of their own.
    pub user: Option<String>,
}

impl Guard {
    /// As `docs/redis.md` has them: that of servers, and that of sentinels.
    pub fn documented(tls: bool) -> [Self; 2] {
        let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/redis.md")).unwrap();
        let users: Vec<_> = document.lines().filter_map(|line| line.strip_prefix("ACL SETUSER ")).collect();
        let users: [&str; 2] = users.try_into().expect("a line for servers and one for sentinels");
        users.map(|user| Self { tls, user: Some(user.to_owned()) })
    }

    /// What the gateway says of itself.
    pub fn login(&self) -> Option<Login> {
        let words = self.user.as_deref()?.split(' ');
        let password = words.clone().find_map(|word| word.strip_prefix('>')).unwrap().to_owned();
        Some(Login { username: words.clone().next().map(Into::into), password: password.into() })
    }

    /// The lines of `redis.conf` for a server or a sentinel that listens on this port.
    pub(super) fn lines(&self, port: u16) -> Vec<String> {
        let mut lines = Vec::new();
        if self.tls {
            let path = |name| pki(name).display().to_string();
            lines.extend([
                format!("port 0\ntls-port {port}\ntls-replication yes\ntls-cluster yes"),
                format!("tls-cert-file {}\ntls-key-file {}", path("first.pem"), path("first-key.pem")),
                format!("tls-ca-cert-file {}", path("ca.pem")),
            ]);
        } else {
            lines.push(format!("port {port}"));
        }
        if let Some(user) = &self.user {
            lines.push(format!("user default off\nuser {user}\nuser tests on >{PASSWORD} ~* &* +@all"));
        }
        lines
    }

    /// Those of a server only: who its replicas and sentinels are, with the rights that Redis' documentation gives them
    /// (<https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/#acl-rules-for-sentinel-and-replicas>).
    pub(super) fn lines_of_server(&self) -> Option<String> {
        self.user.as_ref()?;
        let sentinel =
            "&* +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname +client|kill +script|kill";
        Some(format!(
            "user replica on >{PASSWORD} +psync +replconf +ping\nmasteruser replica\nmasterauth {PASSWORD}\nuser sentinel on >{PASSWORD} {sentinel}"
        ))
    }

    /// Those of a sentinel only: who it is to the other sentinels, which ask for the same as it does, and to `servers`.
    pub(super) fn lines_of_sentinel(&self, master: &str, servers: &Self) -> Vec<String> {
        let to_sentinels = self.user.as_ref().map(|_| format!("sentinel sentinel-user tests\nsentinel sentinel-pass {PASSWORD}"));
        let auth = || format!("sentinel auth-user {master} sentinel\nsentinel auth-pass {master} {PASSWORD}");
        to_sentinels.into_iter().chain(servers.user.as_ref().map(|_| auth())).collect()
    }

    /// What a node has to know to move a key to another one.
    pub(super) fn words_of_migrate(&self) -> &'static [&'static str] {
        if self.user.is_some() { &["AUTH2", "tests", PASSWORD] } else { &[] }
    }

    /// The way in for a test, who may do everything.
    pub(super) fn client(&self, port: u16) -> RedisResult<Client> {
        let mut login = RedisConnectionInfo::default();
        if self.user.is_some() {
            login = login.set_username("tests").set_password(PASSWORD);
        }
        let host = "127.0.0.1".to_owned();
        if !self.tls {
            return Client::open(ConnectionAddr::Tcp(host, port).into_connection_info()?.set_redis_settings(login));
        }
        let _ = aws_lc_rs::default_provider().install_default(); // whoever did so before took the same
        let address = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
        let pem = |name| std::fs::read(pki(name)).unwrap();
        let client_tls = Some(ClientTlsConfig { client_cert: pem("first.pem"), client_key: pem("first-key.pem") });
        let certificates = TlsCertificates { client_tls, root_cert: Some(pem("ca.pem")) };
        Client::build_with_tls(address.into_connection_info()?.set_redis_settings(login), certificates)
    }
}
