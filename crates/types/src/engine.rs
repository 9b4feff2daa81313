//! The seam between storage and a database engine: what turns records into pages (rule R7).

use crate::{PageKey, Span};

/// Why an engine could not apply a record. The segment stops serving the page; nothing is skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {span} on page {key}: {what}")]
pub struct EngineError {
    /// The page concerned, as the engine prints it.
    pub key: String,
    /// The record.
    pub span: Span,
    /// What is wrong, naming the record's kind.
    pub what: String,
}

/// Turns parts of the log into pages. Pure: the same inputs give the same bytes on every node.
pub trait Engine: Send + Sync {
    /// Applies one record to one page.
    ///
    /// `page` is the page's content just before the record: empty when no version of it exists (the
    /// engine knows what a new page looks like). `body` is the record's bytes as the engine's own
    /// log holds them, from the part. Called in log order, exactly once for each record that named
    /// the page in a `Change::Apply`.
    ///
    /// # Errors
    /// When the record is unknown, damaged, or does not fit the page.
    fn apply(
        &self,
        key: &PageKey,
        page: &mut Vec<u8>,
        span: Span,
        body: &[u8],
    ) -> Result<(), EngineError>;

    /// Whether the record leaves nothing of the page's earlier content (a full-page image or an
    /// initialisation), so that older versions need not be read to build the page.
    fn replaces(&self, key: &PageKey, body: &[u8]) -> bool;

    /// The page's name for messages.
    fn describe(&self, key: &PageKey) -> String;
}
