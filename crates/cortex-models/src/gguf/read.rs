//! The container: counts, keys, values, tensor table.

use super::{check, types};
use std::{
    collections::{HashMap, HashSet},
    io::{self, BufReader, Read, Seek},
    path::{Path, PathBuf},
};

const MOST_KEYS: u64 = 64 * 1024;
pub(super) const MOST_TENSORS: u64 = 1024 * 1024;
const LONGEST_KEY: u64 = 64 * 1024;
const LONGEST_TENSOR_NAME: u64 = 63;
const LARGEST_ALIGNMENT: u64 = 1024 * 1024;
/// Longer texts are passed over; the longest that anybody needs is a chat template.
const LONGEST_KEPT_TEXT: u64 = 1024 * 1024;
/// Bytes kept of all texts together, and of all tensor names.
const MOST_KEPT: u64 = 32 * 1024 * 1024;
/// Short arrays of numbers are kept: some models say the heads of each layer that way.
const LONGEST_KEPT_ARRAY: u64 = 1024;
/// Bytes that are read at a time, and so at most for nothing.
const AHEAD: usize = 32 * 1024;
/// Of a vocabulary, the place of each so many is remembered.
const MARKED: u64 = 256;
/// No vocabulary is larger; whatever has more texts is none.
const MOST_MARKED: u64 = 1 << 21;
/// What the smallest key and the smallest tensor take in a file: a length, a type, a value.
const SMALLEST_KEY: u64 = 8 + 4 + 1;
const SMALLEST_TENSOR: u64 = 8 + 4 + 8 + 4 + 8;

/// A value of the header.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned number, or a signed one that is not negative.
    Unsigned(u64),
    /// A negative number.
    Negative(i64),
    /// A fraction.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// A text; `None` when it is too long to be kept.
    Text(Option<String>),
    /// A short array of numbers; true and false are 1 and 0.
    Numbers(Vec<u64>),
    /// Any other array: its element type (as GGUF numbers them) and length.
    Array {
        /// Type of the elements.
        kind: u32,
        /// How many.
        length: u64,
        /// Where the first element lies in the file.
        offset: u64,
    },
}

/// One line of the tensor table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its type, as ggml numbers them.
    pub kind: u32,
    /// Its dimensions, the fastest first.
    pub dimensions: Vec<u64>,
    /// Where its data begins, from the start of the data.
    pub offset: u64,
    /// Bytes of its data.
    pub bytes: u64,
}

/// Why a file is not a GGUF that can be used.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It begins with something else.
    #[error("it is not a GGUF file: it does not begin as one")]
    NotGguf,
    /// A version that is not supported.
    #[error("GGUF version {version} is not supported, only 2 and 3 are; convert the model again")]
    Version {
        /// What the file says.
        version: u32,
    },
    /// Written for machines of the other byte order.
    #[error("it is a big-endian GGUF file; only little-endian ones are supported")]
    BigEndian,
    /// It ends before its content does.
    #[error("the file ends at {length} bytes, it should have at least {needed}: the download or copy is incomplete")]
    Truncated {
        /// Bytes of the file.
        length: u64,
        /// Bytes it should have at least.
        needed: u64,
    },
    /// Something in it contradicts something else.
    #[error("it is damaged at byte {offset}: {what}")]
    Damaged {
        /// Where it was noticed.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The header is well-formed, but no model can be like this.
    #[error("its content is inconsistent: {what}")]
    Inconsistent {
        /// What is wrong.
        what: String,
    },
}

/// The header of a GGUF file.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// What it says about itself.
    pub values: HashMap<String, Value>,
    /// Where the data of the tensors begins.
    pub data_offset: u64,
    /// How many tensors it says that it has.
    pub tensor_count: u64,
    /// Its tensors, in the order of the file; none where only its beginning was read.
    pub tensors: Vec<TensorInfo>,
    /// Texts of the beginning- and end-of-sequence tokens.
    pub(crate) eos_text: Option<String>,
}

impl Gguf {
    /// Reads the header of a file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let failed = |source| GgufError::Io { path: path.to_owned(), source };
        let file = fs_err::File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        Self::read(file, length).map_err(|error| match error {
            GgufError::Io { source, .. } => GgufError::Io { path: path.to_owned(), source },
            other => other,
        })
    }

    /// Reads the header from anything that can be read and sought, `file_bytes` long.
    pub fn read(input: impl Read + Seek, file_bytes: u64) -> Result<Self, GgufError> {
        let mut input = Input::new(input, file_bytes);
        let gguf = read_header(&mut input)?;
        check::consistency(&gguf)?;
        let eos_text = gguf.unsigned("tokenizer.ggml.eos_token_id").and_then(|id| input.array_text(&gguf, id));
        Ok(Self { eos_text, ..gguf })
    }

    /// The text of the token that a prompt of the model in this file begins with; `None` when it has none, or the file
    /// cannot be read.
    pub fn bos_text(path: &Path) -> Option<String> {
        let file = fs_err::File::open(path).ok()?;
        let length = file.metadata().ok()?.len();
        let mut input = Input::new(file, length);
        let gguf = read_header(&mut input).ok()?;
        let id = gguf.unsigned("tokenizer.ggml.bos_token_id")?;
        input.array_text(&gguf, id)
    }

    /// A number of the header.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        match self.values.get(key) {
            Some(Value::Unsigned(number)) => Some(*number),
            _ => None,
        }
    }

    /// A text of the header.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some(Value::Text(Some(text))) => Some(text),
            _ => None,
        }
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &str {
        self.text("general.architecture").unwrap_or_default()
    }

    /// A number whose key begins with the architecture.
    pub fn of_architecture(&self, key: &str) -> Option<u64> {
        self.unsigned(&format!("{}.{key}", self.architecture()))
    }

    /// Weights of all tensors.
    pub fn parameter_count(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.dimensions.iter().product::<u64>()).fold(0, u64::saturating_add)
    }

    /// The type that holds most of the bytes.
    pub fn main_type(&self) -> &'static str {
        let mut bytes: HashMap<u32, u64> = HashMap::new();
        for tensor in &self.tensors {
            *bytes.entry(tensor.kind).or_default() += tensor.bytes;
        }
        bytes.into_iter().max_by_key(|&(kind, bytes)| (bytes, kind)).map_or("?", |(kind, _)| types::name_of(kind))
    }
}

struct Input<R> {
    inner: BufReader<R>,
    offset: u64,
    length: u64,
    /// Bytes of text kept so far.
    kept: u64,
    /// Of lists of texts, by where they begin: where each so many of them is.
    marks: HashMap<u64, Vec<u64>>,
    /// The type, length and place of the list that is being read.
    open_array: Option<(u32, u64, u64)>,
}

impl<R: Read + Seek> Input<R> {
    fn new(input: R, length: u64) -> Self {
        Self {
            inner: BufReader::with_capacity(AHEAD, input),
            offset: 0,
            length,
            kept: 0,
            marks: HashMap::new(),
            open_array: None,
        }
    }

    fn damaged<T>(&self, what: impl Into<String>) -> Result<T, GgufError> {
        Err(GgufError::Damaged { offset: self.offset, what: what.into() })
    }

    /// That many more bytes must be there.
    fn need(&self, bytes: u64) -> Result<(), GgufError> {
        match self.offset.checked_add(bytes) {
            Some(needed) if needed <= self.length => Ok(()),
            Some(needed) => Err(GgufError::Truncated { length: self.length, needed }),
            None => self.damaged("a length is beyond all limits"),
        }
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.need(N as u64)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(|source| GgufError::Io { path: PathBuf::new(), source })?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), GgufError> {
        self.need(bytes)?;
        let mut left = bytes;
        while left > 0 {
            // A relative seek inside of the buffer costs nothing.
            let hop = i64::try_from(left).unwrap_or(i64::MAX);
            self.inner.seek_relative(hop).map_err(|source| GgufError::Io { path: PathBuf::new(), source })?;
            left -= hop.unsigned_abs();
        }
        self.offset += bytes;
        Ok(())
    }

    /// A text of at most `longest` bytes; longer ones are passed over.
    fn text(&mut self, longest: u64) -> Result<Option<Vec<u8>>, GgufError> {
        let length = self.u64()?;
        self.need(length)?;
        if length > longest || self.kept.saturating_add(length) > MOST_KEPT {
            self.skip(length)?;
            return Ok(None);
        }
        self.kept += length;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        self.inner.read_exact(&mut bytes).map_err(|source| GgufError::Io { path: PathBuf::new(), source })?;
        self.offset += length;
        Ok(Some(bytes))
    }

    fn name(&mut self, longest: u64, what: &str) -> Result<String, GgufError> {
        let start = self.offset;
        let Some(bytes) = self.text(longest)? else {
            return Err(GgufError::Damaged { offset: start, what: format!("{what} is longer than {longest} bytes") });
        };
        match String::from_utf8(bytes) {
            Ok(text) if !text.is_empty() && !text.contains('\0') => Ok(text),
            _ => Err(GgufError::Damaged { offset: start, what: format!("{what} is not a text") }),
        }
    }

    fn value(&mut self, kind: u32) -> Result<Value, GgufError> {
        let signed = |number: i64| u64::try_from(number).map_or(Value::Negative(number), Value::Unsigned);
        Ok(match kind {
            0 => Value::Unsigned(u64::from(self.bytes::<1>()?[0])),
            1 => signed(i64::from(i8::from_le_bytes(self.bytes()?))),
            2 => Value::Unsigned(u64::from(u16::from_le_bytes(self.bytes()?))),
            3 => signed(i64::from(i16::from_le_bytes(self.bytes()?))),
            4 => Value::Unsigned(u64::from(self.u32()?)),
            5 => signed(i64::from(i32::from_le_bytes(self.bytes()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.bytes()?))),
            7 => match self.bytes::<1>()?[0] {
                0 => Value::Bool(false),
                1 => Value::Bool(true),
                other => return self.damaged(format!("a truth value is {other}")),
            },
            8 => Value::Text(self.text(LONGEST_KEPT_TEXT)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())),
            9 => return self.array(),
            10 => Value::Unsigned(self.u64()?),
            11 => signed(i64::from_le_bytes(self.bytes()?)),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            other => return self.damaged(format!("there is no value type {other}")),
        })
    }

    fn array(&mut self) -> Result<Value, GgufError> {
        let kind = self.u32()?;
        let length = self.u64()?;
        let offset = self.offset;
        self.open_array = Some((kind, length, offset));
        let Some(width) = width_of(kind) else {
            if kind != 8 {
                return self.damaged(format!("an array cannot hold values of type {kind}"));
            }
            // Every text has a length of eight bytes: the count is believed only if that many fit.
            self.need(length.saturating_mul(8))?;
            let mut marks = Vec::new();
            for at in 0..length {
                if at % MARKED == 0 && at < MOST_MARKED {
                    marks.push(self.offset);
                }
                let bytes = self.u64()?;
                self.skip(bytes)?;
            }
            self.marks.insert(offset, marks);
            return Ok(Value::Array { kind, length, offset });
        };
        self.need(length.saturating_mul(width))?;
        let whole = matches!(kind, 0 | 2 | 4 | 5 | 7 | 10 | 11);
        if whole && length <= LONGEST_KEPT_ARRAY {
            let mut numbers = Vec::new();
            for _ in 0..length {
                match self.value(kind)? {
                    Value::Unsigned(number) => numbers.push(number),
                    Value::Bool(yes) => numbers.push(u64::from(yes)),
                    _ => numbers.push(0),
                }
            }
            return Ok(Value::Numbers(numbers));
        }
        self.skip(length.saturating_mul(width))?;
        Ok(Value::Array { kind, length, offset })
    }

    /// One text of the vocabulary, read from the nearest place of it that is known.
    fn array_text(&mut self, gguf: &Gguf, index: u64) -> Option<String> {
        let Some(&Value::Array { kind: 8, length, offset }) = gguf.values.get("tokenizer.ggml.tokens") else {
            return None;
        };
        if index >= length {
            return None;
        }
        let mark = *self.marks.get(&offset)?.get(usize::try_from(index / MARKED).ok()?)?;
        // Relative, so that what is in the buffer is not read again.
        self.inner.seek_relative(i64::try_from(mark).ok()? - i64::try_from(self.offset).ok()?).ok()?;
        self.offset = mark;
        for _ in 0..index % MARKED {
            let bytes = self.u64().ok()?;
            self.skip(bytes).ok()?;
        }
        String::from_utf8(self.text(1024).ok()??).ok()
    }
}

/// Bytes of a value of fixed width.
fn width_of(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}

/// The version, and how many tensors and keys there are.
fn read_start<R: Read + Seek>(input: &mut Input<R>) -> Result<(u32, u64, u64), GgufError> {
    let found: [u8; 4] = input.bytes()?;
    if &found != b"GGUF" {
        return Err(GgufError::NotGguf);
    }
    let version = input.u32()?;
    if version.swap_bytes() == 2 || version.swap_bytes() == 3 {
        return Err(GgufError::BigEndian);
    }
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { version });
    }
    let tensor_count = input.u64()?;
    let key_count = input.u64()?;
    if tensor_count > MOST_TENSORS || key_count > MOST_KEYS {
        return input.damaged(format!("{tensor_count} tensors and {key_count} keys are more than any model has"));
    }
    // Believe no count that the rest of the file has no room for.
    input.need(key_count * SMALLEST_KEY + tensor_count * SMALLEST_TENSOR)?;

    Ok((version, tensor_count, key_count))
}

/// Reads keys and their values. After an error those before it are there, and the length of a list that was not read to
/// its end.
fn read_values<R: Read + Seek>(
    input: &mut Input<R>,
    key_count: u64,
    values: &mut HashMap<String, Value>,
) -> Result<(), GgufError> {
    for _ in 0..key_count {
        let key = input.name(LONGEST_KEY, "a key")?;
        let kind = input.u32()?;
        input.open_array = None;
        let value = match input.value(kind) {
            Ok(value) => value,
            Err(error) => {
                if let Some((kind, length, offset)) = input.open_array {
                    values.entry(key).or_insert(Value::Array { kind, length, offset });
                }
                return Err(error);
            }
        };
        if values.insert(key.clone(), value).is_some() {
            return input.damaged(format!("the key `{key}` is there twice"));
        }
    }
    Ok(())
}

/// What the first bytes of a file say: all keys that begin in them. Nothing of it was compared with the rest of the file.
pub(super) fn read_beginning(bytes: &[u8], file_bytes: u64) -> Result<Gguf, GgufError> {
    let mut input = Input::new(io::Cursor::new(bytes), file_bytes);
    let (version, tensor_count, key_count) = read_start(&mut input)?;
    let mut values = HashMap::new();
    match read_values(&mut input, key_count, &mut values) {
        Err(GgufError::Io { source, .. }) if source.kind() == io::ErrorKind::UnexpectedEof => {}
        other => other?,
    }
    Ok(Gguf { version, file_bytes, values, data_offset: 0, tensor_count, tensors: vec![], eos_text: None })
}

fn read_header<R: Read + Seek>(input: &mut Input<R>) -> Result<Gguf, GgufError> {
    let (version, tensor_count, key_count) = read_start(input)?;
    let mut values = HashMap::new();
    read_values(input, key_count, &mut values)?;
    let alignment = match values.get("general.alignment") {
        None => 32,
        Some(Value::Unsigned(number)) if number.is_power_of_two() && (8..=LARGEST_ALIGNMENT).contains(number) => {
            *number
        }
        Some(_) => return input.damaged("`general.alignment` is not a power of two between 8 and 1 MiB"),
    };
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(read_tensor(input, alignment)?);
    }
    let data_offset = check_layout(input, &tensors, alignment)?;
    Ok(Gguf { version, file_bytes: input.length, values, data_offset, tensor_count, tensors, eos_text: None })
}

fn read_tensor<R: Read + Seek>(input: &mut Input<R>, alignment: u64) -> Result<TensorInfo, GgufError> {
    let name = input.name(LONGEST_TENSOR_NAME, "the name of a tensor")?;
    let count = input.u32()?;
    if !(1..=4).contains(&count) {
        return input.damaged(format!("the tensor `{name}` has {count} dimensions; 1 to 4 are possible"));
    }
    let mut dimensions = Vec::new();
    let mut numbers: u64 = 1;
    for _ in 0..count {
        let dimension = input.u64()?;
        numbers = match numbers.checked_mul(dimension) {
            Some(product) if product > 0 && product <= 1 << 62 => product,
            _ => return input.damaged(format!("the tensor `{name}` has a dimension of {dimension}")),
        };
        dimensions.push(dimension);
    }
    let kind = input.u32()?;
    let Some((block, block_bytes)) = types::block_of(kind) else {
        return input.damaged(format!("the tensor `{name}` is of type {kind}, which does not exist"));
    };
    if dimensions[0] % block != 0 {
        return input.damaged(format!("the rows of the tensor `{name}` are not whole blocks of {block}"));
    }
    let Some(bytes) = (numbers / block).checked_mul(block_bytes) else {
        return input.damaged(format!("the tensor `{name}` is beyond all limits"));
    };
    let offset = input.u64()?;
    if offset % alignment != 0 {
        return input.damaged(format!("the tensor `{name}` begins at {offset}, which is not aligned to {alignment}"));
    }
    Ok(TensorInfo { name, kind, dimensions, offset, bytes })
}

/// Tensors lie inside of the file, have distinct names, and do not overlap.
fn check_layout<R: Read + Seek>(input: &Input<R>, tensors: &[TensorInfo], alignment: u64) -> Result<u64, GgufError> {
    let mut names = HashSet::new();
    if let Some(twice) = tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        return input.damaged(format!("the tensor `{}` is there twice", twice.name));
    }
    let start = input.offset.next_multiple_of(alignment);
    let mut in_order: Vec<&TensorInfo> = tensors.iter().collect();
    in_order.sort_by_key(|tensor| tensor.offset);
    let mut end: u64 = 0;
    for tensor in in_order {
        if tensor.offset < end {
            return input.damaged(format!("the tensor `{}` overlaps the one before it", tensor.name));
        }
        // llama.cpp expects tensors to follow each other without holes.
        if tensor.offset != end.next_multiple_of(alignment) {
            return input.damaged(format!("there is a hole before the tensor `{}`", tensor.name));
        }
        end = match tensor.offset.checked_add(tensor.bytes) {
            Some(end) => end,
            None => return input.damaged(format!("the tensor `{}` is beyond all limits", tensor.name)),
        };
    }
    match start.checked_add(end) {
        Some(needed) if needed <= input.length => Ok(start),
        Some(needed) => Err(GgufError::Truncated { length: input.length, needed }),
        None => input.damaged("the tensors are beyond all limits"),
    }
}
