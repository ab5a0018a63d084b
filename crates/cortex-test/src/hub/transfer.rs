//! Sends the content of files, whole or in part, with the faults that were asked for.

use super::{
    Shared,
    content::{PIECE, Source, StoredFile, at_most, sha1},
    faults::status_of,
    lock,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::stream;
use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep, sleep_until};

/// Content bodies that are being sent.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    pub(super) now: usize,
    pub(super) peak: usize,
}

/// One of the bodies that are being sent.
#[derive(Debug)]
struct Slot(Arc<Shared>);

impl Slot {
    /// A slot, unless there are so many already.
    fn take(shared: &Arc<Shared>, most: Option<usize>) -> Option<Self> {
        let mut bodies = lock(&shared.bodies);
        if most.is_some_and(|most| bodies.now >= most) {
            return None;
        }
        bodies.now += 1;
        bodies.peak = bodies.peak.max(bodies.now);
        Some(Self(Arc::clone(shared)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.0.bodies).now -= 1;
    }
}

/// What was asked for with `Range`.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// From the first offset to before the second.
    Part(u64, u64),
    /// Nothing that there is.
    Beyond,
}

/// Reads `Range` and `If-Range`. A range that is not understood, or more than one, is as none: servers may do that.
fn wanted(headers: &HeaderMap, etag: &str, total: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|known| known != etag) {
        return Wanted::Whole;
    }
    let range = text(header::RANGE).and_then(|range| range.strip_prefix("bytes="));
    let Some((first, last)) = range.and_then(|range| range.trim().split_once('-')) else { return Wanted::Whole };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    let (start, end) = match (number(first), number(last)) {
        (None, Some(length)) if first.is_empty() => (total - length.min(total), total),
        (Some(start), None) if last.is_empty() => (start, total),
        (Some(start), Some(last)) if start <= last => (start, last.saturating_add(1).min(total)),
        _ => return Wanted::Whole,
    };
    if start < end { Wanted::Part(start, end) } else { Wanted::Beyond }
}

/// What a content request gets before anybody looks for the content, if anything.
pub(super) fn refusal(shared: &Shared) -> Option<Response> {
    let mut live = shared.live();
    if let Some(status) = live.faults.content_status {
        return Some((status_of(status), "This status was asked for.\n").into_response());
    }
    if !live.take_too_many() {
        return None;
    }
    let mut response = (StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n").into_response();
    if let Some(seconds) = live.faults.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    Some(response)
}

/// What a storage service says to those whom it does not serve.
pub(super) fn forbidden() -> Response {
    let xml = [(header::CONTENT_TYPE, "application/xml")];
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                <Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>\n";
    (StatusCode::FORBIDDEN, xml, text).into_response()
}

/// The answer with a content, for `GET` and `HEAD`.
pub(super) async fn answer(
    shared: &Arc<Shared>,
    file: &StoredFile,
    digest: &str,
    method: &Method,
    request: &HeaderMap,
) -> Response {
    let faults = shared.faults();
    let total = file.size;
    let slot = if method == Method::HEAD {
        None
    } else {
        match Slot::take(shared, faults.connections) {
            None => return forbidden(),
            slot => slot,
        }
    };
    let (changed, etag, wanted) = {
        let mut live = shared.live();
        let changed = live.is_changed();
        let etag = if changed { format!("\"{}\"", sha1(digest.as_bytes())) } else { format!("\"{digest}\"") };
        let wanted = if faults.ignore_range { Wanted::Whole } else { wanted(request, &etag, total) };
        if slot.is_some() && wanted != Wanted::Beyond {
            live.answers += 1;
        }
        (changed, etag, wanted)
    };
    let mut headers = HeaderMap::new();
    let mut put = |name, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(header::ETAG, &etag);
    put(header::CONTENT_TYPE, "application/octet-stream");
    if !faults.ignore_range {
        put(header::ACCEPT_RANGES, "bytes");
    }
    let (status, start, asked_end) = match wanted {
        Wanted::Beyond => {
            put(header::CONTENT_RANGE, &format!("bytes */{total}"));
            return (StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response();
        }
        Wanted::Whole => (StatusCode::OK, 0, total),
        Wanted::Part(start, end) => {
            let shift = u64::from(faults.wrong_content_range);
            put(header::CONTENT_RANGE, &format!("bytes {}-{}/{total}", start + shift, end - 1 + shift));
            (StatusCode::PARTIAL_CONTENT, start, end)
        }
    };
    let end = if faults.short_body { start + (asked_end - start).div_ceil(2) } else { asked_end };
    if !faults.endless_body {
        put(header::CONTENT_LENGTH, &(end - start).to_string());
    }
    let Some(slot) = slot else { return (status, headers).into_response() };
    let source = match Source::open(&file.content, start).await {
        Ok(source) => source,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    let transfer = Transfer {
        shared: Arc::clone(shared),
        source,
        position: start,
        end,
        endless: faults.endless_body,
        changed,
        sent: 0,
        cut_at: faults.cut_after,
        stall_at: faults.stall_after,
        due: Instant::now(),
        slot: Some(slot),
    };
    let pieces = stream::unfold(transfer, |mut transfer| async {
        let piece = transfer.next().await?;
        Some((piece, transfer))
    });
    (status, headers, Body::from_stream(pieces)).into_response()
}

/// A body that is being sent.
#[derive(Debug)]
struct Transfer {
    shared: Arc<Shared>,
    source: Source,
    /// Offset of the next byte.
    position: u64,
    /// Offset after the last byte.
    end: u64,
    /// Whether zeros follow.
    endless: bool,
    /// Whether the content is the other one.
    changed: bool,
    sent: u64,
    cut_at: Option<u64>,
    stall_at: Option<u64>,
    /// When the next piece may go.
    due: Instant,
    slot: Option<Slot>,
}

/// How long the transport has to write what it took, before its connection breaks.
const FLUSH: Duration = Duration::from_millis(30);
/// How much a slow body may catch up when its timer was late.
const CATCH_UP: Duration = Duration::from_millis(50);

impl Transfer {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let left = if self.endless { u64::MAX } else { self.end - self.position };
        if left == 0 {
            return None;
        }
        if self.stall_at == Some(self.sent) {
            self.stall_at = None;
            if self.shared.live().take_stall() {
                std::future::pending::<()>().await;
            }
        }
        if self.cut_at == Some(self.sent) {
            self.cut_at = None;
            if self.shared.live().take_cut() {
                sleep(FLUSH).await;
                return Some(Err(io::Error::other("a cut was asked for")));
            }
        }
        let until_fault = [self.cut_at, self.stall_at].into_iter().flatten().map(|place| place - self.sent).min();
        let length = at_most(PIECE, left.min(until_fault.unwrap_or(u64::MAX)));
        let length = self.slow_down(length).await;
        let piece = match self.piece(length).await {
            Ok(piece) => piece,
            Err(error) => return Some(Err(error)),
        };
        self.position += piece.len() as u64;
        self.sent += piece.len() as u64;
        if !self.endless && self.position == self.end {
            // Whoever got the last byte may ask for more at once, and must not be one too many.
            self.slot = None;
        }
        // The stream gives the piece to the transport in this same poll: nothing can come between.
        self.shared.bytes_sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
        Some(Ok(piece))
    }

    /// Waits for as long as a piece of this length takes at the rate of now; the length that it may have.
    async fn slow_down(&mut self, length: usize) -> usize {
        let Some(rate) = self.shared.live().faults.bytes_per_second.map(|rate| rate.max(1)) else { return length };
        // Some twenty pieces in a second, so that a slow body flows instead of jumping.
        let length = at_most(length, (rate / 20).max(1));
        let now = Instant::now();
        let nanoseconds = u128::from(length as u64) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.due = self.due.max(now.checked_sub(CATCH_UP).unwrap_or(now)) + takes;
        sleep_until(self.due).await;
        length
    }

    async fn piece(&mut self, length: usize) -> io::Result<Bytes> {
        let length = match self.end - self.position.min(self.end) {
            0 => return Ok(vec![0; length].into()),
            left => at_most(length, left),
        };
        let piece = self.source.piece(self.position, length).await?;
        Ok(if self.changed { piece.iter().map(|byte| byte ^ 0x55).collect() } else { piece })
    }
}
