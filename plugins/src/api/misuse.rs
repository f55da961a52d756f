//! What must not compile, so that a slip shows in the compiler and not in somebody's log. Each example differs only by its last line from
//! one that compiles; the code is the error that is meant (stable rustdoc checks only that there is one).

/// Words of tenants and customers cannot be printed, quoted in an error, or be a metric's label.
///
/// ```
/// use fengda_plugins::api::{Family, Meters, Reject, Code, Secret, Text};
/// let (words, key) = (Text::from("my pin is 1234"), Secret::from("hunter2".to_owned()));
/// println!("{words:?} {key:?}"); // lengths at most
/// ```
/// ```compile_fail,E0277
/// let words = fengda_plugins::api::Text::from("my pin is 1234");
/// println!("{words}");
/// ```
/// ```compile_fail,E0277
/// let key = fengda_plugins::api::Secret::from("hunter2".to_owned());
/// println!("{key}");
/// ```
/// ```compile_fail,E0277
/// use fengda_plugins::api::{Code, Reject, Text};
/// let words = Text::from("my pin is 1234");
/// let _ = Reject::new(Code::BadRequest, words);
/// ```
/// ```compile_fail,E0277
/// use fengda_plugins::api::{Family, Meters, Text};
/// let counter = Meters::default().counter(Family { name: "fengda_seen_total", help: "Seen.", labels: &["what"] });
/// counter.with_label_values(&[Text::from("my pin is 1234")]).inc();
/// ```
mod printing {}

/// Neither can they be serialized, alone or as a part of something: not into a log line, an answer of the admin listener or a status.
///
/// ```
/// use fengda_plugins::api::Text;
/// serde_json::to_string(Text::from("my pin is 1234").expose()).unwrap(); // said, and easy to find
/// ```
/// ```compile_fail,E0277
/// use fengda_plugins::api::Text;
/// serde_json::to_string(&Text::from("my pin is 1234")).unwrap();
/// ```
/// ```compile_fail,E0277
/// use fengda_plugins::api::Secret;
/// serde_json::to_string(&Secret::from("hunter2".to_owned())).unwrap();
/// ```
/// ```compile_fail,E0277
/// #[derive(serde::Serialize)]
/// struct Line { said: fengda_plugins::api::Text }
/// ```
/// ```compile_fail,E0277
/// use fengda_plugins::api::Tenant;
/// serde_json::json!({ "user": Tenant::from_config("acme").unwrap().user("jo").unwrap() });
/// ```
mod serializing {}

/// A storage key comes from a tenant and from nothing else, and so does what is stored under it.
///
/// ```
/// use fengda_plugins::api::{SessionKey, Tenant, UserKey};
/// let tenant = Tenant::from_config("acme").unwrap(); // what the configuration does; a plugin is given its tenants
/// let user: UserKey = tenant.user("jo").unwrap();
/// let session: SessionKey = user.session("web").unwrap();
/// ```
/// ```compile_fail,E0423
/// let tenant = fengda_plugins::api::Tenant("acme".into());
/// ```
/// ```compile_fail,E0277
/// let user: fengda_plugins::api::UserKey = "acme/jo".into();
/// ```
/// ```compile_fail,E0451
/// use fengda_plugins::api::{Tenant, UserKey};
/// let tenant = Tenant::from_config("acme").unwrap();
/// let user = UserKey { tenant, bytes: "other/jo".into() };
/// ```
/// ```compile_fail,E0616
/// use fengda_plugins::api::Tenant;
/// let mut user = Tenant::from_config("acme").unwrap().user("jo").unwrap();
/// user.tenant = Tenant::from_config("other").unwrap();
/// ```
/// ```compile_fail,E0308
/// use fengda_plugins::api::TurnPhase;
/// fn read(conversations: &dyn TurnPhase) { let _ = conversations.history("acme/jo/web"); }
/// ```
/// ```compile_fail,E0308
/// use fengda_plugins::api::Call;
/// let call = Call { tenant: Some("other"), upstream: "model", attempt: 0, repeatable: true };
/// ```
mod keys {}

/// A request belongs to whom its credential proved, once.
///
/// ```
/// use fengda_plugins::api::{Identity, RequestCtx, RequestId, Tenant};
/// let mut ctx = RequestCtx::new(RequestId::random(), None, "/".into(), [127, 0, 0, 1].into());
/// ctx.identify(Identity { user: Tenant::from_config("acme").unwrap().user("jo").unwrap(), seen: None });
/// assert_eq!(ctx.tenant().unwrap().name(), "acme");
/// ```
/// ```should_panic
/// use fengda_plugins::api::{Identity, RequestCtx, RequestId, Tenant};
/// let mut ctx = RequestCtx::new(RequestId::random(), None, "/".into(), [127, 0, 0, 1].into());
/// for tenant in ["acme", "other"] {
///     ctx.identify(Identity { user: Tenant::from_config(tenant).unwrap().user("jo").unwrap(), seen: None });
/// }
/// ```
/// ```compile_fail,E0616
/// use fengda_plugins::api::{RequestCtx, RequestId};
/// let mut ctx = RequestCtx::new(RequestId::random(), None, "/".into(), [127, 0, 0, 1].into());
/// ctx.identity = None;
/// ```
/// ```compile_fail,E0594
/// use fengda_plugins::api::{RequestCtx, Tenant};
/// fn swap(ctx: &mut RequestCtx) { ctx.identity().unwrap().user = Tenant::from_config("other").unwrap().user("jo").unwrap(); }
/// ```
mod identity {}
