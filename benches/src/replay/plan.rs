//! Who says what to whom: conversations dealt to the users of a few tenants, with the one right answer to every message.
//!
//! Ids repeat on purpose: every tenant has a user `u0`, every session is called [`SESSION`], every first message `1`.
//! A key or a cache that leaves one of them out mixes conversations up, and the replay sees it, since every answer
//! carries a mark of its own.

use std::{collections::HashMap, iter};

use fastrand::Rng;
use fengda_plugins::api::Text;

use super::conversations::Conversation;

/// How many tenants the conversations are dealt to.
pub(super) const TENANTS: usize = 8;
/// The session of every user.
pub(super) const SESSION: &str = "replay";
/// Makes every run deal alike.
const SEED: u64 = 20_260_101;

/// A whole replay, before it is played.
pub(super) struct Plan {
    /// The tenants.
    pub tenants: Vec<TenantPlan>,
    /// The dialogues; index = the number they go by.
    pub dialogues: Vec<Dialogue>,
    /// tenant → user → dialogue.
    users: HashMap<String, HashMap<String, usize>>,
}

/// A tenant and the key that signs its users' tokens.
pub(super) struct TenantPlan {
    /// Its name in the gateway's configuration.
    pub name: String,
    /// Its HS256 secret: 64 hex digits, made for one run.
    pub secret: String,
}

/// One user's conversation.
pub(super) struct Dialogue {
    /// Index of the user's tenant.
    pub tenant: usize,
    /// The user's id, unique within the tenant only.
    pub user: String,
    /// What is said, in order.
    pub turns: Vec<PlannedTurn>,
}

/// One message and its only right answer.
pub(super) struct PlannedTurn {
    /// The question, as recorded.
    pub q: Text,
    /// The recorded answer with a mark of dialogue and turn: 谢谢 is said in hundreds of dialogues, and one answer to it must not pass for another.
    pub a: Text,
}

impl Plan {
    /// Deals `count` conversations, going round if there are fewer, to [`TENANTS`] tenants.
    ///
    /// # Panics
    /// `conversations` is empty.
    pub(super) fn deal(conversations: &[Conversation], count: usize) -> Self {
        let mut rng = Rng::with_seed(SEED);
        let tenants: Vec<_> = (0..TENANTS).map(|i| TenantPlan { name: format!("replay-{i}"), secret: secret(&mut rng) }).collect();
        let mut users: HashMap<String, HashMap<String, usize>> = HashMap::new();
        let dialogues = conversations.iter().cycle().take(count).enumerate().map(|(number, conversation)| {
            let tenant = rng.usize(..TENANTS);
            let of_tenant = users.entry(tenants[tenant].name.clone()).or_default();
            let user = format!("u{}", of_tenant.len());
            of_tenant.insert(user.clone(), number);
            let turns = conversation.turns.iter().zip(1..).map(|(t, n)| PlannedTurn {
                q: t.user.clone(),
                a: Text::from(format!("{} ‹{}/{user}/{n}›", t.bot.expose(), tenants[tenant].name)),
            });
            Dialogue { tenant, turns: turns.collect(), user }
        });
        let dialogues = dialogues.collect();
        Self { tenants, dialogues, users }
    }

    /// The dialogue of a user of a tenant.
    pub(super) fn dialogue_of(&self, tenant: &str, user: &str) -> Option<usize> {
        self.users.get(tenant)?.get(user).copied()
    }

    /// The tenant of a dialogue.
    pub(super) fn tenant_of(&self, dialogue: usize) -> &TenantPlan {
        &self.tenants[self.dialogues[dialogue].tenant]
    }

    /// How many turns all dialogues have together.
    pub(super) fn turns(&self) -> usize {
        self.dialogues.iter().map(|d| d.turns.len()).sum()
    }

    /// Where a fault was seen, in words that hold nothing of what was said.
    pub(super) fn place(&self, dialogue: usize, turn: usize) -> String {
        format!("{} {}, turn {}", self.tenant_of(dialogue).name, self.dialogues[dialogue].user, turn + 1)
    }
}

fn secret(rng: &mut Rng) -> String {
    iter::repeat_with(|| rng.digit(16)).take(64).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::replay::conversations::Exchange;

    /// A plan of `count` dialogues that all say the same `turns` words.
    pub(in crate::replay) fn monotonous(count: usize, turns: usize) -> Plan {
        let exchange = Exchange { user: "谢谢".into(), bot: "不客气".into() };
        Plan::deal(&[Conversation { turns: vec![exchange; turns] }], count)
    }

    #[test]
    fn the_same_words_get_another_answer_in_every_turn_of_every_dialogue() {
        let plan = monotonous(40, 3);
        assert_eq!((plan.dialogues.len(), plan.turns()), (40, 120));
        let answers: std::collections::HashSet<_> = plan.dialogues.iter().flat_map(|d| d.turns.iter().map(|t| t.a.expose())).collect();
        assert_eq!(answers.len(), 120);
    }

    #[test]
    fn tenants_share_user_ids_and_every_user_leads_back_to_one_dialogue() {
        let plan = monotonous(40, 1);
        let firsts = plan.tenants.iter().filter(|t| plan.dialogue_of(&t.name, "u0").is_some()).count();
        assert!(firsts > 1);
        for (i, d) in plan.dialogues.iter().enumerate() {
            assert_eq!(plan.dialogue_of(&plan.tenant_of(i).name, &d.user), Some(i));
        }
        assert_eq!(plan.dialogue_of("replay-0", "nobody"), None);
    }

    #[test]
    fn two_runs_deal_alike() {
        let (one, two) = (monotonous(20, 1), monotonous(20, 1));
        assert!(one.dialogues.iter().zip(&two.dialogues).all(|(a, b)| a.tenant == b.tenant && a.user == b.user));
        assert_eq!(one.tenants[0].secret, two.tenants[0].secret);
        assert_ne!(one.tenants[0].secret, one.tenants[1].secret);
    }
}
