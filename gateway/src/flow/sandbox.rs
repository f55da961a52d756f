//! The closed world a script runs in: which globals exist, and that nothing written by one turn is seen by another.

use std::sync::LazyLock;

use mlua::{
    Function, Lua, LuaOptions, StdLib, Table,
    chunk::{ChunkMode, Compiler},
};

use super::{error::PRELUDE, lib_json, lib_slots, lib_turn};

/// What the libraries bring along that a script must not have: ways to load code, to reach other environments, to observe the process.
const REMOVED: &[&str] = &[
    "require",
    "loadstring",
    "getfenv",
    "setfenv",
    "newproxy",
    "gcinfo",
    "print",
    "collectgarbage",
    "debug",
    "os",
    "coroutine",
    "_VERSION",
];

/// Globals whose fields change under the script's feet. Luau resolves `a.b` of other globals once, when it loads a script.
const LIVE: [&str; 3] = ["history", "session", "user"];

/// A VM with the script's world in it.
pub(super) struct Sandbox {
    pub(super) lua: Lua,
    /// Runs a chunk and the function it returns; see `prelude.luau`.
    pub(super) drive: Function,
    /// The metatable of the answers of models.
    pub(super) answer_meta: Table,
    /// The metatable of a turn's globals: what is not there is looked up in the frozen base.
    env_meta: Table,
}

/// The compiler for scripts, with all optimisations that keep lines and calls apart; the next level inlines calls out of tracebacks.
pub(super) fn compiler() -> Compiler {
    Compiler::new().set_optimization_level(1).set_debug_level(1).set_mutable_globals(LIVE)
}

impl Sandbox {
    pub(super) fn new() -> mlua::Result<Self> {
        static BYTECODE: LazyLock<Vec<u8>> =
            LazyLock::new(|| compiler().compile(include_str!("prelude.luau")).expect("the prelude compiles: tests run it"));

        let libs = StdLib::STRING | StdLib::TABLE | StdLib::MATH | StdLib::UTF8 | StdLib::BIT | StdLib::BUFFER | StdLib::COROUTINE;
        let lua = Lua::new_with(libs, LuaOptions::default())?;
        let base = lua.globals();
        let host = lua.create_table()?;
        lib_turn::install(&lua, &host)?;
        lib_slots::install(&lua, &host)?;
        lib_json::install(&lua, &host)?;
        lua.load(BYTECODE.as_slice()).set_mode(ChunkMode::Binary).set_name(format!("={PRELUDE}")).call::<()>(&host)?;
        for name in REMOVED {
            base.raw_remove(*name)?;
        }
        base.get::<Table>("math")?.raw_remove("randomseed")?;
        if let Some(strings) = lua.type_metatable::<mlua::LuaString>() {
            strings.raw_set("__metatable", "locked")?;
        }
        // Makes the libraries read-only. It also puts a writable table in front of the globals, which nothing here uses: scripts get an
        // environment per turn, and the base itself is made read-only with the rest.
        lua.sandbox(true)?;
        base.set_readonly(true);

        let env_meta = lua.create_table_from([("__index", &base)])?;
        env_meta.raw_set("__metatable", "locked")?;
        env_meta.set_readonly(true);
        Ok(Self { drive: host.get("drive")?, answer_meta: host.get("answer_meta")?, env_meta, lua })
    }

    /// A copy of a loaded chunk with globals of its own.
    pub(super) fn instance(&self, chunk: &Function) -> mlua::Result<Function> {
        let env = self.lua.create_table()?;
        env.set_metatable(Some(self.env_meta.clone()))?;
        // Nothing can change these globals but the script's own assignments, which the compiler sees.
        env.set_safeenv(true);
        let chunk = chunk.deep_clone()?;
        chunk.set_environment(env)?;
        Ok(chunk)
    }
}
