//! What a tenant's developer is told, and what is kept out of the gateway's own logs.

use super::*;

fn place(source: &str) -> (Option<u32>, String) {
    let error = Flow::new(source).error();
    (error.line, error.message.expose().to_owned())
}

#[test]
fn runtime_errors_name_the_line() {
    assert_eq!(place("return function()\n  error('boom')\nend"), (Some(2), "boom".into()));
    assert_eq!(place("return function()\n  local x = nil\n  return x.y\nend"), (Some(3), "attempt to index nil with 'y'".into()));
    assert_eq!(place("\n\nerror('at load')"), (Some(3), "at load".into()));
    let (line, message) = place("return function()\n\n  return canned('nope')\nend");
    assert_eq!((line, message.as_str()), (Some(3), "there is no canned text `nope`; there are: busy, hours"));
    let (line, message) = place("return function(turn)\n  return turn.txet\nend");
    assert_eq!(line, Some(2));
    assert_eq!(message, "turn has no field `txet`; it has text, seq, session, user, message_id, since, channel, lang");
    assert_eq!(place("return function()\n  return string.find({}, 'x')\nend").0, Some(2));
    assert_eq!(place("return function()\n  return canned({})\nend"), (Some(2), "a text was expected, not a table".into()));
}

#[test]
fn compile_errors_name_the_line() {
    let tenant = Tenant::from_config("acme-shop").unwrap();
    let error = Script::compile(&tenant, "main.lua", b"local x =\n  1\nreturn function( end").unwrap_err();
    assert_eq!((error.kind, error.line), (ErrorKind::Compile, Some(3)));
    assert!(error.message.expose().contains("Expected identifier"), "{}", error.message.expose());
}

#[test]
fn tracebacks_show_the_script_only() {
    let error =
        Flow::new("local function inner() say({}) end\nlocal function outer() inner() end\nreturn function()\n outer()\nend").error();
    let calls: Vec<&str> = error.traceback.expose().lines().collect();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert!(calls[0].starts_with("main.lua:1") && calls[1].starts_with("main.lua:2") && calls[2].starts_with("main.lua:4"), "{calls:?}");
}

#[test]
fn caught_errors_of_the_host_are_texts() {
    let source = "return function(turn)\n  local _, err = pcall(canned, 'x')\n  local _, again = pcall(function()\n    return turn.nope\n  end)\n  return type(err) .. ' ' .. again\nend";
    assert!(Flow::new(source).text().starts_with("string main.lua:4: turn has no field `nope`"));
    assert_eq!(Flow::body("local _, e = pcall(error, {code = 7}) return e.code").text(), "7");
    assert_eq!(
        Flow::body("local ok, e = xpcall(function() return turn.nope end, function(e) return 'handled ' .. type(e) end) return e").text(),
        "handled string"
    );
}

#[test]
fn errors_do_not_print_the_words_of_customers() {
    let error = Flow { query: "my pin is 1234", ..Flow::body("error(turn.text)") }.error();
    assert!(error.message.expose().contains("1234"));
    assert_eq!(error.to_string(), "runtime at line 1");
    assert!(!format!("{error:?}").contains("1234"));
}

#[test]
fn what_is_no_answer_is_an_error() {
    for (body, message) in [
        ("", "the flow returned nothing and said nothing"),
        ("return true", "the flow returned a boolean; it returns a text or an answer"),
        ("return {}", "the flow returned a table; it returns a text or an answer"),
        ("return setmetatable({1}, {})", "the flow returned a table; it returns a text or an answer"),
    ] {
        let error = Flow::body(body).error();
        assert_eq!((error.kind, error.message.expose()), (ErrorKind::BadReturn, message));
    }
    let error = Flow::new("return 1").error();
    assert_eq!(error.message.expose(), "the script must return a function (turn) -> answer; it returned a number");
}

#[test]
fn effects_where_luau_cannot_yield_say_so() {
    for body in [
        "string.gsub('a', 'a', function() nlp.answer(turn) end)",
        "table.sort({1, 2}, function(a, b) nlp.answer(turn) return a < b end)",
        "return setmetatable({}, {__index = function() return nlp.answer(turn) end}).x",
    ] {
        let error = Flow::body(body).error();
        assert_eq!(error.message.expose(), "nlp.answer cannot be called inside string.gsub, table.sort or a metamethod", "{body}");
        assert_eq!(error.line, Some(1));
    }
}

#[test]
fn the_turn_does_not_exist_at_top_level() {
    for top in ["nlp.answer('x')", "say('x')", "local x = #history", "session.x = 1", "handoff()", "log('x')"] {
        let error = Flow::new(&format!("{top}\nreturn function() return 'x' end")).error();
        assert!(error.message.expose().contains("only inside the function"), "{top}: {}", shown(&error));
        assert_eq!(error.line, Some(1), "{top}: {}", shown(&error));
    }
    assert_eq!(Flow::new("local busy = canned('busy')\nreturn function() return busy end").text(), "系统繁忙");
}

#[test]
fn check_runs_the_top_level_only() {
    let check = |source| {
        let flow = Flow::new(source);
        flow.script.check(flow.limits, &flow.input().canned)
    };
    check("return function() error('not run') end").unwrap();
    let error = check("local x = canned('nope')\nreturn function() end").unwrap_err();
    assert_eq!((error.kind, error.line), (ErrorKind::Compile, Some(1)));
    assert!(check("return nil").is_err());
}

#[test]
fn an_error_is_cut_to_the_length_of_a_log_line() {
    for body in ["error(string.rep('x', 1e6))", "error(string.rep('你', 1e6))"] {
        let error = Flow::body(body).error();
        assert!((4090..=4096).contains(&error.message.len()), "{}", error.message.len());
    }
    let name = "x".repeat(100_000);
    let traceback = Flow::body(&format!("local function {name}() error('x') end {name}()")).error().traceback;
    assert!(traceback.len() <= 4096, "{}", traceback.len());
    let source = format!("return '{}' x", "x".repeat(100_000)).into_bytes();
    let tenant = Tenant::from_config("acme-shop").unwrap();
    assert!(Script::compile(&tenant, "main.lua", &source).unwrap_err().message.len() <= 4096);
    assert_eq!(Flow::body("local _, e = pcall(error, string.rep('x', 1e6)) return #e").text(), "1000000", "a script sees all of it");
}
