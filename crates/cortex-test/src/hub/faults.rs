//! What goes wrong on request.

use super::content::PIECE;
use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use futures::stream;
use std::{io, sync::OnceLock, time::Duration};

/// What goes wrong. The default is nothing.
///
/// A content answer is one of the content host, or that to a `GET` of a small file which the hub itself sends.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Waits before each answer of the content host.
    pub answer_delay: Duration,
    /// Slows each content body down. A change takes effect on bodies that are under way.
    pub bytes_per_second: Option<u64>,
    /// Breaks the connection after so many bytes of a content body, when there are more.
    pub cut_after: Option<u64>,
    /// How many connections break; `None` is all.
    pub cuts: Option<u32>,
    /// A content body with more bytes stops after so many, and its connection stays open.
    pub stall_after: Option<u64>,
    /// How many bodies stop; `None` is all.
    pub stalls: Option<u32>,
    /// So many content requests get 429.
    pub too_many_requests: u32,
    /// The seconds of the header `Retry-After` of those.
    pub retry_after: Option<u32>,
    /// A content request beyond so many bodies at the same time gets 403.
    pub connections: Option<usize>,
    /// `Content-Range` of each 206 is one byte further than the body.
    pub wrong_content_range: bool,
    /// Content answers are 200 with the whole body, and do not say `Accept-Ranges`.
    pub ignore_range: bool,
    /// `Content-Length` and the body are half of what was asked for; `Content-Range` says all of it.
    pub short_body: bool,
    /// Content bodies are chunked and never end: zeros follow the content.
    pub endless_body: bool,
    /// After so many content bodies the content and its `ETag` are others. The API does not know.
    pub etag_changes_after: Option<u32>,
    /// The API, and the headers of `resolve`, name a digest that is not that of the content.
    pub wrong_digest: bool,
    /// The API names a size that is one more than that of the content.
    pub wrong_size: bool,
    /// `resolve` redirects there, whatever the file.
    pub redirect_to: Option<String>,
    /// `resolve` redirects to itself for ever.
    pub redirect_loop: bool,
    /// API answers are compressed, and expand to 1 GiB of spaces.
    pub gzip_bomb: bool,
    /// API answers are 1 GiB of spaces.
    pub huge_api: bool,
    /// The status of every content answer.
    pub content_status: Option<u16>,
    /// The status of every API answer.
    pub api_status: Option<u16>,
    /// API answers are a page for people, with status 200, as that of a captive portal.
    pub api_html: bool,
    /// Each redirect target works for one request, and is 403 from then on.
    pub expired_links: bool,
    /// No request is answered, on either host.
    pub silent: bool,
}

/// The faults as they are now: those that happen only so many times count down.
#[derive(Debug, Default)]
pub(super) struct Live {
    pub(super) faults: Faults,
    /// Content bodies since the faults were set.
    pub(super) answers: u32,
}

impl Live {
    /// Whether a body that reached the place of a cut is cut.
    pub(super) fn take_cut(&mut self) -> bool {
        self.faults.cut_after.is_some() && take(&mut self.faults.cuts)
    }

    /// Whether a body that reached the place of a stall stops.
    pub(super) fn take_stall(&mut self) -> bool {
        self.faults.stall_after.is_some() && take(&mut self.faults.stalls)
    }

    /// Whether a request is one too many.
    pub(super) fn take_too_many(&mut self) -> bool {
        let left = self.faults.too_many_requests.checked_sub(1);
        self.faults.too_many_requests = left.unwrap_or(0);
        left.is_some()
    }

    /// Whether the content is the other one by now.
    pub(super) fn is_changed(&self) -> bool {
        self.faults.etag_changes_after.is_some_and(|after| self.answers >= after)
    }
}

/// Takes one of so many; there are always more when there is no number.
fn take(left: &mut Option<u32>) -> bool {
    match left {
        None => true,
        Some(left) => {
            let rest = left.checked_sub(1);
            *left = rest.unwrap_or(0);
            rest.is_some()
        }
    }
}

impl Faults {
    /// What the API answers instead of the truth, if anything.
    pub(super) fn api_answer(&self) -> Option<Response> {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"))];
        if let Some(status) = self.api_status {
            return Some((status_of(status), json, r#"{"error":"This status was asked for."}"#).into_response());
        }
        if self.api_html {
            let html = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
            let page = "<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n";
            return Some((html, page).into_response());
        }
        if self.gzip_bomb {
            let gzip = [(header::CONTENT_ENCODING, "gzip")];
            return Some((json, gzip, Bytes::from_static(bomb())).into_response());
        }
        if self.huge_api {
            let spaces = Bytes::from(vec![b' '; PIECE]);
            let pieces = std::iter::repeat_n(spaces, HUGE / PIECE).map(Ok::<_, io::Error>);
            return Some((json, Body::from_stream(stream::iter(pieces))).into_response());
        }
        None
    }
}

/// A status by its number; 500 when there is none of that number.
pub(super) fn status_of(number: u16) -> StatusCode {
    StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

const HUGE: usize = 1024 * 1024 * 1024;

/// 1 GiB of spaces, compressed.
///
/// One MiB is compressed once. What comes out ends at a whole byte and refers to nothing before it, so it may be
/// repeated.
fn bomb() -> &'static [u8] {
    static BOMB: OnceLock<Vec<u8>> = OnceLock::new();
    BOMB.get_or_init(|| {
        let spaces = vec![b' '; 1024 * 1024];
        let mut segment = Vec::with_capacity(spaces.len());
        Compress::new(Compression::best(), false)
            .compress_vec(&spaces, &mut segment, FlushCompress::Full)
            .expect("there is room for the output");
        let mut part = Crc::new();
        part.update(&spaces);
        let mut whole = Crc::new();
        let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
        for _ in 0..HUGE / spaces.len() {
            file.extend_from_slice(&segment);
            whole.combine(&part);
        }
        // The last block, which is empty.
        file.extend([3, 0]);
        file.extend(whole.sum().to_le_bytes());
        file.extend(whole.amount().to_le_bytes());
        file
    })
}
