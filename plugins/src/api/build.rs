//! How a plugin comes to be: a name, what must stand before it, and a builder from its configuration.

use std::{collections::BTreeMap, sync::Arc};

use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::{Mapping, Value};

use super::{Clock, Meters, Plugin, Tenant};

/// Where in the configuration a plugin found a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// In the plugin's own configuration (the defaults, or the route's).
    Plugin,
    /// In what this tenant overrides.
    Tenant(Tenant),
    /// In this tenant's `keys`.
    Keys(Tenant),
}

/// Something wrong with a plugin's configuration. The gateway adds file, line and column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which part.
    pub scope: Scope,
    /// Path inside that part, as `limits[0].rate`; empty for all of it.
    pub path: String,
    /// What was found, what was expected, what to do.
    pub message: String,
}

/// A tenant as a plugin's builder sees it. Not `Debug`: its keys are secrets.
#[derive(Clone)]
pub struct TenantBuild {
    /// The tenant.
    pub tenant: Tenant,
    /// The plugin's configuration with this tenant's overrides laid over it.
    pub config: Value,
    /// The tenant's `keys`, as written, but with the text of a `public_key`'s file in the place of its path.
    pub keys: Value,
}

/// What a builder gets.
pub struct BuildCtx<'a> {
    /// The plugin's configuration: the defaults with the route's overrides laid over them; a mapping, maybe empty.
    pub config: &'a Value,
    /// All tenants.
    pub tenants: &'a [TenantBuild],
    /// The time of day.
    pub clock: &'a Clock,
    /// Where it makes its metrics.
    pub meters: &'a Meters,
    /// The instance that served the same place before a reload: state whose own configuration did not change is taken over from it.
    pub previous: Option<Arc<dyn Plugin>>,
}

impl BuildCtx<'_> {
    /// The previous instance as the plugin's own type.
    pub fn previous<P: Plugin>(&self) -> Option<Arc<P>> {
        let any: Arc<dyn std::any::Any + Send + Sync> = self.previous.clone()?;
        any.downcast().ok()
    }
}

/// Makes a plugin, or says everything that is wrong with its configuration.
pub type Builder = Box<dyn Fn(&BuildCtx<'_>) -> Result<Arc<dyn Plugin>, Vec<Problem>> + Send + Sync>;

/// A kind of plugin.
pub struct PluginSpec {
    /// Its name in `chain:` and `plugins:`.
    pub name: &'static str,
    /// Plugins that must stand before it in a chain.
    pub after: &'static [&'static str],
    /// Whether it proves who a request is from: a chain without such a plugin needs `public: true`.
    pub authenticates: bool,
    /// The JSON Schema of its configuration: `|g| g.subschema_for::<MyConfig>()`. It is what `fengda schema` and editors know of it.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Makes one.
    pub build: Builder,
}

/// Two plugins with one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a plugin named `{0}` is registered already")]
pub struct RegistryError(pub &'static str);

/// The plugins that a configuration may name.
#[derive(Default)]
pub struct Registry(BTreeMap<&'static str, PluginSpec>);

impl Registry {
    /// Adds a kind of plugin.
    ///
    /// # Errors
    /// The name is taken.
    pub fn register(&mut self, spec: PluginSpec) -> Result<(), RegistryError> {
        match self.0.entry(spec.name) {
            std::collections::btree_map::Entry::Occupied(_) => Err(RegistryError(spec.name)),
            std::collections::btree_map::Entry::Vacant(v) => {
                v.insert(spec);
                Ok(())
            }
        }
    }

    /// The kind with this name.
    pub fn get(&self, name: &str) -> Option<&PluginSpec> {
        self.0.get(name)
    }

    /// All kinds, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &PluginSpec> {
        self.0.values()
    }

    /// All names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }
}

/// Reads a mapping of a plugin's configuration into its type. Goes on after each value that does not fit, so that all of them are
/// found. In a list only the first is: who has one reads it with [`parse_items`].
///
/// # Errors
/// [`Problem`]s, each with the path of the value that does not fit.
pub fn parse_config<T: DeserializeOwned>(scope: &Scope, value: &Value) -> Result<T, Vec<Problem>> {
    let mut value = if value.is_null() { Value::Mapping(Mapping::new()) } else { value.clone() };
    let mut problems = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(&value) {
            Ok(parsed) if problems.is_empty() => return Ok(parsed),
            Ok(_) => return Err(problems),
            Err(error) => error,
        };
        let path = error.path().clone();
        let cut_out = cut_out(&mut value, path.iter());
        // What is missing only because it was cut out has been reported.
        if cut_out || problems.is_empty() {
            let path = if path.iter().next().is_none() { String::new() } else { path.to_string() };
            problems.push(Problem { scope: scope.clone(), path, message: error.into_inner().to_string() });
        }
        if !cut_out {
            return Err(problems);
        }
    }
}

/// Reads a list that stands at `path` in a plugin's configuration. Items that do not fit are `None`, and in the problems.
pub fn parse_items<T: DeserializeOwned>(scope: &Scope, path: &str, items: &[Value]) -> (Vec<Option<T>>, Vec<Problem>) {
    let mut problems = Vec::new();
    let read = |(i, item)| {
        let complain = |found: Vec<Problem>| {
            problems.extend(found.into_iter().map(|p| {
                let dot = if p.path.is_empty() { "" } else { "." };
                Problem { path: format!("{path}[{i}]{dot}{}", p.path), ..p }
            }));
        };
        parse_config(scope, item).map_err(complain).ok()
    };
    let parsed = items.iter().enumerate().map(read).collect();
    (parsed, problems)
}

/// Takes the value at a path through mappings out. False if there is none.
fn cut_out<'a>(value: &mut Value, mut path: impl Iterator<Item = &'a Segment>) -> bool {
    let mut next = path.next();
    let mut at = value;
    while let (Some(Segment::Map { key }), Value::Mapping(map)) = (next, at) {
        next = path.next();
        if next.is_none() {
            return map.remove(key.as_str()).is_some();
        }
        let Some(below) = map.get_mut(key.as_str()) else { return false };
        at = below;
    }
    false
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        a: u8,
        #[serde(default)]
        inner: Inner,
    }

    #[derive(Debug, PartialEq, Default, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Inner {
        b: bool,
        c: String,
    }

    fn paths<T>(parsed: Result<T, Vec<Problem>>) -> Vec<String> {
        let mut paths: Vec<_> = parsed.err().unwrap_or_default().into_iter().map(|p| p.path).collect();
        paths.sort();
        paths
    }

    fn outer(yaml: &str) -> Vec<String> {
        paths(parse_config::<Outer>(&Scope::Plugin, &serde_yaml::from_str(yaml).unwrap()))
    }

    #[test]
    fn everything_that_does_not_fit_is_named() {
        assert_eq!(outer("{a: 1, inner: {b: true, c: x}}"), [""; 0]);
        assert_eq!(outer("{a: 256, aa: 1, inner: {b: 1, d: 2, c: [x]}, e: 0}"), ["a", "aa", "e", "inner.b", "inner.c", "inner.d"]);
        assert_eq!(outer("{a: 1, inner: 7}"), ["inner"]);
        assert_eq!(outer("{inner: {b: 1}}"), ["inner.b"]);
        assert_eq!(outer("{inner: {b: true}}"), [""], "something is missing");
        assert_eq!(outer("[1]"), [""]);
        assert_eq!(outer("~"), [""]);
    }

    #[test]
    fn items_of_a_list_keep_their_places() {
        let list: Vec<Value> = serde_yaml::from_str("[{a: 1}, {a: x, b: 2}, {}, {a: 2}]").unwrap();
        let (items, problems) = parse_items::<Outer>(&Scope::Plugin, "list", &list);
        assert_eq!(items.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, false, true]);
        assert_eq!(paths::<()>(Err(problems)), ["list[1].a", "list[1].b", "list[2]"]);
    }
}
