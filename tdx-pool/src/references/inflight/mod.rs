//! Locks on the names of volumes that are being created, used or removed.
//!
//! A process locks a volume's name before it creates the volume, and keeps the lock until something refers to
//! the volume ([`InFlight`]). The kernel releases the lock when the process ends, however it ends. A volume
//! that is neither locked nor referred to is an orphan, whatever its age.
//!
//! A volume that something is about to refer to is locked as well ([`UseLock`]), and so is a volume that is
//! about to be deleted or replaced ([`RemovalLock`]).
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
