//! What every [`Store`](super::Store) must do, as one suite over any of them.
