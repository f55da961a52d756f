//! How a plugin comes to be: a name, what must stand before it, and a builder from its configuration.

use std::{collections::BTreeMap, sync::Arc};

use schemars::{Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde_yaml::Value;

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

/// Reads a plugin's configuration into its type.
///
/// # Errors
/// A [`Problem`] with the path of the value that does not fit.
pub fn parse_config<T: DeserializeOwned>(scope: Scope, value: &Value) -> Result<T, Problem> {
    let value = if value.is_null() { Value::Mapping(serde_yaml::Mapping::new()) } else { value.clone() };
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = match e.path().to_string() {
            p if p == "." => String::new(),
            p => p,
        };
        Problem { scope, path, message: e.into_inner().to_string() }
    })
}
