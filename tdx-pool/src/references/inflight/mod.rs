//! Creations under way: a held lock says "not an orphan yet".
//!
//! A volume is locked under its name before it exists and until something refers to it. The kernel
//! drops the lock with the process, however it dies, so a leftover is known at once and by nothing as
//! vague as age.
//!
//! A volume that something is about to refer to is locked as well ([`Kept`]), and one that is about to be
//! deleted or replaced ([`Removal`]).
//!
//! Root's locks lie where nobody else can create a file, and only members of the group that may use libvirt can
//! open one, so that nobody else can hold one in root's way. The locks of other users lie in a directory that all
//! can write. There a lock counts only when its file has that group, which only its members can give to a file,
//! and when nobody but they can open it.

mod creation;
mod directory;
mod lock_file;
mod membership;
#[cfg(test)]
mod tests;
mod volume_lock;

pub use creation::{InFlight, is_in_flight, sweep};
pub use volume_lock::{RemovalLock, UseLock};
