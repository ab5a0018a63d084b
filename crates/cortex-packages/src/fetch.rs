//! An archive comes here: from another machine with its digest, or from this one.

use crate::{
    archive::{LARGEST, hex},
    error::{PackageError, disk},
    index::{Archive, Place},
};
use cortex_models::{Outbound, OutboundError};
use reqwest::Url;
use sha2::{Digest as _, Sha256};
use std::{path::Path, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Failures in a row, without a byte between them, after which it is given up.
const FAILURES: u32 = 5;
const BACKOFF: Duration = Duration::from_millis(500);
const COPIED: usize = 256 << 10;

/// Brings an archive to a file that is not there yet; `told` hears how many bytes are there.
pub(crate) async fn fetch(
    outbound: &Outbound,
    archive: &Archive,
    to: &Path,
    told: &(dyn Fn(u64) + Sync),
) -> Result<(), PackageError> {
    let refused = |reason: String| PackageError::Archive { name: archive.name.clone(), reason };
    let failed = disk("write the archive");
    if archive.bytes > LARGEST {
        return Err(refused(format!("it is larger than {} GiB", LARGEST >> 30)));
    }
    let file = tokio::fs::File::create_new(to).await.map_err(&failed)?;
    let mut sink = Sink { file, hash: Sha256::new(), length: 0, most: archive.bytes, name: &archive.name };
    match &archive.place {
        Place::File(path) => {
            let mut from = tokio::fs::File::open(path).await.map_err(disk("read the archive"))?;
            let mut buffer = vec![0; COPIED];
            loop {
                let read = from.read(&mut buffer).await.map_err(disk("read the archive"))?;
                if read == 0 {
                    break;
                }
                sink.take(&buffer[..read]).await?;
                told(sink.length);
            }
        }
        Place::Url(url) => {
            if archive.sha256.is_none() {
                return Err(refused("the index promises no SHA-256 for it (`digest`)".into()));
            }
            download(outbound, url, &mut sink, told).await?;
        }
    }
    sink.file.flush().await.map_err(&failed)?;
    if sink.length != archive.bytes {
        return Err(refused(format!("it has {} bytes, and the index says {}", sink.length, archive.bytes)));
    }
    let digest = hex(&sink.hash.finalize());
    match &archive.sha256 {
        Some(promised) if *promised != digest => {
            Err(refused(format!("its SHA-256 is {digest}, and the index says {promised}")))
        }
        _ => Ok(()),
    }
}

/// Where the bytes go.
struct Sink<'name> {
    file: tokio::fs::File,
    hash: Sha256,
    length: u64,
    most: u64,
    name: &'name str,
}

impl Sink<'_> {
    async fn take(&mut self, bytes: &[u8]) -> Result<(), PackageError> {
        self.length += bytes.len() as u64;
        if self.length > self.most {
            let reason = format!("it is longer than the {} bytes of the index", self.most);
            return Err(PackageError::Archive { name: self.name.to_owned(), reason });
        }
        self.hash.update(bytes);
        self.file.write_all(bytes).await.map_err(disk("write the archive"))
    }

    async fn start_over(&mut self) -> Result<(), PackageError> {
        self.file.set_len(0).await.map_err(disk("write the archive"))?;
        tokio::io::AsyncSeekExt::rewind(&mut self.file).await.map_err(disk("write the archive"))?;
        (self.hash, self.length) = (Sha256::new(), 0);
        Ok(())
    }
}

/// Goes on where the connection was lost, as long as something comes.
async fn download(
    outbound: &Outbound,
    url: &Url,
    sink: &mut Sink<'_>,
    told: &(dyn Fn(u64) + Sync),
) -> Result<(), PackageError> {
    let mut failures = 0;
    loop {
        let before = sink.length;
        let lost = match one_answer(outbound, url, sink, told).await? {
            None if sink.length >= sink.most => return Ok(()),
            // It ended early; the digest would say so, but the rest may come.
            None => None,
            Some(error) if !error.may_pass() => return Err(error.into()),
            lost => lost,
        };
        failures = if sink.length > before { 1 } else { failures + 1 };
        if failures >= FAILURES {
            return lost.map_or(Ok(()), |error| Err(error.into()));
        }
        tokio::time::sleep(BACKOFF * 2u32.pow(failures - 1)).await;
    }
}

/// Reads one answer to its end; what cut it off.
async fn one_answer(
    outbound: &Outbound,
    url: &Url,
    sink: &mut Sink<'_>,
    told: &(dyn Fn(u64) + Sync),
) -> Result<Option<OutboundError>, PackageError> {
    let mut answer = match outbound.open(url, sink.length).await {
        Ok(answer) => answer,
        Err(error) => return Ok(Some(error)),
    };
    if answer.start() != sink.length {
        sink.start_over().await?;
    }
    loop {
        match answer.next().await {
            Ok(Some(bytes)) => {
                sink.take(&bytes).await?;
                told(sink.length);
            }
            Ok(None) => return Ok(None),
            Err(error) => return Ok(Some(error)),
        }
    }
}
