//! Signs of life while room for a model is made: llama.cpp says nothing while it fills gigabytes of cells, which takes a slow machine
//! longer than a worker may be silent.

use crate::{serve::HEARTBEAT, stdio::Lines};
use cortex_api::worker::FromWorker;
use std::{
    sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    thread::JoinHandle,
};

/// Ticks of the processor (`sysconf(_SC_CLK_TCK)`, a hundredth of a second) between two signs at least: a process that computes nothing
/// hangs, or waits for something that will not come.
const WORKS: u64 = 10;

/// Gives signs of life until it is dropped.
pub(crate) struct LoadSigns(Option<(SyncSender<()>, JoinHandle<()>)>);

impl LoadSigns {
    /// Begins, when the weights are there.
    pub(crate) fn begin(mut lines: Lines) -> Self {
        let (end, over) = sync_channel(0);
        let thread = std::thread::spawn(move || {
            let mut before = processor_ticks();
            while let Err(RecvTimeoutError::Timeout) = over.recv_timeout(HEARTBEAT) {
                let now = processor_ticks();
                if now.saturating_sub(before) >= WORKS {
                    lines.send(&FromWorker::Loading { fraction: 1.0 });
                }
                before = now;
            }
        });
        Self(Some((end, thread)))
    }
}

impl Drop for LoadSigns {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            // Nothing of it comes after what is sent next.
            let _ = thread.join();
        }
    }
}

/// Time that this process has used of the processor, in ticks; 0 when the system does not tell.
fn processor_ticks() -> u64 {
    ticks(&fs_err::read_to_string("/proc/self/stat").unwrap_or_default())
}

/// Fields 14 and 15 of `proc_pid_stat(5)`: in the program, and in the kernel for it. The name before them may hold anything.
fn ticks(stat: &str) -> u64 {
    let Some((_, fields)) = stat.rsplit_once(") ") else { return 0 };
    fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_process_stands_behind_its_name() {
        assert_eq!(ticks("17 (a ) b) R 1 2 3 4 5 6 7 8 9 10 40 2 0 0 20 0"), 42);
        assert_eq!(ticks(""), 0);
        assert!(processor_ticks() < 1 << 40);
    }
}
