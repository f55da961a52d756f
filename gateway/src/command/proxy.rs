//! `fengda proxy URL`: a reverse proxy before one application, with neither a configuration file nor a data directory.

use std::net::SocketAddr;

use anyhow::Result;
use clap::Args;
use fengda::{config::Origin, server::Options};

use super::run;

/// Pass everything on to one application; no configuration file
#[derive(Args)]
#[command(after_help = "Examples:
  fengda proxy http://127.0.0.1:8000
  fengda proxy https://app.internal --listen 0.0.0.0:8080 --admin 127.0.0.1:9901

Signals: TERM and INT finish what is in flight and stop; a second one does not wait")]
pub(super) struct Proxy {
    /// Where the application is, as http://127.0.0.1:8000
    url: String,
    /// Where clients connect
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    listen: SocketAddr,
    /// Where operators connect: metrics, health, status. Nowhere if it is not given
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
}

impl Proxy {
    pub(super) fn run(&self) -> Result<()> {
        let admin = self.admin.map_or_else(|| "none".to_owned(), |address| address.to_string());
        // Text in JSON is text in YAML.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        run::serve(Options::of(Origin::Text(format!(
            "listen: {}
admin: {}
upstreams: {{ app: {{ protocol: http, endpoints: [{}] }} }}
routes: [{{ path: /, public: true, upstream: app }}]
",
            quoted(&self.listen.to_string()),
            quoted(&admin),
            quoted(&self.url),
        ))))
    }
}
