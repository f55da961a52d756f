//! What scripts can read and do.

use fengda_plugins::api::{Change, SlotValue};

use super::*;

fn with_history(body: &str, turns: u64) -> Flow {
    let mut flow = Flow::body(body);
    flow.state.turns = (1..=turns).map(past).collect();
    flow.state.seq = turns;
    flow
}

#[test]
fn the_turn_is_what_came_in() {
    let body = "return table.concat({turn.text, turn.seq, turn.session, turn.user, turn.message_id, tostring(turn.since), tostring(turn.channel), turn.lang}, '|')";
    assert_eq!(Flow::body(body).text(), "你好|1|s1|u1|m1|nil|nil|zh");
    assert_eq!(with_history("return turn.seq .. ' ' .. turn.since", 40).text(), "41 60");
}

#[test]
fn history_is_a_list_of_past_turns() {
    let body = "local all = {} for i, t in history do all[i] = t.seq .. t.q .. t.a .. t.at .. tostring(t.fallback) end return #history .. ' ' .. table.concat(all, ' ')";
    assert_eq!(with_history(body, 2).text(), "2 1q1a11false 2q2a22true");
    assert_eq!(with_history(body, 0).text(), "0 ");
    assert_eq!(with_history("return history[1].q .. history[-1].q .. history[#history].a", 100).text(), "q1q100a100");
    assert_eq!(with_history("return tostring(history[0]) .. tostring(history[4]) .. tostring(history[-4])", 3).text(), "nilnilnil");
    assert!(with_history("return history.q", 3).error().message.expose().starts_with("history is a list"));
}

#[test]
fn said_and_returned_texts_make_the_reply() {
    let reply = Flow::body("say('a') say(1) handoff() return 'b'").run().result.unwrap();
    assert_eq!((reply.said, reply.end, reply.handoff), (vec!["a".into(), "1".into()], End::Text("b".into()), true));
    let reply = Flow::body("say('a')").run().result.unwrap();
    assert_eq!((reply.end, reply.handoff), (End::Said, false));
    assert_eq!(Flow::body("return 42").text(), "42");
    assert_eq!(Flow::body("return canned('hours')").text(), "9-18");
    assert_eq!(Flow::body("say({})").error().message.expose(), "say takes a text, not a table");
}

#[test]
fn an_answer_returned_as_it_is_is_streamed() {
    let outcome = Flow::body("return nlp.answer(turn)").run();
    assert_eq!(outcome.result.unwrap().end, End::Answer(AnswerId(0)));
    assert_eq!(outcome.effects, [Effect::Answer { query: "你好".into(), history: true }]);
    let outcome = Flow::body("return nlp.answer('摘要', { history = false })").run();
    assert_eq!(outcome.effects, [Effect::Answer { query: "摘要".into(), history: false }]);
}

#[test]
fn the_text_of_an_answer_is_awaited() {
    let outcome = Flow::body("local a = nlp.answer(turn) local b = nlp.answer('x') return b:text() .. '!' .. a:text()").run();
    assert_eq!(outcome.result.unwrap().end, End::Text("好的!好的".into()));
    assert_eq!(outcome.effects[2..], [Effect::AnswerText(AnswerId(1)), Effect::AnswerText(AnswerId(0))]);
}

#[test]
fn an_answer_is_not_a_text() {
    for body in
        ["nlp.answer(turn) .. ''", "tostring(nlp.answer(turn))", "#nlp.answer(turn)", "nlp.answer(turn).foo", "nlp.answer(turn):upper()"]
    {
        let error = Flow::body(&format!("return {body}")).error();
        assert!(error.message.expose().contains("call :text() on it"), "{body}: {}", shown(&error));
    }
    assert!(Flow::body("return nlp.answer(turn).text({99})").error().message.expose().contains("not one of this turn's"));
    assert!(Flow::body("return nlp.answer({})").error().message.expose().starts_with("nlp.answer takes the turn or a string"));
    assert!(Flow::body("return nlp.answer(turn, {histroy = false})").error().message.expose().contains("knows one option"));
}

#[test]
fn a_failed_model_call_is_nil_and_a_word() {
    let failing = |body| Flow { model: Err(AnswerError::Timeout), ..Flow::body(body) };
    assert_eq!(failing("return nlp.answer(turn)").run().result.unwrap().end, End::Fallback);
    assert_eq!(failing("local a, err = nlp.answer(turn) return err").text(), "timeout");
    assert_eq!(failing("local a, err = nlp.answer(turn) say('ok')").run().result.unwrap().end, End::Said);
    assert_eq!(failing("local ok, a, err = pcall(nlp.answer, turn) return tostring(ok) .. tostring(a) .. err").text(), "trueniltimeout");
}

#[test]
fn slots_are_read_written_and_deleted() {
    let mut flow = Flow::body(
        "local before = session.n session.n = (before or 0) + 1 user.name = '王' session.list = {1, 2, {x = true}} return tostring(before) .. session.n .. user.name .. tostring(session.list[3].x)",
    );
    assert_eq!(flow.text(), "nil1王true");
    let reply = flow.run().result.unwrap();
    assert_eq!(reply.slots.len(), 2);
    commit(&mut flow, &reply);
    assert_eq!(flow.state.flow.slots.0["n"], SlotValue::Number(1.0));
    assert_eq!(flow.state.flow.slots.0["list"], SlotValue::Json("[1,2,{\"x\":true}]".into()));
    assert_eq!(flow.state.user_slots.0["name"], SlotValue::Text("王".into()));

    flow.script =
        Flow::body("local n = session.n session.n = nil user.flag = false return n .. tostring(session.n) .. tostring(user.flag)").script;
    assert_eq!(flow.text(), "1nilfalse");
    let reply = flow.run().result.unwrap();
    commit(&mut flow, &reply);
    assert!(!flow.state.flow.slots.0.contains_key("n"));
}

#[test]
fn incr_adds_and_returns_the_sum() {
    let mut flow = Flow::body("return user:incr('visits') .. ' ' .. user:incr('visits', 4) .. ' ' .. user.visits");
    assert_eq!(flow.text(), "1 5 5");
    let reply = flow.run().result.unwrap();
    assert_eq!(reply.user_slots.len(), 1);
    assert!(reply.user_slots[0].change == Change::Add(5.0));
    commit(&mut flow, &reply);
    assert_eq!(flow.text(), "6 10 10");
    assert!(Flow::body("session.x = 'a' session:incr('x')").error().message.expose().contains("holds no number"));
}

#[test]
fn a_slot_changes_once_a_turn_however_often_it_is_written() {
    let reply = Flow::body("for i = 1, 1000 do session.x = i session['gone' .. i] = 1 session['gone' .. i] = nil end session.y = 1 session:incr('y') return 'ok'").run().result.unwrap();
    let changes: Vec<_> = reply.slots.iter().map(|d| (&*d.name, d.change.clone())).collect();
    assert!(changes == [("x", Change::Set(SlotValue::Number(1000.0))), ("y", Change::Set(SlotValue::Number(2.0)))]);
}

#[test]
fn slots_are_bounded() {
    for (body, message) in [
        ("for i = 1, 100 do session['s' .. i] = 1 end", "there are 64 slots already"),
        ("session.x = string.rep('x', 5000)", "at most 4096 bytes"),
        ("session.x = table.create(3000, 1)", "the value is too large"),
        ("session[string.rep('x', 65)] = 1", "at most 64 bytes"),
        ("session[''] = 1", "must not be empty"),
        ("session.incr = 1", "`incr` is a method"),
        ("session.x = 0/0", "NaN"),
        ("session.x = function() end", "cannot hold a function"),
        ("session.x = {1} session.x[1] = 2", "readonly"),
    ] {
        let error = Flow::body(body).error();
        assert!(error.message.expose().contains(message), "{body}: {}", shown(&error));
    }
}

#[test]
fn objects_are_neither_kept_nor_written() {
    let call_text = "an answer can be neither kept nor written: call :text() on it";
    let copy = "a table with a metatable can be neither kept nor written";
    for (value, message) in [
        ("nlp.answer(turn)", call_text),
        ("{ last = nlp.answer(turn) }", call_text),
        ("setmetatable({1}, {__index = {2}})", copy),
        ("turn", copy),
        ("history", copy),
    ] {
        for body in [format!("session.x = {value}"), format!("user.x = {value}"), format!("return json.encode({value})")] {
            let error = Flow::body(&body).error();
            assert!(error.message.expose().starts_with(message), "{body}: {}", shown(&error));
        }
    }
}

#[test]
fn a_failed_turn_has_no_reply_but_its_logs() {
    let outcome = Flow::new("return function()\n  log('one')\n  log.warn(2)\n  log.error({} == nil)\n  error('x')\nend").run();
    assert!(outcome.result.is_err());
    let logs: Vec<_> = outcome.logs.iter().map(|l| (l.level, l.text.expose(), l.line)).collect();
    assert_eq!(logs, [(Level::Info, "one", Some(2)), (Level::Warn, "2", Some(3)), (Level::Error, "false", Some(4))]);
}

#[test]
fn tables_are_logged_as_json() {
    let bodies = [
        "{a = 1, b = {'x', true}}",
        "{}",
        "setmetatable({}, {__tostring = function() return 'me' end})",
        "{f = say}",
        "table.create(3000, 1)",
    ];
    let logged = bodies.map(|what| Flow::body(&format!("log({what}) return 'ok'")).run().logs[0].text.expose().to_owned());
    let unlogged =
        ["a table that cannot be logged: json: a function has no JSON", "a table that cannot be logged: json: the value is too large"];
    assert_eq!(logged, [r#"{"a":1,"b":["x",true]}"#, "{}", "me", unlogged[0], unlogged[1]]);
}

#[test]
fn json_goes_both_ways() {
    let body = "return json.encode(json.decode('{\"b\":[1,2.5,\"x\",null,true],\"a\":{\"c\":{}}}'))";
    assert_eq!(Flow::body(body).text(), r#"{"a":{"c":{}},"b":[1,2.5,"x",null,true]}"#);
    assert_eq!(Flow::body("return tostring(json.decode('null') == json.null)").text(), "true");
    for bad in ["json.encode({1, nil, 3, x = 1})", "json.encode(say)", "json.encode(0/0)", "json.decode('{')", "json.encode({[1.5] = 1})"] {
        assert_eq!(Flow::body(&format!("return {bad}")).error().kind, ErrorKind::Runtime, "{bad}");
    }
}

#[test]
fn logs_are_taken_while_the_turn_runs() {
    let flow = Flow::body("log('before') nlp.answer(turn) log('after') return 'x'");
    runtime().block_on(async {
        let mut run = Run::start(flow.input());
        assert!(matches!(run.resume(Resume::Start).await, Step::Effect(_)));
        assert_eq!(run.take_logs().len(), 1);
        assert!(matches!(run.resume(Resume::Answer(Ok(AnswerId(0)))).await, Step::Done(_)));
        assert_eq!(run.take_logs()[0].text.expose(), "after");
    });
}
