//! One worker process: started, spoken to, watched, ended.

mod lines;
mod process;
mod session;

pub(crate) use process::{Launch, exit_reason, load};
pub(crate) use session::{Running, Session};
