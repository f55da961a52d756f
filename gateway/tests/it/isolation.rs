//! Nobody's words where they do not belong.
