//! The families of failures.

/// What kind of failure it is: decides the HTTP status and the exit code, each in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// What was asked for does not exist.
    NotFound,
    /// The request is wrong.
    Invalid,
    /// It contradicts what is there.
    Conflict,
    /// Too much is going on; trying again later helps.
    Busy,
    /// It would not fit this machine.
    DoesNotFit,
    /// It cannot be done now.
    Unavailable,
    /// Somebody cancelled it.
    Cancelled,
    /// A defect of the program.
    Internal,
}
