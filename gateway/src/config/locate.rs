//! Gives what a plugin's builder complains about its place in the file.

use fengda_plugins::api::{BuildCtx, Clock, Meters, Problem, Registry, Scope};

use super::{
    ChainEntry, Config, Diagnostic,
    diagnostic::Report,
    path::{Path, Step},
    wording::reword,
};

impl Config {
    /// The places in the file of what the builder of a plugin of a chain found. What everybody has is said once.
    pub fn locate_all(&self, entry: &ChainEntry, problems: &[Problem]) -> impl Iterator<Item = Diagnostic> {
        self.find_all(entry, problems).map(|(_, diagnostic)| diagnostic)
    }

    fn find_all(&self, entry: &ChainEntry, problems: &[Problem]) -> impl Iterator<Item = (Path, Diagnostic)> {
        let everybodys = |p: &Problem| problems.iter().any(|o| o.scope == Scope::Plugin && (&o.path, &o.message) == (&p.path, &p.message));
        let own = move |p: &&Problem| !matches!(p.scope, Scope::Tenant(_)) || !everybodys(p);
        problems.iter().filter(own).map(move |p| self.find(entry, p))
    }

    /// Builds all plugins for nothing but what they find wrong.
    pub(super) fn try_plugins(&self, registry: &Registry, report: &mut Report) {
        let (clock, meters) = (Clock::system(), Meters::default());
        for entry in self.routes.iter().flat_map(|route| &route.chain) {
            let Some(spec) = registry.get(&entry.plugin) else { continue };
            let build = BuildCtx { config: &entry.config, tenants: &entry.tenants, clock: &clock, meters: &meters, previous: None };
            let problems = (spec.build)(&build).err().unwrap_or_default();
            for (path, diagnostic) in self.find_all(entry, &problems) {
                report.add_of_plugin(path, diagnostic);
            }
        }
    }

    /// The place in the file of one problem.
    ///
    /// Of the layers that make up a plugin's configuration (tenant, route, defaults) it is the most specific one that has the
    /// first key of the problem's path, since a key is overridden whole; in it, the deepest part of the path that is there.
    fn find(&self, entry: &ChainEntry, problem: &Problem) -> (Path, Diagnostic) {
        let marks = &self.source.marks;
        let (plugin, item) = (entry.plugin.as_str(), &entry.place);
        let tenant = |name: &str| Path::parse("tenants").at(name);
        let path = Path::parse(&problem.path);
        let (mut layers, hidden) = match &problem.scope {
            Scope::Keys(t) => (vec![tenant(t.name()).at("keys"), tenant(t.name())], !names_a_key(&path)),
            Scope::Tenant(t) => {
                (vec![tenant(t.name()).at("plugins").at(plugin), item.at(plugin), Path::parse("plugins").at(plugin)], false)
            }
            Scope::Plugin => (vec![item.at(plugin), Path::parse("plugins").at(plugin)], false),
        };
        let first = Path(path.0.iter().take(1).cloned().collect());
        layers.retain(|layer| marks.has(layer));
        let layer = layers.iter().find(|layer| marks.has(&layer.join(&first))).or(layers.first()).unwrap_or(item);
        let full = layer.join(&path);
        let wording = reword(&problem.message, hidden || self.source.hides(&full));
        let mark = if wording.about_key { marks.key_place(&full) } else { marks.place(&full) };
        let message = match (&problem.scope, wording.message) {
            (Scope::Keys(t), message) => format!("keys of `{}`: {message}", t.name()),
            (Scope::Tenant(t), message) => format!("`{plugin}` for `{}`: {message}", t.name()),
            (Scope::Plugin, message) => format!("`{plugin}`: {message}"),
        };
        let diagnostic = self.source.diagnostic(mark, message, wording.hint);
        (full, diagnostic)
    }
}

/// Whether the value at this path of a tenant's keys says which key it is, and so is no secret.
fn names_a_key(path: &Path) -> bool {
    matches!(path.0.last(), Some(Step::Key(key)) if matches!(key.as_str(), "alg" | "kid"))
}
