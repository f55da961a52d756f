//! The types that editors see are those that scripts find.
