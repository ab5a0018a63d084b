//! One worker process: started, spoken to, watched, ended.

mod lines;
mod process;
mod question;
mod session;

pub(crate) use process::{Callbacks, ENVIRONMENT, End, Launch, Resting, load};
pub(crate) use question::{Question, Scratch, Unanswered, clear_scratch};
pub(crate) use session::{Running, Session, Told};
