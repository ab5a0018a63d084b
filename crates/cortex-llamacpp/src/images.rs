//! Images of prompts: a thread of their own decodes them, says how many tokens each stands for, and makes vectors of them, while
//! answers go on.
//!
//! In a prompt an image is tokens that are below zero: they are made of its content, so that what is known of prompts goes for
//! images as for text. The same image at the same place needs not be computed again, and another one never counts as the same.

use crate::{
    llama::{ImageChunk, ImageLayout, LlamaError, Projector, Token, TokenisedImage, error},
    stdio,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cortex_api::worker::{RequestId, Segment};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use llama_cpp_2::model::LlamaModel;
use sha2::{Digest, Sha256};
use std::{
    collections::{HashSet, VecDeque},
    io::Cursor,
    ops::Range,
    panic::catch_unwind,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
};

/// Pixels of an image at most: a photograph has fewer.
const MOST_PIXELS: u64 = 64_000_000;
/// Pixels of a side at most, and how many times as long one side may be as the other: thin images are made larger for some models.
const LONGEST_SIDE: u32 = 16_384;
const LONGEST_SHAPE: u32 = 100;
/// Bytes that decoding one image may take.
const MOST_BYTES: u64 = 512 << 20;
/// Numbers that are kept of images seen lately: 64 MiB.
const KEPT: usize = 16 << 20;
/// What may be asked of the thread at a time.
const QUEUE: usize = 256;

/// An image in a prompt, or a piece of one.
#[derive(Clone)]
pub(crate) struct PlacedImage {
    /// The tokens of the prompt that stand for it.
    pub(crate) range: Range<usize>,
    /// How its vectors stand to each other.
    pub(crate) layout: Arc<ImageLayout>,
    /// What becomes vectors, until it has.
    chunk: Option<Arc<ImageChunk>>,
    /// The content.
    digest: [u8; 32],
    /// The vectors, when they are there.
    pub(crate) vectors: Option<Arc<Vec<f32>>>,
    /// They were asked for.
    pub(crate) is_asked: bool,
}

/// The tokens of a prompt, and where its images are.
#[derive(Default)]
pub(crate) struct TokenisedPrompt {
    /// Those that stand for images are below zero.
    pub(crate) tokens: Vec<Token>,
    /// In order.
    pub(crate) images: Vec<PlacedImage>,
}

/// A part of a prompt: tokens of text, or an image.
pub(crate) enum Part {
    /// What is tokenised already.
    Tokens(Vec<Token>),
    /// The file of an image, in base64.
    Image(String),
}

/// What is asked of the thread.
enum Ask {
    /// A prompt that holds images; of one with more than so many tokens, no more need be known.
    Prompt(RequestId, Vec<Part>, usize),
    /// The vectors of a piece of an image.
    Vectors(RequestId, usize, [u8; 32], Arc<ImageChunk>),
}

/// What the thread says.
pub(crate) enum Told {
    /// The prompt of a request.
    Prompt(RequestId, Result<TokenisedPrompt, LlamaError>),
    /// The vectors of one of the images of a request, by its number.
    Vectors(RequestId, usize, Result<Arc<Vec<f32>>, LlamaError>),
}

/// The thread.
pub(crate) struct Images {
    asks: SyncSender<Ask>,
    told: Receiver<Told>,
    /// What was asked and is not answered.
    pending: usize,
    /// Requests that nobody waits for any more.
    cancelled: Cancelled,
}

/// Requests that the thread need not do anything for.
type Cancelled = Arc<Mutex<HashSet<RequestId>>>;

fn is_cancelled(cancelled: &Cancelled, id: RequestId) -> bool {
    cancelled.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
}

impl PlacedImage {
    /// Its vectors are there, and what they were made of is not needed any more.
    pub(crate) fn take(&mut self, vectors: Arc<Vec<f32>>) {
        (self.vectors, self.chunk) = (Some(vectors), None);
    }
}

impl Images {
    /// Loads the projector of a file, and begins.
    pub(crate) fn start(
        model: &'static LlamaModel,
        path: &str,
        threads: u32,
        is_on_graphics: bool,
    ) -> Result<Self, LlamaError> {
        let mut projector = Projector::load(model, path, threads, is_on_graphics)?;
        let (asks, asked) = sync_channel::<Ask>(QUEUE);
        let (tell, told) = sync_channel(QUEUE);
        let cancelled = Cancelled::default();
        let nobody_waits = Arc::clone(&cancelled);
        std::thread::spawn(move || {
            let mut kept = Kept::default();
            for ask in asked {
                let answer = match ask {
                    Ask::Prompt(id, parts, most) => {
                        Told::Prompt(id, prompt(&projector, parts, most, || is_cancelled(&nobody_waits, id)))
                    }
                    Ask::Vectors(id, number, ..) if is_cancelled(&nobody_waits, id) => {
                        Told::Vectors(id, number, error("nobody waits for it"))
                    }
                    Ask::Vectors(id, number, digest, chunk) => {
                        Told::Vectors(id, number, kept.vectors(digest, || projector.encode(&chunk)))
                    }
                };
                if tell.send(answer).is_err() {
                    return;
                }
            }
        });
        Ok(Self { asks, told, pending: 0, cancelled })
    }

    /// Has the tokens of a prompt found, of which `most` are possible; false when too much is asked already.
    pub(crate) fn ask_prompt(&mut self, id: RequestId, parts: Vec<Part>, most: usize) -> bool {
        self.ask(Ask::Prompt(id, parts, most))
    }

    /// Nobody waits for a request any more.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        if self.pending > 0 {
            self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        }
    }

    /// Has the vectors of an image made, the `number`th of a request; false when too much is asked already.
    pub(crate) fn ask_vectors(&mut self, id: RequestId, number: usize, image: &PlacedImage) -> bool {
        let Some(chunk) = &image.chunk else { return false };
        self.ask(Ask::Vectors(id, number, image.digest, Arc::clone(chunk)))
    }

    fn ask(&mut self, ask: Ask) -> bool {
        // The thread must never wait for its answers to be taken.
        let is_asked = self.pending < QUEUE && self.asks.try_send(ask).is_ok();
        self.pending += usize::from(is_asked);
        is_asked
    }

    /// What the thread has said since.
    pub(crate) fn next(&mut self) -> Option<Told> {
        match self.told.try_recv() {
            Ok(told) => {
                self.pending = self.pending.saturating_sub(1);
                if self.pending == 0 {
                    // Request numbers do not come again.
                    self.cancelled.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                Some(told)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                if self.pending > 0 {
                    // It has said why.
                    stdio::warn("the thread of images is gone");
                    crate::llama::end_process(1);
                }
                None
            }
        }
    }

    /// Whether something was asked and is not answered.
    pub(crate) fn is_busy(&self) -> bool {
        self.pending > 0
    }
}

/// The parts of a prompt; nothing when there is no image in it. Text is tokenised by `tokenise`, piece by piece between the images.
pub(crate) fn parts(
    segments: &[Segment],
    mut tokenise: impl FnMut(&[Segment], bool) -> Result<Vec<Token>, LlamaError>,
) -> Result<Option<Vec<Part>>, LlamaError> {
    if !segments.iter().any(|segment| matches!(segment, Segment::Image { .. })) {
        return Ok(None);
    }
    let mut parts = Vec::new();
    for (at, piece) in segments.split_inclusive(|segment| matches!(segment, Segment::Image { .. })).enumerate() {
        let (text, image) = match piece.split_last() {
            Some((Segment::Image { data }, text)) => (text, Some(data)),
            _ => (piece, None),
        };
        if at == 0 || !text.is_empty() {
            parts.push(Part::Tokens(tokenise(text, at == 0)?));
        }
        parts.extend(image.map(|data| Part::Image(data.clone())));
    }
    Ok(Some(parts))
}

/// The tokens of a prompt, and where its images are. One with more than so many tokens is of no use, and not looked at to its end.
fn prompt(
    projector: &Projector,
    parts: Vec<Part>,
    most: usize,
    is_cancelled: impl Fn() -> bool,
) -> Result<TokenisedPrompt, LlamaError> {
    let (mut tokens, mut images, mut number) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        if is_cancelled() {
            return error("nobody waits for it");
        }
        if tokens.len() > most {
            break;
        }
        let data = match part {
            Part::Tokens(text) => {
                tokens.extend(text);
                continue;
            }
            Part::Image(data) => data,
        };
        number += 1;
        // A decoder that fails at what nobody has thought of shall not end the answers of others.
        let decoded = catch_unwind(|| decode(&data)).unwrap_or_else(|_| error("it cannot be read"));
        let (pixels, size) = decoded.map_err(|LlamaError(why)| LlamaError(format!("image {number}: {why}")))?;
        let content = Sha256::new().chain_update(size.0.to_le_bytes()).chain_update(&pixels).finalize();
        for (piece, tokenised) in projector.tokenise(&pixels, size)?.into_iter().enumerate() {
            match tokenised {
                TokenisedImage::Text(text) => tokens.extend(text),
                TokenisedImage::Image(chunk, layout) => {
                    let digest =
                        Sha256::new().chain_update(content).chain_update((piece as u64).to_le_bytes()).finalize();
                    let from = tokens.len();
                    tokens.extend(stand_ins(&digest.into(), layout.length, layout.positions));
                    images.push(PlacedImage {
                        range: from..tokens.len(),
                        layout: Arc::new(layout),
                        chunk: Some(Arc::new(chunk)),
                        digest: digest.into(),
                        vectors: None,
                        is_asked: false,
                    });
                }
            }
        }
    }
    Ok(TokenisedPrompt { tokens, images })
}

/// The red, green and blue of an image, and its width and height. What one can see through is white behind.
fn decode(data: &str) -> Result<(Vec<u8>, (u32, u32)), LlamaError> {
    let unreadable = |why: image::ImageError| LlamaError(format!("it cannot be read: {why}"));
    let bytes = STANDARD.decode(data).map_err(|why| LlamaError(format!("it is not base64: {why}")))?;
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|why| LlamaError(format!("it cannot be read: {why}")))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    let (short, long) = (width.min(height), width.max(height));
    if u64::from(width) * u64::from(height) > MOST_PIXELS || long > LONGEST_SIDE {
        return error(format!(
            "it has {width} × {height} pixels; at most {MOST_PIXELS} in all and {LONGEST_SIDE} a side are possible"
        ));
    }
    if short.saturating_mul(LONGEST_SHAPE) < long {
        return error(format!(
            "it has {width} × {height} pixels; no side may be more than {LONGEST_SHAPE} times as long as the other"
        ));
    }
    let orientation = decoder.orientation().map_err(unreadable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    image.apply_orientation(orientation);
    let (width, height) = (image.width(), image.height());
    if width == 0 || height == 0 {
        return error("it has no pixels");
    }
    let pixels = if image.color().has_alpha() {
        let blend = |colour: u8, alpha: u8| {
            let (colour, alpha) = (u16::from(colour), u16::from(alpha));
            u8::try_from((colour * alpha + 255 * (255 - alpha)) / 255).unwrap_or(u8::MAX)
        };
        image.into_rgba8().pixels().flat_map(|it| [0, 1, 2].map(|at| blend(it.0[at], it.0[3]))).collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Ok((pixels, (width, height)))
}

/// The tokens that stand for a piece of an image: below zero, of its content; the first `positions` are even, the others odd.
fn stand_ins(digest: &[u8; 32], length: usize, positions: usize) -> Vec<Token> {
    (0..length)
        .map(|at| {
            let of = Sha256::new().chain_update(digest).chain_update((at as u64).to_le_bytes()).finalize();
            let number = i32::from_le_bytes([of[0], of[1], of[2], of[3]]);
            (number | i32::MIN) & !1 | i32::from(at >= positions)
        })
        .collect()
}

/// How many positions so many tokens take. Fewer than they are when images have rows and columns.
pub(crate) fn positions(tokens: &[Token]) -> usize {
    tokens.iter().filter(|&&token| token >= 0 || token & 1 == 0).count()
}

/// Vectors of images seen lately.
#[derive(Default)]
struct Kept {
    images: VecDeque<([u8; 32], Arc<Vec<f32>>)>,
    numbers: usize,
}

impl Kept {
    fn vectors(
        &mut self,
        digest: [u8; 32],
        make: impl FnOnce() -> Result<Vec<f32>, LlamaError>,
    ) -> Result<Arc<Vec<f32>>, LlamaError> {
        if let Some(at) = self.images.iter().position(|(known, _)| *known == digest)
            && let Some((_, vectors)) = self.images.remove(at)
        {
            self.images.push_back((digest, Arc::clone(&vectors)));
            return Ok(vectors);
        }
        let vectors = Arc::new(make()?);
        self.numbers += vectors.len();
        self.images.push_back((digest, Arc::clone(&vectors)));
        while self.numbers > KEPT
            && let Some((_, oldest)) = self.images.pop_front()
        {
            self.numbers -= oldest.len();
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

    fn encoded(image: &DynamicImage, format: ImageFormat) -> String {
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).expect("writes");
        STANDARD.encode(bytes.into_inner())
    }

    #[test]
    fn usual_formats_become_the_same_pixels() {
        let image = DynamicImage::from(RgbImage::from_fn(3, 2, |x, y| {
            Rgb([if x == 1 { 80 } else { 3 }, if y == 1 { 200 } else { 0 }, 7])
        }));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::WebP] {
            let (pixels, size) = decode(&encoded(&image, format)).expect("decodes");
            assert_eq!((pixels.as_slice(), size), (image.as_bytes(), (3, 2)), "{format:?}");
        }
        for format in [ImageFormat::Jpeg, ImageFormat::Gif] {
            let (pixels, size) = decode(&encoded(&image, format)).expect("decodes");
            assert_eq!((pixels.len(), size), (18, (3, 2)), "{format:?}");
        }
    }

    #[test]
    fn what_one_sees_through_is_white_behind() {
        let image =
            DynamicImage::from(RgbaImage::from_fn(2, 1, |x, _| Rgba([100, 0, 0, if x == 0 { 255 } else { 0 }])));
        let (pixels, _) = decode(&encoded(&image, ImageFormat::Png)).expect("decodes");
        assert_eq!(pixels, [100, 0, 0, 255, 255, 255]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        for (data, why) in [("###", "base64"), ("aGVsbG8=", "cannot be read"), ("", "cannot be read")] {
            let LlamaError(message) = decode(data).expect_err(data);
            assert!(message.contains(why), "{message}");
        }
        // A header of a PNG that says it is huge.
        let mut huge = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        huge.extend([0, 1, 0, 0, 0, 1, 0, 0, 8, 2, 0, 0, 0]);
        huge.extend(crc32fast::hash(&huge[12..]).to_be_bytes());
        huge.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        let LlamaError(message) = decode(&STANDARD.encode(huge)).expect_err("huge");
        assert!(message.contains("65536 × 65536") || message.contains("limit"), "{message}");
        for ((width, height), why) in [((20_000, 300), "a side"), ((1010, 10), "times as long")] {
            let image = DynamicImage::from(RgbImage::new(width, height));
            let LlamaError(message) = decode(&encoded(&image, ImageFormat::Png)).expect_err(why);
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn images_are_tokens_of_their_content() {
        let tokens = stand_ins(&[1; 32], 9, 3);
        assert!(tokens.iter().all(|&token| token < 0));
        assert_eq!(tokens, stand_ins(&[1; 32], 9, 3));
        assert!(tokens.iter().zip(stand_ins(&[2; 32], 9, 3)).all(|(one, other)| *one != other));
        let prompt: Vec<Token> = [5, 7].into_iter().chain(tokens).chain([9]).collect();
        assert_eq!([2, 3, 5, 6, 11, 12].map(|count| positions(&prompt[..count])), [2, 3, 5, 5, 5, 6]);
    }

    #[test]
    fn text_is_tokenised_between_images() {
        let text = |text: &str| Segment::Text { text: text.into(), special: true };
        let image = || Segment::Image { data: "x".into() };
        let shown = |segments: &[Segment]| {
            let mut seen = Vec::new();
            let parts = parts(segments, |piece, is_first| {
                seen.push((piece.len(), is_first));
                Ok(vec![])
            });
            (seen, parts.expect("no errors").map(|parts| parts.len()))
        };
        assert_eq!(shown(&[text("a"), text("b")]), (vec![], None));
        assert_eq!(shown(&[text("a"), image(), text("b"), text("c")]), (vec![(1, true), (2, false)], Some(3)));
        assert_eq!(shown(&[image(), image()]), (vec![(0, true)], Some(3)));
    }

    #[test]
    fn what_was_seen_lately_is_kept_within_its_bounds() {
        let mut kept = Kept::default();
        let mut made = 0;
        let mut of = |content: u8, numbers: usize| {
            kept.vectors([content; 32], || {
                made += 1;
                Ok(vec![0.0; numbers])
            })
            .expect("no errors");
            made
        };
        assert_eq!([of(1, KEPT / 2), of(2, KEPT / 2), of(1, 0), of(3, 1), of(1, 0), of(2, 1)], [1, 2, 2, 3, 3, 4]);
    }
}
