//! Conversations on Redis, for many gateways: every step of a turn is one script on the primary that has its user's keys.
