//! The embedded store against the model, opened again now and then.

use std::sync::Arc;

use super::{erase::cut_short, open, records};
use crate::{
    api::{Clock, UserKey},
    context::{
        Durability,
        codec::Kind,
        conformance::{
            Subject, TempDir, clock,
            model::{World, run},
        },
        embedded::Embedded,
    },
};

struct OneDirectory {
    dir: TempDir,
    clock: Clock,
    /// Empty only while the directory is opened again.
    open: Option<(Arc<Embedded>, Subject)>,
}

impl OneDirectory {
    fn new() -> Self {
        let mut this = Self { dir: TempDir::new(), clock: clock(), open: None };
        this.reopen();
        this
    }

    fn reopen(&mut self) {
        self.open = None;
        let store = Arc::new(open(self.dir.path(), Durability::Os, &self.clock));
        self.open = Some((store.clone(), Subject::new(store, self.clock.clone(), ())));
    }

    fn store(&self) -> &Embedded {
        &self.open.as_ref().unwrap().0
    }
}

impl World for OneDirectory {
    fn subject(&mut self) -> &Subject {
        &self.open.as_ref().unwrap().1
    }

    async fn upset(&mut self, dice: u8) -> bool {
        if dice < 24 {
            self.reopen();
            return true;
        }
        self.store().sweep().await.unwrap();
        false
    }

    async fn erase_and_die(&mut self, user: &UserKey) {
        cut_short(self.store(), user).await;
    }
}

#[tokio::test]
async fn a_random_run_never_differs_from_the_model() {
    for seed in 0..4 {
        let mut world = OneDirectory::new();
        let kept = run(&mut world, seed, 600).await;
        world.reopen();
        world.store().sweep().await.unwrap();
        assert_eq!(records(world.store(), Kind::Turn), kept, "the disk keeps nothing else");
    }
}
