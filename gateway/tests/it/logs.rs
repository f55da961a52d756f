//! Each tenant's log is its own: no other tenant's lines, no other tenant's trouble.

use std::fs;

use serde_json::json;

use super::{
    client,
    harness::Site,
    model::{Behaviour, Model},
    process::{Process, message},
};

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_tenant_whose_log_takes_no_more_holds_up_nobody() {
    let gateway = Site::new().start();
    for tenant in ["alpha", "beta"] {
        gateway.site.script(tenant, "return function(turn) for i = 1, 50 do log(turn.text .. i) end return 'fine' end");
    }
    gateway.site.write(&gateway.site.config().replace("  alpha:\n", "  alpha:\n    log: /dev/full\n"));
    assert_eq!(gateway.admin("POST", "/reload").await.status, 200);
    let before = gateway.metric("fengda_log_lines_dropped_total").await;
    for _ in 0..20 {
        for tenant in ["alpha", "beta"] {
            assert_eq!(gateway.ask(tenant, "u", "said ").await["answer"], "fine");
        }
    }
    let lines = gateway.tenant_log("beta").lines().count();
    assert_eq!(lines, 20 * 50);
    assert!(gateway.metric("fengda_log_lines_dropped_total").await >= before + 20.0 * 50.0);
}

#[cfg(unix)]
#[tokio::test]
async fn two_tenants_cannot_log_to_one_file_by_way_of_a_link() {
    let gateway = Site::new().start();
    gateway.ask("beta", "u", "q").await; // its log is there
    std::os::unix::fs::symlink(gateway.site.path("data/logs/beta.log"), gateway.site.path("link.log")).unwrap();
    gateway.site.write(&gateway.site.config().replace("  alpha:\n", "  alpha:\n    log: link.log\n"));
    let refused = gateway.admin("POST", "/reload").await;
    assert_eq!(refused.status, 422);
    let problem = refused.json()["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.contains("leads to the file that `alpha` logs to"), "{problem}");
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_a_problem_of_the_configuration_and_not_of_another_tenant() {
    let gateway = Site::new().start();
    fs::write(gateway.site.path("file"), "").unwrap();
    gateway.site.write(&gateway.site.config().replace("  alpha:\n", "  alpha:\n    log: file/a.log\n"));
    let refused = gateway.admin("POST", "/reload").await;
    assert_eq!(refused.status, 422);
    let problem = refused.json()["problems"][0].as_str().unwrap().to_owned();
    assert!(problem.contains("config.yaml:1") && problem.contains("file/a.log"), "{problem}");
    assert_eq!(gateway.ask("beta", "u", "q").await["fallback"], false);
}

#[tokio::test]
async fn operators_are_told_of_circuits_that_change_and_of_a_data_directory_that_is_gone() {
    let model = Model::start().await;
    let site = Site::new().model(&model).breaker("{ failures: 1, retries: 0 }");
    let mut gateway = Process::start(&site.write(&site.config())).await;
    model.plan([Behaviour::Status(500)]);
    client::http1(gateway.public, message("alpha", &json!({ "query": "q" }))).await;
    let changed = gateway.event("circuit_changed").await;
    for (field, value) in [("level", "warn"), ("tenant", "alpha"), ("upstream", "model"), ("from", "closed"), ("to", "open")] {
        assert_eq!(changed[field], value, "{field}");
    }
    fs::remove_dir_all(site.path("data")).unwrap();
    client::http1(gateway.public, message("beta", &json!({ "query": "q" }))).await;
    assert_eq!(gateway.event("data_directory_gone").await["level"], "error");
}
