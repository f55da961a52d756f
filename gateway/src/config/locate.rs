//! Gives what a plugin's builder complains about its place in the file.

use fengda_plugins::api::{Problem, Scope};

use super::{
    Config, Diagnostic,
    path::{Path, Step},
    wording::reword,
};

impl Config {
    /// The place in the file of a problem that the builder of `routes[route].chain[entry]` found.
    ///
    /// Of the layers that make up a plugin's configuration (tenant, route, defaults) it is the most specific one that has the
    /// first key of the problem's path, since a key is overridden whole; in it, the deepest part of the path that is there.
    ///
    /// # Panics
    /// There is no such route or entry.
    pub fn locate(&self, route: usize, entry: usize, problem: &Problem) -> Diagnostic {
        let marks = &self.source.marks;
        let plugin = self.routes[route].chain[entry].plugin.as_str();
        let item = Path::parse("routes").at(route).at("chain").at(entry);
        let tenant = |name: &str| Path::parse("tenants").at(name);
        let path = Path::parse(&problem.path);
        let (mut layers, hidden) = match &problem.scope {
            Scope::Keys(t) => (vec![tenant(t.name()).at("keys")], !names_a_key(&path)),
            Scope::Tenant(t) => {
                (vec![tenant(t.name()).at("plugins").at(plugin), item.at(plugin), Path::parse("plugins").at(plugin)], false)
            }
            Scope::Plugin => (vec![item.at(plugin), Path::parse("plugins").at(plugin)], false),
        };
        let first = Path(path.0.iter().take(1).cloned().collect());
        layers.retain(|layer| marks.has(layer));
        let layer = layers.iter().find(|layer| marks.has(&layer.join(&first))).or(layers.first()).unwrap_or(&item);
        let full = layer.join(&path);
        let wording = reword(&problem.message, hidden || self.source.hides(&full));
        let mark = if wording.about_key { marks.key_place(&full) } else { marks.place(&full) };
        let message = match (&problem.scope, wording.message) {
            (Scope::Keys(t), message) => format!("keys of `{}`: {message}", t.name()),
            (Scope::Tenant(t), message) => format!("`{plugin}` for `{}`: {message}", t.name()),
            (Scope::Plugin, message) => format!("`{plugin}`: {message}"),
        };
        self.source.diagnostic(mark, message, wording.hint)
    }
}

/// Whether the value at this path of a tenant's keys says which key it is, and so is no secret.
fn names_a_key(path: &Path) -> bool {
    matches!(path.0.last(), Some(Step::Key(key)) if matches!(key.as_str(), "alg" | "kid"))
}
