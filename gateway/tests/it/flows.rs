//! Tenants' scripts through the whole gateway: what they may do, and what becomes of those that misbehave.

use serde_json::json;

use super::{
    harness::{Gateway, Site},
    model::Model,
};

/// Puts a script in force and answers one message with it.
async fn run(gateway: &Gateway, script: &str) -> serde_json::Value {
    gateway.site.script("alpha", script);
    let report = gateway.admin("POST", "/reload").await.json();
    assert_eq!(report["flows"]["alpha"], "ok", "{report}");
    gateway.ask("alpha", "u", "hello").await
}

#[tokio::test]
async fn a_script_answers_keeps_slots_and_hands_off() {
    let model = Model::start().await;
    let gateway = Site::new().model(&model).start();
    let script = "return function(turn)
        session.count = (session.count or 0) + 1
        user:incr('visits')
        say('hello ' .. turn.user)
        if turn.text == 'person' then handoff() return canned('busy') end
        if turn.text == 'ask' then
            local answer, err = nlp.answer('rewritten', { history = false })
            return answer:text() .. '!'
        end
        return string.format('%d %d %d', session.count, user.visits, #history)
    end";
    assert_eq!(run(&gateway, script).await["answer"], "hello u\n1 1 0");
    assert_eq!(gateway.ask("alpha", "u", "again").await["answer"], "hello u\n2 2 1");
    let other = gateway.say("alpha", "u", json!({ "query": "x", "session_id": "other" })).await.json();
    assert_eq!(other["answer"], "hello u\n1 3 0");
    let person = gateway.ask("alpha", "u", "person").await;
    assert_eq!((&person["answer"], &person["handoff"]), (&json!("hello u\nalpha is busy"), &json!(true)));
    assert_eq!(gateway.ask("alpha", "u", "ask").await["answer"], "hello u\n0:rewritten!");
    // The slots outlive the process.
    let gateway = gateway.stop().start();
    assert_eq!(gateway.ask("alpha", "u", "back").await["answer"], "hello u\n5 6 4");
}

#[tokio::test]
async fn a_script_that_misbehaves_costs_its_user_a_fallback_and_nobody_else_anything() {
    let gateway = Site::new().extra("").start();
    gateway.ask("alpha", "u", "before").await;
    for (script, kind) in [
        ("return function() while true do end end", "cpu_budget"),
        ("return function() pcall(function() while true do end end) return 'escaped' end", "cpu_budget"),
        ("return function() return buffer.create(64 * 1048576) end", "memory"),
        ("local function f() return 1 + f() end return function() return f() end", "runtime"),
        ("return function() return {} end", "bad_return"),
        ("return function() return nil end", "bad_return"),
        ("return function() error('customer 42 said ' .. 'hello') end", "runtime"),
        ("return function() return string.rep('x', 100000) end", "output"),
    ] {
        let counted = format!("fengda_flow_failures_total{{kind=\"{kind}\",tenant=\"alpha\"}}");
        let before = gateway.metric(&counted).await;
        let reply = run(&gateway, script).await;
        let got = (&reply["answer"], &reply["fallback"], &reply["stored"], &reply["seq"]);
        assert_eq!(got, (&json!("alpha is busy"), &json!(true), &json!(false), &json!(1)), "{script}");
        assert_eq!(gateway.metric(&counted).await, before + 1.0, "{script}");
        assert_eq!(gateway.ask("beta", "u", "q").await["fallback"], false);
    }
    // Nothing of it was stored, and a better script goes on where the conversation was.
    assert_eq!(run(&gateway, "return function(turn) return 'seq ' .. turn.seq end").await["answer"], "seq 2");
    let log = gateway.tenant_log("alpha");
    assert!(log.contains("customer 42 said hello") && log.contains("\"line\":1"), "{log}");
    assert!(!gateway.tenant_log("beta").contains("customer"));
}

#[tokio::test]
async fn a_looping_script_does_not_hold_up_the_other_tenant() {
    let gateway = std::sync::Arc::new(Site::new().start());
    run(&gateway, "return function() while true do end end").await;
    let loops: Vec<_> = (0..8)
        .map(|i| {
            let gateway = gateway.clone();
            tokio::spawn(async move { gateway.ask("alpha", &format!("u{i}"), "loop").await })
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(gateway.ask("beta", "u", "q").await["fallback"], false);
    }
    for looped in loops {
        assert_eq!(looped.await.unwrap()["fallback"], true);
    }
}

#[tokio::test]
async fn a_broken_script_leaves_the_last_good_one_in_force_also_after_a_restart() {
    let gateway = Site::new().start();
    assert_eq!(run(&gateway, "return function() return 'good' end").await["answer"], "good");
    for (broken, says) in [
        ("return function( return 'x' end", "main.lua:1:"),
        ("return 5", "function"),
        ("error('at the top')\nreturn function() end", "at the top"),
        ("\u{1b}Lua bytecode", "main.lua"),
    ] {
        gateway.site.script("alpha", broken);
        let report = gateway.admin("POST", "/reload").await;
        assert_eq!(report.status, 200);
        let report = report.json();
        assert!(report["flows"]["alpha"].as_str().unwrap().contains(says), "{report}");
        assert_eq!(report["flows"]["beta"], "ok");
        assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "good");
    }
    let gateway = gateway.stop().start();
    assert_eq!(gateway.ask("alpha", "u", "q").await["answer"], "good");
    assert_ne!(gateway.admin("GET", "/status").await.json()["flows"]["alpha"], "ok");
}

#[tokio::test]
async fn a_script_that_was_never_good_gives_fallbacks_and_the_other_tenant_runs() {
    let site = Site::new();
    site.script("alpha", "this is no Lua");
    let gateway = site.start();
    let reply = gateway.ask("alpha", "u", "q").await;
    assert_eq!((&reply["answer"], &reply["fallback"], &reply["seq"]), (&json!("alpha is busy"), &json!(true), &json!(0)));
    assert_eq!(gateway.ask("beta", "u", "q").await["fallback"], false);
    assert_eq!(run(&gateway, "return function() return 'mended' end").await["answer"], "mended");
}

#[tokio::test]
async fn scripts_keep_nothing_from_one_turn_to_the_next_but_slots() {
    let gateway = Site::new().start();
    let script = "local kept = 0
        return function()
            kept += 1
            leaked = (leaked or 0) + 1
            return kept .. ' ' .. leaked
        end";
    for _ in 0..3 {
        assert_eq!(run(&gateway, script).await["answer"], "1 1");
    }
}

#[tokio::test]
async fn what_a_script_logs_reaches_only_its_tenant_s_log() {
    let gateway = Site::new().start();
    run(&gateway, "return function(turn)\n  log('info ' .. turn.text)\n  log.error('bad\\nnews')\n  return 'ok'\nend").await;
    let log = gateway.tenant_log("alpha");
    let lines: Vec<serde_json::Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&lines[0]["level"], &lines[0]["message"], &lines[0]["line"]), (&json!("info"), &json!("info hello"), &json!(2)));
    assert_eq!((&lines[1]["level"], &lines[1]["message"], &lines[1]["line"]), (&json!("error"), &json!("bad\nnews"), &json!(3)));
    assert_eq!(gateway.tenant_log("beta"), "");
}
