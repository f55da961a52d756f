//! What a reload cannot change: what was opened or started once.

use fengda_plugins::api::Tenant;

use super::{Config, Diagnostic, Diagnostics, path::Path};

impl Config {
    /// Whether a running gateway can go from `running` to this.
    ///
    /// # Errors
    /// Every key that takes a restart and differs.
    pub fn check_reload(&self, running: &Self) -> Result<(), Diagnostics> {
        let changed = [
            ("listen", self.listen != running.listen),
            ("admin", self.admin != running.admin),
            ("data", self.data != running.data),
            ("threads", self.threads != running.threads),
            ("store", !self.store.goes_on_from(&running.store)),
        ];
        let mut problems: Vec<_> = changed.iter().filter(|(_, changed)| *changed).map(|(key, _)| self.needs_restart(key)).collect();
        if self.keeps_conversations() && !running.keeps_conversations() {
            let hint = "restart the gateway to give it a store".to_owned();
            let mark = self.source.marks.place(&Path::parse("routes"));
            let message = "a route with `context`, and the running gateway was started without one and has no store".to_owned();
            problems.push(self.source.diagnostic(mark, message, Some(hint)));
        }
        if problems.is_empty() { Ok(()) } else { Err(Diagnostics::new(problems, self.files.clone())) }
    }

    /// A problem with something of a tenant that shows only when it is used, such as its log.
    pub fn locate_tenant(&self, tenant: &Tenant, message: String) -> Diagnostic {
        let mark = self.source.marks.place(&Path::parse("tenants").at(tenant.name()));
        self.source.diagnostic(mark, message, None)
    }

    fn needs_restart(&self, key: &str) -> Diagnostic {
        let mark = self.source.marks.place(&Path::parse(key));
        let hint = "restart the gateway to change it, or take the change back and reload the rest";
        self.source.diagnostic(mark, format!("`{key}` differs from the running gateway's"), Some(hint.to_owned()))
    }
}
