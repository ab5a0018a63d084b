//! Images that are elsewhere: fetched from hosts that the settings name, before anything else is done with a request.

use crate::{App, error::ApiError};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cortex_api::openai::{ChatCompletionRequest, Content, ImageUrl};
use cortex_models::{ErrorKind, OutboundError};

/// Bytes of a fetched image at most.
const LARGEST: usize = 20 << 20;

/// Puts the content of images in the place of their addresses. Where no host is named for them, they stay as they are, and are
/// refused like everything that is no image.
pub(crate) async fn fetch(app: &App, request: &mut ChatCompletionRequest) -> Result<(), ApiError> {
    let Some(images) = &app.images else { return Ok(()) };
    // All together are no more than what a client may send itself.
    let mut left = app.config().body_limit;
    for image in request.messages.iter_mut().flat_map(|message| match &mut message.content {
        Some(Content::Parts(parts)) => parts.as_mut_slice(),
        _ => &mut [],
    }) {
        let Some(ImageUrl { url, .. }) = &mut image.image_url else { continue };
        let is_elsewhere = url
            .split_once("://")
            .is_some_and(|(scheme, _)| ["http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme)));
        if !is_elsewhere {
            continue;
        }
        let content = images.bytes(url, LARGEST.min(left)).await.map_err(|error| refused(&error))?;
        left -= content.len();
        *url = format!("data:;base64,{}", STANDARD.encode(content));
    }
    Ok(())
}

/// Always a 400: the address is the client's, and asking again with it would fail again.
fn refused(error: &OutboundError) -> ApiError {
    let (why, hint) = match error {
        OutboundError::NotAllowed { host, .. } => (format!("images may not be fetched from `{host}`"), true),
        OutboundError::Insecure { .. } | OutboundError::Private { .. } => (error.to_string(), true),
        _ => (error.to_string(), false),
    };
    let hint =
        hint.then(|| "`allowedImageHosts` in the settings names the hosts that images may be fetched from".into());
    let message = format!("an image could not be fetched: {why}");
    let mut error = ApiError::told(ErrorKind::Invalid, "image_not_fetched", &message, hint);
    error.body.error.param = Some("messages".into());
    error
}
