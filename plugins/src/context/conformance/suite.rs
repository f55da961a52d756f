//! The behaviours, one function each, in a file for each theme.

/// Makes a function of each behaviour of a theme, and a macro of the theme's name that makes a test of each.
macro_rules! behaviours {
    (($d:tt) $theme:ident $(async fn $case:ident($s:ident) $body:block)*) => {
        $(#[allow(missing_docs, reason = "the name says it")]
        pub async fn $case($s: Subject) $body)*

        #[cfg(test)]
        macro_rules! $theme {
            ($d open:expr) => {$(
                #[tokio::test]
                async fn $case() {
                    $crate::context::conformance::suite::$theme::$case($d open).await;
                }
            )*};
        }
    };
}

#[macro_use]
pub mod lifetime;
#[macro_use]
pub mod past;
#[macro_use]
pub mod turns;
#[macro_use]
pub mod waiting;

/// Makes one test of each behaviour of a store. `$open` yields a [`Subject`](crate::context::conformance::Subject).
#[cfg(test)]
macro_rules! store_conformance {
    ($open:expr) => {
        lifetime!($open);
        past!($open);
        turns!($open);
        waiting!($open);
    };
}
