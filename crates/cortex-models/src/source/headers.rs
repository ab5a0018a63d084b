//! How models are built that are only on the hub: the first bytes of their files say it.

use crate::{
    Gguf,
    outbound::{Ask, Outbound, OutboundError},
};
use cortex_hardware::Architecture;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Bytes that are read of a file: nearly always the first are enough.
const STEPS: &[usize] = &[256 << 10, 2 << 20, 16 << 20];
/// Files that are remembered.
const MOST: usize = 1024;

/// What is known of models on other machines, by a name that no other has: a file of a commit never changes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Headers(Arc<Mutex<HashMap<String, Option<Arc<Architecture>>>>>);

impl Headers {
    /// How the model in a file is built; `None` when its first bytes do not say it.
    pub(crate) async fn architecture(
        &self,
        name: String,
        outbound: &Outbound,
        (url, file_bytes): (&reqwest::Url, u64),
    ) -> Result<Option<Arc<Architecture>>, OutboundError> {
        if let Some(known) = self.lock().get(&name) {
            return Ok(known.clone());
        }
        let found = ask(outbound, url, file_bytes).await?.map(Arc::new);
        let mut known = self.lock();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(name, found.clone());
        Ok(found)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<Arc<Architecture>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ask(outbound: &Outbound, url: &reqwest::Url, file_bytes: u64) -> Result<Option<Architecture>, OutboundError> {
    let mut bytes: Vec<u8> = Vec::new();
    for &step in STEPS {
        if bytes.len() as u64 >= file_bytes {
            break;
        }
        let wanted = step - bytes.len();
        let ask = Ask { range: Some(format!("bytes={}-{}", bytes.len(), step - 1)), ..Ask::default() };
        let mut received = outbound.get(url, &ask).await?;
        // A server that knows no ranges sends the whole file: what is there already is passed over.
        let is_range = received.response.status() == reqwest::StatusCode::PARTIAL_CONTENT;
        let mut skip = if is_range { 0 } else { bytes.len() };
        let mut came = 0;
        while came < wanted
            && let Some(chunk) = outbound.chunk(&mut received).await?
        {
            let passed = skip.min(chunk.len());
            skip -= passed;
            let taken = (chunk.len() - passed).min(wanted - came);
            bytes.extend_from_slice(&chunk[passed..passed + taken]);
            came += taken;
        }
        match Gguf::shape_of_beginning(&bytes, file_bytes) {
            Ok(Some(shape)) => return Ok(Some(shape)),
            Ok(None) => {}
            // No model at all: the download will say so.
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}
