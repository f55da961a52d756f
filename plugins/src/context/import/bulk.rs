//! All lists of a tenant, one after the other.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{Flaw, Held, KeyError, Lists, Pattern, lists::Found};
use crate::{
    api::{Clock, Tenant, TurnError},
    context::{Limits, Store},
    redis::{Fault, Scan},
};

/// Most lists on their way at a time.
const AT_ONCE: usize = 32;
/// How long to wait for a turn that has a session.
const WAIT: Duration = Duration::from_secs(3);
/// Before what got no answer is tried again.
const PAUSE: Duration = Duration::from_millis(250);

/// Brings the lists of a tenant over. What is there already is left as it is, so it can be killed and run again: the store itself knows
/// what is done, which a cursor could not, as those of `SCAN` mean nothing to another server after a failover.
#[derive(Clone)]
pub struct Bulk {
    /// Where the lists are.
    pub lists: Lists,
    /// Which keys they have.
    pub pattern: Pattern,
    /// Whose they become.
    pub tenant: Tenant,
    /// Where they go; without it they are only read.
    pub store: Option<Arc<dyn Store>>,
    /// What the store keeps.
    pub limits: Limits,
    /// Says what time it is.
    pub clock: Clock,
    /// Most sessions to bring over in this run.
    pub most: u64,
    /// How long what gets no answer is tried again before the run ends: a failover takes seconds.
    pub patience: Duration,
}

/// What became of lists so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Keys that were looked at.
    pub keys: u64,
    /// Sessions that were brought over, or would have been.
    pub imported: u64,
    /// Their turns.
    pub turns: u64,
    /// Sessions that the store has already, or that were erased there.
    pub there: u64,
    /// Sessions in which turns went on all the time: to be tried again.
    pub busy: u64,
    /// Keys that nothing could be made of.
    pub left: u64,
    /// Elements of lists that nothing could be made of.
    pub elements: u64,
}

/// What an operator may want to hear of while it runs. Keys are as the older deployment wrote them: customers' ids are in them.
#[derive(Debug, PartialEq, Eq)]
pub enum News<'a> {
    /// The list under this key was left, or the session that it belongs to.
    Left(&'a [u8], Left),
    /// The element of this index was left.
    Element(&'a [u8], usize, Flaw),
    /// So much is done: about so many keys of all kinds were walked over, of so many as there are, if that is known.
    Progress(u64, Option<u64>),
}

/// Why a list was left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Left {
    /// It cannot be said whose it is.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It is no list.
    #[error("is not a list")]
    Other,
    /// It has nothing to take.
    #[error("has no element that could be taken")]
    Empty,
    /// Its session is in use.
    #[error("belongs to a session that is in use")]
    Busy,
    /// What the store has of the session is damaged.
    #[error("belongs to a session that is damaged in the store: {0}")]
    Damaged(String),
}

impl Left {
    /// The same without what differs from one to another, to count by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Key(KeyError::Foreign) => "do not fit the pattern",
            Self::Key(KeyError::Ambiguous) => "can be read as more than one user and session",
            Self::Key(KeyError::Id(_)) => "have an empty or too long user or session",
            Self::Other => "are no lists",
            Self::Empty => "have no element that could be taken",
            Self::Busy => "belong to sessions in use",
            Self::Damaged(_) => "belong to sessions that are damaged in the store",
        }
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// The lists cannot be read.
    #[error("the lists cannot be read")]
    Lists(#[from] Fault),
    /// The store does not take them.
    #[error(transparent)]
    Store(TurnError),
}

impl BulkError {
    /// Whether it may be otherwise in a moment.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Lists(Fault::Down(_) | Fault::Unknown(_)) | Self::Store(TurnError::Unavailable(_)))
    }
}

/// What became of one list.
struct Outcome {
    key: Vec<u8>,
    done: Result<Done, Left>,
    flaws: Vec<(usize, Flaw)>,
}

enum Done {
    /// So many turns came over.
    Imported(usize),
    /// Its session was there.
    There,
    /// The list went away meanwhile.
    Gone,
}

impl Bulk {
    /// Brings over what there is, telling `hear` of it.
    ///
    /// # Errors
    /// See [`BulkError`]; what was done until then is done.
    pub async fn run(&self, mut hear: impl FnMut(&Tally, News<'_>)) -> Result<Tally, BulkError> {
        let (mut scan, mut tally, mut tasks) = (self.lists.keys(self.pattern.glob()), Tally::default(), JoinSet::new());
        let all = self.lists.count().await;
        'keys: while let Some(keys) = self.step(&mut scan).await? {
            let walked = scan.walked();
            for key in keys {
                while tasks.len() >= AT_ONCE || tally.imported + tasks.len() as u64 >= self.most {
                    let Some(ended) = tasks.join_next().await else { break 'keys };
                    tally.take(ended.expect("an import neither panics nor is cancelled")?, &mut hear);
                    hear(&tally, News::Progress(walked, all));
                }
                let this = self.clone();
                tasks.spawn(async move { this.one(key).await });
            }
            hear(&tally, News::Progress(walked, all));
        }
        while let Some(ended) = tasks.join_next().await {
            tally.take(ended.expect("an import neither panics nor is cancelled")?, &mut hear);
        }
        Ok(tally)
    }

    /// The next keys, maybe none of them; `None` at the end.
    async fn step(&self, scan: &mut Scan) -> Result<Option<Vec<Vec<u8>>>, BulkError> {
        let end = Instant::now() + self.patience;
        loop {
            match scan.next().await.map_err(BulkError::from) {
                Err(error) if error.may_pass() && Instant::now() < end => sleep(PAUSE).await,
                result => return result,
            }
        }
    }

    /// Brings over the list under a key.
    async fn one(&self, key: Vec<u8>) -> Result<Outcome, BulkError> {
        let end = Instant::now() + self.patience;
        loop {
            let mut flaws = Vec::new();
            let done = match self.session(&key, &mut flaws).await {
                Ok(done) => Ok(done),
                Err(Failure::Left(left)) => Err(left),
                Err(Failure::Run(error)) if error.may_pass() && Instant::now() < end => {
                    sleep(PAUSE).await;
                    continue;
                }
                Err(Failure::Run(error)) => return Err(error),
            };
            return Ok(Outcome { key, done, flaws });
        }
    }

    async fn session(&self, key: &[u8], flaws: &mut Vec<(usize, Flaw)>) -> Result<Done, Failure> {
        let session = self.pattern.session_of(key, &self.tenant)?;
        let held = match &self.store {
            None => None,
            Some(store) if !store.is_new(&session).await? => return Ok(Done::There),
            Some(store) => match Held::take(&**store, &session, WAIT, &self.clock).await? {
                None => return Ok(Done::There),
                held => held,
            },
        };
        let turns = match self.lists.read(key, self.limits, self.clock.now()).await? {
            Found::Nothing => return Ok(Done::Gone),
            Found::Other => return Err(Left::Other.into()),
            Found::Turns(turns, wrong) => {
                *flaws = wrong;
                turns
            }
        };
        let count = turns.len();
        match held {
            _ if count == 0 => Err(Left::Empty.into()),
            Some((held, base)) if held.import(&base, turns).await?.is_none() => Ok(Done::There),
            _ => Ok(Done::Imported(count)),
        }
    }
}

/// What keeps a list from being brought over: itself, or something that ends the run.
enum Failure {
    Left(Left),
    Run(BulkError),
}

impl<E: Into<Left>> From<E> for Failure {
    fn from(left: E) -> Self {
        Self::Left(left.into())
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Run(fault.into())
    }
}

impl From<TurnError> for Failure {
    fn from(error: TurnError) -> Self {
        match error {
            TurnError::InProgress | TurnError::ClaimLost => Self::Left(Left::Busy),
            TurnError::Corrupt(what) => Self::Left(Left::Damaged(what)),
            error => Self::Run(BulkError::Store(error)),
        }
    }
}

impl Tally {
    fn take(&mut self, outcome: Outcome, hear: &mut impl FnMut(&Self, News<'_>)) {
        let Outcome { key, done, flaws } = outcome;
        self.keys += 1;
        self.elements += flaws.len() as u64;
        for (index, flaw) in flaws {
            hear(self, News::Element(&key, index, flaw));
        }
        match done {
            Ok(Done::Imported(turns)) => {
                self.imported += 1;
                self.turns += turns as u64;
            }
            Ok(Done::There) => self.there += 1,
            Ok(Done::Gone) => {}
            Err(left) => {
                let count = if left == Left::Busy { &mut self.busy } else { &mut self.left };
                *count += 1;
                hear(self, News::Left(&key, left));
            }
        }
    }
}
