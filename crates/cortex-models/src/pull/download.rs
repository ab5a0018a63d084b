//! Fetches the files of a pull: many ranges at a time, as many as bring more, and never more bytes on their way
//! than a crash may cost.

use super::{
    disk::Disk,
    intervals::Intervals,
    journal::{FileState, Record},
    pace::{self, Pace, backoff},
    plan::PlannedFile,
};
use crate::{
    files::Stamp,
    outbound::{Ask, Outbound, OutboundError, Received},
    tasks::in_background,
};
use futures::stream::{FuturesUnordered, StreamExt};
use reqwest::{StatusCode, Url, header};
use std::{
    io,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Semaphore;

/// A range is at least so long: each costs a request.
const SHORTEST_RANGE: u64 = 256 << 10;
/// A range is at most so long.
const LONGEST_RANGE: u64 = 8 << 20;
/// Refusals in a row, of one connection alone, after which they are meant.
const REFUSALS: u32 = 3;
/// Answers with other bytes than were asked for, after which ranges are no longer asked for.
const WRONG_ANSWERS: u32 = 3;
/// Bytes that the connections may hold beside those on their way to the disk.
const IN_CONNECTIONS: usize = 6 << 20;
/// Pieces that a connection holds: one that was read, and one in its buffer.
const PIECES: usize = 2;
/// What stands before a time that serves as the version of a file.
pub(crate) const MODIFIED: &str = "modified ";
/// Bytes of a file of this machine that are copied at a time.
const COPIED: usize = 256 << 10;
/// How long a connection that has nothing to do waits before it looks again.
const IDLE: Duration = Duration::from_millis(50);

/// What all pulls share.
#[derive(Debug)]
pub(crate) struct Shares {
    pub(crate) connections: Semaphore,
    pub(crate) throttle: Throttle,
}

/// How patient a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// How often the rate is looked at and the progress told.
    pub look: Duration,
    /// What the first failure waits.
    pub backoff: Duration,
    /// Time without a byte after which a download is given up.
    pub give_up: Duration,
    /// How often a full disk is looked at.
    pub room: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            look: Duration::from_millis(250),
            backoff: Duration::from_millis(500),
            give_up: Duration::from_mins(5),
            room: Duration::from_secs(5),
        }
    }
}

/// Why a download ended.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    /// The other machine.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// It answers with other bytes than were asked for.
    #[error("`{host}` answers with other bytes than were asked for: {said}")]
    WrongBytes {
        /// Who.
        host: String,
        /// What it said of them.
        said: String,
    },
    /// The file is not as long as the hub says.
    #[error("{file} should have {expected} bytes, and the server has {there}")]
    WrongLength {
        /// Which.
        file: String,
        /// What the plan says.
        expected: u64,
        /// What the server says.
        there: u64,
    },
    /// The file became another one meanwhile.
    #[error("{file} was changed on the server while it was downloaded")]
    Changed {
        /// Which.
        file: String,
    },
    /// A file of this machine that is copied.
    #[error("cannot read {}: {source}", path.display())]
    Local {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The disk.
    #[error("{0}")]
    Disk(#[source] io::Error),
}

/// One download.
pub(crate) struct Download<'job> {
    pub(crate) outbound: &'job Outbound,
    pub(crate) files: &'job [PlannedFile],
    pub(crate) disk: &'job Disk,
    pub(crate) shares: &'job Shares,
    pub(crate) patience: Patience,
    /// Bytes that may be on their way: what a crash may cost.
    pub(crate) credit: u64,
    state: Mutex<State>,
}

struct State {
    /// What is there or on its way, by file.
    taken: Vec<Intervals>,
    taken_bytes: u64,
    /// The version of each file, as the server names it.
    tags: Vec<Option<String>>,
    /// Where each file really is, after redirects.
    links: Vec<Option<Url>>,
    /// Files that come whole or not at all.
    whole: Vec<bool>,
    pace: Pace,
    lanes: usize,
    /// How many bytes a read brings, lately.
    piece: usize,
    received: u64,
    wrong: u32,
}

impl State {
    /// How many connections there may be: as many as bring more, and no more than the memory is for. Where a read
    /// brings much, the bytes come faster than they are taken, and a few connections suffice.
    fn width(&self) -> usize {
        self.pace.width().min((IN_CONNECTIONS / PIECES / self.piece.max(1)).max(pace::FIRST))
    }

    fn read(&mut self, bytes: usize) {
        self.received += bytes as u64;
        self.piece = (self.piece * 15 + bytes) / 16;
    }
}

/// What the way of one range led to.
enum Trouble {
    /// It may work later.
    Passing(DownloadError, Option<Duration>),
    /// Too many at a time, perhaps.
    Refused(DownloadError, Option<Duration>),
    /// The server sends whole files only.
    NoRanges,
    /// It will not work.
    Lasting(DownloadError),
}

enum Next {
    Range(usize, Range<u64>),
    /// What is on its way must arrive first.
    Wait,
    Nothing,
}

/// The bytes that a crash may cost: a fiftieth of all, and 8 MiB at least. A quarter of it is kept back for
/// what the network holds.
pub(crate) fn credit(bytes: u64) -> u64 {
    (bytes / 50).max(8 << 20) / 4 * 3
}

impl<'job> Download<'job> {
    pub(crate) fn new(
        (outbound, shares): (&'job Outbound, &'job Shares),
        files: &'job [PlannedFile],
        (disk, states): (&'job Disk, &[FileState]),
        width: usize,
        patience: Patience,
    ) -> Self {
        let taken: Vec<Intervals> = states.iter().map(|state| state.done.clone()).collect();
        let state = State {
            taken_bytes: taken.iter().map(Intervals::total).sum(),
            taken,
            tags: states.iter().map(|state| state.tag.clone()).collect(),
            links: vec![None; files.len()],
            whole: vec![false; files.len()],
            pace: Pace::new(width),
            lanes: 0,
            piece: 0,
            received: 0,
            wrong: 0,
        };
        let credit = credit(files.iter().map(|file| file.size).sum());
        Self { outbound, files, disk, shares, patience, credit, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches what is missing. `look` is called again and again, with the rate in bytes a second, and with what is
    /// in the way when no bytes come.
    pub(crate) async fn run(&self, mut look: impl FnMut(f64, Option<String>)) -> Result<(), DownloadError> {
        let mut lanes = FuturesUnordered::new();
        let mut ticks = tokio::time::interval(self.patience.look);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut failures, mut refusals, mut in_the_way) = (0u32, 0u32, None);
        let (mut progress, mut looked, mut start_at) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            if Instant::now() >= start_at {
                let mut state = self.lock();
                while state.lanes < state.width() && self.has_gap(&state) {
                    state.lanes += 1;
                    lanes.push(self.lane());
                    // One more lane finds out what the others may do.
                    if !self.has_room(&state) {
                        break;
                    }
                }
                if lanes.is_empty() {
                    break;
                }
            }
            let waiting = lanes.is_empty();
            tokio::select! {
                Some(end) = lanes.next(), if !waiting => {
                    self.lock().lanes -= 1;
                    let Err(trouble) = end else { continue };
                    let mut state = self.lock();
                    if std::mem::take(&mut state.received) > 0 {
                        (failures, refusals, progress) = (0, 0, Instant::now());
                    }
                    let (error, wait) = match trouble {
                        Trouble::Lasting(error) => return Err(error),
                        Trouble::NoRanges => {
                            state.pace = Pace::new(1);
                            continue;
                        }
                        Trouble::Refused(error, wait) => {
                            refusals += u32::from(state.pace.width() == 1);
                            if refusals >= REFUSALS && wait.is_none() {
                                return Err(error);
                            }
                            state.pace.refused();
                            (error, wait)
                        }
                        Trouble::Passing(error, wait) => {
                            state.pace.troubled();
                            (error, wait)
                        }
                    };
                    drop(state);
                    if progress.elapsed() >= self.patience.give_up {
                        return Err(error);
                    }
                    failures += 1;
                    let wait = wait.unwrap_or_else(|| backoff(self.patience.backoff, failures, chance()));
                    tracing::debug!(%error, ?wait, failures, "a download waits");
                    in_the_way = Some(error.to_string());
                    start_at = start_at.max(Instant::now() + wait.min(self.patience.give_up));
                }
                _ = ticks.tick() => {
                    self.disk.flush();
                    let seconds = looked.elapsed().as_secs_f64();
                    looked = Instant::now();
                    let mut state = self.lock();
                    let received = std::mem::take(&mut state.received);
                    #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
                    let rate = if seconds > 0.0 { received as f64 / seconds } else { 0.0 };
                    if received > 0 {
                        (failures, refusals, in_the_way, progress) = (0, 0, None, Instant::now());
                        state.pace.observe(rate);
                    }
                    drop(state);
                    look(rate, in_the_way.clone());
                }
                () = tokio::time::sleep_until(start_at.into()), if waiting => {}
            }
            if let Some(error) = self.disk.failure() {
                return Err(DownloadError::Disk(error));
            }
        }
        self.disk.flush();
        Ok(())
    }

    /// Whether there is something that nobody fetches yet.
    fn has_gap(&self, state: &State) -> bool {
        (0..self.files.len()).any(|file| {
            let all = 0..self.files[file].size;
            let begun = state.whole[file] && state.lanes > 0;
            !begun && state.taken[file].first_gap(all, 1).is_some()
        })
    }

    fn has_room(&self, state: &State) -> bool {
        state.taken_bytes.saturating_sub(self.disk.journalled()) < self.credit
    }

    /// What to fetch next.
    fn take(&self) -> Next {
        let mut state = self.lock();
        let state = &mut *state;
        let on_the_way = state.taken_bytes.saturating_sub(self.disk.journalled());
        let wide = u64::try_from(state.width()).unwrap_or(1);
        // All lanes together use up the credit: where an answer takes long to begin, that is what makes the rate.
        let length = (self.credit / wide).clamp(SHORTEST_RANGE, LONGEST_RANGE);
        for (file, planned) in self.files.iter().enumerate() {
            let longest = if state.whole[file] { u64::MAX } else { length };
            let Some(range) = state.taken[file].first_gap(0..planned.size, longest) else { continue };
            if state.whole[file] {
                if state.lanes > 1 {
                    return Next::Wait;
                }
                // All that is missing, in one answer.
                state.taken_bytes += planned.size - state.taken[file].total();
                state.taken[file].insert(0..planned.size);
                return Next::Range(file, range.start..planned.size);
            }
            if on_the_way > 0 && on_the_way + (range.end - range.start) > self.credit {
                return Next::Wait;
            }
            state.taken_bytes += range.end - range.start;
            state.taken[file].insert(range.clone());
            return Next::Range(file, range);
        }
        Next::Nothing
    }

    /// What did not come is fetched by somebody else.
    fn give_back(&self, file: usize, rest: Range<u64>) {
        if rest.is_empty() {
            return;
        }
        let mut state = self.lock();
        state.taken[file].remove(rest.clone());
        state.taken_bytes -= rest.end - rest.start;
    }

    /// One connection: range after range.
    async fn lane(&self) -> Result<(), Trouble> {
        loop {
            {
                let state = self.lock();
                if state.lanes > state.width() {
                    return Ok(());
                }
            }
            match self.take() {
                Next::Nothing => return Ok(()),
                Next::Wait => {
                    let _ = tokio::time::timeout(IDLE, self.disk.changed()).await;
                    if self.disk.failure().is_some() {
                        return Ok(());
                    }
                }
                Next::Range(file, range) => {
                    let Ok(_connection) = self.shares.connections.acquire().await else { return Ok(()) };
                    let mut guard = Unfetched { download: self, file, rest: range };
                    self.fetch(&mut guard).await?;
                }
            }
        }
    }

    async fn fetch(&self, wanted: &mut Unfetched<'_, 'job>) -> Result<(), Trouble> {
        let file = wanted.file;
        let (link, tag, whole) = {
            let state = self.lock();
            (state.links[file].clone(), state.tags[file].clone(), state.whole[file])
        };
        let planned = &self.files[file];
        if let Some(path) = local_path(&planned.url) {
            return self.copy(wanted, &path).await;
        }
        let url = Url::parse(&planned.url).map_err(|_| {
            let reason = "it is no URL".to_owned();
            Trouble::Lasting(OutboundError::Nonsense { host: planned.url.clone(), reason }.into())
        })?;
        let range = (!whole).then(|| format!("bytes={}-{}", wanted.rest.start, wanted.rest.end - 1));
        let if_range =
            tag.filter(|_| range.is_some()).map(|tag| tag.strip_prefix(MODIFIED).map_or(tag.clone(), str::to_owned));
        let ask = Ask { range, if_range };
        let answer = match &link {
            Some(link) => match self.outbound.get(link, &ask).await {
                // A signed link that has expired: the first place knows a new one.
                Err(OutboundError::Status { status: 400 | 401 | 403 | 404 | 410, .. }) => {
                    self.lock().links[file] = None;
                    self.outbound.get(&url, &ask).await
                }
                answer => answer,
            },
            None => self.outbound.get(&url, &ask).await,
        };
        let mut received = answer.map_err(of_outbound)?;
        self.check_tag(file, &received)?;
        if whole {
            self.check_whole(planned, &received)?;
        } else {
            self.check_range(file, wanted, &received)?;
        }
        self.lock().links[file] = Some(received.url.clone());
        let mut at = if whole { 0 } else { wanted.rest.start };
        loop {
            let Some(mut bytes) = self.outbound.chunk(&mut received).await.map_err(of_outbound)? else { break };
            self.shares.throttle.pass(bytes.len()).await;
            let end = at + bytes.len() as u64;
            // What was there already is passed over; what was not asked for is not taken.
            if at < wanted.rest.start {
                let skip = usize::try_from(wanted.rest.start - at).unwrap_or(usize::MAX).min(bytes.len());
                bytes = bytes.slice(skip..);
                at += skip as u64;
            }
            if end > wanted.rest.end {
                if whole {
                    return Err(Trouble::Lasting(self.wrong_length(planned, end)));
                }
                bytes = bytes.slice(..usize::try_from(wanted.rest.end.saturating_sub(at)).unwrap_or(0));
            }
            self.lock().read(bytes.len());
            if !bytes.is_empty() {
                let length = bytes.len() as u64;
                self.disk.write(file, at, bytes).await;
                at += length;
                wanted.rest.start = at;
            }
            if wanted.rest.is_empty() && !whole {
                // The rest of the answer is none of ours; a connection that has one is not used again.
                break;
            }
        }
        if wanted.rest.is_empty() {
            return Ok(());
        }
        let host = received.url.host_str().unwrap_or_default().to_owned();
        Err(Trouble::Passing(OutboundError::Broken { host, reason: "it ended too early".into() }.into(), None))
    }

    /// The same for a file of this machine.
    async fn copy(&self, wanted: &mut Unfetched<'_, 'job>, path: &Path) -> Result<(), Trouble> {
        let (file, failed) =
            (wanted.file, |source| Trouble::Lasting(DownloadError::Local { path: path.to_owned(), source }));
        while !wanted.rest.is_empty() {
            let (at, of) = (wanted.rest.start, path.to_owned());
            let length = usize::try_from(wanted.rest.end - at).unwrap_or(COPIED).min(COPIED);
            let read = in_background(move || {
                let opened = fs_err::File::open(&of)?.into_file();
                let mut bytes = vec![0; length];
                opened.read_exact_at(&mut bytes, at)?;
                Ok((bytes, Stamp::of(&of)))
            });
            let (bytes, stamp) = read.await.map_err(failed)?;
            self.same_version(file, &format!("{stamp:?}"))?;
            self.lock().read(bytes.len());
            self.disk.write(file, at, bytes.into()).await;
            wanted.rest.start = at + length as u64;
        }
        Ok(())
    }

    /// All bytes of a file must be of one version: that of the first answer, whoever got it.
    fn check_tag(&self, file: usize, received: &Received) -> Result<(), Trouble> {
        let text = |name| received.response.headers().get(name).and_then(|value| value.to_str().ok());
        // A weak tag says nothing about bytes.
        let strong = text(header::ETAG).filter(|tag| !tag.starts_with("W/")).map(str::to_owned);
        // With a digest that is promised, several machines may serve it, each with a time of its own.
        let modified = || text(header::LAST_MODIFIED).filter(|_| self.files[file].sha256.is_none());
        let tag = strong.or_else(|| modified().map(|time| format!("{MODIFIED}{time}")));
        tag.map_or(Ok(()), |tag| self.same_version(file, &tag))
    }

    fn same_version(&self, file: usize, tag: &str) -> Result<(), Trouble> {
        let mut state = self.lock();
        match &state.tags[file] {
            Some(known) if known != tag => {
                Err(Trouble::Lasting(DownloadError::Changed { file: self.files[file].name.clone() }))
            }
            Some(_) => Ok(()),
            None => {
                state.tags[file] = Some(tag.to_owned());
                self.disk.note(Record::Tag { file, tag: tag.to_owned() });
                Ok(())
            }
        }
    }

    fn check_whole(&self, planned: &PlannedFile, received: &Received) -> Result<(), Trouble> {
        match received.response.content_length() {
            Some(length) if length != planned.size => Err(Trouble::Lasting(self.wrong_length(planned, length))),
            _ => Ok(()),
        }
    }

    #[expect(clippy::unused_self, reason = "it reads better beside the others")]
    fn wrong_length(&self, planned: &PlannedFile, there: u64) -> DownloadError {
        DownloadError::WrongLength { file: planned.name.clone(), expected: planned.size, there }
    }

    /// The answer must be the bytes that were asked for; a shorter one is fine.
    fn check_range(&self, file: usize, wanted: &mut Unfetched<'_, 'job>, received: &Received) -> Result<(), Trouble> {
        let planned = &self.files[file];
        if received.response.status() != StatusCode::PARTIAL_CONTENT {
            let mut state = self.lock();
            state.whole[file] = true;
            return Err(Trouble::NoRanges);
        }
        let said = received.response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let said = said.unwrap_or("nothing").to_owned();
        let parsed = parse_content_range(&said);
        if let Some((_, Some(total))) = parsed
            && total != planned.size
        {
            return Err(Trouble::Lasting(self.wrong_length(planned, total)));
        }
        match parsed {
            Some((range, _)) if range.start == wanted.rest.start && range.end <= wanted.rest.end => Ok(()),
            _ => {
                let host = received.url.host_str().unwrap_or_default().to_owned();
                let mut state = self.lock();
                state.wrong += 1;
                if state.wrong >= WRONG_ANSWERS {
                    return Err(Trouble::Lasting(DownloadError::WrongBytes { host, said }));
                }
                Err(Trouble::Passing(DownloadError::WrongBytes { host, said }, None))
            }
        }
    }
}

/// The path of a `file:` URL.
fn local_path(url: &str) -> Option<PathBuf> {
    url.starts_with("file:").then(|| Url::parse(url).ok()?.to_file_path().ok()).flatten()
}

/// A range on its way; what did not arrive is given back, also when the download is dropped.
struct Unfetched<'lane, 'job> {
    download: &'lane Download<'job>,
    file: usize,
    rest: Range<u64>,
}

impl Drop for Unfetched<'_, '_> {
    fn drop(&mut self) {
        let whole = self.download.lock().whole[self.file];
        if whole && !self.rest.is_empty() {
            // A whole file holds more than this range: what was there before stays.
            let mut state = self.download.lock();
            let there = self.download.disk.written(self.file);
            state.taken_bytes -= state.taken[self.file].total() - there.total();
            state.taken[self.file] = there;
            return;
        }
        self.download.give_back(self.file, self.rest.clone());
    }
}

fn of_outbound(error: OutboundError) -> Trouble {
    match error {
        OutboundError::Status { status: 403, retry_after, .. } => Trouble::Refused(error.into(), retry_after),
        OutboundError::Status { status: 429 | 503, retry_after, .. } => {
            // Without a time of theirs, ours.
            let wait = retry_after.unwrap_or(Duration::from_secs(1));
            Trouble::Refused(error.into(), Some(wait))
        }
        error if error.may_pass() => Trouble::Passing(error.into(), None),
        error => Trouble::Lasting(error.into()),
    }
}

/// `bytes 0-99/1000` or `bytes 0-99/*`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last): (u64, u64) = (start.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    (start <= last).then(|| (start..last.saturating_add(1), total))
}

/// A number between 0 and 1 that is another one each time.
fn chance() -> f64 {
    let nanoseconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    f64::from(nanoseconds % 1000) / 1000.0
}

/// Keeps all pulls together below a rate.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// Bytes a second; none is no limit.
    rate: Option<u64>,
    /// When what was let through so far would have come at that rate.
    paid: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.filter(|&rate| rate > 0), paid: Mutex::default() }
    }

    /// Waits until so many bytes may pass.
    async fn pass(&self, bytes: usize) {
        if let Some(due) = self.due(bytes, Instant::now()) {
            tokio::time::sleep_until(due.into()).await;
        }
    }

    /// When bytes that come now may pass.
    fn due(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let rate = self.rate?;
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let due = paid.map_or(now, |paid| paid.max(now)) + cost;
        *paid = Some(due);
        Some(due)
    }
}

/// Shared by all pulls: connections, and bytes a second.
pub(crate) fn shares(connections: usize, rate: Option<u64>) -> Arc<Shares> {
    Arc::new(Shares { connections: Semaphore::new(connections.max(1)), throttle: Throttle::new(rate) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        for (text, expected) in [
            ("bytes 0-99/1000", Some((0..100, Some(1000)))),
            ("bytes 5-5/*", Some((5..6, None))),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("nothing", None),
            ("bytes 0-18446744073709551615/x", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }

    #[test]
    fn a_crash_costs_a_fiftieth_at_most() {
        assert_eq!(credit(0), 6 << 20);
        assert_eq!(credit(1 << 30), (1u64 << 30) / 50 / 4 * 3);
    }

    #[test]
    fn the_throttle_holds_the_rate_of_all_together() {
        let (throttle, now) = (Throttle::new(Some(1000)), Instant::now());
        let due: Vec<u128> = (0..3).filter_map(|_| throttle.due(500, now)).map(|due| (due - now).as_millis()).collect();
        assert_eq!(due, [500, 1000, 1500]);
        // Time that nobody used is gone.
        let later = now + Duration::from_secs(9);
        assert_eq!(throttle.due(1000, later), Some(later + Duration::from_secs(1)));
        assert_eq!(Throttle::new(None).due(usize::MAX, now), None);
    }
}
