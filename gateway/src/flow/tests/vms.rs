//! VMs and coroutines are made once, used again, and go when nobody needs them.

use super::*;
use crate::flow::vm;

fn kept() -> usize {
    vm::local(|local| local.kept()).unwrap()
}

#[test]
fn a_run_is_plain_data() {
    fn send<T: Send>(_: &T) {}
    let flow = Flow::body("return 'x'");
    let mut run = Run::start(flow.input());
    send(&run);
    send(&run.resume(Resume::Start));
}

#[test]
fn one_vm_serves_all_turns_of_a_script_even_after_a_reload() {
    let source = "return function() return 'x' end";
    Flow::new(source).text();
    let before = kept();
    for _ in 0..10 {
        Flow::new(source).text();
    }
    assert_eq!(kept(), before);
}

#[test]
fn the_vm_of_a_replaced_script_goes_with_its_last_turn() {
    let old = Flow::body("nlp.answer(turn) return 'old'");
    let before = kept();
    runtime().block_on(async {
        let mut run = Run::start(old.input());
        assert!(matches!(run.resume(Resume::Start).await, Step::Effect(_)));
        drop(old);
        assert_eq!(kept(), before + 1);
        assert!(matches!(run.resume(Resume::Answer(Ok(AnswerId(0)))).await, Step::Done(_)));
    });
    assert_eq!(kept(), before);
}

#[test]
fn an_abandoned_turn_gives_its_coroutine_back() {
    let flow = Flow::body("nlp.answer(turn) return 'x'");
    runtime().block_on(async {
        for _ in 0..100 {
            let mut run = Run::start(flow.input());
            assert!(matches!(run.resume(Resume::Start).await, Step::Effect(_)));
        }
    });
    assert_eq!(vm::local(|local| local.coroutines()).unwrap(), 0);
    assert_eq!(flow.text(), "x");
}

#[test]
fn a_thread_keeps_a_bounded_number_of_vms() {
    let flows: Vec<_> = (0..140).map(|i| Flow::body(&format!("return {i}"))).collect();
    flows.iter().for_each(|flow| drop(flow.text()));
    assert_eq!(kept(), 128);
}

#[test]
fn a_run_stays_on_its_thread() {
    let flow = Flow::body("nlp.answer(turn) return 'x'");
    let mut run = Run::start(flow.input());
    assert!(matches!(runtime().block_on(run.resume(Resume::Start)), Step::Effect(_)));
    let step = std::thread::spawn(move || runtime().block_on(run.resume(Resume::Answer(Ok(AnswerId(0)))))).join().unwrap();
    let Step::Failed(error) = step else { panic!("{step:?}") };
    assert_eq!(error.kind, ErrorKind::Internal);
}

#[test]
fn a_run_that_is_over_stays_over() {
    let flow = Flow::body("return 'x'");
    let mut run = Run::start(flow.input());
    assert!(matches!(runtime().block_on(run.resume(Resume::Start)), Step::Done(_)));
    assert!(matches!(runtime().block_on(run.resume(Resume::Start)), Step::Failed(_)));
}

#[test]
fn a_script_does_not_run_for_another_tenants_conversation() {
    let flow = Flow::of("acme-shop", "return function(turn) return turn.user end");
    let key = Flow::of("harbor-bank", "return function() end").input().key;
    let mut run = Run::start(Input { key, ..flow.input() });
    let step = runtime().block_on(run.resume(Resume::Start));
    assert!(matches!(&step, Step::Failed(error) if error.kind == ErrorKind::Internal), "{step:?}");
}
