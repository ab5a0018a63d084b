//! What makes vectors of images that a model takes in the place of tokens: llama.cpp's mtmd.

use super::{LlamaError, Token, context::raw, error};
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use std::{ffi::CString, ptr::NonNull};

/// The text that stands for an image where mtmd cuts texts into pieces. It never meets a text of a user.
const MARKER: &str = "<__media__>";

/// Makes vectors of images. It is of use to one thread at a time.
pub(crate) struct Projector {
    context: NonNull<sys::mtmd_context>,
    /// Numbers of a vector.
    width: usize,
    /// Positions have rows and columns.
    has_grid: bool,
}

// SAFETY: nothing in it belongs to a thread; what it reads of the text model does not change.
unsafe impl Send for Projector {}

impl Drop for Projector {
    fn drop(&mut self) {
        // SAFETY: it lives, and nobody else has it.
        unsafe { sys::mtmd_free(self.context.as_ptr()) }
    }
}

/// A piece of what an image becomes.
pub(crate) enum TokenisedImage {
    /// Tokens that the model wants around images.
    Text(Vec<Token>),
    /// What becomes vectors, and how these stand to each other.
    Image(ImageChunk, ImageLayout),
}

/// A piece of an image that can become vectors: its pixels, as the projector takes them.
pub(crate) struct ImageChunk {
    chunk: NonNull<sys::mtmd_input_chunk>,
    length: usize,
}

/// How the vectors of a piece of an image stand to each other.
pub(crate) struct ImageLayout {
    /// How many they are.
    pub(crate) length: usize,
    /// Positions that it takes.
    pub(crate) positions: usize,
    /// Where each stands beside the first, as time, row and column; nothing when they stand one behind the other.
    pub(crate) grid: Option<Vec<[u32; 3]>>,
    /// Each looks at all others, also at those behind it.
    pub(crate) look_at_each_other: bool,
}

// SAFETY: it is data that nobody changes after it was made.
unsafe impl Send for ImageChunk {}
// SAFETY: the same.
unsafe impl Sync for ImageChunk {}

impl Drop for ImageChunk {
    fn drop(&mut self) {
        // SAFETY: a copy of our own.
        unsafe { sys::mtmd_input_chunk_free(self.chunk.as_ptr()) }
    }
}

/// Pieces as mtmd gives them; freed with this.
struct Chunks(NonNull<sys::mtmd_input_chunks>);

impl Drop for Chunks {
    fn drop(&mut self) {
        // SAFETY: it lives, and nobody else has it.
        unsafe { sys::mtmd_input_chunks_free(self.0.as_ptr()) }
    }
}

impl Projector {
    /// Loads the projector of a file for a model.
    pub(crate) fn load(
        model: &'static LlamaModel,
        path: &str,
        threads: u32,
        is_on_graphics: bool,
    ) -> Result<Self, LlamaError> {
        let (Ok(c_path), Ok(marker)) = (CString::new(path), CString::new(MARKER)) else {
            return error("the path of the projector holds a NUL byte");
        };
        // SAFETY: the function gives a structure with all its fields set; the marker and the path outlive the call, which copies
        // them; the model is never freed.
        let context = unsafe {
            let mut params = sys::mtmd_context_params_default();
            params.use_gpu = is_on_graphics;
            params.print_timings = false;
            params.n_threads = i32::try_from(threads.clamp(1, 512)).unwrap_or(1);
            params.media_marker = marker.as_ptr();
            sys::mtmd_init_from_file(c_path.as_ptr(), raw(model), params)
        };
        let Some(context) = NonNull::new(context) else {
            return error(format!("{path} is no projector for this model; the log says more"));
        };
        // SAFETY: both live.
        let (width, has_grid, sees) = unsafe {
            (
                sys::llama_model_n_embd_inp(raw(model)),
                sys::mtmd_decode_use_mrope(context.as_ptr()),
                sys::mtmd_support_vision(context.as_ptr()),
            )
        };
        let projector = Self { context, width: usize::try_from(width).unwrap_or(0), has_grid };
        if sees { Ok(projector) } else { error(format!("{path} makes nothing of images")) }
    }

    /// What an image becomes: `pixels` are the red, green and blue of each, row by row.
    pub(crate) fn tokenise(
        &self,
        pixels: &[u8],
        (width, height): (u32, u32),
    ) -> Result<Vec<TokenisedImage>, LlamaError> {
        if u64::try_from(pixels.len()).ok() != Some(u64::from(width) * u64::from(height) * 3) || pixels.is_empty() {
            return error(format!("{} bytes are no image of {width} × {height}", pixels.len()));
        }
        let text = sys::mtmd_input_text {
            text: c"<__media__>".as_ptr(),
            text_len: MARKER.len(),
            add_special: false,
            parse_special: true,
        };
        // SAFETY: the bitmap has as many bytes as its size says, and is copied; the text is a C string of that length; all outlive
        // the call. What is made is freed below, or by its owner.
        let (result, chunks) = unsafe {
            let chunks = NonNull::new(sys::mtmd_input_chunks_init()).map(Chunks);
            let bitmap = sys::mtmd_bitmap_init(width, height, pixels.as_ptr());
            let (Some(chunks), false) = (chunks, bitmap.is_null()) else { return error("no memory for an image") };
            let mut bitmaps = [bitmap.cast_const()];
            let result = sys::mtmd_tokenize(
                self.context.as_ptr(),
                chunks.0.as_ptr(),
                &raw const text,
                bitmaps.as_mut_ptr(),
                bitmaps.len(),
            );
            sys::mtmd_bitmap_free(bitmap);
            (result, chunks)
        };
        if result != 0 {
            return error(format!("an image of {width} × {height} could not be prepared for the model"));
        }
        // SAFETY: the list lives.
        let count = unsafe { sys::mtmd_input_chunks_size(chunks.0.as_ptr()) };
        (0..count).map(|at| self.piece(&chunks, at)).collect()
    }

    fn piece(&self, chunks: &Chunks, at: usize) -> Result<TokenisedImage, LlamaError> {
        // SAFETY: the list lives, `at` is below its length; a text has as many tokens as is said.
        unsafe {
            let chunk = sys::mtmd_input_chunks_get(chunks.0.as_ptr(), at);
            let kind = sys::mtmd_input_chunk_get_type(chunk);
            if kind == sys::MTMD_INPUT_CHUNK_TYPE_TEXT {
                let mut count = 0usize;
                let tokens = sys::mtmd_input_chunk_get_tokens_text(chunk, &raw mut count);
                let tokens = if tokens.is_null() { &[] } else { std::slice::from_raw_parts(tokens, count) };
                return Ok(TokenisedImage::Text(tokens.to_vec()));
            }
            if kind != sys::MTMD_INPUT_CHUNK_TYPE_IMAGE {
                return error("an image became something else");
            }
            let length = sys::mtmd_input_chunk_get_n_tokens(chunk);
            let positions = usize::try_from(sys::mtmd_input_chunk_get_n_pos(chunk)).unwrap_or(0);
            if length == 0 || positions == 0 || positions > length {
                return error(format!("an image became {length} vectors at {positions} positions"));
            }
            let image = sys::mtmd_input_chunk_get_tokens_image(chunk);
            let grid: Option<Vec<[u32; 3]>> = (self.has_grid && !image.is_null()).then(|| {
                (0..length)
                    .map(|at| sys::mtmd_image_tokens_get_decoder_pos(image, 0, at))
                    .map(|place| [place.t, place.y, place.x])
                    .collect()
            });
            // Of an image that stands still, all is at one time; some models count in a way of their own.
            if grid.iter().flatten().any(|[time, ..]| *time != 0) {
                return error("images of models of this kind are not supported");
            }
            let look_at_each_other = sys::mtmd_decode_use_non_causal(self.context.as_ptr(), chunk);
            let copy = NonNull::new(sys::mtmd_input_chunk_copy(chunk));
            let Some(chunk) = copy else { return error("no memory for an image") };
            let layout = ImageLayout { length, positions, grid, look_at_each_other };
            Ok(TokenisedImage::Image(ImageChunk { chunk, length }, layout))
        }
    }

    /// The vectors of a piece of an image, one after the other.
    pub(crate) fn encode(&mut self, image: &ImageChunk) -> Result<Vec<f32>, LlamaError> {
        // SAFETY: both live; the result has a vector for each of the image, and is copied before anything else is computed.
        unsafe {
            let result = sys::mtmd_encode_chunk(self.context.as_ptr(), image.chunk.as_ptr());
            let vectors = sys::mtmd_get_output_embd(self.context.as_ptr());
            if result != 0 || vectors.is_null() {
                return error(format!("mtmd_encode_chunk gave {result}"));
            }
            let vectors = std::slice::from_raw_parts(vectors, image.length * self.width).to_vec();
            if vectors.iter().any(|number| !number.is_finite()) {
                return error("the projector gives vectors that are not numbers");
            }
            Ok(vectors)
        }
    }
}
