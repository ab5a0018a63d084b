//! What sequences hold: copied, kept on disk and in memory, and cut.

use super::{
    super::{LlamaError, Token, error},
    Context, signed, sys,
};
use std::{ffi::CString, os::unix::ffi::OsStrExt, path::Path};

/// Of a state, what earlier positions cannot be cut out of. Source: `LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY` of llama.h.
const PARTIAL: sys::llama_state_seq_flags = 1;

impl Context<'_> {
    /// Gives a sequence what another one holds. On an error it is empty.
    pub(crate) fn copy(&mut self, from: u32, to: u32) -> Result<(), LlamaError> {
        if from >= self.sequences || to >= self.sequences || from == to {
            return error(format!("sequence {from} cannot be copied to {to}"));
        }
        self.truncate(to, 0);
        // Only the cells that are in use; the engine's own copy between sequences takes all that there are.
        let mut state = vec![0u8; usize::try_from(self.state_bytes(from)).unwrap_or(0)];
        let context = self.inner.0.as_ptr();
        // SAFETY: the context lives, and the buffer has as many bytes as is said.
        let (written, read) = unsafe {
            let written = sys::llama_state_seq_get_data(context, state.as_mut_ptr(), state.len(), from.cast_signed());
            (written, sys::llama_state_seq_set_data(context, state.as_ptr(), written, to.cast_signed()))
        };
        if written > 0 && read > 0 {
            return Ok(());
        }
        self.truncate(to, 0);
        error(format!("{written} bytes of state were read and {read} written"))
    }

    /// Gives a sequence what another one holds, in all cells that there are, when the next batch is computed; until then nothing can be
    /// read from it.
    pub(crate) fn copy_all(&mut self, from: u32, to: u32) -> Result<(), LlamaError> {
        if from >= self.sequences || to >= self.sequences || from == to {
            return error(format!("sequence {from} cannot be copied to {to}"));
        }
        self.truncate(to, 0);
        // SAFETY: the memory lives, and has both sequences; -1 is the beginning and the end, and only all can be copied.
        unsafe { sys::llama_memory_seq_cp(self.memory(), from.cast_signed(), to.cast_signed(), -1, -1) }
        Ok(())
    }

    /// Bytes of a [`Context::checkpoint`].
    pub(crate) fn checkpoint_bytes(&self, sequence: u32) -> u64 {
        if sequence >= self.sequences {
            return 0;
        }
        // SAFETY: the context lives, and has the sequence.
        let bytes =
            unsafe { sys::llama_state_seq_get_size_ext(self.inner.0.as_ptr(), sequence.cast_signed(), PARTIAL) };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// What a sequence holds now of what cannot be cut: the states of its recurrent layers.
    pub(crate) fn checkpoint(&self, sequence: u32) -> Result<Vec<u8>, LlamaError> {
        if sequence >= self.sequences {
            return error(format!("there is no sequence {sequence}"));
        }
        let (context, sequence) = (self.inner.0.as_ptr(), sequence.cast_signed());
        // SAFETY: the context lives, and the buffer has as many bytes as is said.
        let (state, written) = unsafe {
            let mut state = vec![0u8; sys::llama_state_seq_get_size_ext(context, sequence, PARTIAL)];
            let written =
                sys::llama_state_seq_get_data_ext(context, state.as_mut_ptr(), state.len(), sequence, PARTIAL);
            (state, written)
        };
        if written == 0 || written != state.len() { error("its states cannot be read") } else { Ok(state) }
    }

    /// Takes a sequence back to its first positions, of which it had a checkpoint. False when that is not possible; the sequence is then
    /// empty.
    pub(crate) fn go_back(&mut self, sequence: u32, checkpoint: &[u8], positions: u32) -> bool {
        if sequence >= self.sequences {
            return false;
        }
        // SAFETY: the context lives, and the buffer has as many bytes as is said.
        let read = unsafe {
            sys::llama_state_seq_set_data_ext(
                self.inner.0.as_ptr(),
                checkpoint.as_ptr(),
                checkpoint.len(),
                sequence.cast_signed(),
                PARTIAL,
            )
        };
        // The keys and values of the layers between them are cut as usual.
        if read > 0 {
            return self.truncate(sequence, positions);
        }
        self.truncate(sequence, 0);
        false
    }

    /// Bytes that [`Context::save`] would write.
    pub(crate) fn state_bytes(&self, sequence: u32) -> u64 {
        if sequence >= self.sequences {
            return 0;
        }
        // SAFETY: the context lives, and has the sequence.
        let bytes = unsafe { sys::llama_state_seq_get_size(self.inner.0.as_ptr(), sequence.cast_signed()) };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Writes what a sequence holds to a file, with the tokens that it was computed from.
    pub(crate) fn save(&self, path: &Path, sequence: u32, tokens: &[Token]) -> Result<(), LlamaError> {
        if sequence >= self.sequences {
            return error(format!("there is no sequence {sequence}"));
        }
        let path = c_path(path)?;
        // SAFETY: the context lives, the path is a C string, and there are as many tokens as is said.
        let written = unsafe {
            sys::llama_state_seq_save_file(
                self.inner.0.as_ptr(),
                path.as_ptr(),
                sequence.cast_signed(),
                tokens.as_ptr(),
                tokens.len(),
            )
        };
        if written == 0 { error("it could not be written") } else { Ok(()) }
    }

    /// Gives a sequence what a file holds. The file must be one that [`Context::save`] has written, of these tokens: llama.cpp does not check
    /// all of it. On an error the sequence is empty.
    pub(crate) fn restore(&mut self, path: &Path, sequence: u32, tokens: &[Token]) -> Result<(), LlamaError> {
        if sequence >= self.sequences || tokens.len() > self.sequence_length as usize {
            return error(format!("{} tokens do not fit into sequence {sequence}", tokens.len()));
        }
        self.truncate(sequence, 0);
        let path = c_path(path)?;
        let (mut found, mut count) = (vec![0; tokens.len()], 0usize);
        // SAFETY: the context lives, the path is a C string, and there is room for as many tokens as is said.
        let read = unsafe {
            sys::llama_state_seq_load_file(
                self.inner.0.as_ptr(),
                path.as_ptr(),
                sequence.cast_signed(),
                found.as_mut_ptr(),
                found.len(),
                &raw mut count,
            )
        };
        let result = match read {
            0 => error("it could not be read"),
            _ if count == tokens.len() && found == tokens => Ok(()),
            _ => error("its tokens are others"),
        };
        if result.is_err() {
            self.truncate(sequence, 0);
        }
        result
    }

    /// Cuts a sequence back to its first positions. False when the model cannot do that; the
    /// sequence is then empty.
    pub(crate) fn truncate(&mut self, sequence: u32, positions: u32) -> bool {
        if sequence >= self.sequences {
            return false;
        }
        let remove = |from: i32| {
            // SAFETY: the memory lives, and has the sequence; -1 is the end.
            unsafe { sys::llama_memory_seq_rm(self.memory(), sequence.cast_signed(), from, -1) }
        };
        if positions > 0 && remove(signed(positions)) {
            return true;
        }
        // Removing a whole sequence cannot fail.
        let _ = remove(-1);
        positions == 0
    }

    /// The first position that a sequence still holds; sliding-window layers drop older ones.
    pub(crate) fn first_position(&self, sequence: u32) -> i32 {
        if sequence >= self.sequences {
            return -1;
        }
        // SAFETY: the memory lives, and has the sequence.
        unsafe { sys::llama_memory_seq_pos_min(self.memory(), sequence.cast_signed()) }
    }
}

fn c_path(path: &Path) -> Result<CString, LlamaError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| LlamaError("the path holds a NUL byte".into()))
}
