//! A request's body as it is read: bounded in length and time and, once it has proven long, in its tenant's line for the thread.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fengda_plugins::api::{Code, Reject};
use http::{Version, header};
use pingora_core::ErrorType;

use super::Downstream;
use crate::{config::Limits, turnstile::Line};

/// What a client may still send after an early answer before its connection is closed: closing at once would make its
/// kernel drop the answer unread.
pub(super) const LINGER: Duration = Duration::from_secs(1);
/// The same in bytes.
const LINGER_BYTES: usize = 4 << 20;

/// A body is long from so many bytes on: what is read of it beyond them, and what is done with it, waits for its turn.
const LONG_BODY: usize = 64 << 10;
/// And from so many pieces on, however short they are.
const MANY_PIECES: u32 = 64;

impl Downstream {
    /// Reads the whole body.
    ///
    /// # Errors
    /// It is over `limits.body`, by its own word or in fact; it is cut off or malformed; it comes too slowly.
    pub async fn read_body(&mut self, limits: &Limits) -> Result<Bytes, Reject> {
        let declared = self.session.get_header(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|n| n > limits.body as u64) {
            return Err(too_large(limits.body));
        }
        let before = self.timing.elapsed();
        let reading = self.read_whole(declared.and_then(|n| n.try_into().ok()), limits.body);
        let read = tokio::time::timeout(limits.body_deadline, reading).await.unwrap_or(Err(BodyError::TooSlow));
        self.timing.waits().add(self.timing.elapsed() - before);
        read.map_err(|error| {
            self.broken |= matches!(error, BodyError::Broken);
            if !matches!(error, BodyError::TooLarge) {
                self.close_after();
            }
            match error {
                BodyError::TooLarge => too_large(limits.body),
                BodyError::TooSlow => {
                    let message = "the body did not arrive in time; send it without pauses, and not many long ones at a time";
                    Reject::new(Code::RequestTimeout, message)
                }
                BodyError::Broken => Reject::new(Code::BadRequest, "the body ended early or its framing is broken"),
            }
        })
    }

    async fn read_whole(&mut self, declared: Option<usize>, most: usize) -> Result<Bytes, BodyError> {
        // An HTTP/1.0 client would take it for the answer.
        let head = self.head();
        if head.version != Version::HTTP_10 && head.headers.contains_key(header::EXPECT) {
            self.session.write_continue_response().await.map_err(|_| BodyError::Broken)?;
        }
        let Some(first) = self.read_piece().await? else { return Ok(Bytes::new()) };
        if first.len() > most {
            return Err(BodyError::TooLarge);
        }
        let Some(second) = self.read_piece().await? else { return Ok(first) };
        let mut whole = BytesMut::with_capacity(declared.unwrap_or(4 * first.len()));
        whole.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(piece) = next {
            if whole.len() + piece.len() > most {
                return Err(BodyError::TooLarge);
            }
            whole.extend_from_slice(&piece);
            next = self.read_piece().await?;
        }
        Ok(whole.freeze())
    }

    /// Reads the next piece of the body, of a long one when it is its turn.
    async fn read_piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        let read = match self.line_of_next().cloned() {
            None => self.session.read_request_body().await,
            Some(line) => {
                line.pass().await;
                line.wait_for(self.session.read_request_body()).await
            }
        };
        read.map_err(|e| match e.etype() {
            ErrorType::ReadTimedout => BodyError::TooSlow,
            _ => BodyError::Broken,
        })
    }

    /// Counts the next piece of the body, and says where it waits for its turn: nowhere while the body is short.
    pub(crate) fn line_of_next(&mut self) -> Option<&Line> {
        self.pieces = self.pieces.saturating_add(1);
        if self.line.is_none() && (self.session.body_bytes_read() >= LONG_BODY || self.pieces >= MANY_PIECES) {
            self.line = Some(Line::of(self.ctx.tenant(), self.share));
        }
        self.line.as_ref()
    }

    /// Does what takes the longer the longer the body is that was read: for a long one when it is its turn, and on another thread.
    pub(crate) async fn work_on<R: Send + 'static>(&self, body: Bytes, work: impl FnOnce(&[u8]) -> R + Send + 'static) -> R {
        match &self.line {
            None => work(&body),
            Some(line) => line.aside(move || work(&body)).await,
        }
    }

    /// Reads on after an early answer, so that the client finds it before the connection is closed, if it is not read to the end.
    pub(super) async fn linger(&mut self) {
        let reading = async {
            let mut read = 0;
            while let Some(piece) = self.read_piece().await? {
                read += piece.len();
                if read > LINGER_BYTES {
                    return Err(BodyError::TooLarge);
                }
            }
            Ok(())
        };
        let lingered = tokio::time::timeout(LINGER, reading).await;
        self.broken |= !matches!(lingered, Ok(Ok(()))) || !self.session.is_body_done();
    }
}

/// Why a body cannot be had.
enum BodyError {
    TooLarge,
    TooSlow,
    Broken,
}

fn too_large(limit: usize) -> Reject {
    Reject::new(Code::BodyTooLarge, format!("the body is over {limit} bytes, the most this gateway takes (`limits.body`)"))
}
