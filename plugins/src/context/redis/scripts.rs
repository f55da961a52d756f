//! The scripts, each with what they share before it.

use crate::redis::Script;

macro_rules! script {
    ($name:ident, $label:literal) => {
        pub(super) static $name: Script = Script::new($label, concat!(include_str!("shared.lua"), include_str!(concat!($label, ".lua"))));
    };
}

script!(BEGIN, "begin");
script!(COMMIT, "commit");
script!(RELEASE, "release");
script!(WAKE, "wake");
script!(LOAD, "load");
script!(IS_NEW, "is_new");
script!(IMPORT, "import");
script!(ERASE_SESSION, "erase_session");
script!(ERASE_USER, "erase_user");
