//! One worker process: started, spoken to, watched, ended.

mod lines;
mod process;
mod question;
mod session;

pub(crate) use process::{ENVIRONMENT, Launch, load};
pub(crate) use question::{Question, Scratch, Unanswered};
pub(crate) use session::{Running, Session};
