//! Images that are elsewhere: fetched from hosts that the settings name, before anything else is done with a request.

use crate::{App, error::ApiError};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cortex_api::openai::{ChatCompletionRequest, Content, ImageUrl};
use cortex_models::OutboundError;

/// Bytes of a fetched image at most.
const LARGEST: usize = 20 << 20;

/// Puts the content of images in the place of their addresses. Where no host is named for them, they stay as they are, and are
/// refused like everything that is no image.
pub(crate) async fn fetch(app: &App, request: &mut ChatCompletionRequest) -> Result<(), ApiError> {
    let Some(images) = &app.images else { return Ok(()) };
    // All together are no more than what a client may send itself.
    let mut left = app.config.body_limit;
    for image in request.messages.iter_mut().flat_map(|message| match &mut message.content {
        Some(Content::Parts(parts)) => parts.as_mut_slice(),
        _ => &mut [],
    }) {
        let Some(ImageUrl { url, .. }) = &mut image.image_url else { continue };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            continue;
        }
        let content = images.bytes(url, LARGEST.min(left)).await.map_err(|error| refused(&error))?;
        left -= content.len();
        *url = format!("data:;base64,{}", STANDARD.encode(content));
    }
    Ok(())
}

fn refused(error: &OutboundError) -> ApiError {
    let hint = match error {
        OutboundError::TooLong { .. } => None,
        _ => Some("`allowedImageHosts` in the settings names the hosts that images may be fetched from".into()),
    };
    ApiError::told(error.kind(), "image_not_fetched", &format!("an image could not be fetched: {error}"), hint)
}
