//! The world a script runs in is closed, and each turn finds it as new.

use super::*;

#[test]
fn dangerous_globals_are_gone() {
    for name in [
        "require",
        "loadstring",
        "load",
        "dofile",
        "getfenv",
        "setfenv",
        "newproxy",
        "gcinfo",
        "print",
        "collectgarbage",
        "debug",
        "os",
        "io",
        "coroutine",
        "package",
    ] {
        assert_eq!(Flow::body(&format!("return type({name})")).text(), "nil", "{name}");
    }
    assert_eq!(Flow::body("return type(math.randomseed) .. type(math.random())").text(), "nilnumber");
}

#[test]
fn globals_of_one_turn_are_not_seen_by_the_next() {
    let flow =
        Flow::new("count = (count or 0) + 1\nreturn function() count = count + 1; seen = (seen or 0) + 1; return count .. '/' .. seen end");
    assert_eq!([flow.text(), flow.text(), flow.text()], ["2/1", "2/1", "2/1"]);
}

#[test]
fn locals_of_the_chunk_are_not_shared_by_turns() {
    let flow = Flow::new("local seen = {}\nreturn function(turn) table.insert(seen, turn.text); return #seen end");
    assert_eq!([flow.text(), flow.text()], ["1", "1"]);
}

#[test]
fn concurrent_turns_have_globals_of_their_own() {
    let flow = Flow::body("mine = (mine or 0) + 1; nlp.answer(turn); return mine");
    runtime().block_on(async {
        let (mut a, mut b) = (Run::start(flow.input()), Run::start(flow.input()));
        assert!(matches!(a.resume(Resume::Start).await, Step::Effect(_)));
        assert!(matches!(b.resume(Resume::Start).await, Step::Effect(_)));
        for run in [&mut a, &mut b] {
            let Step::Done(reply) = run.resume(Resume::Answer(Ok(AnswerId(0)))).await else { panic!() };
            assert_eq!(reply.end, End::Text("1".into()));
        }
    });
}

#[test]
fn nothing_shared_can_be_written() {
    for write in [
        "_G.x = 1",
        "string.find = nil",
        "table.insert = nil",
        "math.pi = 3",
        "rawset(_G, 'x', 1)",
        "rawset(string, 'x', 1)",
        "nlp.answer = nil",
        "json.encode = nil",
        "log.warn = nil",
        "turn.text = 'x'",
        "rawset(turn, 'text', 'x')",
        "history[1] = 'x'",
        "rawset(session, 'x', 1)",
        "table.clear(nlp)",
        "setmetatable('', {})",
        "setmetatable(turn, {})",
        "setmetatable(_G, {})",
        "table.clone(session)",
        "getmetatable('').__index = nil",
        "getmetatable(turn).__index = nil",
        "getmetatable(session).__index = nil",
    ] {
        assert_eq!(Flow::body(write).error().kind, ErrorKind::Runtime, "{write}");
    }
}

#[test]
fn overriding_a_global_stays_in_the_turn() {
    let flow = Flow::body("local before = type(say); say = 1; string = nil; return before .. type(say)");
    assert_eq!([flow.text(), flow.text()], ["functionnumber", "functionnumber"]);
}

#[test]
fn metatables_of_shared_objects_are_locked() {
    for object in ["''", "turn", "history", "session", "user", "log"] {
        assert_eq!(Flow::body(&format!("return getmetatable({object})")).text(), "locked", "{object}");
    }
}

#[test]
fn bytecode_and_non_text_are_refused() {
    let tenant = Tenant::from_config("acme-shop").unwrap();
    let bytecode = super::super::sandbox::compiler().compile("return 1").unwrap();
    for source in [bytecode.as_slice(), b"\x1bLua", b"\x06\x03", &[0xff, 0xfe], &vec![b' '; MAX_SOURCE + 1]] {
        assert_eq!(Script::compile(&tenant, "main.lua", source).unwrap_err().kind, ErrorKind::Compile);
    }
    Script::compile(&tenant, "main.lua", "\u{feff}return function() return 'ok' end".as_bytes()).unwrap();
}

#[test]
fn tenants_with_the_same_script_do_not_share_a_vm() {
    let source = "return function() return tostring(string.find) end";
    let (a, b) = (Flow::of("acme-shop", source), Flow::of("harbor-bank", source));
    assert_eq!(a.script.hash(), b.script.hash());
    assert_eq!(a.text(), a.text());
    assert_ne!(a.text(), b.text());
}

#[test]
fn a_panic_of_the_host_cannot_be_caught() {
    let flow = Flow::body("if turn.text == 'panic' then pcall(panic) end return 'fine'");
    let local = super::super::vm::local(|local| local.vm(&flow.script).unwrap()).unwrap();
    let lua = &local.sandbox.lua;
    let panics = lua.create_function(|_, ()| super::super::host::with(|_| -> mlua::Result<()> { panic!("on purpose") })).unwrap();
    let base: mlua::Table = lua.globals().metatable().unwrap().get("__index").unwrap();
    base.set_readonly(false);
    base.raw_set("panic", panics).unwrap();
    base.set_readonly(true);
    let panicking = Flow { query: "panic", script: flow.script.clone(), ..Flow::body("") };
    assert!(std::panic::catch_unwind(|| panicking.run().result.unwrap()).is_err());
    assert_eq!(flow.text(), "fine");
}
