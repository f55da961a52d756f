//! No script can take more than its share, however it tries, and none can carry on once it has.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::flow::vm;

/// Runs bodies that would go on for seconds; each must be stopped for its CPU time, soon.
fn stopped(bodies: &[&str]) {
    for body in bodies {
        let mut flow = Flow::body(body);
        flow.limits.cpu = Duration::from_millis(20);
        let start = Instant::now();
        let error = flow.error();
        assert_eq!(error.kind, ErrorKind::CpuBudget, "{body}: {}", shown(&error));
        assert!(start.elapsed().as_millis() < 1000, "{body}: {:?}", start.elapsed());
    }
}

#[test]
fn endless_computation_is_stopped() {
    stopped(&[
        "while true do end",
        "repeat local x = 1 until false",
        "for i = 1, 1e12 do end",
        "local function f() f() f() end pcall(f) while true do pcall(f) end",
        "table.sort(table.create(100, 1), function() while true do end end)",
        "string.gsub('aaa', 'a', function() while true do end end)",
        "local t = setmetatable({}, {__index = function() while true do end end}) return t.x",
        "local t = setmetatable({}, {__index = function(t, k) return t[k + 1] end}) while true do pcall(function() return t[1] end) end",
        "return string.match(string.rep('a', 60), string.rep('a*', 30) .. 'b')",
        "return string.gsub(string.rep('x', 100000), '.-.-.-.-b', '')",
        "for _ in setmetatable({}, {__iter = function() return function() return 1 end end}) do end",
    ]);
}

#[test]
fn the_end_of_the_budget_cannot_be_caught() {
    stopped(&[
        "while true do pcall(function() while true do end end) end",
        "pcall(function() while true do end end) return 'survived'",
        "xpcall(function() while true do end end, function() while true do end end) return 'survived'",
        "local t = setmetatable({}, {__tostring = function() while true do end end}) pcall(tostring, t) return 'survived'",
        "pcall(log, setmetatable({}, {__tostring = function() while true do end end})) return 'survived'",
    ]);
}

#[test]
fn the_line_of_an_endless_loop_is_named() {
    let mut flow = Flow::new("return function()\n  local x = 0\n  while true do x += 1 end\nend");
    flow.limits.cpu = Duration::from_millis(5);
    assert_eq!(flow.error().line, Some(3));
}

#[test]
fn endless_top_level_code_is_stopped() {
    let mut flow = Flow::new("while true do end");
    flow.limits.cpu = Duration::from_millis(20);
    assert_eq!(flow.error().kind, ErrorKind::CpuBudget);
    assert_eq!(flow.script.check(flow.limits, &flow.input().canned).unwrap_err().kind, ErrorKind::Compile);
}

#[test]
fn cpu_time_counts_over_all_polls() {
    let mut flow = Flow::body("while true do for i = 1, 1e5 do end nlp.answer(turn) end");
    flow.limits = Limits { cpu: Duration::from_millis(20), effects: u32::MAX, ..flow.limits };
    assert_eq!(flow.error().kind, ErrorKind::CpuBudget);
}

/// The CPU time that a turn took, and how it ended.
fn cpu(flow: &Flow) -> (Duration, Result<Reply, ErrorKind>) {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let before = now();
    let outcome = flow.run();
    (now() - before, outcome.result.map_err(|e| e.kind))
}

#[test]
fn runaway_recursion_is_no_way_around_the_budget() {
    let mut flow = Flow::body("local function f() return 1 + f() end while true do pcall(f) end");
    // With the whole thread, so that it takes no pauses.
    flow.limits = Limits { cpu: Duration::from_millis(50), share: 100, ..flow.limits };
    for _ in 0..20 {
        let (spent, result) = cpu(&flow);
        assert_eq!(result, Err(ErrorKind::CpuBudget));
        assert!(spent < flow.limits.cpu * 3, "{spent:?}");
    }
}

#[test]
fn long_host_calls_count_in_full() {
    let source = |body: &str| format!("local s = '[' .. string.rep('[],', 40000) .. '1]' return function() {body} end");
    let (one, result) = cpu(&Flow::new(&source("json.decode(s) return 'ok'")));
    assert!(result.is_ok());
    let mut looping = Flow::new(&source("while true do json.decode(s) end"));
    looping.limits.cpu = one * 6;
    let (spent, result) = cpu(&looping);
    assert_eq!(result, Err(ErrorKind::CpuBudget));
    assert!(spent < one * 12, "a budget of {:?} ended after {spent:?}", one * 6);
}

#[test]
fn library_calls_that_cannot_be_interrupted_end_soon() {
    for body in [
        "return string.find(string.rep('a', 1000000), string.rep('a', 200000) .. 'b', 1, true)",
        "return string.find(string.rep('a', 1000000), string.rep('a', 200000) .. 'b')",
        "return ('a'):rep(1000000):find(string.rep('a', 500000) .. 'b')",
        "return pcall(string.split, string.rep('a', 1000000), string.rep('a', 200000) .. 'b')",
        "return pcall(table.move, {}, 1, 1e8, 2)",
        "return pcall(table.move, {}, -1e15, 1e15, 2)",
        "return pcall(string.format, '%99999999d', 1)",
        "return pcall(string.format, '%.99999999f', 1)",
        "return pcall(table.unpack, {}, 1, 1e8)",
        "local a, b = string.rep('x', 1e6) .. 'a', string.rep('x', 1e6) .. 'b' local t = {} for i = 1, 1000 do t[i] = i % 2 == 0 and a or b end table.sort(t) return 1",
        "return pcall(json.encode, table.create(1000000, 'x'))",
        "return pcall(json.decode, string.rep('[', 100000))",
    ] {
        // Left to themselves the worst of them take five seconds and more.
        let (spent, result) = cpu(&Flow::body(body));
        assert!(spent < Duration::from_secs(2), "{body}: {spent:?}");
        assert_ne!(result, Err(ErrorKind::Internal), "{body}");
    }
}

#[test]
fn plain_search_finds_the_same_with_and_without_the_detour() {
    let long = "string.rep('ab', 40000) .. string.rep('c', 3000) .. 'd'";
    let body = format!(
        "local s, p = {long}, string.rep('c', 3000) local a, b = s:find(p, 1, true) local c, d = s:find(p, 80002) return a .. ' ' .. b .. ' ' .. tostring(c) .. ' ' .. tostring(s:find(p, -10))"
    );
    assert_eq!(Flow::body(&body).text(), "80001 83000 nil nil");
}

#[test]
fn memory_is_bounded() {
    for body in [
        "local t = {} while true do t[#t + 1] = string.rep('x', 100000) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "return string.rep('x', 1e9)",
        "return table.create(2e7, 1)",
        "return buffer.create(1e9)",
        "return table.concat(table.create(1e5, string.rep('x', 1e5)))",
        "local t = {} while true do t = {t} end",
        "local s = string.rep('x', 12e6) local a, b = s:upper(), s:reverse() return a .. b",
    ] {
        assert_eq!(Flow::body(body).error().kind, ErrorKind::Memory, "{body}");
        assert_eq!(Flow::body("return 'the next turn is fine'").text(), "the next turn is fine");
    }
}

#[test]
fn garbage_of_one_turn_does_not_count_against_the_next() {
    let flow = Flow::body("local t = {} for i = 1, 200000 do t[i] = {} end return 'ok'");
    for _ in 0..10 {
        assert_eq!(flow.text(), "ok");
    }
}

#[test]
fn deep_recursion_and_nesting_are_errors() {
    for body in [
        "local function f() return f() end return f()",
        "local t = {} for i = 1, 1e5 do t = {t} end return json.encode(t)",
        "local t = {} t.t = t return json.encode(t)",
        "local t = {} t.t = t session.x = t",
        "return string.rep('(', 300) .. string.match('x', string.rep('(', 300))",
    ] {
        assert_eq!(Flow::body(body).error().kind, ErrorKind::Runtime, "{body}");
    }
    let tenant = Tenant::from_config("acme-shop").unwrap();
    let source = format!("return {}1{}", "(".repeat(100_000), ")".repeat(100_000));
    assert_eq!(Script::compile(&tenant, "main.lua", source.as_bytes()).unwrap_err().kind, ErrorKind::Compile);
}

#[test]
fn output_effects_and_logs_are_bounded() {
    assert_eq!(Flow::body("while true do pcall(say, 'xxxxxxxxxxxxxxxx') end").error().kind, ErrorKind::Output);
    assert_eq!(Flow::body("say(string.rep('x', 40000)) return string.rep('x', 40000)").error().kind, ErrorKind::Output);
    let outcome = Flow::body("while true do nlp.answer(turn) end").run();
    assert_eq!((outcome.result.unwrap_err().kind, outcome.effects.len()), (ErrorKind::Effects, 32));
    assert_eq!(Flow::body("for i = 1, 100 do pcall(nlp.answer, turn) end return 'survived'").error().kind, ErrorKind::Effects);
    let logs = Flow::body("for i = 1, 1000 do log(i) end return 'ok'").run().logs;
    assert_eq!((logs.len(), logs[100].text.expose()), (101, "further log lines of this turn are dropped"));
}

#[test]
fn many_looping_turns_of_a_tenant_hold_the_thread_no_longer_than_one() {
    /// CPU time that passes, in the middle of all cases, until a task that gave way runs again beside so many looping turns.
    fn absence(loops: usize) -> Duration {
        let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
        let mut flow = Flow::body("while true do end");
        (flow.limits.cpu, flow.limits.share) = (Duration::from_millis(200) / u32::try_from(loops).unwrap(), 100);
        let flow = Arc::new(flow);
        runtime().block_on(async {
            let looping: Vec<_> = (0..loops)
                .map(|_| {
                    let flow = flow.clone();
                    tokio::spawn(async move { flow.turn().await.result.unwrap_err().kind })
                })
                .collect();
            let mut absences = Vec::new();
            while !looping.iter().any(tokio::task::JoinHandle::is_finished) {
                let before = now();
                tokio::task::yield_now().await;
                absences.push(now() - before);
            }
            for turn in looping {
                assert_eq!(turn.await.unwrap(), ErrorKind::CpuBudget);
            }
            absences.sort_unstable();
            absences[absences.len() / 2]
        })
    }
    let (one, many) = (absence(1), absence(16));
    assert!(many < one * 4, "{many:?} beside sixteen, {one:?} beside one");
}

#[test]
fn a_looping_turn_lets_others_on_its_thread_run() {
    let (mut loops, quick) = (Flow::body("while true do end"), Flow::body("return 'quick'"));
    loops.limits.cpu = Duration::from_millis(500);
    let over = std::cell::Cell::new(false);
    let looping = async {
        assert_eq!(loops.turn().await.result.unwrap_err().kind, ErrorKind::CpuBudget);
        over.set(true);
    };
    let serving = async {
        for _ in 0..5 {
            quick.turn().await.result.unwrap();
            assert!(!over.get(), "the loop held the thread until its end");
            tokio::task::yield_now().await;
        }
    };
    runtime().block_on(async { tokio::join!(looping, serving) });
}

#[test]
fn the_end_of_a_turn_does_not_pay_for_what_others_hold() {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let mut flow = Flow::body(
        "if turn.text == 'small' then return 'ok' end local t = {} for i = 1, 150000 do t[i] = {} end nlp.answer(turn) return 'ok'",
    );
    let fifty = |flow: &Flow| {
        let before = now();
        (0..50).for_each(|_| assert_eq!(flow.text(), "ok"));
        now() - before
    };
    flow.query = "small";
    let alone = fifty(&flow);
    flow.query = "large";
    let mut held: Vec<_> = (0..4).map(|_| Run::start(flow.input())).collect();
    for run in &mut held {
        assert!(matches!(runtime().block_on(run.resume(Resume::Start)), Step::Effect(_)));
    }
    flow.query = "small";
    let beside = fifty(&flow);
    assert!(beside < alone * 50, "{beside:?} beside large ones, {alone:?} alone");
    drop(held);
    // What they held is not kept.
    flow.text();
    assert!(vm::local(|local| local.vm(&flow.script).unwrap().lua().used_memory()).unwrap() < 16 << 20);
}

#[test]
fn what_a_model_said_is_garbage_too() {
    let mut flow = Flow::body("return #nlp.answer(turn):text()");
    flow.model = Ok("x".repeat(20 << 20).leak());
    assert_eq!(flow.text(), "20971520");
    assert!(vm::local(|local| local.vm(&flow.script).unwrap().lua().used_memory()).unwrap() < 16 << 20);
}
