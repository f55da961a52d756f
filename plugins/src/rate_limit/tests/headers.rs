//! What clients are told: headers that hold to the second.

use super::*;

#[test]
fn a_refusal_says_when_to_come_back_and_that_is_true() {
    let gate = Gate::new("{limits: [{name: minute, by: tenant, rate: 6/m, burst: 2}, {name: user, by: user, rate: 1/s, burst: 5}]}", &[]);
    assert_eq!(gate.passing("acme-shop", "u1"), 2);
    gate.clock.advance(Duration::from_millis(1500));
    let reject = gate.send("acme-shop", "u1", "::1").unwrap_err();
    assert_eq!(reject.code.as_str(), "rate_limited");
    assert_eq!(header(&reject, "retry-after"), "9", "8.5 s, rounded up");
    assert_eq!(header(&reject, "ratelimit"), r#""minute";r=0;t=9"#);
    assert_eq!(header(&reject, "ratelimit-policy"), r#""user";q=5;w=5, "minute";q=2;w=20"#);
    gate.clock.advance(Duration::from_secs(9));
    assert!(gate.send("acme-shop", "u1", "::1").is_ok());
}

#[test]
fn the_longest_wait_is_told_when_several_limits_are_used_up() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 1/s, burst: 1}, {name: tenant, by: tenant, rate: 1/m, burst: 1}]}", &[]);
    assert!(gate.send("acme-shop", "u1", "::1").is_ok());
    let reject = gate.send("acme-shop", "u1", "::1").unwrap_err();
    assert_eq!((header(&reject, "retry-after"), header(&reject, "ratelimit")), ("60", r#""tenant";r=0;t=60"#));
}

#[test]
fn answers_tell_what_is_left_of_the_tightest_limit() {
    let gate = Gate::new("{}", &[]);
    let policy = r#""user";q=200;w=4, "tenant";q=1000;w=2"#;
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""user";r=200;t=4"#, policy]);
    assert!(gate.send("acme-shop", "u1", "::1").is_ok());
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""user";r=199;t=4"#, policy]);
    for user in ["u2", "u3", "u4", "u5", "u6"] {
        assert!(gate.passing("acme-shop", user) > 190);
    }
    assert_eq!(gate.headers("acme-shop", "u1"), [r#""tenant";r=0;t=1"#, policy]);
    assert_eq!(gate.headers("harbor-bank", "u1")[0], r#""user";r=200;t=4"#);
    assert_eq!(gate.headers("", ""), ["", ""], "neither limit applies to a stranger");
}

#[test]
fn the_headers_of_a_refusal_stay_as_they_are() {
    let gate = Gate::new("{limits: [{name: ip, by: ip, rate: 1/h}]}", &[]);
    let mut headers = HeaderMap::from_iter([(super::super::RATELIMIT, http::HeaderValue::from_static("x"))]);
    gate.plugin.response(&request("", "", "192.0.2.1"), StatusCode::OK, &mut headers);
    assert_eq!(headers.len(), 1);
}

#[test]
fn what_is_left_is_what_passes_and_the_wait_is_exact() {
    let mut random = fastrand::Rng::with_seed(7);
    let acme = Tenant::from_config("acme-shop").unwrap();
    for _ in 0..50 {
        let (rate, burst) = ([1, 2, 4, 5, 8, 10, 20, 25, 40][random.usize(..9)], random.u32(1..30));
        let gate = Gate::new(&format!("{{limits: [{{name: user, by: user, rate: {rate}/s, burst: {burst}}}]}}"), &[]);
        let plugin = (&*gate.plugin as &dyn std::any::Any).downcast_ref::<RateLimit>().unwrap();
        for _ in 0..50 {
            gate.clock.advance(Duration::from_millis(random.u64(..2000)));
            for _ in 0..random.u32(..burst + 2) {
                _ = gate.send("acme-shop", "u1", "::1");
            }
            let (_, left) = plugin.tenants[&acme].tightest(&request("acme-shop", "u1", "::1")).unwrap();
            if random.bool() {
                assert_eq!(gate.passing("acme-shop", "u1"), usize::try_from(left.remaining).unwrap());
            } else if left.remaining == 0 {
                gate.clock.advance(left.wait - Duration::from_millis(1));
                assert!(gate.send("acme-shop", "u1", "::1").is_err());
                gate.clock.advance(Duration::from_millis(1));
                assert!(gate.send("acme-shop", "u1", "::1").is_ok());
            }
        }
    }
}

#[test]
fn after_retry_after_a_request_passes_and_a_second_before_it_does_not() {
    for rate in ["1/h", "7/h", "1/m", "9/m", "70/m", "1/s", "3/s", "50/s", "999/s"] {
        for burst in [1, 2, 7, 200] {
            for early in [0, 1, 499, 999] {
                let config = format!("{{limits: [{{name: user, by: user, rate: {rate}, burst: {burst}}}]}}");
                let (gate, told) = (Gate::new(&config, &[]), format!("{rate} {burst} {early}"));
                gate.clock.advance(Duration::from_millis(early));
                assert_eq!(gate.passing("acme-shop", "u1"), burst, "{told}");
                gate.clock.advance(Duration::from_millis(early / 2));
                let Err(reject) = gate.send("acme-shop", "u1", "::1") else { continue };
                let seconds: u64 = header(&reject, "retry-after").parse().unwrap();
                assert_eq!(header(&reject, "ratelimit"), format!(r#""user";r=0;t={seconds}"#));
                gate.clock.advance(Duration::from_secs(seconds - 1));
                assert!(gate.send("acme-shop", "u1", "::1").is_err(), "{told}: a second early");
                gate.clock.advance(Duration::from_secs(1));
                assert!(gate.send("acme-shop", "u1", "::1").is_ok(), "{told}: after {seconds} s");
            }
        }
    }
}

#[test]
fn who_uses_no_more_than_what_remains_in_its_window_is_never_refused() {
    let gate = Gate::new("{limits: [{name: user, by: user, rate: 7/s, burst: 30}]}", &[]);
    for _ in 0..50 {
        let [header, _] = gate.headers("acme-shop", "u1");
        let number = |name: &str| header.split(';').find_map(|p| p.strip_prefix(name)).unwrap().parse::<u64>().unwrap();
        let (remaining, window) = (number("r="), number("t="));
        assert!((0..remaining).all(|_| gate.send("acme-shop", "u1", "::1").is_ok()), "{header}");
        gate.clock.advance(Duration::from_secs(window));
    }
}
