//! What is wrong with a configuration, and where.

use super::*;
use crate::{
    api::{BuildCtx, Problem, Scope},
    testing::yaml,
};

#[test]
fn the_size_of_the_tables_is_not_a_tenants_to_choose() {
    let tenants = [tenant("acme-shop", "{max_keys: 5000}", "[]")];
    let built = Place { config: "{}", tenants: &tenants, clock: &Clock::manual(NOW), previous: None }.try_build(&spec(Slot::default()));
    let said: Vec<_> = built.err().unwrap().into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
    assert_eq!(said, ["max_keys: the same for all tenants: they share the tables"]);
}

#[test]
fn problems_name_the_limit() {
    let config = yaml("{limits: [{name: a, by: user, rate: 0/s}]}");
    let clock = Clock::manual(NOW);
    let read = |config: &serde_yaml::Value| {
        (spec(Slot::default()).build)(&BuildCtx { config, tenants: &[], clock: &clock, meters: &Meters::default(), previous: None })
            .err()
            .unwrap()
    };
    let problem = |path: &str, message: &str| Problem { scope: Scope::Plugin, path: path.into(), message: message.into() };
    let rate = "invalid value: string \"0/s\", expected a whole number from 1 to 100000000 and `/s`, `/m` or `/h`, as `50/s`";
    assert_eq!(read(&config), [problem("limits[0].rate", rate)]);
    let three = yaml("{limits: [{name: '', by: user, rate: 0/s, burts: 1}, {by: usr}, {name: Y, by: ip, rate: 1/s}], max_keys: 1, m: 2}");
    let paths: Vec<_> = read(&three).into_iter().map(|p| p.path).collect();
    assert_eq!(paths, ["limits[2].name", "limits[0].rate", "limits[0].burts", "limits[1].by", "m"]);
    assert_eq!(read(&yaml("{max_keys: 1}")), [problem("max_keys", "must be 1024 to 16777216")]);
    for gateways in ["0", "1001"] {
        assert_eq!(read(&yaml(&format!("{{gateways: {gateways}}}"))), [problem("gateways", "must be 1 to 1000")]);
    }
    assert_eq!(read(&yaml("{limits: 5}"))[0].path, "limits");
    let without = "unknown variant `shut`, expected one of `share`, `open`, `closed`";
    assert_eq!(read(&yaml("{without_store: shut}")), [problem("without_store", without)]);
    let name = "a name has 1 to 32 bytes of a-z, 0-9, _ and -";
    let two = yaml(
        "{limits: [{name: a\"b, by: user, rate: 1/s}, {name: x, by: ip, rate: 1/m}, {name: x, by: ip, rate: 1/m, burst: 100000001}, {name: y, by: ip, rate: 1/h, burst: 721}]}",
    );
    let expected = [
        problem("limits[0].name", name),
        problem("limits[2].name", "another limit has this name"),
        problem("limits[2].burst", "at most 100000000 are allowed"),
        problem("limits[3].burst", "at this rate it would take more than 30 days to come back"),
    ];
    assert_eq!(read(&two), expected);
    for bad in ["50", "/s", "+5/s", "-1/s", "1.5/s", "5/d", "5 /s", "100000001/s", ""] {
        let config = yaml(&format!("{{limits: [{{name: a, by: user, rate: '{bad}'}}]}}"));
        assert_eq!(read(&config)[0].path, "limits[0].rate", "{bad}");
    }
}
