//! Cores that nobody uses at the moment.

/// How many there are of those that this process may use; `None` where the system does not tell. Source: `proc_loadavg(5)`, the
/// fourth field: the threads that run or could run at this moment, the one that asks among them.
pub(crate) fn cores() -> Option<u32> {
    let all = std::thread::available_parallelism().ok()?.get();
    idle(&fs_err::read_to_string("/proc/loadavg").ok()?, u32::try_from(all).unwrap_or(u32::MAX))
}

fn idle(loadavg: &str, all: u32) -> Option<u32> {
    let (runnable, _) = loadavg.split_whitespace().nth(3)?.split_once('/')?;
    let others = runnable.parse::<u32>().ok()?.saturating_sub(1);
    Some(all.saturating_sub(others))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_not_counted_and_all_others_are() {
        let table = [
            ("0.15 1.34 1.84 1/345 20211\n", 2, Some(2)),
            ("0.15 1.34 1.84 2/345 20211\n", 2, Some(1)),
            ("9.00 8.00 7.00 9/345 20211\n", 2, Some(0)),
            ("9.00 8.00 7.00 9/345 20211\n", 16, Some(8)),
            // A container whose reader is not among those that it counts.
            ("0.00 0.00 0.00 0/12 7\n", 4, Some(4)),
            ("0.00 0.00 0.00", 4, None),
            ("0.00 0.00 0.00 many/12 7", 4, None),
            ("", 4, None),
        ];
        for (text, all, expected) in table {
            assert_eq!(idle(text, all), expected, "{text:?}");
        }
    }

    #[test]
    fn this_machine_tells() {
        assert!(cores().is_some() || !cfg!(target_os = "linux"));
    }
}
