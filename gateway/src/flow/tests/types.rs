//! The types that editors see are those that scripts find.

use std::collections::BTreeSet;

use super::super::sandbox::Sandbox;

const TYPES: &str = include_str!("../../../../tenant-flows/types.d.luau");

/// What Luau brings along and editors know without being told.
const STANDARD: &[&str] = &[
    "_G",
    "assert",
    "bit32",
    "buffer",
    "error",
    "getmetatable",
    "ipairs",
    "math",
    "next",
    "pairs",
    "pcall",
    "rawequal",
    "rawget",
    "rawlen",
    "rawset",
    "select",
    "setmetatable",
    "string",
    "table",
    "tonumber",
    "tostring",
    "type",
    "typeof",
    "unpack",
    "utf8",
    "xpcall",
];

fn base() -> (Sandbox, mlua::Table) {
    let sandbox = Sandbox::new().unwrap();
    let base = sandbox.lua.globals().metatable().unwrap().get("__index").unwrap();
    (sandbox, base)
}

fn keys(table: &mlua::Table) -> BTreeSet<String> {
    table.pairs::<String, mlua::Value>().map(|pair| pair.unwrap().0).collect()
}

/// The text of one declaration, up to the blank line after it.
fn declaration(of: &str) -> &'static str {
    let start = TYPES.find(of).unwrap_or_else(|| panic!("{of} is not declared"));
    TYPES[start..].split("\n\n").next().unwrap()
}

/// The names of the fields in it.
fn fields(declaration: &str) -> BTreeSet<String> {
    let name = |line: &str| {
        let name = line.trim_start().trim_start_matches("{} :: { ").split_once(": ")?.0;
        name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_').then(|| name.to_owned())
    };
    declaration.lines().skip(1).filter_map(name).collect()
}

#[test]
fn every_global_is_declared_and_the_other_way_round() {
    let declared = TYPES.lines().filter_map(|line| line.strip_prefix("declare ")).map(|rest| {
        let name = rest.strip_prefix("function ").unwrap_or(rest);
        name.split([':', '(']).next().unwrap().to_owned()
    });
    let expected: BTreeSet<String> = declared.chain(STANDARD.iter().map(|name| (*name).to_owned())).collect();
    assert_eq!(keys(&base().1), expected);
}

#[test]
fn what_luau_has_and_scripts_have_not_is_listed() {
    let (_sandbox, base) = base();
    let names = |globals: &mlua::Table| {
        let math = keys(&globals.get("math").unwrap()).into_iter().map(|name| format!("math.{name}"));
        keys(globals).into_iter().chain(math).collect::<BTreeSet<_>>()
    };
    let missing = &names(&mlua::Lua::new().globals()) - &names(&base);
    let (_, list) = TYPES.split_once("everything but: ").unwrap();
    let (list, _) = list.split_once(".\n").unwrap();
    let listed: BTreeSet<String> = list.replace("\n--", "").split(", ").map(|name| name.trim().to_owned()).collect();
    assert_eq!(listed, missing);
}

#[test]
fn every_field_is_declared_and_the_other_way_round() {
    let (_sandbox, base) = base();
    for library in ["nlp", "json"] {
        assert_eq!(fields(declaration(&format!("declare {library}:"))), keys(&base.get(library).unwrap()), "{library}");
    }
    for level in keys(&base.get("log").unwrap()) {
        assert!(declaration("declare log:").contains(&format!("{level}: (what: any)")), "{level}");
    }
    let turn: BTreeSet<String> = super::super::lib_turn::FIELDS.split(", ").map(str::to_owned).collect();
    assert_eq!(fields(declaration("export type Turn =")), turn);
}
